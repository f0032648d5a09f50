/**
 * The conversation that is open, and the answers that are written in it. The server owns both: this follows them, from
 * this page load to the next, whatever page is shown.
 *
 * @typedef {import("./conversations.js").Conversation} Conversation
 * @typedef {import("./conversations.js").Message} Message
 * @typedef {import("./conversations.js").Summary} Summary
 * @typedef {{stage: string, value: number | null, reason?: string | null}} Progress
 * @typedef {object} Run what this page has seen of an answer that is being written
 * @property {Progress | null} progress
 * @property {number | null} firstAt when the first text came, in Unix ms
 * @property {number} pieces pieces of text so far, about one per token
 * @property {(() => void) | null} otherwise asks in another way where the engine refuses this one
 * @property {any} parameters with which this page asked for it; null where another one did
 */

import { branchTo, endOf, importStored, makeId, outgoing } from "./conversations.js";
import { runTool } from "./tools.js";

const SEND_TIMEOUT_MS = 60_000; // until the server accepts; loading and answering come after that
const REFRESH_MS = 150; // in which several changes become one request
const MOST_CALLS = 8; // of tools, one after the other, without a word from the person
const CONTINUE = "Continue exactly where you stopped, without repeating anything.";

export class Chat {
  /** @param {any} state the StateManager */
  constructor(state) {
    this.state = state;
    /** @type {Conversation | null} the one that the page shows, or showed last; null: one that is not begun */
    this.conversation = null;
    /** @type {Map<string, Run>} by message */
    this.runs = new Map();
    /** @type {Summary[] | null} */
    this.summaries = null;
    this.hasMore = false;
    this.query = "";
    this.folder = ""; // the only one whose conversations are listed
    /** @type {string[]} all that there are */
    this.folders = [];
    this.problem = ""; // why the list, or a conversation, cannot be had
    /** @type {Set<(message?: Message) => void>} */
    this.listeners = new Set();
    /** @type {Conversation | null} the one that was begun and not sent, while another page is shown */
    this.begun = null;
    this.draft = ""; // what is written and not sent, while another page is shown
    /** @type {any[]} the files that go with it */
    this.uploads = [];
    this.followed = ""; // the conversation whose answers the server sends
    for (const event of ["chat:delta", "chat:progress", "chat:done", "chat:error"]) {
      state.on(event, (/** @type {any} */ data) => this.receive(event, data));
    }
    state.on("conversations:updated", (/** @type {any} */ data) => this.handleUpdated(data));
    state.subscribe("connection", (/** @type {string} */ connection) => connection === "connected" && this.start());
    /** @type {Map<string, ReturnType<typeof setTimeout>>} */
    this.timers = new Map();
    if (state.connection === "connected") this.start();
  }

  /** The one chat of this page load, kept beside the state. @param {any} state the StateManager @returns {Chat} */
  static of(state) {
    if (!state.get("chat")) state.set("chat", new Chat(state));
    return state.get("chat");
  }

