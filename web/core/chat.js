/**
 * Answers in progress. They outlive the page that asked for them: a conversation goes on, and is stored, while
 * another page is shown.
 *
 * @typedef {import("./conversations.js").Conversation} Conversation
 * @typedef {import("./conversations.js").Message} Message
 * @typedef {{stage: string, value: number | null, reason?: string | null}} Progress
 * @typedef {object} Run one answer that is being written
 * @property {Conversation} conversation
 * @property {Message} message
 * @property {string | null} chatId null until the server has accepted it
 * @property {boolean} cancelled
 * @property {Progress | null} progress
 * @property {number} startedAt Unix ms
 * @property {number | null} firstAt when the first text came
 * @property {number | null} thoughtAt when the answer began after thinking
 * @property {number} pieces pieces of text so far, about one per token
 */

import { Conversations } from "./conversations.js";

const KEEP_EVERY_MS = 2000; // an answer is stored while it is written; other tabs show it from there
const EARLY_EVENTS = 500; // kept while it is not yet known whose they are
const SEND_TIMEOUT_MS = 60_000; // until the server accepts; loading and answering come after that

export class Chat {
  /**
   * @param {any} state the StateManager
   * @param {Conversations} conversations
   */
  constructor(state, conversations) {
    this.state = state;
    this.conversations = conversations;
    /** @type {Map<string, Run>} by conversation */
    this.runs = new Map();
    /** @type {{event: string, data: any}[]} */
    this.early = [];
    /** @type {Set<(conversation: Conversation, message: Message) => void>} */
    this.listeners = new Set();
    /** @type {Map<string, Run>} answers that were stopped, by chat, until their figures come */
    this.stopped = new Map();
    /** @type {string | null} the conversation that the page shows, or showed last */
    this.open = null;
    /** @type {Conversation | null} the one that was begun and not sent, while another page is shown */
    this.begun = null;
    this.draft = ""; // what is written and not sent, while another page is shown
    for (const event of ["chat:delta", "chat:progress", "chat:done", "chat:error"]) {
      state.on(event, (/** @type {any} */ data) => this.receive(event, data));
    }
    state.subscribe("connection", (/** @type {string} */ connection) => connection !== "connected" && this.cutOff());
    /** @type {ReturnType<typeof setInterval> | undefined} runs while answers are written */
    this.keeper = undefined;
    globalThis.addEventListener?.("pagehide", () => this.leave());
  }

  /** The one chat of this page load, kept beside the state. @param {any} state the StateManager @returns {Chat} */
  static of(state) {
    if (!state.get("chat")) state.set("chat", new Chat(state, new Conversations(browserStorage())));
    return state.get("chat");
  }

