import { Component, h } from "../core/component.js";
import { MemoryEstimate } from "./memory-estimate.js";
import { IN_MEMORY } from "./model-status.js";
import { ParameterForm } from "./parameter-form.js";
import { toast } from "./toast.js";

/** @typedef {import("./parameter-form.js").Parameter} Parameter */
/** @typedef {import("./parameter-form.js").Texts} Texts */
/** @typedef {Record<string, any>} Model */

/**
 * A model's own parameters: typed, estimated, saved against the revision they were read at.
 *
 * Someone else's change is taken over while nothing here was typed, and shown beside it otherwise: nothing typed is
 * lost. Props: `state`, `model`, `schema`, `inherited`, `onDirty(boolean)`.
 */
export class ModelParameters extends Component {
  /** @param {any} props */
  constructor(props) {
    super(props);
    const { model } = props;
    /** The row that the typing started from. @type {Model} */ this.base = model;
    /** @type {boolean} */ this.dirty = false;
    /** @type {any} */
    this.state = { texts: ParameterForm.texts(model.parameters), error: null, saving: false, theirs: null, offers: {} };
    this.onInput = (/** @type {string} */ key, /** @type {string} */ text) => this.type(key, text);
  }

  getEventMap() {
    return {
      "submit .model-parameters": "handleSubmit",
      "click [data-action=\"parameters-discard\"]": "handleDiscard",
      "click [data-action=\"parameters-theirs\"]": "handleDiscard",
      "click [data-action=\"parameters-mine\"]": "handleKeepMine",
    };
  }

  /** @param {any} props */
  receive(props) {
    this.props = props;
    if (!this.state.saving) this.meet(props.model);
    this.update();
  }

  didMount() {
    void this.fetchOffers();
  }

  didUpdate() {
    this.reportDirty();
  }

  /** Ask which projectors may belong to the model; without an answer, their paths can be typed. */
  async fetchOffers() {
    const answer = await this.props.state.request("models:get", { id: this.base.id }).catch(() => null);
    if (answer?.projectors?.length && !this.destroyed) this.setState({ offers: { mmproj: answer.projectors } });
  }

  willDestroy() {
    if (this.dirty) this.props.onDirty(false);
  }

  /** Take in the row as the server has it now. @param {Model} row */
  meet(row) {
    if (row.revision <= this.base.revision) return;
    if (same(row.parameters, this.base.parameters)) this.base = row;
    else if (this.isDirty()) this.state.theirs = row;
    else this.adopt(row);
  }

  /** @param {Model} row */
  adopt(row) {
    this.base = row;
    this.state = { ...this.state, texts: ParameterForm.texts(row.parameters), error: null, theirs: null };
  }

  /** @param {string} key @param {string} text */
  type(key, text) {
    this.setState({
      texts: { ...this.state.texts, [key]: text }, error: this.state.error?.key === key ? null : this.state.error,
    });
  }

  /** @returns {string[]} keys of what was typed and not saved */
  changedKeys() {
    const saved = ParameterForm.texts(this.base.parameters);
    const typed = /** @type {Texts} */ (this.state.texts);
    return [...new Set([...Object.keys(saved), ...Object.keys(typed)])].filter((key) => (
      saved[key] ?? "").trim() !== (typed[key] ?? "").trim(
    ));
  }

  isDirty() {
    return this.changedKeys().length > 0;
  }

  reportDirty() {
    const dirty = this.isDirty();
    if (dirty === this.dirty) return;
    this.dirty = dirty;
    this.props.onDirty(dirty);
  }

  handleDiscard() {
    this.adopt(this.state.theirs ?? this.props.model);
    this.setState({});
  }

  /** Put what was typed here on top of what the other saved. */
  handleKeepMine() {
    const mine = Object.fromEntries(this.changedKeys().map((key) => [key, this.state.texts[key] ?? ""]));
    this.base = this.state.theirs;
    this.setState({ theirs: null, texts: { ...ParameterForm.texts(this.base.parameters), ...mine } });
    return this.save();
  }

  /** @param {Event} event */
  handleSubmit(event) {
    event.preventDefault();
    return this.save();
  }

