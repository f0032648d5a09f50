import { Component, h } from "../core/component.js";
import { bytes, dateTime, number, relativeTime, tokenRate, tokens } from "../core/format.js";
import { CopyButton } from "./copy-button.js";
import { icon } from "./icon.js";
import { MemoryEstimate } from "./memory-estimate.js";
import { modelAction } from "./model-action.js";
import { ModelBenchmark } from "./model-benchmark.js";
import { ModelCommand } from "./model-command.js";
import { ModelParameters } from "./model-parameters.js";
import { modelRuntime } from "./model-runtime.js";
import { ModelServing } from "./model-serving.js";
import { ModelTags } from "./model-tags.js";
import { IN_MEMORY, modelStatus, nextWords, reasonWords } from "./model-status.js";
import { Remedies } from "./remedies.js";
import { Timeline } from "./timeline.js";
import { toast } from "./toast.js";

/** @typedef {Record<string, any>} Model */

/** @type {Array<[string, string]>} */
const TABS = [
  ["overview", "Overview"], ["serving", "Serving"], ["parameters", "Parameters"], ["history", "History"],
  ["benchmark", "Benchmark"],
];

const HISTORY_SPAN_MS = 30 * 86_400_000;
const TICK_MS = 5000; // "unloads in 4 min" comes nearer

/**
 * Everything about one model, beside the list or in its place.
 *
 * Props: `state`, `model`, `schema`, `inherited`, `idleDefault`, `busy`, `onDirty(boolean)`. Load, unload,
 * favourite, delete and close bubble to the page.
 */
export class ModelDetail extends Component {
  getInitialState() {
    const asked = new URLSearchParams(location.search).get("tab");
    const tab = TABS.some(([key]) => key === asked) ? String(asked) : "overview";
    return { tab, visited: new Set([tab]), renaming: null, renamed: "", saving: false };
  }

  getEventMap() {
    return {
      "click [data-tab]": "handleTab",
      "keydown [role=\"tablist\"]": "handleTabKey",
      "click [data-action=\"rename\"]": "handleRename",
      "click [data-action=\"rename-cancel\"]": "endRename",
      "keydown .rename-input": "handleRenameKey",
      "input .rename-input": "handleRenameInput",
      "submit .rename": "handleRenameSave",
      "click [data-action=\"newer\"]": "handleNewer",
    };
  }

  didMount() {
    const clock = setInterval(() => this.props.model.next?.at && this.setState({}), TICK_MS);
    return [
      this.props.state.subscribe("engine", () => this.setState({})), // how much memory the devices have
      () => clearInterval(clock),
    ];
  }

  /** @param {Event} _event @param {HTMLElement} element */
  handleTab(_event, element) {
    this.openTab(element.dataset.tab ?? "overview");
  }

  /** @param {string} tab */
  openTab(tab) {
    this.setState({ tab, visited: new Set([...this.state.visited, tab]) });
  }

