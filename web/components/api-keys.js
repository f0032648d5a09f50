import { Component, h } from "../core/component.js";
import { day, plural, relativeTime } from "../core/format.js";
import { CopyButton } from "./copy-button.js";
import { Dialog, confirmDialog } from "./dialog.js";
import { formField } from "./form-field.js";
import { icon } from "./icon.js";
import { toast } from "./toast.js";

/** @typedef {Record<string, any>} Json */

const MOST_PER_MINUTE = 100_000;

/** The keys of API clients: made, shown once, revoked. Props: `state`. */
export class ApiKeys extends Component {
  getInitialState() {
    const { state } = this.props;
    return { keys: state.get("keys"), required: state.get("keysRequired"), creating: false, error: "" };
  }

  init() {
    this.close = () => this.setState({ creating: false });
  }

  didMount() {
    const { state } = this.props;
    void this.fetch();
    return [
      state.subscribe("keys", (/** @type {Json[]} */ keys) => this.setState({ keys, error: "" })),
      state.subscribe("keysRequired", (/** @type {boolean} */ required) => this.setState({ required })),
    ];
  }

  getEventMap() {
    return {
      "click [data-action=\"key-new\"]": () => this.setState({ creating: true }),
      "click [data-action=\"key-revoke\"]": "handleRevoke",
      "click [data-action=\"keys-retry\"]": () => this.fetch(),
    };
  }

  async fetch() {
    try {
      await this.props.state.load("keys");
    } catch (problem) {
      this.setState({ error: /** @type {Error} */ (problem).message });
    }
  }

  /** @param {Event} _event @param {HTMLElement} button */
  async handleRevoke(_event, button) {
    const key = this.state.keys.find((/** @type {Json} */ { id }) => String(id) === button.dataset.id);
    if (!key) return;
    const sure = await confirmDialog({
      title: `Revoke ${key.name}?`, confirmLabel: "Revoke", danger: true,
      body: "Clients with this key are refused from now on, and their running answers are cut off.",
    });
    if (!sure) return;
    try {
      await this.props.state.request("keys:revoke", { id: key.id });
      toast(`${key.name} revoked`, { kind: "success" });
    } catch (problem) {
      toast(/** @type {Error} */ (problem).message, { kind: "error" });
    }
  }

  render() {
    const { keys, required, creating, error } = this.state;
    const { state } = this.props;
    const live = (keys ?? []).filter((/** @type {Json} */ key) => !key.revoked_at);
    const gone = (keys ?? []).filter((/** @type {Json} */ key) => key.revoked_at);
    return h("section", { className: "card api-keys", "aria-label": "API keys" },
      h("div", { className: "card-header" },
        h("h2", { className: "card-title" }, "API keys"),
        h("button", { type: "button", className: "button button-small", dataset: { action: "key-new" } },
          icon("plus", { size: 14 }), "New key")),
      h("div", { className: "card-body stack" },
        h("p", { className: "muted" }, keysIntro(required, live.length)),
        error && h("div", { key: "error", className: "row" },
          h("p", { className: "field-error", role: "alert" }, error),
          h("button", { type: "button", className: "button button-small", dataset: { action: "keys-retry" } },
            "Try again")),
        !keys && !error && h("div", { key: "wait", className: "skeleton" }),
        live.length > 0 && h("ul", { key: "live", className: "list key-list" }, live.map(keyItem)),
        gone.length > 0 && h("details", { key: "gone" },
          h("summary", { className: "muted" }, `${plural(gone.length, "revoked key")}`),
          h("ul", { className: "list key-list" }, gone.map(keyItem)))),
      creating && h(NewKey, { key: "new", state, close: this.close }));
  }
}

/** @param {boolean | undefined} required @param {number} count */
function keysIntro(required, count) {
  if (required) return "Clients of the API need one of these keys.";
  if (count) return "Each client can have a key of its own.";
  return "The API is open on this machine. With a key, each client has a name and limits of its own.";
}

