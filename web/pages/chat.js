/**
 * Talk to a model.
 *
 * @typedef {import("../core/conversations.js").Conversation} Conversation
 * @typedef {import("../core/conversations.js").Message} Message
 * @typedef {import("../core/conversations.js").Summary} Summary
 * @typedef {import("../core/conversations.js").Sampling} Sampling
 * @typedef {import("../core/component.js").VNode} VNode
 */

import { base } from "../core/router.js";
import { readStorage, writeStorage } from "../core/auth.js";
import { Chat } from "../core/chat.js";
import { Component, h } from "../core/component.js";
import { ABANDONED_MS, UNTITLED, makeId, titleFrom, toMarkdown } from "../core/conversations.js";
import { relativeTime } from "../core/format.js";
import { ChatMessage } from "../components/chat-message.js";
import { saveText } from "../components/copy-button.js";
import { confirmDialog } from "../components/dialog.js";
import { fitWords, needOf } from "../components/fit-badge.js";
import { icon } from "../components/icon.js";
import { statusLabel } from "../components/model-status.js";
import { sharedNames } from "../components/query-models.js";
import { emptyState, loadingState } from "../components/states.js";
import { toast } from "../components/toast.js";

const MODEL_KEY = "llamadash.chat.model";
const SAMPLING_KEY = "llamadash.chat.sampling";
const NEAR_BOTTOM_PX = 48; // closer than this counts as being at the bottom
const TALLEST_INPUT_PX = 240;

const NOT_FOR_CHAT = /bert|t5encoder|embed/; // architectures that make vectors, not text

const EXAMPLES = [
  "Explain what a context window is, in three sentences.",
  "Write a Python function that finds the longest word in a text.",
  "Compare green tea and black tea in a table.",
  "Suggest a name for a small home server.",
];

/** @type {{key: keyof Sampling, label: string, min: number, max: number, step: string, hint: string}[]} */
const SAMPLING = [
  {
    key: "temperature", label: "Temperature", min: 0, max: 5, step: "0.05",
    hint: "Lower is focused, higher is creative.",
  },
  { key: "top_p", label: "Top p", min: 0, max: 1, step: "0.01", hint: "Keep the likeliest tokens up to this sum." },
  { key: "top_k", label: "Top k", min: 0, max: 1000, step: "1", hint: "Keep this many tokens; 0 keeps all." },
  {
    key: "min_p", label: "Min p", min: 0, max: 1, step: "0.01",
    hint: "Drop tokens less likely than this share of the best.",
  },
  { key: "max_tokens", label: "Max tokens", min: 1, max: 1_000_000, step: "1", hint: "The longest answer." },
  { key: "seed", label: "Seed", min: -1, max: 4_294_967_295, step: "1", hint: "The same seed repeats an answer." },
];

/** The page. */
export class ChatPage extends Component {
  static title = "Chat";

  /** @param {any} props */
  constructor(props) {
    super(props);
    this.chat = Chat.of(this.props.state);
    this.conversations = this.chat.conversations;
    this.chat.reload(); // while another page was shown nobody heard of other tabs
    /** @type {Map<string, ChatMessage>} */
    this.views = new Map();
    this.atBottom = true;
    this.updated = () => this.follow();
    /** @type {string | null} the model that the address asked for, until another is chosen */
    this.asked = this.props.query?.get("model");
    /** @type {ReturnType<typeof setTimeout> | undefined} until it is looked at whether the other tab still receives */
    this.recheck = undefined;
    /** @type {any} */
    this.state = {
      conversation: this.wanted() ?? this.begun() ?? this.blank(),
      query: "", editing: null, renaming: null, view: "thread", jump: false, draft: this.chat.draft, invalid: {},
    };
  }

  didMount() {
    const { state } = this.props;
    const refresh = () => this.setState({});
    const clock = setInterval(refresh, 30_000); // "3 min ago" grows older
    const onKey = (/** @type {KeyboardEvent} */ event) => this.handleEscape(event);
    const onStorage = (/** @type {StorageEvent} */ event) => this.handleOtherTab(event);
    document.addEventListener("keydown", onKey);
    window.addEventListener("storage", onStorage);
    this.handleModels();
    this.didUpdate();
    this.focusInput();
    this.keepAddress();
    return [
      state.subscribe("models", () => this.handleModels()),
      state.subscribe("engine", () => this.handleModels()),
      state.subscribe("connection", refresh),
      this.chat.listen((conversation, message) => this.handleAnswer(conversation, message)),
      () => document.removeEventListener("keydown", onKey),
      () => window.removeEventListener("storage", onStorage),
      () => clearTimeout(this.recheck),
      () => clearInterval(clock),
    ];
  }

