/**
 * The conversations that this browser remembers, in its own storage and bounded: the oldest make room for new ones.
 *
 * @typedef {{code: string, message: string}} Failure
 * @typedef {{prompt_tokens: number | null, cached_tokens: number | null, generated_tokens: number | null,
 *   prompt_per_second: number | null, generated_per_second: number | null, time_to_first_token: number | null,
 *   finish_reason: string | null, context: number | null}} AnswerStats
 * @typedef {{id: string, role: "user" | "assistant", content: string, reasoning?: string, model?: string,
 * stats?: AnswerStats, error?: Failure, stopped?: boolean, pending?: boolean, keptAt?: number, thinkingTime?: number}}
 *   Message
 *   `keptAt`, in Unix ms, says when a pending answer was last stored by the tab that receives it
 * @typedef {{temperature?: number, top_p?: number, top_k?: number, min_p?: number, max_tokens?: number, seed?: number}}
 *   Sampling
 * @typedef {{id: string, title: string, createdAt: number, updatedAt: number, model: string, system: string,
 *   parameters: Sampling, messages: Message[]}} Conversation
 * @typedef {{id: string, title: string, updatedAt: number, size: number}} Summary
 */

const INDEX_KEY = "llamadash.conversations";
const ITEM_KEY = "llamadash.conversation.";
const MAX_CONVERSATIONS = 200;
const MAX_SIZE = 4_000_000; // characters in all; browsers grant a site about 5 million
const TITLE_LENGTH = 60; // characters
export const ABANDONED_MS = 6000; // without being stored: the tab that received this answer has gone

export const UNTITLED = "New conversation";

/** An id that no other conversation or message of this browser has; `crypto.randomUUID` needs a secure context. */
export function makeId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");
}

/**
 * The title that a first message gives to its conversation.
 * @param {string} text
 */
export function titleFrom(text) {
  const line = Array.from(text.replace(/\s+/g, " ").trim()); // whole characters: half an emoji is none
  return line.length > TITLE_LENGTH
    ? `${line.slice(0, TITLE_LENGTH - 1).join("").trimEnd()}…`
    : line.join("") || UNTITLED;
}

/**
 * A conversation as a Markdown file.
 * @param {Conversation} conversation
 */
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  if (conversation.system) parts.push(`**System prompt**\n\n${conversation.system.replace(/^/gm, "> ")}`);
  for (const message of conversation.messages) {
    if (!message.content) continue;
    parts.push(`## ${message.role === "user" ? "You" : message.model ?? "Assistant"}\n\n${message.content.trim()}`);
  }
  return `${parts.join("\n\n")}\n`;
}

export class Conversations {
  /** @param {Storage | null} storage null where the browser grants none: then they last as long as the page */
  constructor(storage) {
    this.storage = storage;
    /** @type {Map<string, Conversation>} */
    this.cache = new Map();
    /** @type {Summary[]} */
    this.index = [];
    /** @type {Set<string>} ids of those that found no room: this page alone has them, or their newest part */
    this.unstored = new Set();
    this.reload();
  }

  /** Reads the index again, after another tab wrote it; what is in `keep` or found no room stays as this tab knows it.
   * @param {Set<string>} [keep] */
  reload(keep = new Set()) {
    const stored = read(this.storage, INDEX_KEY);
    if (!this.storage) return;
    this.index = this.withUnstored(Array.isArray(stored) ? stored.filter((item) => typeof item?.id === "string") : []);
    for (const id of this.cache.keys()) if (!keep.has(id) && !this.unstored.has(id)) this.cache.delete(id);
  }

  /** @param {Summary[]} index @returns {Summary[]} with those that found no room */
  withUnstored(index) {
    const named = new Set(index.map(({ id }) => id));
    return [...index, ...this.index.filter(({ id }) => this.unstored.has(id) && !named.has(id))];
  }

  /** Takes over what another tab may have set while this one receives an answer.
   * @param {Conversation} conversation @returns {boolean} false when it is not stored any more */
  refresh(conversation) {
    if (!this.storage || this.unstored.has(conversation.id)) return true;
    const stored = read(this.storage, ITEM_KEY + conversation.id);
    if (!stored) return false;
    const { title, model, system, parameters } = stored;
    Object.assign(conversation, { title, model, system, parameters });
    return true;
  }