/** @param {Json} key */
function keyItem({ id, name, start, models, requests_per_minute: limit, used_at: used, created_at: made, ...key }) {
  const facts = [
    models ? models.join(", ") : "all models",
    limit ? `${limit} requests a minute` : "no limit",
    used ? `used ${relativeTime(used)}` : "never used",
    `created ${day(made)}`,
    key.revoked_at && `revoked ${day(key.revoked_at)}`,
  ];
  return h("li", { key: id, className: "list-item key-item" },
    h("span", { className: "key-words" },
      h("span", { className: "row" }, h("strong", { className: "break-all" }, name), h("code", null, `${start}…`)),
      h("span", { className: "field-hint" }, facts.filter(Boolean).join(" · "))),
    !key.revoked_at && h("button", {
      key: "revoke", type: "button", className: "button button-small", dataset: { action: "key-revoke", id },
      "aria-label": `Revoke ${name}`,
    }, "Revoke"));
}

/** Asks for the name and limits of a new key, then shows its text. Props: `state`, `close()`. */
class NewKey extends Component {
  getInitialState() {
    return { name: "", limit: "", some: false, models: new Set(), busy: false, errors: {}, made: null };
  }

  getEventMap() {
    return {
      "input [data-key-field]": "handleInput",
      "change [data-key-scope]": "handleScope",
      "change [data-key-model]": "handleModel",
      "submit #key-form": "handleSubmit",
      "click [data-action=\"key-done\"]": () => this.props.close(),
    };
  }