  didUpdate() {
    this.follow();
    this.growInput();
    if (this.elsewhere) this.recheck ??= setTimeout(() => this.reload(), ABANDONED_MS);
  }

  willDestroy() {
    this.chat.draft = this.state.draft;
    this.chat.begun = this.conversation.messages.length ? null : this.conversation;
  }

  receive(/** @type {any} */ props) {
    this.props = props;
    this.asked = props.query?.get("model");
    const wanted = this.wanted() ?? this.blank();
    if (wanted.id !== this.conversation.id && wanted.messages.length) this.show(wanted);
    else if (props.query?.get("model")) this.show(this.blank());
    else this.update();
    this.keepAddress();
  }

  /** The conversation of the address, or the one that was open before another page was shown. */
  wanted() {
    const { query } = this.props;
    if (query?.get("model")) return null;
    return this.conversations.get(query?.get("c") ?? this.chat.open ?? "");
  }

  /**
   * The conversation without a message that was open before another page was shown, unless the address names a model.
   */
  begun() {
    return this.props.query?.get("model") ? null : this.chat.begun;
  }

  getEventMap() {
    return {
      "click [data-action]": "handleAction",
      "input [data-input]": "handleInput",
      "change [data-choice]": "handleChoice",
      "submit [data-form]": "handleSubmit",
      "keydown [data-input=\"message\"]": "handleMessageKey",
      "keydown .chat-editor textarea": "handleEditKey",
      "keydown [data-input=\"rename\"]": "handleRenameKey",
      "focusout [data-input=\"rename\"]": "handleRenameDone",
      "scroll .chat-scroll": "handleScroll",
    };
  }

  /** @returns {Conversation} */
  get conversation() {
    return this.state.conversation;
  }

  /** @returns {HTMLTextAreaElement} where the next message is written */
  get input() {
    return this.element.querySelector(".chat-box textarea");
  }

  get run() {
    return this.chat.runs.get(this.conversation.id) ?? null;
  }

  /** @returns {any[]} what can be talked to: the models of this machine, then those of upstreams */
  get models() {
    const { state } = this.props;
    if (!state.get("models") || !state.get("engine")) return []; // nothing is chosen before both are known
    const own = state.get("models").filter((/** @type {any} */ model) => (
      model.status !== "missing" && !model.missing && !NOT_FOR_CHAT.test(model.architecture ?? "")));
    const upstreams = /** @type {any[]} */ (state.get("engine").upstreams ?? []);
    return [...own, ...upstreams.flatMap(({ name: upstream, models = [] }) => (
      models.map((/** @type {any} */ { id, status }) => ({ id, name: id, status, upstream }))))];
  }

  get model() {
    return this.models.find((model) => model.id === this.conversation.model) ?? null;
  }

  /** Whether another tab receives an answer of this conversation. */
  get elsewhere() {
    return this.run === null && this.conversation.messages.some((message) => message.pending);
  }

  /** Whether an answer can be asked for now. */
  get ready() {
    return this.run === null && !this.elsewhere && this.model !== null && this.props.state.connection === "connected";
  }

  /** @returns {Conversation} a conversation that is not stored before its first message */
  blank() {
    const now = Date.now();
    return {
      id: makeId(), title: UNTITLED, createdAt: now, updatedAt: now, model: this.preferredModel(), system: "",
      parameters: JSON.parse(readStorage(SAMPLING_KEY) || "{}"), messages: [],
    };
  }

  /** The model asked for in the address, else the last one used, a loaded one, a favorite, any. */
  preferredModel() {
    const wanted = [this.asked, readStorage(MODEL_KEY)].find((id) => this.models.some((model) => model.id === id));
    const ranked = [
      (/** @type {any} */ model) => model.status === "loaded", (/** @type {any} */ model) => model.favorite, () => true,
    ];
    return wanted ?? ranked.map((fits) => this.models.find(fits)).find(Boolean)?.id ?? "";
  }

  // What is shown

