import { Component, h } from "../core/component.js";
import { bytes, dateTime, rowTime } from "../core/format.js";
import { CopyButton } from "./copy-button.js";
import { Dialog } from "./dialog.js";
import { icon } from "./icon.js";
import { MANY_MODELS, ModelSelect } from "./model-select.js";
import { inMemoryFirst } from "./model-status.js";
import { emptyState } from "./states.js";
import { toast } from "./toast.js";

/** @typedef {{[name: string]: any}} Json */

const HOURS = [1, 4, 12, 24, 72];
/** @type {[part: string, label: string][]} */
const PARTS = [["request", "Request"], ["answer", "Answer"], ["prompt", "Prompt"], ["head", "Headers"]];

/** The models that are captured, until when. @param {Json} state @returns {[id: string, until: number][]} */
const captured = (state) => Object.entries(state.get("info")?.features?.captures ?? {})
  .filter(([, until]) => until > Date.now());

/** @param {Json} state @param {string} event @param {Json} data */
async function ask(state, event, data) {
  try {
    return await state.request(event, data);
  } catch (error) {
    toast(/** @type {Error} */ (error).message, { kind: "error" });
    return null;
  }
}

/** Says on every page that requests are recorded. Props: `state`. */
export class CapturesBanner extends Component {
  getEventMap() {
    return {
      "click [data-action=\"stop-captures\"]": () =>
        captured(this.props.state).forEach(([id]) => ask(this.props.state, "captures:stop", { id })),
    };
  }

  didMount() {
    const clock = setInterval(() => this.setState({}), 30_000);
    return [this.props.state.subscribe("info", () => this.setState({})), () => clearInterval(clock)];
  }

  render() {
    const on = captured(this.props.state);
    const until = Math.max(...on.map(([, moment]) => moment));
    return h("div", { className: "banner banner-warning", hidden: !on.length },
      icon("warning"),
      h("span", { className: "banner-text" }, "What clients send to ", on.map(([id]) => id).join(", "),
        ` is recorded until ${dateTime(until)}.`),
      h("button", { type: "button", className: "button button-small", dataset: { action: "stop-captures" } }, "Stop"));
  }
}

/** What clients really sent and got. Props: `state`, `close`. */
export class Captures extends Component {
  init() {
    this.state = { rows: null, open: null, part: "request", text: null, model: "", hours: "1" };
  }

  getEventMap() {
    return {
      "submit form": "handleStart",
      "change [data-capture]": (/** @type {Event} */ _event, /** @type {HTMLSelectElement} */ select) =>
        this.setState({ [select.dataset.capture ?? ""]: select.value }),
      "click [data-row]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ row) =>
        this.show(this.state.rows.find((/** @type {Json} */ { id }) => String(id) === row.dataset.row), "request"),
      "click [data-part]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ tab) =>
        this.show(this.state.open, tab.dataset.part ?? ""),
      "click [data-action=\"back\"]": () => this.setState({ open: null, text: null }),
    };
  }

  didMount() {
    const { state } = this.props;
    void this.load();
    /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
    return [
      state.subscribe("info", () => this.setState({})),
      state.on("requests:finished", () => { timer ??= setTimeout(() => { timer = undefined; this.load(); }, 1500); }),
      () => clearTimeout(timer),
    ];
  }

  async load() {
    const answer = await ask(this.props.state, "captures:list", { limit: 1000 });
    this.setState({ rows: answer?.captures ?? this.state.rows ?? [] });
  }

  /** @param {Json} row @param {string} part */
  async show(row, part) {
    this.setState({ open: row, part, text: null });
    const answer = await ask(this.props.state, "captures:get", { id: row.id, part });
    if (this.state.open === row && this.state.part === part) this.setState({ text: readable(answer?.text ?? "") });
  }

  /** @param {Event} event */
  async handleStart(event) {
    event.preventDefault();
    const { hours } = this.state;
    const id = this.state.model || this.models()[0]?.id;
    if (id) await ask(this.props.state, "captures:start", { id, hours: Number(hours) });
  }

  /** The models of this machine, then those of upstreams. @returns {Json[]} */
  models() {
    const { state } = this.props;
    const known = /** @type {Json[]} */ (state.get("models") ?? []);
    const own = inMemoryFirst(known.filter(({ missing }) => !missing));
    const upstreams = /** @type {Json[]} */ (state.get("engine")?.upstreams ?? []);
    return [...own, ...upstreams.flatMap(({ models = [] }) => models.map((/** @type {Json} */ { id }) => (
      { id, name: id })))];
  }

  render() {
    const { open, rows } = this.state;
    return h(Dialog, {
      title: open ? `Request ${open.id}` : "Captured requests", wide: true, close: this.props.close,
    }, open ? this.detail() : h("div", { key: "list", className: "stack" }, this.form(),
      !rows ? h("div", { key: "wait", className: "skeleton" })
        : rows.length ? h("ul", { key: "rows", className: "list" }, rows.map(captureRow))
          : emptyState({
            title: "Nothing captured", iconName: "search",
            body: "While it is on, requests, answers and prompts are kept here: 1 MB each, the newest 1,000.",
          })));
  }

  form() {
    const models = this.models();
    return h("form", { key: "form", className: "row capture-form" },
      models.length > MANY_MODELS
        ? h(ModelSelect, {
          key: "pick", state: this.props.state, label: "Model", value: this.state.model || models[0].id, models,
          dataset: { capture: "model" },
        })
        : h("select", {
          className: "select", "aria-label": "Model", value: this.state.model || models[0]?.id,
          dataset: { capture: "model" },
        }, models.map((/** @type {Json} */ { id, name }) => h("option", { key: id, value: id }, name))),
      h("select", {
        className: "select", "aria-label": "For how long", value: this.state.hours, dataset: { capture: "hours" },
      }, HOURS.map((hours) => h("option", { key: hours, value: String(hours) },
        hours === 1 ? "for 1 hour" : `for ${hours} hours`))),
      h("button", { type: "submit", className: "button button-primary", disabled: !models.length }, "Start"));
  }

  detail() {
    const { open, part, text } = this.state;
    return h("div", { key: "detail", className: "stack" },
      h("div", { className: "row capture-form" },
        h("button", { type: "button", className: "button button-small", dataset: { action: "back" } }, "All requests"),
        h("div", { className: "segmented", role: "group", "aria-label": "Part" }, PARTS.map(([name, label]) =>
          h("button", {
            key: name, type: "button", className: name === part ? "segment is-on" : "segment", dataset: { part: name },
            "aria-pressed": name === part, disabled: open[name] === null,
          }, label))),
        text ? h(CopyButton, { text, label: "Copy" }) : null),
      h("p", { className: "muted" },
        [open.model, open.client, open.endpoint, dateTime(open.timestamp)].join(" · ")),
      text === null ? h("div", { className: "skeleton" }) : h("pre", { className: "code capture-text" }, text));
  }
}

/** @param {Json & {timestamp: number}} row */
function captureRow(row) {
  return h("li", { key: row.id, className: "list-item" },
    h("button", { type: "button", className: "capture-row", dataset: { row: String(row.id) } },
      h("span", null, rowTime(row)),
      h("strong", { className: "break-all" }, row.model),
      h("span", { className: "muted break-all" }, row.client, " ", row.endpoint),
      h("span", { className: "muted" }, `${bytes(row.request)} → ${bytes(row.answer)}`),
      row.status !== "ok" && h("span", { className: "badge badge-warning" }, row.status)));
}

/** JSON with its structure, anything else as it is. @param {string} text */
export function readable(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