  didMount() {
    this.element.querySelector("#key-name")?.focus();
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  handleInput(_event, input) {
    this.setState({ [input.dataset.keyField ?? ""]: input.value, errors: {} });
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  handleScope(_event, input) {
    this.setState({ some: input.value === "some", errors: {} });
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  handleModel(_event, input) {
    const models = new Set(this.state.models);
    if (input.checked) models.add(input.value);
    else models.delete(input.value);
    this.setState({ models, errors: {} });
  }

  /** @param {Event} event */
  async handleSubmit(event) {
    event.preventDefault();
    const { request, errors } = keyRequest(this.state);
    if (Object.keys(errors).length) return this.setState({ errors });
    this.setState({ busy: true, errors: {} });
    try {
      const { key } = await this.props.state.request("keys:create", request);
      this.setState({ made: key, busy: false });
    } catch (problem) {
      const { field = "", message } = /** @type {any} */ (problem);
      const where = field.startsWith("models") ? "models" : field === "requestsPerMinute" ? "limit" : "name";
      this.setState({ busy: false, errors: { [where]: message } });
    }
  }

  render() {
    const { made, busy } = this.state;
    const footer = made
      ? h("button", { type: "button", className: "button button-primary", dataset: { action: "key-done" } }, "Done")
      : [
        h("button", { key: "cancel", type: "button", className: "button", dataset: { action: "key-done" } }, "Cancel"),
        h("button", {
          key: "create", type: "submit", form: "key-form", className: "button button-primary", disabled: busy,
          "aria-busy": busy,
        }, "Create key"),
      ];
    const title = made ? `Key for ${made.name}` : "New API key";
    return h(Dialog, { title, wide: Boolean(made), sticky: Boolean(made), close: this.props.close, footer },
      made ? this.renderMade(made) : this.renderForm());
  }

  renderForm() {
    const { name, limit, some, errors } = this.state;
    return h("form", { key: "form", id: "key-form", className: "stack", noValidate: true },
      formField({ id: "key-name", label: "Name", error: errors.name, hint: "Which client or person it is for." },
        h("input", {
          id: "key-name", className: "input", value: name, placeholder: "Open WebUI", maxlength: 96,
          autocomplete: "off", dataset: { keyField: "name" }, "aria-describedby": "key-name-hint",
          "aria-invalid": errors.name ? "true" : null,
        })),
      formField({ id: "key-limit", label: "Requests a minute", error: errors.limit, hint: "Empty = no limit." },
        h("input", {
          id: "key-limit", className: "input", value: limit, inputmode: "numeric", autocomplete: "off",
          placeholder: "No limit", dataset: { keyField: "limit" }, "aria-describedby": "key-limit-hint",
          "aria-invalid": errors.limit ? "true" : null,
        })),
      h("fieldset", { key: "models", className: "field key-models" },
        h("legend", { className: "field-label" }, "Models"),
        this.renderScope("all", "All models", !some),
        this.renderScope("some", "Only these:", some),
        some && h("div", { key: "list", className: "key-model-list" }, this.choices().map(([id, words]) =>
          h("label", { key: id, className: "key-row" },
            h("input", { type: "checkbox", value: id, checked: this.state.models.has(id), dataset: { keyModel: id } }),
            h("span", { className: "break-all" }, words)))),
        errors.models && h("p", { key: "error", className: "field-error", role: "alert" }, errors.models)));
  }

  /** @param {string} value @param {string} label @param {boolean} checked */
  renderScope(value, label, checked) {
    return h("label", { key: value, className: "key-row" },
      h("input", { type: "radio", name: "key-scope", value, checked, dataset: { keyScope: value } }),
      h("span", null, label));
  }

  /** The models of this machine and of upstreams. @returns {[string, string][]} id and name */
  choices() {
    const { state } = this.props;
    const upstreams = /** @type {Json[]} */ (state.get("engine")?.upstreams ?? []);
    return [
      ...(state.get("models") ?? []).map((/** @type {Json} */ { id, name }) => (
        [id, name === id ? id : `${name} (${id})`])),
      ...upstreams.flatMap(({ models = [] }) => models.map((/** @type {Json} */ { id }) => [id, id])),
    ];
  }

  /** @param {Json} key */
  renderMade({ text, models }) {
    const { state } = this.props;
    const base = state.get("engine")?.base_url ?? "http://127.0.0.1:8080/v1";
    const all = /** @type {Json[]} */ (state.get("models") ?? []);
    const model = models?.[0] ?? (all.find(({ status }) => status === "loaded") ?? all[0])?.id ?? "MODEL";
    return h("div", { key: "made", className: "stack" },
      h("div", { className: "banner banner-box banner-warning", role: "status" }, icon("warning"),
        h("span", { className: "banner-text" }, "Copy it now: it is not shown again.")),
      copyLine("Key", text),
      copyLine("Try it", curlLine(base, text, model)),
      copyLine("Open WebUI", openWebUiLine(base, text)),
      h("p", { className: "field-hint" },
        "In Open WebUI, the same goes under Admin Panel, Settings, Connections: base URL and key."));
  }
}

/** @param {string} label @param {string} text */
function copyLine(label, text) {
  return h("div", { key: label, className: "field" },
    h("span", { className: "field-label" }, label),
    h("div", { className: "row copy-row" },
      h("code", { className: "code break-all", tabindex: 0 }, text),
      h(CopyButton, { text, label: `Copy: ${label}` })));
}

/**
 * What was typed as the server wants it, and what is wrong with it.
 * @param {{name: string, limit: string, some: boolean, models: Set<string>}} typed
 * @returns {{request: Json, errors: Record<string, string>}}
 */
export function keyRequest({ name, limit, some, models }) {
  /** @type {Record<string, string>} */ const errors = {};
  const count = Number(limit.trim());
  if (!name.trim()) errors.name = "Enter a name.";
  if (limit.trim() && !(Number.isInteger(count) && count >= 1 && count <= MOST_PER_MINUTE)) {
    errors.limit = `Enter a whole number from 1 to ${MOST_PER_MINUTE.toLocaleString("en-US")}, or nothing.`;
  }
  if (some && !models.size) errors.models = "Choose at least one model.";
  const request = {
    name: name.trim(), ...(some ? { models: [...models] } : {}), ...(limit.trim() ? { requestsPerMinute: count } : {}),
  };
  return { request, errors };
}

/** A first question for a shell. @param {string} base @param {string} key @param {string} model */
export function curlLine(base, key, model) {
  const body = JSON.stringify({ model, messages: [{ role: "user", content: "Hello!" }] });
  const headers = `-H "Authorization: Bearer ${key}" -H "Content-Type: application/json"`;
  return `curl ${base}/chat/completions ${headers} -d '${body}'`;
}

/** The environment that connects Open WebUI. @param {string} base @param {string} key */
export function openWebUiLine(base, key) {
  return `OPENAI_API_BASE_URL=${base} OPENAI_API_KEY=${key}`;
}