  render() {
    const { state } = this.props;
    const loading = !state.get("models") || !state.get("engine");
    return h("section", { className: "page chat-page", dataset: { view: this.state.view } },
      h("h1", { className: "visually-hidden" }, "Chat"),
      this.renderSide(),
      h("div", { className: "chat-main" },
        this.renderHeader(),
        this.renderNotice(),
        h("div", { className: "chat-scroll", tabindex: "0", role: "region", "aria-label": "Conversation" },
          loading
            ? loadingState("Loading the models…")
            : this.models.length || this.conversation.messages.length
            ? this.renderThread()
            : this.renderNoModel()),
        this.renderComposer()),
      this.renderPanel());
  }

  renderSide() {
    const found = this.conversations.search(this.state.query);
    const none = this.state.query
      ? "No matching conversations."
      : "Your conversations appear here. They stay in this browser.";
    return h("aside", { className: "chat-side", "aria-label": "Conversations" },
      h("div", { className: "chat-side-head" },
        h("button", { type: "button", className: "button chat-new", dataset: { action: "new" } },
          icon("plus"),
          "New conversation"),
        h("button", {
          type: "button", className: "button button-ghost button-icon chat-narrow", "aria-label": "Close the list",
          dataset: { action: "view", view: "thread" },
        }, icon("close"))),
      h("label", { className: "chat-search" },
        h("span", { className: "visually-hidden" }, "Search conversations"), icon("search", { size: 16 }),
        h("input", {
          className: "input", type: "search", placeholder: "Search", value: this.state.query,
          dataset: { input: "query" },
        })),
      found.length ? h("ul", { className: "chat-list" }, found.map((summary) => this.renderSummary(summary)))
        : h("p", { className: "muted chat-none" }, none));
  }

  /** @param {Summary} summary */
  renderSummary({ id, title, updatedAt }) {
    const current = id === this.conversation.id;
    if (this.state.renaming === id) {
      return h("li", { key: id, className: "chat-entry" },
        h("input", {
          className: "input", value: title, maxlength: "120", "aria-label": "Title", dataset: { input: "rename", id },
          ref: (/** @type {HTMLInputElement} */ input) => requestAnimationFrame(() => (input.focus(), input.select())),
        }));
    }
    const running = this.chat.runs.has(id);
    return h("li", { key: id, className: current ? "chat-entry chat-entry-current" : "chat-entry" },
      h("button", {
        type: "button", className: "chat-open", "aria-current": current ? "true" : null,
        dataset: { action: "open", id },
      },
        h("span", { className: "chat-entry-title" }, title),
        h("span", { className: "muted chat-small" }, running ? "Answering…" : relativeTime(updatedAt))),
      h("span", { className: "chat-entry-actions" },
        iconButton("rename", "edit", `Rename “${title}”`, { id }),
        iconButton("delete", "trash", `Delete “${title}”`, { id })));
  }

  renderHeader() {
    const { view } = this.state;
    const stored = this.conversation.messages.length > 0;
    return h("header", { className: "chat-header" },
      h("button", {
        type: "button", className: "button button-ghost button-icon chat-narrow",
        "aria-label": "Show the conversations", dataset: { action: "view", view: "list" },
      }, icon("menu")),
      this.renderPicker(),
      h("span", { className: "spacer" }),
      h("button", {
        type: "button", className: "button button-ghost button-icon chat-narrow", "aria-label": "New conversation",
        title: "New conversation", dataset: { action: "new" },
      }, icon("plus")),
      h("button", {
        type: "button", className: "button button-ghost button-icon", "aria-label": "Save as Markdown",
        title: "Save as Markdown", disabled: !stored, dataset: { action: "export" },
      }, icon("download")),
      h("button", {
        type: "button", className: "button button-ghost button-icon", "aria-label": "Settings of this conversation",
        title: "System prompt and sampling",
        "aria-expanded": view === "panel", dataset: { action: "view", view: view === "panel" ? "thread" : "panel" },
      }, icon("configuration")));
  }