  async save() {
    const sent = this.state.texts;
    const { values, errors } = ParameterForm.parse(this.props.schema, sent);
    const wrong = Object.keys(errors)[0];
    if (wrong) return document.getElementById(`model-${wrong}`)?.focus();
    this.setState({ saving: true, error: null });
    try {
      const { model } = await this.props.state.request("models:update", {
        id: this.base.id, revision: this.base.revision, changes: { parameters: values },
      });
      const later = Object.entries(this.state.texts).filter(([key, text]) => text !== sent[key]); // typed meanwhile
      this.adopt(model);
      this.setState({ texts: { ...this.state.texts, ...Object.fromEntries(later) } });
      toast(`Parameters of ${model.name} saved`, { kind: "success" });
    } catch (error) {
      this.refused(/** @type {any} */ (error));
    }
    this.setState({ saving: false });
  }

  /** @param {any} error */
  refused(error) {
    if (error.code === "CONFLICT") {
      this.setState({ theirs: error.details.current ?? this.props.model });
      return;
    }
    const key = /parameters\.(.+)$/.exec(error.field ?? "")?.[1] ?? "";
    this.setState({ error: { key, message: error.message } });
    if (!key) toast(error.message, { kind: "error" });
  }

  render() {
    const { texts, error, saving, theirs, offers } = this.state;
    const { model, schema, inherited } = this.props;
    const { values, errors } = ParameterForm.parse(schema, texts);
    const dirty = this.isDirty();
    const all = error?.key ? { ...errors, [error.key]: error.message } : errors;
    const running = IN_MEMORY.includes(model.status);
    return h("form", { className: "model-parameters stack", noValidate: true },
      h(MemoryEstimate, {
        key: "estimate", state: this.props.state, id: model.id,
        parameters: Object.keys(errors).length ? null : this.stable(values), loaded: model.status === "loaded",
      }),
      theirs && this.conflict(theirs),
      h(ParameterForm, {
        key: "form", schema, texts, inherited, errors: this.stableErrors(all), offers, idPrefix: "model",
        onInput: this.onInput,
      }),
      h("div", { key: "bar", className: `save-bar${dirty ? " is-dirty" : ""}` },
        h("span", { className: "muted save-note", role: "status" },
          !dirty ? "Saved" : running ? "Saving unloads this model; it loads again when used" : "Unsaved changes"),
        h("button", {
          type: "button", className: "button button-ghost", disabled: !dirty || saving,
          dataset: { action: "parameters-discard" },
        }, "Discard"),
        h("button", {
          type: "submit", className: "button button-primary", disabled: !dirty || saving, "aria-busy": saving,
        }, saving ? "Saving…" : "Save")));
  }

  /** The same object for the same values, so that children see no change. @param {Record<string, any>} values */
  stable(values) {
    if (!same(values, this.lastValues)) this.lastValues = values;
    return this.lastValues;
  }

  /** @param {Record<string, string>} errors */
  stableErrors(errors) {
    if (!same(errors, this.lastErrors)) this.lastErrors = errors;
    return this.lastErrors;
  }

  /** @param {Model} theirs */
  conflict(theirs) {
    const labels = new Map(/** @type {Parameter[]} */ (this.props.schema).map((item) => [item.key, item.label]));
    const [before, after] = [ParameterForm.texts(this.base.parameters), ParameterForm.texts(theirs.parameters)];
    const keys = [
      ...new Set([...Object.keys(before), ...Object.keys(after)]),
    ].filter((key) => before[key] !== after[key]);
    return h("div", { key: "conflict", className: "banner banner-warning conflict", role: "alert" },
      h("div", { className: "stack" },
        h("strong", null, "Changed elsewhere while you were editing"),
        h("ul", { className: "conflict-list" }, keys.map((key) => h("li", { key },
          `${labels.get(key) ?? key}: ${before[key] ?? "default"} → ${after[key] ?? "default"}`,
          this.state.texts[key]?.trim() !== (before[key] ?? "") && h("span", { className: "muted" },
            ` (you: ${this.state.texts[key]?.trim() || "default"})`)))),
        h("p", { className: "field-hint" }, "What you typed is still in the form."),
        h("div", { className: "row" },
          h("button", { type: "button", className: "button", dataset: { action: "parameters-mine" } },
            "Keep mine"),
          h("button", { type: "button", className: "button button-ghost", dataset: { action: "parameters-theirs" } },
            "Use theirs"))));
  }
}

/** @param {unknown} a @param {unknown} b */
function same(a, b) {
  return JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
}

/** @param {any} value */
function sorted(value) {
  return value && Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}
