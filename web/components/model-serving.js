import { Component, h } from "../core/component.js";
import { formField } from "./form-field.js";
import { icon } from "./icon.js";
import { NewVariant } from "./new-variant.js";
import { toast } from "./toast.js";

/** @typedef {Record<string, any>} Json */

const LONGEST_IDLE = 31_536_000; // s, a year

/**
 * Idle seconds as typed: "" for the configuration's, 0 for never.
 * @param {string} text @returns {{value: number | null} | {error: string}}
 */
export function idleSeconds(text) {
  const typed = text.trim();
  if (!typed) return { value: null };
  if (/^\d+$/.test(typed) && Number(typed) <= LONGEST_IDLE) return { value: Number(typed) };
  return { error: `Enter seconds from 0 (never) to ${LONGEST_IDLE.toLocaleString("en-US")}, or nothing.` };
}

/**
 * How a model is offered and kept: its names for clients, its build, and how long it stays in memory. Each change is
 * saved at once. Props: `state`, `model`, `idleDefault` (the configuration's seconds).
 */
export class ModelServing extends Component {
  getInitialState() {
    const { state } = this.props;
    return { builds: state.get("builds"), texts: {}, errors: {}, variant: false };
  }

  init() {
    /** Changes are saved one after the other, each upon the revision of the one before. @type {Promise<any>} */
    this.last = Promise.resolve();
    this.revision = 0;
    this.closeVariant = () => this.setState({ variant: false });
  }

  didMount() {
    const { state } = this.props;
    state.load("builds").catch(() => {});
    return [
      state.subscribe("builds", (/** @type {Json[]} */ builds) => this.setState({ builds })),
      state.subscribe("models", () => this.setState({})), // whose variants are listed
    ];
  }

