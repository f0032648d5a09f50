/**
 * Talk to a model.
 *
 * @typedef {import("../core/conversations.js").Conversation} Conversation
 * @typedef {import("../core/conversations.js").Message} Message
 * @typedef {import("../core/conversations.js").Summary} Summary
 * @typedef {import("../core/conversations.js").Sampling} Sampling
 * @typedef {import("../core/conversations.js").Attachment} Attachment
 * @typedef {{id: string, name: string, share: number, attachment: Attachment | null}} Upload
 * @typedef {import("../core/component.js").VNode} VNode
 */

import { base } from "../core/router.js";
import { readStorage, writeStorage } from "../core/auth.js";
import { attach, fileLimits } from "../core/attachments.js";
import { Chat } from "../core/chat.js";
import { Component, h } from "../core/component.js";
import {
  UNTITLED, branchTo, makeId, parsed, samplingOf, siblings, titleFrom, toMarkdown,
} from "../core/conversations.js";
import { bytes, duration, kindWords, percent, relativeTime } from "../core/format.js";
import { TOOLS } from "../core/tools.js";
import { ChatMessage } from "../components/chat-message.js";
import { chatPanel } from "../components/chat-panel.js";
import { saveBlob, saveText } from "../components/copy-button.js";
import { fitWords, marginOf, needOf } from "../components/fit-badge.js";
import { icon } from "../components/icon.js";
import { MANY_MODELS, ModelSelect } from "../components/model-select.js";
import { statusLabel } from "../components/model-status.js";
import { sharedNames } from "../components/query-models.js";
import { emptyState, loadingState } from "../components/states.js";
import { toast } from "../components/toast.js";

const MODEL_KEY = "llamadash.chat.model";
const SAMPLING_KEY = "llamadash.chat.sampling";
const NEAR_BOTTOM_PX = 48; // closer than this counts as being at the bottom
const TALLEST_INPUT_PX = 240;
const MOST_COMPARED = 3; // side by side
const NO_SETTINGS = {};
const MOST_FILES = 8; // of one message

const NOT_FOR_CHAT = /bert|t5encoder|embed/; // architectures that make vectors, not text

const EXAMPLES = [
  "Explain what a context window is, in three sentences.",
  "Write a Python function that finds the longest word in a text.",
  "Compare green tea and black tea in a table.",
  "Suggest a name for a small home server.",
];

/** The page. */
export class ChatPage extends Component {
  static title = "Chat";

  /** @param {any} props */
  constructor(props) {
    super(props);
    this.chat = Chat.of(this.props.state);
    /** @type {Map<string, ChatMessage>} */
    this.views = new Map();
    this.atBottom = true;
    this.updated = () => this.follow();
    this.request = (/** @type {string} */ event, /** @type {any} */ data) => this.props.state.request(event, data);
    /** @type {string | null} the model that the address asked for, until another is chosen */
    this.asked = this.props.query?.get("model");
    /** @type {any} */
    this.state = {
      blank: this.begun() ?? this.blank(), query: this.chat.query, editing: null, renaming: null,
      view: "thread", jump: false, draft: this.chat.draft, uploads: this.chat.uploads, invalid: {}, compare: null,
      opening: false, recording: null,
    };
  }

  didMount() {
    const { state } = this.props;
    const refresh = () => this.setState({});
    const clock = setInterval(refresh, 30_000); // "3 min ago" grows older
    const onKey = (/** @type {KeyboardEvent} */ event) => this.handleEscape(event);
    document.addEventListener("keydown", onKey);
    this.handleModels();
    this.didUpdate();
    this.focusInput();
    this.show(this.wanted());
    return [
      state.subscribe("models", () => this.handleModels()),
      state.subscribe("engine", () => this.handleModels()),
      state.subscribe("connection", refresh),
      state.subscribe("settings", refresh),
      this.chat.listen((message) => this.handleChange(message)),
      () => document.removeEventListener("keydown", onKey),
      () => clearInterval(clock),
    ];
  }

  didUpdate() {
    this.follow();
    this.growInput();
  }

  willDestroy() {
    void this.state.recording?.end();
    this.chat.draft = this.state.draft;
    this.chat.uploads = this.state.uploads.filter((/** @type {Upload} */ { attachment }) => attachment);
    this.chat.begun = this.chat.conversation ? null : this.conversation;
  }

  receive(/** @type {any} */ props) {
    this.props = props;
    this.asked = props.query?.get("model");
    this.update();
    this.goTo(this.wanted());
  }

