/**
 * What a conversation is, and what can be made of one. The server keeps them: each is a tree of messages, in which an
 * edited question and another answer begin a branch of their own.
 *
 * @typedef {{code: string, message: string}} Failure
 * @typedef {{prompt_tokens: number | null, cached_tokens: number | null, generated_tokens: number | null,
 *   prompt_per_second: number | null, generated_per_second: number | null, time_to_first_token: number | null,
 *   finish_reason: string | null, context: number | null, energy?: number | null, cost?: number | null}} AnswerStats
 * @typedef {{hash: string, name: string, type: string, size: number, text?: string}} Attachment `text` of a text file
 * @typedef {{id: string, type: string, function: {name: string, arguments: string}}} ToolCall
 * @typedef {{id: string, parent: string | null, role: "user" | "assistant" | "tool", content: string,
 *   status: "done" | "answering" | "stopped" | "cut" | "failed", reasoning?: string, model?: string,
 *   stats?: AnswerStats | null, error?: Failure | null, attachments?: Attachment[], tool_calls?: ToolCall[],
 *   tool_call_id?: string, compare?: string, vote?: boolean, label?: string,
 *   thinking?: number}} Message `label`: with which preset it was answered; `thinking` in milliseconds
 * @typedef {{temperature?: number, top_p?: number, top_k?: number, min_p?: number, max_tokens?: number, seed?: number}}
 *   Sampling
 * @typedef {{id: string, title: string, folder: string, head: string | null, model: string, system: string,
 *   parameters: Sampling, tools: boolean, created_at: number, updated_at: number, messages: Message[]}} Conversation
 * @typedef {{id: string, title: string, folder: string, updated_at: number, answering: boolean}} Summary
 */

const INDEX_KEY = "llamadash.conversations";
const ITEM_KEY = "llamadash.conversation.";
const TITLE_LENGTH = 60; // characters
const PART_LENGTH = 300_000; // characters of messages that are sent in one request

export const UNTITLED = "New conversation";

/** An id that nothing else has; `crypto.randomUUID` needs a secure context. */
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
 * The messages from the first one to `id`.
 * @param {Message[]} messages @param {string | null} id @returns {Message[]}
 */
export function branchTo(messages, id) {
  const known = new Map(messages.map((message) => [message.id, message]));
  /** @type {Message[]} */
  const branch = [];
  for (let at = known.get(id ?? ""); at && !branch.includes(at); at = known.get(at.parent ?? "")) branch.unshift(at);
  return branch;
}

/**
 * The messages that stand at the place of `message`, itself among them; answers that are compared are one.
 * @param {Message[]} messages @param {Message} message @returns {Message[]}
 */
export function siblings(messages, message) {
  return messages.filter((other) => other.parent === message.parent && other.role === message.role
    && (!other.compare || other === message || (other.compare !== message.compare && isFirst(messages, other))));
}

/** @param {Message[]} messages @param {Message} message whether it is the first of those that are compared */
function isFirst(messages, message) {
  return messages.find((other) => other.parent === message.parent && other.compare === message.compare) === message;
}

/**
 * The last message of the branch on which `id` is: the newest one wherever it parts.
 * @param {Message[]} messages @param {string | null} id @returns {string | null}
 */
export function endOf(messages, id) {
  const newest = new Map(messages.map((message) => [message.parent, message.id]));
  const seen = new Set();
  let end = id;
  while (end !== null && newest.has(end) && !seen.has(end)) {
    seen.add(end);
    end = newest.get(end) ?? null;
  }
  return end;
}

/**
 * What a model is sent of a branch: thinking and failed answers stay here, and what then follows without an answer
 * between becomes one message, as chat templates want the two sides to alternate.
 * @param {string} system @param {Message[]} branch
 */
export function outgoing(system, branch) {
  /** @type {any[]} */
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  for (const message of branch) {
    const { role } = message;
    const last = messages[messages.length - 1];
    const content = contentOf(message);
    if (role === "tool") messages.push({ role, content, tool_call_id: message.tool_call_id ?? "" });
    else if (message.tool_calls?.length) messages.push({ role, content, tool_calls: message.tool_calls });
    else if (typeof content === "string" && !content.trim()) continue;
    else if (last?.role === role && typeof last.content === "string" && typeof content === "string") {
      last.content += `\n\n${content}`;
    } else messages.push({ role, content });
  }
  return messages;
}

/**
 * A message's text with the texts that are attached to it; parts where a file of another kind is.
 * @param {Message} message
 */
function contentOf({ content, attachments = [] }) {
  const texts = attachments.filter(({ text }) => text !== undefined).map(({ name, text }) => fenced(name, text ?? ""));
  const whole = [...texts, content].filter(Boolean).join("\n\n");
  const files = attachments.filter(({ text }) => text === undefined);
  if (!files.length) return whole;
  const parts = files.map(({ hash, type }) => ({ type: "attachment", hash, mime: type }));
  return [...parts, ...(whole ? [{ type: "text", text: whole }] : [])];
}