  /** @param {(message?: Message) => void} listener called after every change: of one answer's text, or of anything */
  listen(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** @param {Message} [message] */
  changed(message) {
    for (const listener of this.listeners) listener(message);
  }

  /** The connection is there: everything may have changed meanwhile. */
  async start() {
    if (this.followed) this.refresh(this.followed);
    await this.refreshList();
    const request = (/** @type {string} */ event, /** @type {any} */ data) => this.state.request(event, data);
    try {
      await importStored(browserStorage(), request);
    } catch (problem) { // what could not be brought over stays in the browser
      this.fail(problem);
    }
  }

  // The list

  /** @param {string} query @param {string} [folder] "" for all */
  search(query, folder = this.folder) {
    this.query = query;
    this.folder = folder;
    this.soon("list", () => this.refreshList());
  }

  /** @param {boolean} [further] whether to append those after the last one */
  async refreshList(further = false) {
    const { query, folder } = this;
    const last = further ? this.summaries?.at(-1)?.updated_at : undefined;
    try {
      const data = {
        ...(query ? { search: query } : {}), ...(folder ? { folder } : {}), ...(last ? { before: last } : {}),
      };
      const { conversations, folders = [], hasMore } = await this.state.request("conversations:list", data);
      if (query !== this.query || folder !== this.folder) return;
      this.folders = folders;
      this.summaries = last ? [...(this.summaries ?? []), ...conversations] : conversations;
      this.hasMore = hasMore;
      this.problem = "";
    } catch (problem) {
      this.fail(problem);
    }
    this.changed();
  }

  /** @param {any} problem a RequestError */
  fail(problem) {
    if (!problem.code) throw problem;
    if (problem.code === "DISCONNECTED") return; // every page tells of that
    this.problem = problem.message;
    this.changed();
  }

  /** @param {string} name @param {() => void} work done once, a moment after the last time it was asked for */
  soon(name, work) {
    clearTimeout(this.timers.get(name));
    this.timers.set(name, setTimeout(work, REFRESH_MS));
  }

  /** @param {{id: string, deleted?: boolean}} data */
  handleUpdated({ id, deleted }) {
    this.soon("list", () => this.refreshList());
    if (id !== this.followed) return;
    if (deleted) this.close();
    else this.soon("conversation", () => this.refresh(id));
  }

  // The conversation that is open

  /** @param {string} id @returns {Promise<boolean>} whether it is there */
  async open(id) {
    this.followed = id;
    return this.refresh(id);
  }

  close() {
    this.conversation = null;
    this.followed = "";
    this.changed();
  }

  /** Takes over what the server has. @param {string} id @returns {Promise<boolean>} */
  async refresh(id) {
    try {
      const { conversation } = await this.state.request("conversations:get", { id });
      const { messages } = conversation;
      if (id !== this.followed) return true;
      if (conversation.deleted_at) return this.close(), false;
      const head = this.headAmong(messages, conversation);
      const { tools = false, model = "", system = "", parameters = {} } = conversation;
      this.conversation = { ...conversation, tools, model, system, parameters, head };
      this.problem = "";
      this.changed();
      for (const message of messages) this.followCalls(message);
    } catch (problem) {
      const { code } = /** @type {any} */ (problem);
      if (code !== "NOT_FOUND") return this.fail(problem), true;
      if (id === this.followed) this.close();
      return false;
    }
    return true;
  }

  /** The branch that was shown goes on being shown. @param {Message[]} messages @param {Conversation} conversation */
  headAmong(messages, conversation) {
    const shown = this.conversation?.id === conversation.id ? this.conversation.head : null;
    const known = messages.some(({ id }) => id === shown);
    return endOf(messages, known ? shown : conversation.head ?? messages.at(-1)?.id ?? null);
  }

  /**
   * Changes what the server keeps of a conversation.
   * @param {string} id @param {any} changes @param {any[]} [messages] @returns {Promise<boolean>} whether it did
   */
  async save(id, changes, messages = []) {
    try {
      await this.state.request("conversations:save", { id, changes, messages });
      return true;
    } catch (problem) {
      this.fail(problem);
      return false;
    }
  }

  /** @param {string} id of a message at a fork: its branch is shown */
  choose(id) {
    const { conversation } = this;
    if (!conversation) return;
    conversation.head = endOf(conversation.messages, id);
    this.changed();
    void this.save(conversation.id, { head: conversation.head });
  }

  /** The answers of the conversation that is open that are being written. @returns {Message[]} */
  get answering() {
    return this.conversation?.messages.filter(({ status }) => status === "answering") ?? [];
  }

  // Questions and answers

  /**
   * Asks a question, which becomes a message after `parent`, and has it answered by each of `targets`.
   * @param {Conversation} conversation @param {Partial<Message>} question @param {string | null} parent
   * @param {{model: string, parameters: any, label?: string}[]} targets
   * @returns {Promise<boolean>} whether the server keeps the question
   */
  async ask(conversation, question, parent, targets) {
    /** @type {Message} */
    const message = { content: "", status: "done", ...question, id: makeId(), role: "user", parent };
    const first = !conversation.messages.length;
    conversation.messages = [...conversation.messages, message];
    conversation.head = message.id;
    this.conversation = conversation;
    this.followed = conversation.id;
    this.changed();
    const { title, folder, model, system, parameters, tools } = conversation;
    const changes = { head: message.id, ...(first ? { title, folder, model, system, parameters, tools } : {}) };
    const { status: _status, ...own } = message;
    if (!await this.save(conversation.id, changes, [own])) {
      conversation.messages = conversation.messages.filter((item) => item !== message);
      conversation.head = parent;
      this.changed();
      return false;
    }
    if (first) await this.refresh(conversation.id); // from now on the server sends what comes
    await this.answer(message.id, targets);
    return true;
  }

  /**
   * @param {string} parent the message to answer @param {{model: string, parameters: any, label?: string}[]} targets
   */
  async answer(parent, targets) {
    const compare = targets.length > 1 ? makeId() : "";
    await Promise.all(targets.map((target) => this.send({
      id: makeId(), parent, role: "assistant", content: "", status: "answering", model: target.model,
      ...(compare ? { compare } : {}), ...(target.label ? { label: target.label } : {}),
    }, target.parameters)));
  }

  /** Goes on with an answer that ended early. @param {Message} message @param {any} parameters */
  async goOn(message, parameters) {
    const again = /** @type {Message} */ ({ ...message, status: "answering", error: null, stats: null });
    await this.send(again, parameters, Boolean(message.content));
  }

  /**
   * @param {Message} message @param {any} parameters
   * @param {boolean} [further] whether the engine goes on with what there is of it
   * @param {boolean} [asked] whether it is told so by a message, as it cannot do that by itself
   */
  async send(message, parameters, further = false, asked = false) {
    const { conversation } = this;
    if (!conversation) return;
    const { id, parent, compare, label } = message;
    const branch = branchTo(conversation.messages, parent);
    const messages = outgoing(conversation.system, further ? [...branch, message] : branch);
    if (asked) messages.push({ role: "user", content: CONTINUE });
    const known = conversation.messages.some((item) => item.id === id);
    conversation.messages = known
      ? conversation.messages.map((item) => (item.id === id ? message : item))
      : [...conversation.messages, message];
    conversation.head = id;
    const otherwise = further && !asked ? () => void this.send(message, parameters, true, true) : null;
    this.runs.set(id, { progress: null, firstAt: null, pieces: 0, otherwise, parameters });
    this.changed();
    const compared = { ...(compare ? { compare } : {}), ...(label ? { label } : {}) };
    const answer = { conversation: conversation.id, id, parent, ...compared };
    try {
      await this.state.request("chat:send", { model: message.model, messages, parameters, answer }, {
        timeout: SEND_TIMEOUT_MS,
      });
    } catch (problem) {
      const { code = "INTERNAL_ERROR", message: text = "The request failed." } = /** @type {any} */ (problem);
      for (const item of this.conversation?.messages ?? []) {
        if (item.id === id) Object.assign(item, { status: "failed", error: { code, message: text } });
      }
      this.changed();
      const { content, model, role } = message;
      const error = { code, message: text };
      const failed = { id, parent, content, model, role, status: "failed", error, ...compared };
      if (code !== "DISCONNECTED" && code !== "CONFLICT") await this.save(conversation.id, {}, [failed]);
    }
  }

  /** Lets the tools run that an answer calls for which this page has asked. @param {Message} message */
  followCalls(message) {
    const run = this.runs.get(message.id);
    if (message.status === "answering" || !run?.parameters) return;
    const { parameters } = run;
    run.parameters = null; // once
    if (!message.tool_calls?.length || !parameters.tools || !this.conversation) return;
    const branch = branchTo(this.conversation.messages, message.id);
    const since = branch.slice(branch.findLastIndex(({ role }) => role === "user"));
    const rounds = since.filter(({ tool_calls: calls }) => calls?.length).length;
    if (rounds <= MOST_CALLS) void this.call(message, parameters);
  }

  /** Runs the tools that a message calls, and has the model go on. @param {Message} message @param {any} parameters */
  async call(message, parameters) {
    const { conversation } = this;
    if (!conversation) return;
    let parent = message.id;
    const results = (message.tool_calls ?? []).map((call) => {
      const content = runTool(call.function.name, call.function.arguments);
      const result = { id: makeId(), parent, role: /** @type {const} */ ("tool"), content, tool_call_id: call.id };
      parent = result.id;
      return result;
    });
    const saved = await this.save(conversation.id, { head: parent }, results);
    if (!saved || this.conversation?.id !== conversation.id) return;
    const known = new Set(this.conversation.messages.map(({ id }) => id));
    const fresh = results.filter(({ id }) => !known.has(id)).map((result) => ({ ...result, status: "done" }));
    this.conversation.messages = [...this.conversation.messages, ...(/** @type {Message[]} */ (fresh))];
    await this.answer(parent, [{ model: message.model ?? conversation.model, parameters }]);
  }

  /** Stops the answers of the conversation that is open; what came so far stays. */
  stop() {
    for (const { id } of this.answering) this.state.request("chat:cancel", { chatId: id }).catch(ignoreGone);
  }

  /** @param {string} event @param {any} data */
  receive(event, data) {
    const message = this.conversation?.messages.find(({ id }) => id === data.chatId);
    if (!message) return;
    const fresh = { progress: null, firstAt: null, pieces: 0, otherwise: null, parameters: null };
    const run = this.runs.get(message.id) ?? fresh;
    this.runs.set(message.id, run);
    if (event === "chat:progress") {
      run.progress = { stage: data.stage, value: data.progress ?? null, reason: data.reason ?? null };
    }
    if (event === "chat:delta") {
      run.progress = null;
      run.firstAt ??= Date.now();
      run.pieces += 1;
      if (data.reasoning) message.reasoning = (message.reasoning ?? "") + data.reasoning;
      if (data.content) message.content += data.content;
    }
    if (event === "chat:done") {
      const { chatId: _id, ...stats } = data;
      Object.assign(message, { stats: { context: null, ...stats }, status: "done" }); // as the server keeps it follows
    }
    if (event === "chat:error") {
      Object.assign(message, { error: { code: data.code, message: data.message }, status: "failed" });
      if (run.otherwise && !run.pieces && data.code === "ENGINE_FAILED") return run.otherwise();
    }
    this.changed(event === "chat:done" || event === "chat:error" ? undefined : message);
  }
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