  /** Arrow keys move between tabs. @param {KeyboardEvent} event */
  handleTabKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const index = TABS.findIndex(([key]) => key === this.state.tab);
    const next = TABS[(index + step + TABS.length) % TABS.length][0];
    this.openTab(next);
    this.element.querySelector(`[data-tab="${next}"]`)?.focus();
  }

  handleRename() {
    const { name } = this.props.model;
    this.setState({ renaming: name, renamed: name });
    this.update();
    const input = this.element.querySelector(".rename-input");
    input.focus();
    input.select();
  }

  /** Whoever was still in the form is back at its button. */
  endRename() {
    const inside = this.element.querySelector(".rename")?.contains(document.activeElement);
    this.setState({ renaming: null, saving: false });
    this.update();
    if (inside) this.element.querySelector("[data-action=\"rename\"]").focus();
  }

  /** @param {KeyboardEvent} event */
  handleRenameKey(event) {
    if (event.key === "Escape") this.endRename();
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleRenameInput(_event, element) {
    this.state.renaming = element.value;
  }

  /** @param {Event} event */
  async handleRenameSave(event) {
    event.preventDefault();
    const { model, state } = this.props;
    const name = this.state.renaming.trim();
    if (!name || name === model.name || name === this.state.renamed) return this.endRename();
    if (model.name !== this.state.renamed) {
      this.setState({ renamed: model.name });
      return toast(`It was just renamed to “${model.name}” elsewhere. Save again to replace it.`, {
        kind: "error",
      });
    }
    this.setState({ saving: true });
    try {
      await state.request("models:update", { id: model.id, revision: model.revision, changes: { name } });
      this.endRename();
    } catch (error) {
      const { code, message } = /** @type {any} */ (error);
      toast(code === "CONFLICT" ? "The model was just changed elsewhere. Check it, then save again." : message, {
        kind: "error",
      });
      this.setState({ saving: false });
    }
  }

  /** The newer file comes beside the one that is here. */
  async handleNewer() {
    const { state, model } = this.props;
    const { repo, newer, file } = model.hub;
    try {
      await state.request("models:download", { repo: `${repo.split("@")[0]}@${newer}`, file });
      toast("The newer file is being downloaded. Delete the old one once it is here.");
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
  }

  render() {
    const { model } = this.props;
    return h("article", { className: "model-detail card", "aria-label": model.name },
      this.header(model),
      h("div", { key: "tabs", className: "tabs", role: "tablist", "aria-label": "Model" },
        TABS.map(([key, label]) => h("button", {
          key, type: "button", role: "tab", id: `tab-${key}`, className: "tab", dataset: { tab: key },
          tabIndex: this.state.tab === key ? 0 : -1,
          "aria-selected": this.state.tab === key, "aria-controls": `panel-${key}`,
        }, label))),
      TABS.map(([key]) => h("div", {
        key: `panel-${key}`, id: `panel-${key}`, className: "model-panel", role: "tabpanel",
        "aria-labelledby": `tab-${key}`, hidden: this.state.tab !== key,
      }, this.state.visited.has(key) && this.panel(key))));
  }

  /** @param {Model} model */
  header(model) {
    return h("header", { key: "header", className: "model-detail-header" },
      h("div", { key: "top", className: "row model-detail-top" },
        h("a", {
          key: "close", className: "button button-ghost button-icon model-detail-close", href: "/models",
          "aria-label": "Close details",
        }, icon("close")),
        this.state.renaming === null ? this.name(model) : this.rename(model),
        h("button", {
          key: "star", type: "button",
          className: `button button-ghost button-icon model-star${model.favorite ? " is-on" : ""}`,
          dataset: { action: "favorite", id: model.id },
          "aria-pressed": Boolean(model.favorite), "aria-label": "Favourite",
        }, icon(model.favorite ? "star-filled" : "star"))),
      h("div", { key: "state", className: "row model-detail-state" }, modelStatus(model)),
      model.next && h("p", { key: "next", className: "row muted model-next" },
        icon("clock", { size: 16 }), h("span", null, nextWords(model.next))),
      h("div", { key: "actions", className: "row" },
        modelAction(model, { busy: this.props.busy, primary: true }),
        model.status !== "missing" && h("a", {
          className: "button", href: `/chat?model=${encodeURIComponent(model.id)}`,
        }, icon("chat"), "Chat")));
  }

  /** @param {Model} model */
  name(model) {
    return h("div", { key: "name", className: "row model-detail-name" },
      h("h2", { className: "model-detail-title", title: model.name, tabindex: -1 }, model.name),
      h("button", {
        type: "button", className: "button button-ghost button-icon", dataset: { action: "rename" },
        "aria-label": "Rename",
      }, icon("edit", { size: 16 })));
  }

  /** @param {Model} model */
  rename(model) {
    return h("form", { key: "rename", className: "row rename" },
      h("input", {
        className: "input rename-input", value: this.state.renaming, "aria-label": `New name for ${model.name}`,
        maxlength: 200, required: true, autocomplete: "off",
      }),
      h("button", { type: "submit", className: "button button-primary", disabled: this.state.saving }, "Save"),
      h("button", { type: "button", className: "button button-ghost", dataset: { action: "rename-cancel" } },
        "Cancel"));
  }

  /** @param {string} tab */
  panel(tab) {
    const { state, model, schema, inherited, onDirty } = this.props;
    if (tab === "benchmark") return h(ModelBenchmark, { state, model });
    if (tab === "serving") return h(ModelServing, { state, model, idleDefault: this.props.idleDefault });
    if (tab === "history") return this.history(model);
    if (tab === "parameters") {
      return schema
        ? h(ModelParameters, { state, model, schema, inherited, onDirty })
        : h("div", { className: "skeleton panel-skeleton" });
    }
    return this.overview(model);
  }

  /** @param {Model} model */
  history({ id, last_used_at: used }) {
    return h("div", { className: "stack" },
      h("h3", { className: "section-title" }, "What happened"),
      used && h("p", { key: "used", className: "muted" }, `Last used ${relativeTime(used)}.`),
      h(Timeline, { state: this.props.state, span: HISTORY_SPAN_MS, model: id }),
      h("p", { className: "field-hint" },
        h("a", { href: `/monitoring?model=${encodeURIComponent(id)}` }, "Its requests on Monitoring")));
  }

  /** @param {Model} model */
  overview(model) {
    const { state } = this.props;
    const missing = model.status === "missing";
    const left = !IN_MEMORY.includes(model.status) && reasonWords(model.reason);
    return h("div", { className: "stack" },
      missing && h("div", { key: "missing", className: "banner banner-warning", role: "alert" },
        model.error ? `${model.error}.` : "The file is gone. Restore it, or delete this entry."),
      model.hub?.newer && h("div", { key: "newer", className: "banner banner-info" },
        h("span", null, `${model.hub.repo} has a newer file of this model.`),
        h("button", { type: "button", className: "button button-small", dataset: { action: "newer" } }, "Download it")),
      this.names(model),
      h(ModelTags, { key: "tags", state, model }),
      modelRuntime(model, state.get("engine")?.devices ?? [], h(Remedies, { key: "mend", state, model })),
      !missing && h("div", { key: "memory", className: "field" },
        h("span", { className: "field-label" }, "Estimated memory"),
        h(MemoryEstimate, {
          state, id: model.id, parameters: model.parameters ?? {}, loaded: model.status === "loaded",
        })),
      left && h("p", { key: "left", className: "muted" }, `Last unloaded: ${left}`),
      !missing && h(ModelCommand, { key: "command", state, model }),
      h("h3", { key: "title", className: "section-title" }, "Metadata"),
      h("dl", { key: "facts", className: "facts" }, facts(model).map(([label, value, kind]) => [
        h("dt", { key: `${label}-t` }, label), h("dd", { key: `${label}-d`, className: kind ?? "" }, value),
      ])),
      h("div", { key: "danger", className: "row danger-zone" },
        h("button", { type: "button", className: "button button-danger", dataset: { action: "delete", id: model.id } },
          icon("trash"),
          "Delete…")));
  }

  /** What clients send as `model`. @param {Model} model */
  names({ id, aliases = [] }) {
    return h("div", { key: "id", className: "field" },
      h("span", { className: "field-label" }, "Model id for API clients"),
      h("div", { className: "row copy-row" },
        h("code", { className: "code" }, id),
        h(CopyButton, { text: id, label: "Copy model id" })),
      aliases.length > 0 && h("p", { key: "aliases", className: "field-hint break-all" },
        `Also: ${aliases.join(", ")}`));
  }
}

/**
 * @param {Model} model @returns {Array<[string, string, string?]>} label, value and class; what is unknown is left out
 */
function facts(model) {
  /** @type {Array<[string, string|null|false|undefined, string?]>} */
  const all = [
    ["Architecture", model.architecture],
    [
      "Parameters",
      model.parameter_count
        ? `${tokens(model.parameter_count)}${model.size_label ? ` (${model.size_label})` : ""}`
        : model.size_label,
    ],
    ["Quantization", model.quantization],
    ["File size", bytes(model.file_size)],
    ["Projector", model.projector && `${fileName(model.projector)} (${bytes(model.projector_size)})`],
    ["Modalities", model.modalities?.length && model.modalities.join(", ")],
    ["Trained context", model.context_length && `${number(model.context_length)} tokens`],
    ["Sliding window", model.sliding_window && `${number(model.sliding_window)} tokens`],
    ["Layers", model.block_count && number(model.block_count)],
    ["Embedding length", model.embedding_length && number(model.embedding_length)],
    ["Attention heads", countOf(model.head_count, model.head_count_kv, "for keys and values")],
    ["Experts", countOf(model.expert_count, model.expert_used_count, "used at a time")],
    ["Vocabulary", model.vocabulary_size && `${number(model.vocabulary_size)} tokens`],
    ["Tokenizer", model.tokenizer],
    ["Chat template", model.chat_template ? "Present" : "None: chats use a generic one"],
    ["Licence", model.license],
    ["Repository", model.hub?.repo],
    ["Last used", model.last_used_at && `${dateTime(model.last_used_at)} (${relativeTime(model.last_used_at)})`],
    ["Last speed", model.last_speed && tokenRate(model.last_speed)],
    ["Added", `${dateTime(model.created_at)} (${relativeTime(model.created_at)})`],
    [
      "From",
      {
        folder: "model folder", import: "imported by path", download: "downloaded",
      }[/** @type {string} */ (model.source)] ?? model.source,
    ],
    [
      "File", model.shards?.length > 1 ? `${model.path} and ${model.shards.length - 1} more parts` : model.path,
      "mono break-all",
    ],
  ];
  return /** @type {Array<[string, string, string?]>} */ (all.filter(([, value]) => value));
}

/** @param {number | null} count @param {number | null} some @param {string} words what some of them are for */
function countOf(count, some, words) {
  return count && `${number(count)}${some ? `, ${number(some)} ${words}` : ""}`;
}

/** @param {string} path */
function fileName(path) {
  return path.split(/[\\/]/).pop() ?? path;
}