/** @param {string} name @param {string} text */
function fenced(name, text) {
  const fence = "`".repeat(Math.max(3, ...Array.from(text.matchAll(/`+/g), ([ticks]) => ticks.length + 1)));
  return `${name}:\n${fence}\n${text}\n${fence}`;
}

/**
 * The branch that is shown of a conversation, as a Markdown file.
 * @param {Conversation} conversation
 */
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  if (conversation.system) parts.push(`**System prompt**\n\n${conversation.system.replace(/^/gm, "> ")}`);
  for (const message of branchTo(conversation.messages, conversation.head)) {
    const names = (message.attachments ?? []).map(({ name }) => `*${name}*`).join(", ");
    const calls = (message.tool_calls ?? []).map((call) => `\`${call.function.name}(${call.function.arguments})\``);
    const body = [names, message.content.trim(), ...calls].filter(Boolean).join("\n\n");
    const author = message.role === "user" ? "You" : message.role === "tool" ? "Tool" : message.model ?? "Assistant";
    if (body) parts.push(`## ${author}\n\n${body}`);
  }
  return `${parts.join("\n\n")}\n`;
}

/**
 * A conversation as version 1 kept it in the browser, or as a file has it, in the form of today.
 * @param {any} old @returns {Conversation | null} null where it is none
 */
export function imported(old) {
  if (typeof old?.id !== "string" || !Array.isArray(old.messages)) return null;
  const whole = old.messages.filter(isMessage);
  if (!whole.length) return null;
  const linear = whole.every((/** @type {any} */ message) => message.parent === undefined);
  const id = old.id.slice(0, 40);
  const messages = whole.map((/** @type {any} */ message, /** @type {number} */ at) => ({
    ...kept(message, ["role", "content", "reasoning", "model", "stats", "error", "attachments", "tool_calls",
      "tool_call_id", "compare", "vote", "label", "thinking"]),
    ...(message.thinkingTime ? { thinking: message.thinkingTime * 1000 } : {}),
    id: linear ? `${id}.${at}` : message.id,
    parent: linear ? (at ? `${id}.${at - 1}` : null) : message.parent,
    status: message.error ? "failed" : ["stopped", "cut"].find((status) => message.status === status || message[status])
      ?? (message.pending || message.status === "answering" ? "cut" : "done"),
  }));
  return {
    id, title: String(old.title || UNTITLED).slice(0, 200), folder: String(old.folder ?? ""),
    head: linear ? messages[messages.length - 1].id : old.head ?? null, model: String(old.model ?? ""),
    system: String(old.system ?? ""), parameters: samplingOf(old.parameters), tools: Boolean(old.tools), messages,
    created_at: old.created_at ?? old.createdAt ?? Date.now(),
    updated_at: old.updated_at ?? old.updatedAt ?? Date.now(),
  };
}

/** Whether this is a message that the server takes; a broken one is left out. @param {any} message */
const isMessage = (message) => ["user", "assistant", "tool"].includes(message?.role)
  && typeof message.content === "string"
  && (message.parent === undefined || (typeof message.id === "string" && typeof (message.parent ?? "") === "string"));

/** What can be used of a stored sampling, whatever it may be. @param {any} stored @returns {Sampling} */
export function samplingOf(stored) {
  const own = kept(Object(stored), ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"]);
  return Object.fromEntries(Object.entries(own).filter(([, value]) => Number.isFinite(value)));
}

/** @param {any} from @param {string[]} names */
function kept(from, names) {
  return Object.fromEntries(names.filter((name) => from[name] !== undefined && from[name] !== null)
    .map((name) => [name, from[name]]));
}

/**
 * Has the server keep a conversation, in requests that it takes.
 * @param {(event: string, data: any) => Promise<any>} request @param {Conversation} conversation
 */
export async function upload(request, { id, messages, ...changes }) {
  /** @type {Message[][]} */
  const parts = [[]];
  let size = 0;
  for (const message of messages) {
    size += JSON.stringify(message).length;
    if (size > PART_LENGTH || parts[parts.length - 1].length >= 100) {
      parts.push([]);
      size = 0;
    }
    parts[parts.length - 1].push(message);
  }
  const own = kept(changes, ["title", "folder", "head", "model", "system", "parameters", "tools", "created_at",
    "updated_at"]);
  for (const part of parts) await patiently(() => request("conversations:save", { id, changes: own, messages: part }));
}

/**
 * What `ask` gives, asked again for as long as the server says that it is too much at a time.
 * @template T @param {() => Promise<T>} ask @returns {Promise<T>}
 */
export async function patiently(ask) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await ask();
    } catch (problem) {
      if (/** @type {any} */ (problem).code !== "RATE_LIMITED" || tries > 30) throw problem;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}

/**
 * Brings to the server what this browser kept by itself until now, and removes here what has arrived there.
 * @param {Storage | null} storage @param {(event: string, data: any) => Promise<any>} request
 * @returns {Promise<number>} how many there were
 */
export async function importStored(storage, request) {
  const names = Array.from({ length: storage?.length ?? 0 }, (_, at) => storage?.key(at) ?? "");
  let count = 0;
  let problem = null;
  for (const name of names.filter((key) => key.startsWith(ITEM_KEY))) {
    const conversation = imported(parsed(storage?.getItem(name) ?? ""));
    if (!conversation || problem?.code === "DISCONNECTED") continue;
    try {
      await upload(request, conversation);
      storage?.removeItem(name);
      count += 1;
    } catch (reason) { // the others are brought over all the same
      problem ??= /** @type {any} */ (reason);
    }
  }
  if (count) storage?.removeItem(INDEX_KEY);
  if (problem) throw problem;
  return count;
}

/** @param {string} text @returns {any} null where it is no JSON */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (problem) {
    if (problem instanceof SyntaxError) return null;
    throw problem;
  }
}
