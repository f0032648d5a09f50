import { Component, h } from "../core/component.js";
import { bytes, plural } from "../core/format.js";
import { Dialog } from "./dialog.js";
import { icon } from "./icon.js";
import { toast } from "./toast.js";

/** @typedef {Record<string, any>} Model */

/** What can be done with several models at once. Props: `state`, `models` (the chosen ones), `all`, `clear()`. */
export class ModelSelection extends Component {
  getInitialState() {
    return { dialog: null, busy: false, deleteFile: false, tag: "" };
  }

  getEventMap() {
    return {
      "click [data-selection=\"load\"]": () => this.each("Loading", this.loadable, "models:load"),
      "click [data-selection=\"unload\"]": () => this.each("Unloading", this.unloadable, "models:unload"),
      "click [data-selection=\"tag\"]": () => this.setState({ dialog: "tag" }),
      "click [data-selection=\"delete\"]": () => this.setState({ dialog: "delete", deleteFile: false }),
      "click [data-selection=\"clear\"]": () => this.props.clear(),
      "change [data-role=\"delete-files\"]": (/** @type {Event} */ _event, /** @type {HTMLInputElement} */ box) =>
        this.setState({ deleteFile: box.checked }),
      "click [data-selection=\"delete-confirm\"]": "handleDelete",
      "input #selection-tag": (/** @type {Event} */ _event, /** @type {HTMLInputElement} */ input) =>
        this.setState({ tag: input.value }),
      "submit .selection-tags": "handleTag",
      "click [data-untag]": "handleUntag",
    };
  }

  get loadable() {
    return this.props.models.filter((/** @type {Model} */ { status }) => ["unloaded", "failed"].includes(status));
  }

  get unloadable() {
    return this.props.models.filter((/** @type {Model} */ { status }) =>
      ["loaded", "loading", "waiting"].includes(status));
  }

  /**
   * Ask the same of each model, one after the other, and say what failed.
   * @param {string} doing @param {Model[]} models @param {string} event
   * @param {(model: Model) => any} [more] data beside the id
   */
  async each(doing, models, event, more = () => ({})) {
    this.setState({ busy: true });
    /** @type {string[]} */ const failed = [];
    for (const model of models) {
      try {
        await this.props.state.request(event, { id: model.id, ...more(model) });
      } catch (error) {
        failed.push(`${model.name}: ${/** @type {Error} */ (error).message}`);
      }
    }
    const done = models.length - failed.length;
    if (failed.length) toast(failed.slice(0, 3).join(" · "), { kind: "error" });
    else toast(`${doing} ${plural(done, "model")}`, { kind: "success" });
    this.setState({ busy: false });
  }

  async handleDelete() {
    const { deleteFile } = this.state;
    await this.each("Deleted", this.props.models, "models:delete", () => ({ deleteFile }));
    this.setState({ dialog: null });
    this.props.clear();
  }

  /** @param {Event} event */
  handleTag(event) {
    event.preventDefault();
    const tag = this.state.tag.trim();
    if (!tag) return undefined;
    this.setState({ tag: "" });
    return this.retag((tags) => [...tags, tag]);
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleUntag(_event, button) {
    return this.retag((tags) => tags.filter((tag) => tag !== button.dataset.untag));
  }

  /** @param {(tags: string[]) => string[]} change */
  retag(change) {
    return this.each("Changed the tags of", this.props.models, "models:update", ({ revision, tags }) =>
      ({ revision, changes: { tags: change(tags ?? []) } }));
  }

  render() {
    const { models } = this.props;
    const { busy } = this.state;
    /** @param {string} name @param {string} label @param {string} symbol @param {boolean} [off] */
    const button = (name, label, symbol, off = false) =>
      h("button", {
        key: name, type: "button", className: "button button-small", disabled: busy || off,
        dataset: { selection: name },
      }, icon(symbol, { size: 16 }), label);
    return h("section", { className: "card model-selection", "aria-label": "Selected models" },
      h("strong", { role: "status" }, `${models.length} selected`),
      button("load", "Load", "play", !this.loadable.length),
      button("unload", "Unload", "stop", !this.unloadable.length),
      button("tag", "Tags…", "edit"),
      button("delete", "Delete…", "trash"),
      h("span", { className: "spacer" }),
      h("button", {
        key: "clear", type: "button", className: "button button-ghost button-icon button-small",
        dataset: { selection: "clear" }, "aria-label": "Clear selection", title: "Clear selection",
      }, icon("close", { size: 16 })),
      this.dialog());
  }

  dialog() {
    const { dialog } = this.state;
    const close = () => this.setState({ dialog: null });
    if (dialog === "tag") return h(Dialog, { key: "tag", title: "Tags", close }, this.tags());
    return dialog === "delete" ? this.deletion(close) : null;
  }

  tags() {
    const { models, all } = this.props;
    const own = tagsOf(models);
    return h("div", { className: "stack" },
      h("p", { className: "muted" }, `Of ${plural(models.length, "selected model")}.`),
      h("div", { className: "row tag-list" }, own.map((tag) => tagChip(tag))),
      h("form", { className: "row selection-tags" },
        h("label", { className: "visually-hidden", htmlFor: "selection-tag" }, "New tag"),
        h("input", {
          id: "selection-tag", className: "input", value: this.state.tag, maxlength: 64, autocomplete: "off",
          placeholder: "New tag", list: "known-tags", autofocus: true,
        }),
        h("datalist", { id: "known-tags" }, tagsOf(all).map((tag) => h("option", { key: tag, value: tag }))),
        h("button", { type: "submit", className: "button button-primary" }, "Add")));
  }

  /** @param {() => void} close */
  deletion(close) {
    const { models } = this.props;
    const { deleteFile, busy } = this.state;
    const size = models.reduce((/** @type {number} */ sum, /** @type {Model} */ model) =>
      sum + (model.file_size ?? 0) + (model.projector_size ?? 0), 0);
    return h(Dialog, {
      key: "delete", title: `Delete ${plural(models.length, "model")}?`, close,
      footer: [h("button", {
        key: "confirm", type: "button", className: "button button-danger", disabled: busy, "aria-busy": busy,
        dataset: { selection: "delete-confirm" },
      }, busy ? "Deleting…" : deleteFile ? "Delete with files" : "Remove from list")],
    },
      h("div", { className: "stack" },
        h("p", null, "Their names, parameters and benchmarks are deleted."),
        h("ul", { className: "selection-names" }, models.map((/** @type {Model} */ model) =>
          h("li", { key: model.id }, model.name))),
        h("label", { className: "check-row" },
          h("input", { type: "checkbox", checked: deleteFile, dataset: { role: "delete-files" } }),
          h("span", null, h("strong", null, "Delete the files from disk as well"),
            h("span", { className: "field-hint check-hint" }, `Frees ${bytes(size)}. This cannot be undone.`)))));
  }
}

/** The tags of some models, each once. @param {Model[]} models @returns {string[]} */
export function tagsOf(models) {
  return [...new Set(models.flatMap(({ tags }) => tags ?? []))].sort((a, b) => a.localeCompare(b));
}

/** A tag, and a button that takes it away. @param {string} tag */
export function tagChip(tag) {
  return h("span", { key: tag, className: "badge model-tag" }, tag, h("button", {
    type: "button", className: "tag-remove", dataset: { untag: tag }, "aria-label": `Remove the tag ${tag}`,
  }, icon("close", { size: 12 })));
}