  renderPicker() {
    const current = this.conversation.model;
    const own = this.models.filter((model) => !model.upstream);
    const loaded = own.filter((model) => ["loaded", "loading"].includes(model.status));
    const others = own.filter((model) => !loaded.includes(model));
    const upstreams = [...new Set(this.models.map((model) => model.upstream))].filter(Boolean);
    const gone = current && !this.model;
    const shared = sharedNames(this.models);
    const nameOf = (/** @type {any} */ { id, name }) => (shared.has(name) ? `${name} (${id})` : name || id);
    const devices = this.props.state.get("engine")?.devices;
    const fit = (/** @type {any} */ model) => {
      const words = others.includes(model) && fitWords(needOf(model), devices);
      return words ? ` · ${words}` : "";
    };
    const options = (/** @type {any[]} */ models) => models.map((model) => (
      h("option", { key: model.id, value: model.id, selected: model.id === current }, nameOf(model) + fit(model))));
    return h("label", { className: "chat-picker" },
      h("span", { className: "visually-hidden" }, "Model"),
      h("select", { className: "select", dataset: { choice: "model" }, disabled: !this.models.length },
        this.models.length ? null : h("option", { key: "none", value: "" }, "No model"),
        gone ? h("option", { key: "gone", value: current, selected: true }, `${current} (not there)`) : null,
        loaded.length ? h("optgroup", { key: "loaded", label: "Loaded" }, options(loaded)) : null,
        others.length ? h("optgroup", { key: "others", label: "Loads when you send" }, options(others)) : null,
        upstreams.map((name) => h("optgroup", { key: `upstream ${name}`, label: `On ${name}` },
          options(this.models.filter((model) => model.upstream === name))))),
      modelBadge(this.model));
  }

  /** What stands in the way of an answer, said before a message is written. */
  renderNotice() {
    const engine = this.props.state.get("engine");
    const { connection } = this.props.state;
    if (this.conversations.unstored.has(this.conversation.id)) {
      return notice(
        "warning", "This browser has no room to keep this conversation. Delete old ones, or save it as Markdown."
      );
    }
    if (connection !== "connected" || !engine) return null;
    if (engine.status === "stopped") { // the frame of the page tells of a missing one
      return notice("warning", "The engine is stopped.", h("button", {
        type: "button", className: "button button-small", dataset: { action: "start-engine" },
      }, icon("play", { size: 16 }), "Start"));
    }
    return null;
  }

  renderNoModel() {
    return h("div", { className: "chat-center" }, emptyState({
      iconName: "models", title: "No chat model yet",
      body: "Download one, or put a GGUF file into a model folder.",
      action: h("a", { className: "button button-primary", href: "/models" }, "Go to the models"),
    }));
  }

  renderThread() {
    const { messages } = this.conversation;
    if (!messages.length) return this.renderWelcome();
    const busy = !this.ready;
    return h("div", { className: "chat-thread" }, messages.map((message, at) => h(ChatMessage, {
      key: message.id, message, busy, last: at === messages.length - 1, editing: this.state.editing === message.id,
      run: this.findRun, loading: this.findLoading, views: this.views, updated: this.updated,
    })));
  }

  findRun = () => this.run;

  findLoading = () => this.model;

  renderWelcome() {
    return h("div", { className: "chat-center" },
      h("div", { className: "chat-welcome" },
        h("span", { className: "state-icon" }, icon("chat", { size: 24 })),
        h("h2", null, this.model ? `Ask ${this.model.name || this.model.id}` : "Choose a model"),
        h("p", { className: "muted" }, welcomeText(this.model)),
        h("ul", { className: "chat-examples" }, EXAMPLES.map((text) => (
          h("li", null,
            h("button", { type: "button", className: "chat-example", dataset: { action: "example", text } },
              text)))))));
  }

  renderComposer() {
    const running = this.run !== null;
    const offline = this.props.state.connection !== "connected";
    const empty = !this.state.draft.trim();
    const { jump } = this.state;
    return h("form", { className: "chat-composer", dataset: { form: "message" } },
      h("button", { type: "button", className: "button chat-jump", hidden: !jump, dataset: { action: "bottom" } },
        icon("chevron-down", { size: 16 }),
        "Newest"),
      h("div", { className: "chat-box" },
        h("textarea", {
          rows: "1", placeholder: this.model ? `Message ${this.model.name || this.model.id}` : "Choose a model first",
          "aria-label": "Message", value: this.state.draft, dataset: { input: "message" },
        }),
        running
          ? h("button", {
            key: "stop", type: "button", className: "button button-icon chat-send", "aria-label": "Stop",
            title: "Stop (Esc)", dataset: { action: "stop" },
          }, icon("stop"))
          : h("button", {
            key: "send", type: "submit", className: "button button-primary button-icon chat-send", "aria-label": "Send",
            title: "Send (Enter)", disabled: empty || !this.ready,
          }, icon("send"))),
      h("p", { className: "chat-hint muted" },
        offline ? "Not connected: your message stays here until llamadash is back." : running ? "Esc stops the answer."
          : this.elsewhere
          ? "Continue when the other tab's answer is complete."
          : "Enter sends, Shift+Enter begins a new line."),
      h("p", { className: "visually-hidden", role: "status" }, running ? "The model is answering" : ""));
  }