  /** The conversation of the address, or the one that was open before another page was shown. */
  wanted() {
    const { query } = this.props;
    return query?.get("model") ? null : query?.get("c") ?? (this.chat.followed || null);
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
      "load .chat-image": "follow",
      "change [data-files]": "handleFiles",
      paste: "handlePaste",
      dragover: "handleDrag",
      drop: "handleDrop",
    };
  }

  /** @returns {Conversation} */
  get conversation() {
    return this.chat.conversation ?? this.state.blank;
  }

  /** @returns {HTMLTextAreaElement} where the next message is written */
  get input() {
    return this.element.querySelector(".chat-box textarea");
  }

  get running() {
    return this.chat.answering.length > 0;
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

  get limits() {
    return fileLimits(this.model?.modalities ?? null);
  }

  /** Whether an answer can be asked for now. */
  get ready() {
    return !this.running && this.model !== null && this.props.state.connection === "connected";
  }

  /** What is sent to the model beside the messages. */
  get parameters() {
    const { parameters, tools } = this.conversation;
    return { ...parameters, ...(tools ? { tools: TOOLS } : {}) };
  }

  /** @returns {import("../components/chat-panel.js").ChatPreset[]} */
  get presets() {
    return this.props.state.get("settings")?.chat_presets ?? [];
  }

  /** What answers the next message: the chosen model, or several that are compared. */
  get targets() {
    const { model, parameters } = this.conversation;
    if (!this.state.compare) return [{ model, parameters: this.parameters }];
    return this.state.compare.map((/** @type {any} */ target) => ({
      model: target.model, label: target.preset,
      parameters: this.presets.find(({ name }) => name === target.preset)?.parameters ?? parameters,
    }));
  }

  /** @returns {Conversation} a conversation that the server does not know before its first message */
  blank() {
    const now = Date.now();
    return {
      id: makeId(), title: UNTITLED, folder: "", head: null, created_at: now, updated_at: now, tools: false, system: "",
      model: this.preferredModel(), parameters: samplingOf(parsed(readStorage(SAMPLING_KEY))), messages: [],
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
    const loading = !state.get("models") || !state.get("engine") || this.state.opening;
    const folders = [...new Set([...this.chat.folders, this.chat.folder])].filter(Boolean).sort();
    return h("section", { className: "page chat-page", dataset: { view: this.state.view } },
      h("h1", { className: "visually-hidden" }, "Chat"),
      this.renderSide(folders),
      h("div", { className: "chat-main" },
        this.renderHeader(),
        this.renderNotice(),
        h("div", { className: "chat-scroll", tabindex: "0", role: "region", "aria-label": "Conversation" },
          loading
            ? loadingState(this.state.opening ? "Loading the conversation…" : "Loading the models…")
            : this.models.length || this.conversation.messages.length
            ? this.renderThread()
            : this.renderNoModel()),
        this.renderComposer()),
      chatPanel({
        conversation: this.conversation, presets: this.presets, folders, hidden: this.state.view !== "panel",
        invalid: this.state.invalid,
      }));
  }

  /** @param {string[]} folders */
  renderSide(folders) {
    const { query } = this.state;
    const { folder } = this.chat;
    const found = this.chat.summaries ?? [];
    const none = this.chat.problem || (!this.chat.summaries
      ? "Loading…"
      : query ? "No matching conversations." : "Your conversations appear here, on every device.");
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
          className: "input", type: "search", placeholder: "Search", value: query, maxlength: "200",
          dataset: { input: "query" },
        })),
      folders.length
        ? h("select", { className: "select", "aria-label": "Folder", dataset: { choice: "filter" } },
          h("option", { value: "", selected: !folder }, "All folders"),
          folders.map((name) => h("option", { key: name, value: name, selected: name === folder }, name)))
        : null,
      found.length
        ? h("ul", { className: "chat-list" }, found.map((summary) => this.renderSummary(summary)),
          this.chat.hasMore
            ? h("li", { key: "more" },
              h("button", { type: "button", className: "button button-small", dataset: { action: "more" } },
                "Show more"))
            : null)
        : h("p", { className: "muted chat-none" }, none));
  }

  /** @param {Summary} summary */
  renderSummary({ id, title, folder, updated_at: updatedAt, answering }) {
    const current = id === this.conversation.id;
    if (this.state.renaming === id) {
      return h("li", { key: id, className: "chat-entry" },
        h("input", {
          className: "input", value: title, maxlength: "120", "aria-label": "Title", dataset: { input: "rename", id },
          ref: (/** @type {HTMLInputElement} */ input) => requestAnimationFrame(() => (input.focus(), input.select())),
        }));
    }
    const detail = [folder, answering ? "Answering…" : relativeTime(updatedAt)].filter(Boolean).join(" · ");
    return h("li", { key: id, className: current ? "chat-entry chat-entry-current" : "chat-entry" },
      h("button", {
        type: "button", className: "chat-open", "aria-current": current ? "true" : null,
        dataset: { action: "open", id },
      },
        h("span", { className: "chat-entry-title" }, title),
        h("span", { className: "muted chat-small" }, detail)),
      h("span", { className: "chat-entry-actions" },
        iconButton("rename", "edit", `Rename “${title}”`, { id }),
        iconButton("delete", "trash", `Delete “${title}”`, { id })));
  }

  renderHeader() {
    const { view } = this.state;
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
        title: "Save as Markdown", disabled: !this.conversation.messages.length, dataset: { action: "export" },
      }, icon("download")),
      h("button", {
        type: "button", className: "button button-ghost button-icon", "aria-label": "Compare models",
        title: "Ask several models at once", "aria-pressed": Boolean(this.state.compare), disabled: !this.models.length,
        dataset: { action: "compare" },
      }, icon("columns")),
      h("button", {
        type: "button", className: "button button-ghost button-icon", "aria-label": "Settings of this conversation",
        title: "System prompt and sampling",
        "aria-expanded": view === "panel", dataset: { action: "view", view: view === "panel" ? "thread" : "panel" },
      }, icon("configuration")));
  }

  renderPicker() {
    if (this.models.length > MANY_MODELS) {
      return h("div", { key: "pick", className: "chat-picker" }, h(ModelSelect, {
        state: this.props.state, label: "Model", value: this.conversation.model ?? "", models: this.models,
        dataset: { choice: "model" },
      }), modelBadge(this.model));
    }
    return h("label", { className: "chat-picker" },
      h("span", { className: "visually-hidden" }, "Model"),
      h("select", { className: "select", dataset: { choice: "model" }, disabled: !this.models.length },
        this.modelOptions(this.conversation.model)),
      modelBadge(this.model));
  }

  /** @param {string} current the model that is chosen */
  modelOptions(current) {
    const own = this.models.filter((model) => !model.upstream);
    const loaded = own.filter((model) => ["loaded", "loading"].includes(model.status));
    const others = own.filter((model) => !loaded.includes(model));
    const upstreams = [...new Set(this.models.map((model) => model.upstream))].filter(Boolean);
    const gone = current && !this.models.some(({ id }) => id === current);
    const shared = sharedNames(this.models);
    const nameOf = (/** @type {any} */ model) => (
      shared.has(model.name) ? `${model.id} (${kindWords({ ...model, name: model.id })})` : model.name || model.id);
    const devices = this.props.state.get("engine")?.devices;
    const fit = (/** @type {any} */ model) => {
      const words = others.includes(model) && fitWords(needOf(model), devices, marginOf(model));
      return words ? ` · ${words}` : "";
    };
    const options = (/** @type {any[]} */ models) => models.map((model) => (
      h("option", { key: model.id, value: model.id, selected: model.id === current }, nameOf(model) + fit(model))));
    return [
      this.models.length ? null : h("option", { key: "none", value: "" }, "No model"),
      gone ? h("option", { key: "gone", value: current, selected: true }, `${current} (not found)`) : null,
      loaded.length ? h("optgroup", { key: "loaded", label: "Loaded" }, options(loaded)) : null,
      others.length ? h("optgroup", { key: "others", label: "Loads when you send" }, options(others)) : null,
      ...upstreams.map((name) => h("optgroup", { key: `upstream ${name}`, label: `On ${name}` },
        options(this.models.filter((model) => model.upstream === name)))),
    ];
  }

  /** What stands in the way of an answer, said before a message is written. */
  renderNotice() {
    const engine = this.props.state.get("engine");
    const { connection } = this.props.state;
    if (this.chat.problem) return notice("warning", this.chat.problem);
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
    const { messages, head } = this.conversation;
    const branch = branchTo(messages, head);
    if (!branch.length) return this.renderWelcome();
    return h("div", { className: "chat-thread" }, branch.map((message, at) => {
      if (message.role === "tool") return null;
      const next = branch.slice(at + 1);
      const results = next.slice(0, next.findIndex(({ role }) => role !== "tool") + 1 || next.length)
        .filter(({ role }) => role === "tool");
      const compared = message.compare
        ? messages.filter((other) => other.parent === message.parent && other.compare === message.compare) : [];
      if (compared.length < 2) return this.renderMessage(message, at === branch.length - 1 - results.length, results);
      return h("div", { key: message.compare, className: "chat-compare", dataset: { columns: compared.length } },
        compared.map((other) => this.renderMessage(other, at === branch.length - 1, [], true)));
    }));
  }

  /** @param {Message} message @param {boolean} last @param {Message[]} results @param {boolean} [compared] */
  renderMessage(message, last, results, compared = false) {
    return h(ChatMessage, {
      key: message.id, message, busy: !this.ready, last, editing: this.state.editing === message.id, compared, results,
      settings: this.props.state.get("settings") ?? NO_SETTINGS,
      siblings: siblings(this.conversation.messages, message), request: this.request, views: this.views,
      run: () => this.chat.runs.get(message.id) ?? null, updated: this.updated,
      loading: () => this.models.find(({ id }) => id === message.model) ?? null,
    });
  }

  renderWelcome() {
    return h("div", { className: "chat-center" },
      h("div", { className: "chat-welcome" },
        h("span", { className: "state-icon" }, icon("chat", { size: 24 })),
        h("h2", null, this.model ? `Ask ${this.model.name || this.model.id}` : "Choose a model"),
        h("p", { className: "muted" }, welcomeText(this.model)),
        this.model ? h("p", { className: "muted chat-small" }, this.limits) : null,
        h("ul", { className: "chat-examples" }, EXAMPLES.map((text) => (
          h("li", null,
            h("button", { type: "button", className: "chat-example", dataset: { action: "example", text } },
              text)))))));
  }

  renderComposer() {
    const { running } = this;
    const { jump, uploads, compare, recording } = this.state;
    const empty = !this.state.draft.trim() && !uploads.length;
    const arriving = uploads.some((/** @type {Upload} */ { attachment }) => !attachment);
    return h("form", { className: "chat-composer", dataset: { form: "message" } },
      h("button", { type: "button", className: "button chat-jump", hidden: !jump, dataset: { action: "bottom" } },
        icon("chevron-down", { size: 16 }),
        "Newest"),
      compare ? this.renderTargets() : null,
      uploads.length
        ? h("ul", { className: "chat-uploads" }, uploads.map((/** @type {Upload} */ item) => this.renderUpload(item)))
        : null,
      h("div", { className: "chat-box" },
        h("label", { className: "button button-ghost button-icon chat-attach", title: `Add files. ${this.limits}` },
          icon("clip"),
          h("span", { className: "visually-hidden" }, "Add files"),
          h("input", { type: "file", multiple: true, className: "visually-hidden", dataset: { files: "any" } })),
        h("label", { className: "button button-ghost button-icon chat-attach chat-camera", title: "Take a picture" },
          icon("camera"),
          h("span", { className: "visually-hidden" }, "Take a picture"),
          h("input", {
            type: "file", accept: "image/*", capture: "environment", className: "visually-hidden",
            dataset: { files: "camera" },
          })),
        h("textarea", {
          rows: "1", placeholder: this.model ? `Message ${this.model.name || this.model.id}` : "Choose a model first",
          "aria-label": "Message", value: this.state.draft, dataset: { input: "message" },
        }),
        running ? boxButton("stop", "stop", "Stop (Esc)")
          : recording ? boxButton("record-end", "stop", "End the recording")
            : empty && this.model?.modalities?.includes("audio") ? boxButton("record", "microphone", "Record audio")
              : h("button", {
                key: "send", type: "submit", className: "button button-primary button-icon chat-send",
                "aria-label": "Send", title: "Send (Enter)", disabled: empty || arriving || !this.ready,
              }, icon("send"))),
      h("p", { className: "chat-hint muted" }, this.hint),
      h("p", { className: "visually-hidden", role: "status" }, running ? "The model is answering" : ""));
  }

  /** What is to be known below the message. */
  get hint() {
    const { recording, uploads } = this.state;
    if (this.props.state.connection !== "connected") {
      return "Not connected: your message stays here until llamadash is back.";
    }
    if (this.running) return "Esc stops the answer. It goes on when you close this page.";
    if (recording) return `Recording: ${duration(Math.max(1, recording.seconds))} of at most 10 min.`;
    if (uploads.length) return this.limits;
    return touch() ? "" : "Enter sends, Shift+Enter begins a new line.";
  }

  /** @param {Upload} item */
  renderUpload({ id, name, share, attachment }) {
    const detail = attachment ? bytes(attachment.size) : percent(share * 100);
    return h("li", { key: id, className: "chat-file" }, h("span", { className: "chat-file-name" }, name),
      h("span", { className: "muted" }, detail), iconButton("upload-remove", "close", `Remove ${name}`, { id }));
  }

  /** The models, or presets, that are to answer side by side. */
  renderTargets() {
    const { compare } = this.state;
    return h("fieldset", { className: "chat-targets" },
      h("legend", { className: "visually-hidden" }, "Answer side by side"),
      compare.map((/** @type {any} */ target, /** @type {number} */ at) => h("div", {
        key: at, className: "chat-target",
      },
        this.models.length > MANY_MODELS
          ? h(ModelSelect, {
            key: "pick", state: this.props.state, label: `Model ${at + 1}`, value: target.model, models: this.models,
            dataset: { choice: "target", at, key: "model" },
          })
          : h("select", {
            className: "select", "aria-label": `Model ${at + 1}`, dataset: { choice: "target", at, key: "model" },
          }, this.modelOptions(target.model)),
        this.presets.length
          ? h("select", {
            className: "select", "aria-label": `Sampling ${at + 1}`, dataset: { choice: "target", at, key: "preset" },
          },
            h("option", { value: "", selected: !target.preset }, "Current sampling"),
            this.presets.map(({ name }) => (
              h("option", { key: name, value: name, selected: name === target.preset }, name))))
          : null,
        compare.length > 2
          ? iconButton("target-remove", "close", `Remove model ${at + 1}`, { id: String(at) }) : null)),
      h("div", { className: "row" },
        h("button", {
          type: "button", className: "button button-small", disabled: compare.length >= MOST_COMPARED,
          dataset: { action: "target-add" },
        }, icon("plus", { size: 16 }), "Add a model"),
        h("button", { type: "button", className: "button button-small", dataset: { action: "compare" } },
          "End comparing")));
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
      "export-json": () => this.saveJson(Promise.resolve([this.conversation]), fileName(this.conversation.title)),
      "export-all": () => this.exportAll(),
      import: () => this.chooseImport(),
      more: () => this.chat.refreshList(true),
      stop: () => this.chat.stop(),
      record: () => this.tell(this.record()),
      "record-end": () => this.tell(this.endRecording()),
      branch: () => this.chooseBranch(id, element.className),
      vote: () => this.vote(message),
      continue: () => this.goOn(message),
      call: () => this.callTools(message),
      compare: () => this.toggleCompare(),
      "target-add": () => this.setState({ compare: [...this.state.compare, this.nextTarget(this.state.compare)] }),
      "target-remove": () => this.setState({
        compare: this.state.compare.filter((/** @type {any} */ _, /** @type {number} */ at) => at !== Number(id)),
      }),
      "upload-remove": () => this.setState({
        uploads: this.state.uploads.filter((/** @type {Upload} */ item) => item.id !== id),
      }),
      "preset-delete": () => this.savePresets(this.presets.filter((preset) => preset.name !== element.dataset.name)),
      bottom: () => this.toBottom(),
      edit: () => this.setState({ editing: message }),
      "edit-cancel": () => this.setState({ editing: null }),
      regenerate: () => this.regenerate(message),
      "sampling-reset": () => this.resetSampling(),
      "start-engine": () => this.startEngine(),
    };
    return actions[action ?? ""]?.();
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleInput(_event, element) {
    if (element.dataset.input === "query") {
      this.state.query = element.value;
      this.chat.search(element.value);
    }
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
    if (element.dataset.choice === "filter") return this.chat.search(this.chat.query, element.value);
    if (element.dataset.choice === "folder") return this.changeConversation({ folder: element.value.trim() });
    if (element.dataset.choice === "tools") return this.changeConversation({ tools: element.checked });
    if (element.dataset.choice === "preset") return this.usePreset(element.value);
    if (element.dataset.choice === "target") return this.changeTarget(element);
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
    if (form.dataset.form === "preset") return this.addPreset(form);
    const text = /** @type {HTMLTextAreaElement} */ (form.elements.namedItem("text")).value;
    return this.resend(form.dataset.message ?? "", text);
  }

  /** @param {KeyboardEvent} event */
  handleMessageKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch()) return;
    event.preventDefault();
    this.send(this.state.draft);
  }

  /** @param {KeyboardEvent} event @param {HTMLTextAreaElement} area */
  handleEditKey(event, area) {
    if (event.key === "Escape") {
      event.stopPropagation();
      this.setState({ editing: null });
    }
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch()) return;
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
    const summary = this.chat.summaries?.find((item) => item.id === id);
    const title = input.value.trim();
    this.endRename(input);
    if (!summary || !title || title === summary.title) return;
    summary.title = title;
    if (this.chat.conversation?.id === id) this.chat.conversation.title = title;
    void this.chat.save(id, { title });
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
    if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    if (this.running) this.chat.stop();
  }

  /** @param {Event} _event @param {HTMLElement} scroll */
  handleScroll(_event, scroll) {
    this.atBottom = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_BOTTOM_PX;
    if (this.state.jump === this.atBottom) this.setState({ jump: !this.atBottom });
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  handleFiles(_event, input) {
    void this.addFiles([...(input.files ?? [])]);
    input.value = "";
  }

  /** @param {ClipboardEvent} event */
  handlePaste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || event.clipboardData?.types.includes("text/rtf")) return; // office programs add a picture
    event.preventDefault();
    void this.addFiles(files);
  }

  /** @param {DragEvent} event */
  handleDrag(event) {
    if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
  }

  /** @param {DragEvent} event */
  handleDrop(event) {
    const files = [...(event.dataTransfer?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    void this.addFiles(files);
  }

  // What follows

  handleModels() {
    if (!this.model && !this.conversation.messages.length) this.conversation.model = this.preferredModel();
    for (const { id } of this.chat.answering) this.views.get(id)?.setState({});
    this.setState({});
  }

  /** @param {Message} [message] the answer that has grown; everything may have changed where none is named */
  handleChange(message) {
    const view = message ? this.views.get(message.id) : null;
    if (view) return view.setState({});
    this.keepAddress();
    return this.setState({});
  }

  /** @param {File[]} files */
  async addFiles(files) {
    const modalities = this.model?.modalities ?? null;
    for (const file of files) {
      const item = { id: makeId(), name: file.name || "Picture", share: 0, attachment: null };
      if (this.state.uploads.length >= MOST_FILES) {
        toast(`A message can have at most ${MOST_FILES} files.`, { kind: "error" });
        return;
      }
      this.setState({ uploads: [...this.state.uploads, item] });
      const change = (/** @type {Partial<Upload>} */ values) => this.setState({
        uploads: this.state.uploads.map((/** @type {Upload} */ other) => (
          other.id === item.id ? { ...other, ...values } : other)),
      });
      try {
        change({ attachment: await attach(file, modalities, this.request, (share) => change({ share })) });
      } catch (problem) {
        toast(/** @type {Error} */ (problem).message, { kind: "error" });
        this.setState({ uploads: this.state.uploads.filter((/** @type {Upload} */ other) => other.id !== item.id) });
      }
    }
  }

  async record() {
    const { LONGEST_S, Recording } = await import("../core/sound.js");
    const recording = await Recording.begin();
    if (this.destroyed || this.state.recording) return void recording.end(); // asked for twice, or left meanwhile
    this.setState({ recording });
    const clock = setInterval(() => {
      if (this.destroyed || this.state.recording !== recording) clearInterval(clock);
      else if (recording.seconds < LONGEST_S) this.setState({});
      else void this.tell(this.endRecording());
    }, 1000);
  }

  async endRecording() {
    const { recording } = this.state;
    this.setState({ recording: null });
    await this.addFiles([await recording.end()]);
    this.focusInput();
  }

  resetSampling() {
    this.setState({ invalid: {} });
    this.changeConversation({ parameters: {} });
  }

  /** @param {Partial<Conversation>} changes */
  changeConversation(changes) {
    Object.assign(this.conversation, changes);
    if (changes.parameters) writeStorage(SAMPLING_KEY, JSON.stringify(changes.parameters));
    if (this.chat.conversation) {
      const { id } = this.conversation;
      this.chat.soon(`save ${id} ${Object.keys(changes)}`, () => void this.chat.save(id, changes));
    }
    this.setState({});
  }

  /** @param {string} name */
  usePreset(name) {
    const preset = this.presets.find((item) => item.name === name);
    this.changeConversation({ system: preset?.system ?? "", parameters: preset?.parameters ?? {} });
  }

  /** @param {HTMLFormElement} form */
  addPreset(form) {
    const input = /** @type {HTMLInputElement} */ (form.elements.namedItem("name"));
    const name = input.value.trim();
    if (!name) return;
    const { system, parameters } = this.conversation;
    input.value = "";
    void this.savePresets([...this.presets.filter((preset) => preset.name !== name), { name, system, parameters }]);
  }

  /** @param {import("../components/chat-panel.js").ChatPreset[]} presets */
  async savePresets(presets) {
    await this.tell(this.request("settings:update", { changes: { chat_presets: presets } }));
  }

  /** Waits for `work`, and says what went wrong with it. @param {Promise<any>} work */
  async tell(work) {
    try {
      await work;
    } catch (problem) {
      toast(/** @type {Error} */ (problem).message, { kind: "error" });
    }
  }

  toggleCompare() {
    const first = { model: this.conversation.model, preset: "" };
    this.setState({ compare: this.state.compare ? null : [first, this.nextTarget([first])] });
  }

  /** One more to compare: a model that is not among them, best one in memory. @param {{model: string}[]} targets */
  nextTarget(targets) {
    const others = this.models.filter(({ id }) => !targets.some(({ model }) => model === id));
    const next = others.find(({ status }) => status === "loaded") ?? others[0];
    return { model: next?.id ?? this.conversation.model, preset: "" };
  }

  /** @param {HTMLElement} element */
  changeTarget(element) {
    const { at, key = "" } = element.dataset;
    const { value } = /** @type {HTMLSelectElement} */ (element);
    this.setState({
      compare: this.state.compare.map((/** @type {any} */ target, /** @type {number} */ number) => (
        number === Number(at) ? { ...target, [key]: value } : target)),
    });
  }

  /** @param {string} id */
  messageOf(id) {
    return this.conversation.messages.find((message) => message.id === id) ?? null;
  }

  /** Whoever looks through the versions stays at the arrows. @param {string} id @param {string} arrow its classes */
  chooseBranch(id, arrow) {
    this.chat.choose(id);
    requestAnimationFrame(() => {
      const arrows = /** @type {HTMLElement[]} */ ([...this.element.querySelectorAll(
        `[data-message="${id}"] .chat-branches :enabled`)]);
      (arrows.find(({ className }) => className === arrow) ?? arrows[0])?.focus();
    });
  }

  /** A vote is for one of those that are compared. @param {string} id */
  vote(id) {
    const message = this.messageOf(id);
    if (!message) return;
    const { messages } = this.conversation;
    const group = messages.filter((other) => other.parent === message.parent && other.compare === message.compare);
    const votes = group.map((other) => ({ id: other.id, vote: other === message && !message.vote }));
    for (const { id: at, vote } of votes) Object.assign(this.messageOf(at) ?? {}, { vote });
    this.handleChange();
    void this.chat.save(this.conversation.id, {}, votes);
  }

  /** @param {string} id */
  goOn(id) {
    const message = this.messageOf(id);
    if (message && this.ready) void this.chat.goOn(message, this.parameters);
  }

  /** @param {string} id */
  callTools(id) {
    const message = this.messageOf(id);
    if (message && this.ready) void this.chat.call(message, { ...this.parameters, tools: TOOLS });
  }

  // What is kept elsewhere

  /** @param {Promise<Conversation[]>} wanted @param {string} name */
  async saveJson(wanted, name) {
    const { followed } = this.chat;
    await this.tell((async () => {
      const { toFile } = await import("../core/conversation-files.js");
      const { file, missing } = await toFile(this.request, await wanted);
      saveBlob(`${name}.json`, file);
      if (missing.length) toast(`No longer available, so not in the file: ${missing.join(", ")}.`, { kind: "error" });
    })());
    if (followed) void this.chat.open(followed); // the server sends the answers of the one that was asked for last
  }

  async exportAll() {
    const { allConversations } = await import("../core/conversation-files.js");
    await this.saveJson(allConversations(this.request), "conversations");
  }

  chooseImport() {
    const input = document.createElement("input");
    Object.assign(input, { type: "file", accept: ".json,application/json" });
    input.addEventListener("change", () => input.files?.[0] && void this.tell(this.importFile(input.files[0])));
    input.click();
  }

  /** @param {File} file */
  async importFile(file) {
    const { fromFile } = await import("../core/conversation-files.js");
    const count = await fromFile(this.request, await file.text());
    toast(count === 1 ? "Imported one conversation." : `Imported ${count} conversations.`, { kind: "success" });
  }

  /** @param {string} text */
  async send(text) {
    const content = text.trim();
    const uploads = /** @type {Upload[]} */ (this.state.uploads);
    if ((!content && !uploads.length) || uploads.some(({ attachment }) => !attachment) || !this.ready) return;
    const { conversation } = this;
    const draft = text === this.state.draft ? "" : this.state.draft; // an example or an edited message leaves it alone
    this.input.value = draft; // at once: what was typed may not have been drawn yet
    if (!conversation.messages.length && conversation.title === UNTITLED) {
      conversation.title = titleFrom(content || uploads[0].name);
    }
    this.atBottom = true;
    this.setState({ draft, uploads: [], view: this.state.view === "list" ? "thread" : this.state.view, editing: null });
    writeStorage(MODEL_KEY, conversation.model);
    const attachments = uploads.flatMap(({ attachment }) => attachment ?? []);
    const question = { content, ...(attachments.length ? { attachments } : {}) };
    const kept = await this.chat.ask(conversation, question, conversation.head, this.targets);
    if (kept) {
      if (conversation === this.state.blank) this.setState({ blank: this.blank() });
    } else {
      this.setState({ draft: this.state.draft || text, uploads });
    }
  }

  /** Answers again what an answer, or a question, of this id stands for. @param {string} id */
  regenerate(id) {
    const message = this.messageOf(id);
    const question = message?.role === "user" ? message.id : message?.parent;
    if (!question || !this.ready) return; // before the old answer goes
    this.atBottom = true;
    writeStorage(MODEL_KEY, this.conversation.model);
    const targets = message?.compare ? [{ model: message.model ?? "", parameters: this.parameters }] : this.targets;
    void this.chat.answer(question, targets);
  }

  /** @param {string} id of the user's message @param {string} text */
  resend(id, text) {
    const message = this.messageOf(id);
    if (!message || !this.ready || !text.trim()) return;
    this.atBottom = true;
    this.setState({ editing: null });
    const { attachments } = message;
    const question = { content: text.trim(), ...(attachments ? { attachments } : {}) };
    void this.chat.ask(this.conversation, question, message.parent, this.targets);
  }

  /** @param {string} id */
  async remove(id) {
    const title = this.chat.summaries?.find((item) => item.id === id)?.title ?? UNTITLED;
    await this.tell((async () => {
      await this.request("conversations:delete", { id });
      const run = () => void this.tell(this.request("conversations:save", { id, changes: { deleted_at: null } }));
      toast(`Deleted “${title}”.`, { action: { label: "Undo", run } });
    })());
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
    void this.show(id);
    this.focusInput();
  }

  /** @param {string | null} id null for one that is not begun */
  async show(id) {
    this.atBottom = true;
    this.setState({
      editing: null, renaming: null, view: this.state.view === "panel" ? "panel" : "thread", jump: false, invalid: {},
    });
    if (!id) {
      if (this.chat.conversation || this.props.query?.get("model")) this.state.blank = this.blank();
      this.chat.close();
      return;
    }
    if (id === this.chat.conversation?.id) return this.keepAddress();
    this.setState({ opening: true });
    const there = await this.chat.open(id);
    this.setState({ opening: false });
    this.keepAddress();
    if (!there) toast("This conversation no longer exists.");
  }

  /** The address names the conversation, so that a reload shows it again. */
  keepAddress() {
    if (this.state.opening || location.pathname !== `${base}/chat`) return; // the address is another page's
    const id = this.chat.conversation?.id;
    history.replaceState(history.state, "", `${base}/chat${id ? `?c=${id}` : ""}`);
  }

  /** Stays at the newest text, unless the person has scrolled up, or at the head of what is not begun. */
  follow() {
    if (this.atBottom && this.conversation.messages.length) this.toBottom();
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

/**
 * What stands in place of Send.
 * @param {string} name @param {string} symbol @param {string} title @returns {VNode}
 */
function boxButton(name, symbol, title) {
  return h("button", {
    key: name, type: "button", className: "button button-icon chat-send", "aria-label": title.replace(/ \(.*/, ""),
    title, dataset: { action: name },
  }, icon(symbol));
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

/** Whether this is a phone or a tablet, where Enter makes a line. */
function touch() {
  return window.matchMedia("(hover: none) and (pointer: coarse)").matches;
}