  /** @returns {Summary[]} newest first */
  list() {
    return [...this.index].sort((one, other) => other.updatedAt - one.updatedAt);
  }

  /** @param {string} id @returns {Conversation | null} */
  get(id) {
    const known = this.cache.get(id);
    if (known) return known;
    const stored = read(this.storage, ITEM_KEY + id);
    if (!stored || !Array.isArray(stored.messages)) return null;
    const conversation = /** @type {Conversation} */ (stored);
    for (const message of conversation.messages) {
      if (message.pending && Date.now() - (message.keptAt ?? 0) > ABANDONED_MS) {
        Object.assign(message, { pending: false, stopped: true });
      }
    }
    this.cache.set(id, conversation);
    return conversation;
  }

  /** Stores `conversation`, dropping the oldest ones where there is no room.
   * @param {Conversation} conversation @returns {boolean} false when it could not be stored at all */
  save(conversation) {
    this.cache.set(conversation.id, conversation);
    const text = JSON.stringify(conversation);
    const stored = this.storage ? read(this.storage, INDEX_KEY) ?? [] : this.index;
    const others = stored.filter((/** @type {Summary} */ item) => item.id !== conversation.id);
    others.sort((/** @type {Summary} */ one, /** @type {Summary} */ other) => other.updatedAt - one.updatedAt);
    const { id, title, updatedAt } = conversation;
    let room = MAX_SIZE - text.length;
    const kept = others.filter((/** @type {Summary} */ item, /** @type {number} */ at) => (
      (room -= item.size) >= 0 && at < MAX_CONVERSATIONS - 1));
    for (;;) {
      const index = [{ id, title, updatedAt, size: text.length }, ...kept];
      this.index = this.withUnstored(index);
      if (write(this.storage, ITEM_KEY + id, text) && write(this.storage, INDEX_KEY, JSON.stringify(index))) break;
      if (!kept.pop()) {
        this.unstored.add(id);
        return false;
      }
      this.sweep();
    }
    this.unstored.delete(id);
    if (kept.length < others.length) this.sweep();
    return true;
  }

  /** @param {string} id */
  remove(id) {
    this.cache.delete(id);
    this.unstored.delete(id);
    this.index = this.index.filter((item) => item.id !== id);
    this.storage?.removeItem(ITEM_KEY + id);
    const stored = read(this.storage, INDEX_KEY) ?? [];
    write(this.storage, INDEX_KEY, JSON.stringify(stored.filter((/** @type {Summary} */ item) => item.id !== id)));
  }

  /** Removes stored conversations that the index does not name. */
  sweep() {
    const named = new Set(this.index.map((item) => ITEM_KEY + item.id));
    const keys = Array.from({ length: this.storage?.length ?? 0 }, (_, at) => this.storage?.key(at) ?? "");
    for (const key of keys) if (key.startsWith(ITEM_KEY) && !named.has(key)) this.storage?.removeItem(key);
  }

  /** The summaries whose title or messages hold every word of `query`.
   * @param {string} query @returns {Summary[]} newest first */
  search(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return this.list();
    return this.list().filter((summary) => {
      const messages = this.get(summary.id)?.messages ?? [];
      const text = [summary.title, ...messages.map((message) => message.content)].join("\n").toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }
}

/** @param {Storage | null} storage @param {string} key @returns {any} null where there is nothing readable */
function read(storage, key) {
  try {
    return JSON.parse(storage?.getItem(key) ?? "null");
  } catch (problem) {
    if (problem instanceof SyntaxError) return null;
    throw problem;
  }
}

/**
 * @param {Storage | null} storage @param {string} key @param {string} text
 * @returns {boolean} false when storage is full
 */
function write(storage, key, text) {
  try {
    storage?.setItem(key, text);
    return true;
  } catch (problem) {
    if (problem instanceof DOMException) return false;
    throw problem;
  }
}