  /** @param {(conversation: Conversation, message: Message) => void} listener called after every change of an answer */
  listen(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Stores an answer beside what another tab may have set meanwhile.
   * @param {Run} run @returns {boolean} false when another tab has deleted the conversation */
  store(run) {
    if (!this.conversations.refresh(run.conversation)) return false;
    this.conversations.save(run.conversation);
    return true;
  }

  /** Reads again what other tabs have stored, but for the conversations that are answered here. */
  reload() {
    this.conversations.reload(new Set(this.runs.keys()));
  }

  /** Asks for the next answer of `conversation`, whose last message is the user's.
   * @param {Conversation} conversation @param {string} id of the new message */
  async answer(conversation, id) {
    const now = Date.now();
    /** @type {Message} */
    const message = { id, role: "assistant", content: "", model: conversation.model, pending: true, keptAt: now };
    const messages = outgoing(conversation);
    conversation.messages.push(message);
    /** @type {Run} */
    const run = {
      conversation, message, chatId: null, cancelled: false, progress: null,
      startedAt: now, firstAt: null, thoughtAt: null, pieces: 0,
    };
    this.runs.set(conversation.id, run);
    this.keeper ??= setInterval(() => [...this.runs.values()].forEach((item) => this.keep(item)), KEEP_EVERY_MS);
    conversation.updatedAt = now;
    this.conversations.save(conversation);
    this.changed(run);
    try {
      const request = { model: conversation.model, messages, parameters: conversation.parameters };
      const { chatId } = await this.state.request("chat:send", request, { timeout: SEND_TIMEOUT_MS });
      run.chatId = chatId;
      if (run.cancelled) this.sendCancel(run, chatId);
    } catch (problem) {
      this.finish(run, { error: failure(problem) });
    }
    for (const { event, data } of this.early.filter(({ data }) => data.chatId === run.chatId)) {
      this.receive(event, data);
    }
    if (![...this.runs.values()].some((other) => other.chatId === null)) this.early = [];
  }

  /** Stops the answer of a conversation; what came so far stays. @param {string} conversationId */
  cancel(conversationId) {
    const run = this.runs.get(conversationId);
    if (!run) return;
    run.cancelled = true;
    if (run.chatId) this.sendCancel(run, run.chatId);
    this.finish(run, { stopped: true });
  }

  /** @param {Run} run @param {string} chatId */
  sendCancel(run, chatId) {
    this.stopped.set(chatId, run);
    this.state.request("chat:cancel", { chatId }).catch(ignoreGone);
  }

  /** @param {string} event @param {any} data */
  receive(event, data) {
    const stopped = this.stopped.get(data.chatId);
    if (stopped && (event === "chat:done" || event === "chat:error")) {
      this.stopped.delete(data.chatId);
      const kept = this.conversations.get(stopped.conversation.id) !== null;
      if (event === "chat:done" && kept) this.finish(stopped, this.figures(stopped, data));
      return undefined;
    }
    const run = [...this.runs.values()].find((item) => item.chatId !== null && item.chatId === data.chatId);
    if (run) return this.apply(run, event, data);
    const waiting = [...this.runs.values()].some((item) => item.chatId === null);
    if (waiting && this.early.length < EARLY_EVENTS) this.early.push({ event, data });
  }

  /** @param {Run} run @param {string} event @param {any} data */
  apply(run, event, data) {
    if (event === "chat:progress") {
      run.progress = { stage: data.stage, value: data.progress ?? null, reason: data.reason ?? null };
    }
    if (event === "chat:delta") this.append(run, data);
    if (event === "chat:error") return this.finish(run, { error: { code: data.code, message: data.message } });
    if (event === "chat:done") return this.finish(run, this.figures(run, data));
    return this.changed(run);
  }

  /** What `chat:done` says of an answer. @param {Run} run @param {any} data @returns {Partial<Message>} */
  figures(run, data) {
    const context = contextOf(this.state, run.message.model);
    return { stats: stats(data, context), ...(data.finish_reason === "cancelled" ? { stopped: true } : {}) };
  }

  /** @param {Run} run @param {{content?: string | null, reasoning?: string | null}} delta */
  append(run, { content, reasoning }) {
    const now = Date.now();
    run.progress = null;
    run.firstAt ??= now;
    run.pieces += 1;
    if (reasoning) run.message.reasoning = (run.message.reasoning ?? "") + reasoning;
    if (content) run.message.content += content;
    if (content && run.message.reasoning && !run.thoughtAt) {
      run.thoughtAt = now;
      run.message.thinkingTime = (now - run.firstAt) / 1000;
    }
    this.keep(run);
  }

  /** Stores an answer now and then, also from a hidden tab whose timers rest. @param {Run} run */
  keep(run) {
    const now = Date.now();
    if (now - (run.message.keptAt ?? 0) < KEEP_EVERY_MS) return;
    run.message.keptAt = now;
    if (!this.store(run)) this.cancel(run.conversation.id);
  }

  /** @param {Run} run @param {Partial<Message>} result */
  finish(run, result) {
    Object.assign(run.message, result, { pending: false, keptAt: undefined });
    if (this.runs.get(run.conversation.id) === run) this.runs.delete(run.conversation.id);
    if (!this.runs.size) {
      clearInterval(this.keeper);
      this.keeper = undefined;
    }
    this.store(run);
    this.changed(run);
  }

  /** The connection is gone, and with it what the server would still have sent. */
  cutOff() {
    for (const run of [...this.runs.values()]) {
      this.finish(run, {
        error: { code: "DISCONNECTED", message: "The connection was lost before the answer was complete." },
      });
    }
  }

  /** The page goes, and with it who receives its answers. */
  leave() {
    for (const run of [...this.runs.values()]) this.finish(run, { stopped: true });
  }

  /** @param {Run} run */
  changed(run) {
    for (const listener of this.listeners) listener(run.conversation, run.message);
  }
}

/**
 * The context size that `model` runs with, in tokens, if it is known.
 * @param {any} state the StateManager
 * @param {string | undefined} model
 * @returns {number | null}
 */
function contextOf(state, model) {
  const models = /** @type {any[]} */ (state.get("models") ?? []);
  return models.find((item) => item.id === model)?.runtime?.n_ctx ?? null;
}

/**
 * What is sent of a conversation: thinking and failed answers stay here, and what then follows without an answer
 * between becomes one message, as chat templates want the two sides to alternate.
 * @param {Conversation} conversation
 */
export function outgoing(conversation) {
  const system = conversation.system.trim();
  /** @type {{role: string, content: string}[]} */
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const { role, content } of conversation.messages) {
    const last = messages[messages.length - 1];
    if (!content.trim()) continue;
    if (last?.role === role) last.content += `\n\n${content}`;
    else messages.push({ role, content });
  }
  return messages;
}

/**
 * @param {any} data of `chat:done` @param {number | null} context @returns {import("./conversations.js").AnswerStats}
 */
function stats(data, context) {
  return {
    prompt_tokens: data.prompt_tokens ?? null, cached_tokens: data.cached_tokens ?? null,
    generated_tokens: data.generated_tokens ?? null, prompt_per_second: data.prompt_per_second ?? null,
    generated_per_second: data.generated_per_second ?? null, time_to_first_token: data.time_to_first_token ?? null,
    finish_reason: data.finish_reason ?? null, context,
  };
}

/** @param {any} problem a RequestError @returns {import("./conversations.js").Failure} */
function failure(problem) {
  return { code: problem.code ?? "INTERNAL_ERROR", message: problem.message ?? "The request failed." };
}

/** A chat that has ended by itself cannot be cancelled, and need not be. @param {any} problem */
function ignoreGone(problem) {
  if (!problem.code) throw problem;
}

/** @returns {Storage | null} null where the browser refuses it */
function browserStorage() {
  try {
    return window.localStorage;
  } catch (problem) {
    if (problem instanceof DOMException) return null;
    throw problem;
  }
}