  renderPanel() {
    const { system, parameters } = this.conversation;
    return h("aside", {
      className: "chat-panel", hidden: this.state.view !== "panel", "aria-label": "Settings of this conversation",
    },
      h("div", { className: "chat-panel-head" },
        h("h2", { className: "card-title" }, "This conversation"),
        iconButton("view", "close", "Close the settings", { view: "thread" })),
      h("label", { className: "field" },
        h("span", { className: "field-label" }, "System prompt"),
        h("textarea", {
          className: "input", rows: "5", value: system, placeholder: "You are a helpful assistant.",
          dataset: { input: "system" },
        }),
        h("span", { className: "field-hint" }, "What the model is told before the conversation.")),
      h("h3", { className: "chat-panel-title" }, "Sampling"),
      SAMPLING.map((item) => this.renderSampling(item, parameters[item.key])),
      h("button", {
        type: "button", className: "button", disabled: !Object.keys({ ...parameters, ...this.state.invalid }).length,
        dataset: { action: "sampling-reset" },
      }, "Back to the model's defaults"));
  }

  /** @param {typeof SAMPLING[number]} item @param {number | undefined} value */
  renderSampling({ key, label, min, max, step, hint }, value) {
    const invalid = this.state.invalid[key];
    return h("label", { key, className: "field" },
      h("span", { className: "field-label" }, label),
      h("input", {
        className: "input", type: "number", inputmode: "decimal", min, max, step: key === "temperature" ? "any" : step,
        placeholder: "default", value: invalid ? invalid.text : value ?? "", "aria-invalid": Boolean(invalid),
        dataset: { choice: "sampling", key },
      }),
      invalid
        ? h("span", { className: "field-error", role: "alert" }, invalid.message)
        : h("span", { className: "field-hint" }, hint));
  }

  // What the person does