  getEventMap() {
    return {
      "input [data-text]": "handleInput",
      "submit [data-add]": "handleAdd",
      "click [data-remove]": "handleRemove",
      "change [data-switch]": "handleSwitch",
      "change #model-build": "handleBuild",
      "change #model-idle": "handleIdle",
      "click [data-action=\"variant\"]": () => this.setState({ variant: true }),
    };
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  handleInput(_event, input) {
    const { text: field = "" } = input.dataset;
    this.setState({
      texts: { ...this.state.texts, [field]: input.value }, errors: { ...this.state.errors, [field]: "" },
    });
  }

  /** @param {Event} event @param {HTMLFormElement} form */
  async handleAdd(event, form) {
    event.preventDefault();
    const field = form.dataset.add ?? "";
    const text = (this.state.texts[field] ?? "").trim();
    if (!text) return;
    const saved = await this.save(field, [...new Set([...this.props.model[field] ?? [], text])]);
    if (saved) this.setState({ texts: { ...this.state.texts, [field]: "" } });
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleRemove(_event, button) {
    const { field = "", remove } = button.dataset;
    return this.save(field, this.props.model[field].filter((/** @type {string} */ text) => text !== remove));
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  async handleSwitch(_event, input) {
    const { switch: field = "" } = input.dataset;
    if (!(await this.save(field, input.checked))) input.checked = this.props.model[field];
  }

  /** @param {Event} _event @param {HTMLSelectElement} select */
  async handleBuild(_event, select) {
    if (!(await this.save("build", select.value || null))) select.value = this.props.model.build ?? "";
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  async handleIdle(_event, input) {
    const read = idleSeconds(input.value);
    if ("error" in read) return this.setState({ errors: { ...this.state.errors, idle: read.error } });
    const saved = read.value === this.props.model.idle || await this.save("idle", read.value);
    if (saved) this.setState({ texts: { ...this.state.texts, idle: undefined } });
  }

  /** @param {string} field @param {any} value @returns {Promise<boolean>} whether it was saved */
  save(field, value) {
    this.last = this.last.then(() => this.send(field, value));
    return this.last;
  }

  /** @param {string} field @param {any} value @returns {Promise<boolean>} whether it was saved */
  async send(field, value) {
    const { state, model } = this.props;
    const revision = Math.max(this.revision, model.revision);
    try {
      const answer = await state.request("models:update", { id: model.id, revision, changes: { [field]: value } });
      this.revision = answer.model.revision;
      this.setState({ errors: { ...this.state.errors, [field]: "" } });
      return true;
    } catch (problem) {
      const { code, message } = /** @type {any} */ (problem);
      if (code === "CONFLICT") toast("The model was just changed elsewhere. Try again.", { kind: "error" });
      else this.setState({ errors: { ...this.state.errors, [field]: message } });
      return false;
    }
  }

  render() {
    const { model } = this.props;
    return h("div", { className: "stack model-serving" },
      this.texts("aliases", "Aliases", "Other names that clients may use as model, e.g. gpt-4o-mini.", "New alias"),
      this.texts("tags", "Tags", "Words to find this model by.", "New tag"),
      h("hr", { key: "line1" }),
      this.toggle("pinned", "Pin", "Always in memory: loaded at start and never unloaded for another model."),
      this.toggle("preferred", "Prefer", "Unloaded when another model needs the memory; returns automatically."),
      this.idle(model),
      this.build(model),
      h("hr", { key: "line2" }),
      this.variants(model),
      this.state.variant && h(NewVariant, {
        key: "variant", state: this.props.state, model, close: this.closeVariant,
      }));
  }

  /** @param {string} field @param {string} label @param {string} hint @param {string} placeholder */
  texts(field, label, hint, placeholder) {
    const id = `model-${field}`;
    const list = /** @type {string[]} */ (this.props.model[field] ?? []);
    const error = this.state.errors[field];
    return h("div", { key: field, className: "field" },
      h("label", { className: "field-label", htmlFor: id }, label),
      h("ul", { key: "list", className: "chips", hidden: !list.length }, list.map((text) =>
        h("li", { key: text, className: "chip" }, h("span", { className: "mono" }, text),
          h("button", {
            type: "button", className: "chip-remove", dataset: { remove: text, field }, "aria-label": `Remove ${text}`,
          }, icon("close", { size: 14 }))))),
      h("form", { key: "form", className: "row chip-add", dataset: { add: field } },
        h("input", {
          id, className: "input", value: this.state.texts[field] ?? "", placeholder, autocomplete: "off", maxlength: 96,
          spellcheck: false, dataset: { text: field }, "aria-describedby": `${id}-hint`,
          "aria-invalid": error ? "true" : null,
        }),
        h("button", { type: "submit", className: "button" }, icon("plus"), "Add")),
      h("div", { key: "notes", id: `${id}-hint`, className: "field-notes" },
        error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
        h("p", { key: "hint", className: "field-hint" }, hint)));
  }

  /** @param {string} field @param {string} label @param {string} hint */
  toggle(field, label, hint) {
    const id = `model-${field}`;
    return formField({ id, label, hint, inline: true, error: this.state.errors[field] }, h("input", {
      id, className: "switch", type: "checkbox", role: "switch", checked: Boolean(this.props.model[field]),
      dataset: { switch: field }, "aria-describedby": `${id}-hint`,
    }));
  }

  /** @param {Json} model */
  idle({ idle }) {
    const { idleDefault } = this.props;
    const { texts, errors } = this.state;
    const fallback = idleDefault ? `${idleDefault} s` : "never";
    return formField({
      id: "model-idle", label: "Idle time in seconds", error: errors.idle,
      hint: `Unloaded when unused for this long. Empty = the configuration's (${fallback}), 0 = never.`,
    }, h("input", {
      id: "model-idle", className: "input", type: "text", inputmode: "numeric", autocomplete: "off",
      placeholder: `Configuration's (${fallback})`, value: texts.idle ?? idle ?? "", dataset: { text: "idle" },
      "aria-describedby": "model-idle-hint", "aria-invalid": errors.idle ? "true" : null,
    }));
  }

  /** @param {Json} model */
  build({ build }) {
    const builds = /** @type {Json[]} */ (this.state.builds ?? []);
    const fallback = builds.find((one) => one.default);
    const unknown = build && !builds.some(({ id }) => id === build);
    return formField({
      id: "model-build", label: "Build", error: this.state.errors.build,
      hint: "The engine program that runs this model.",
    }, h("select", {
      id: "model-build", className: "select", "aria-describedby": "model-build-hint", value: build ?? "",
    },
      h("option", { key: "", value: "" }, fallback ? `Default (${buildName(fallback)})` : "Default"),
      unknown && h("option", { key: build, value: build }, `${build} (not found)`),
      builds.map((one) => h("option", {
        key: one.id, value: one.id, disabled: Boolean(one.problem),
      }, buildName(one)))));
  }

  /** @param {Json} model */
  variants({ id, path }) {
    const all = /** @type {Json[]} */ (this.props.state.get("models") ?? []);
    const others = all.filter((other) => other.path === path && other.id !== id);
    return h("div", { key: "variants", className: "field" },
      h("span", { className: "field-label" }, "Variants of this file"),
      others.length > 0 && h("ul", { key: "list", className: "list variant-list" }, others.map((other) =>
        h("li", { key: other.id, className: "list-item" },
          h("a", { href: `/models/${encodeURIComponent(other.id)}` }, other.name),
          h("code", { className: "muted" }, other.id)))),
      h("p", { className: "field-hint" },
        "A variant is an entry of its own, with its own names and parameters. ",
        "Variants that differ in sampling only share one process."),
      h("div", { className: "row" },
        h("button", { type: "button", className: "button", dataset: { action: "variant" } },
          icon("plus"), "New variant…")));
  }
}

/** @param {Json} build */
export function buildName({ kind, id, version, problem }) {
  const name = kind === "embedded" ? "Embedded engine" : kind ?? id;
  return `${name}${version ? ` ${version}` : ""}${problem ? " (does not run)" : ""}`;
}