  /** @param {Event} _event @param {HTMLElement} element */
  handleAction(_event, element) {
    const { action, id = "", view, text = "" } = element.dataset;
    const message = /** @type {HTMLElement | null} */ (element.closest("[data-message]"))?.dataset.message ?? "";
    /** @type {Record<string, () => any>} */
    const actions = {
      new: () => this.goTo(null),
      open: () => this.goTo(id),
      rename: () => this.setState({ renaming: id }),
      delete: () => this.remove(id),
      view: () => this.setState({ view }),
      export: () => saveText(`${fileName(this.conversation.title)}.md`, toMarkdown(this.conversation), "text/markdown"),
      example: () => this.send(text),
      stop: () => this.chat.cancel(this.conversation.id),
      bottom: () => this.toBottom(),
      edit: () => this.setState({ editing: message }),
      "edit-cancel": () => this.setState({ editing: null }),
      regenerate: () => this.regenerate(),
      "sampling-reset": () => this.resetSampling(),
      "start-engine": () => this.startEngine(),
    };
    return actions[action ?? ""]?.();
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleInput(_event, element) {
    if (element.dataset.input === "query") this.setState({ query: element.value });
    if (element.dataset.input === "system") this.changeConversation({ system: element.value });
    if (element.dataset.input === "message") {
      const had = Boolean(this.state.draft.trim());
      this.state.draft = element.value;
      this.growInput();
      if (had !== Boolean(element.value.trim())) this.setState({});
    }
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleChoice(_event, element) {
    if (element.dataset.choice === "model") {
      writeStorage(MODEL_KEY, element.value);
      this.asked = null;
      return this.changeConversation({ model: element.value });
    }
    const key = /** @type {keyof Sampling} */ (element.dataset.key);
    const { [key]: _old, ...others } = this.conversation.parameters;
    const { [key]: _invalid, ...invalid } = this.state.invalid;
    if (!element.validity.valid) {
      return this.setState({
        invalid: { ...invalid, [key]: { text: element.value, message: element.validationMessage } },
      });
    }
    this.state.invalid = invalid;
    return this.changeConversation({
      parameters: element.value === "" ? others : { ...others, [key]: Number(element.value) },
    });
  }

  /** @param {Event} event @param {HTMLFormElement} form */
  handleSubmit(event, form) {
    event.preventDefault();
    if (form.dataset.form === "message") return this.send(this.state.draft);
    const text = /** @type {HTMLTextAreaElement} */ (form.elements.namedItem("text")).value;
    return this.resend(form.dataset.message ?? "", text);
  }

  /** @param {KeyboardEvent} event */
  handleMessageKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.send(this.state.draft);
  }

  /** @param {KeyboardEvent} event @param {HTMLTextAreaElement} area */
  handleEditKey(event, area) {
    if (event.key === "Escape") {
      event.stopPropagation();
      this.setState({ editing: null });
    }
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    area.form?.requestSubmit();
  }

  /** @param {KeyboardEvent} event @param {HTMLInputElement} input */
  handleRenameKey(event, input) {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      this.endRename(input);
    }
    if (event.key === "Enter") this.handleRenameDone(event, input);
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  handleRenameDone(_event, input) {
    const { id = "" } = input.dataset;
    if (this.state.renaming !== id) return;
    const conversation = this.conversations.get(id);
    const title = input.value.trim();
    this.endRename(input);
    if (!conversation || !title || title === conversation.title) return;
    conversation.title = title;
    this.conversations.save(conversation);
  }

  /** Whoever was still in the field is back at its button. @param {HTMLInputElement} input */
  endRename(input) {
    const inside = document.activeElement === input;
    const button = `[data-action="rename"][data-id="${input.dataset.id}"]`;
    this.setState({ renaming: null });
    if (inside) {
      requestAnimationFrame(() => /** @type {HTMLElement | null} */ (this.element.querySelector(button))?.focus());
    }
  }

  /** @param {KeyboardEvent} event */
  handleEscape(event) {
    if (event.key !== "Escape" || event.defaultPrevented || !this.run || document.querySelector("dialog[open]")) return;
    this.chat.cancel(this.conversation.id);
  }

  /** @param {Event} _event @param {HTMLElement} scroll */
  handleScroll(_event, scroll) {
    this.atBottom = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_BOTTOM_PX;
    if (this.state.jump === this.atBottom) this.setState({ jump: !this.atBottom });
  }

  /** @param {StorageEvent} event */
  handleOtherTab(event) {
    if (event.key !== null && !event.key.startsWith("llamadash.conversation")) return;
    this.reload();
  }

  /** Takes over what another tab has stored, or no longer stores. */
  reload() {
    clearTimeout(this.recheck);
    this.recheck = undefined;
    this.chat.reload();
    this.setState({ conversation: this.conversations.get(this.conversation.id) ?? this.conversation });
  }

  // What follows

  handleModels() {
    if (!this.model && !this.conversation.messages.length) this.conversation.model = this.preferredModel();
    if (this.run) this.views.get(this.run.message.id)?.setState({});
    this.setState({});
  }

  /** @param {Conversation} conversation @param {Message} message */
  handleAnswer(conversation, message) {
    const view = conversation.id === this.conversation.id ? this.views.get(message.id) : null;
    view?.setState({});
    if (!view || !message.pending) this.setState({});
  }

  resetSampling() {
    this.setState({ invalid: {} });
    this.changeConversation({ parameters: {} });
  }

  /** @param {Partial<Conversation>} changes */
  changeConversation(changes) {
    Object.assign(this.conversation, changes);
    if (changes.parameters) writeStorage(SAMPLING_KEY, JSON.stringify(changes.parameters));
    if (this.conversation.messages.length) this.conversations.save(this.conversation);
    this.setState({});
  }

  /** @param {string} text */
  send(text) {
    const content = text.trim();
    if (!content || !this.ready) return;
    const { conversation } = this;
    const draft = text === this.state.draft ? "" : this.state.draft; // an example or an edited message leaves it alone
    this.input.value = draft; // at once: what was typed may not have been drawn yet
    if (!conversation.messages.length) {
      conversation.title = conversation.title === UNTITLED ? titleFrom(content) : conversation.title;
    }
    conversation.messages.push({ id: makeId(), role: "user", content });
    this.atBottom = true;
    this.setState({ draft, view: this.state.view === "list" ? "thread" : this.state.view, editing: null });
    this.ask();
    this.keepAddress();
  }

  ask() {
    writeStorage(MODEL_KEY, this.conversation.model);
    void this.chat.answer(this.conversation, makeId());
  }

  regenerate() {
    const { messages } = this.conversation;
    if (!this.ready) return; // before the old answer goes
    while (messages[messages.length - 1]?.role === "assistant") messages.pop();
    if (!messages.length) return;
    this.atBottom = true;
    this.ask();
  }

  /** @param {string} id of the user's message @param {string} text */
  resend(id, text) {
    const { messages } = this.conversation;
    const at = messages.findIndex((message) => message.id === id);
    if (at < 0 || !this.ready || !text.trim()) return;
    messages.splice(at);
    this.send(text);
  }

  /** @param {string} id */
  async remove(id) {
    const title = this.conversations.list().find((item) => item.id === id)?.title ?? UNTITLED;
    const sure = await confirmDialog({
      title: "Delete this conversation?", body: `“${title}” is deleted from this browser.`, confirmLabel: "Delete",
      danger: true,
    });
    if (!sure) return;
    if (this.chat.runs.has(id)) this.chat.cancel(id);
    this.conversations.remove(id);
    if (this.destroyed) return; // the address is another page's
    if (id === this.conversation.id) this.goTo(null);
    else this.setState({});
  }

  async startEngine() {
    try {
      await this.props.state.request("engine:start");
    } catch (problem) {
      toast(/** @type {Error} */ (problem).message, { kind: "error" });
    }
  }

  /** @param {string | null} id null for a new conversation */
  goTo(id) {
    this.show((id && this.conversations.get(id)) || this.blank());
    this.keepAddress();
    this.focusInput();
  }

  /** @param {Conversation} conversation */
  show(conversation) {
    this.atBottom = true;
    this.setState({
      conversation, editing: null, renaming: null, view: this.state.view === "panel" ? "panel" : "thread", jump: false,
      invalid: {},
    });
  }

  /** The address names the conversation, so that a reload shows it again. */
  keepAddress() {
    const id = this.conversation.messages.length ? this.conversation.id : null;
    this.chat.open = id;
    history.replaceState(history.state, "", `${base}/chat${id ? `?c=${id}` : ""}`);
  }

  /** Stays at the newest text, unless the person has scrolled up. */
  follow() {
    if (this.atBottom) this.toBottom();
  }

  toBottom() {
    const scroll = this.element.querySelector(".chat-scroll");
    scroll.scrollTop = scroll.scrollHeight;
  }

  growInput() {
    const area = this.input;
    area.style.setProperty("height", "auto");
    area.style.setProperty("height", `${Math.min(area.scrollHeight, TALLEST_INPUT_PX)}px`);
  }

  focusInput() {
    if (!window.matchMedia("(hover: hover)").matches) return; // on a phone the keyboard would cover the page
    requestAnimationFrame(() => this.input.focus());
  }
}

/**
 * @param {string} name @param {string} symbol @param {string} label @param {Record<string, string>} data
 * @returns {VNode}
 */
function iconButton(name, symbol, label, data) {
  return h("button", {
    type: "button", className: "button button-ghost button-icon", title: label, "aria-label": label,
    dataset: { action: name, ...data },
  }, icon(symbol, { size: 16 }));
}

/** @param {string} kind @param {string} text @param {VNode} [button] @returns {VNode} */
function notice(kind, text, button) {
  return h("div", { className: `banner banner-${kind} chat-notice`, role: "status" },
    icon("warning"),
    h("span", { className: "banner-text" }, text),
    button ?? null);
}

/** @param {any} model @returns {VNode | null} */
function modelBadge(model) {
  if (!model?.status) return null;
  const [label, kind] = statusLabel(model.status);
  return h("span", { className: `badge badge-${kind}` }, label);
}

/** @param {any} model */
function welcomeText(model) {
  if (!model) return "Pick one from the list above.";
  if (model.upstream) return `It runs on ${model.upstream}: what you send goes there.`;
  if (model.status === "loaded") return "It is loaded and runs on your own machine. Nothing leaves it.";
  return "It loads when you send the first message. It runs on your own machine; nothing leaves it.";
}

/** @param {string} title */
function fileName(title) {
  return title.replace(/[^\p{L}\p{N} ._-]+/gu, "").trim().slice(0, 60) || "conversation";
}
