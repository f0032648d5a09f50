import { Component, h } from "../core/component.js";
import { tagChip, tagsOf } from "./model-selection.js";
import { toast } from "./toast.js";

/** The tags of one model, which can be added and taken away. Props: `state`, `model`. */
export class ModelTags extends Component {
  getInitialState() {
    return { tag: "" };
  }

  getEventMap() {
    return {
      "input #model-tag": (/** @type {Event} */ _event, /** @type {HTMLInputElement} */ input) =>
        this.setState({ tag: input.value }),
      "submit .model-tags": "handleAdd",
      "click [data-untag]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ button) =>
        this.save((this.props.model.tags ?? []).filter((/** @type {string} */ tag) => tag !== button.dataset.untag)),
    };
  }

  /** @param {Event} event */
  handleAdd(event) {
    event.preventDefault();
    const tag = this.state.tag.trim();
    if (tag) void this.save([...(this.props.model.tags ?? []), tag]);
    this.setState({ tag: "" });
  }

  /** @param {string[]} tags */
  async save(tags) {
    const { state, model } = this.props;
    try {
      await state.request("models:update", { id: model.id, revision: model.revision, changes: { tags } });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
  }

  render() {
    const { state, model } = this.props;
    return h("form", { className: "field model-tags" },
      h("label", { className: "field-label", htmlFor: "model-tag" }, "Tags"),
      h("div", { className: "row tag-list" },
        (model.tags ?? []).map((/** @type {string} */ tag) => tagChip(tag)),
        h("input", {
          key: "input", id: "model-tag", className: "input model-tag-input", value: this.state.tag, maxlength: 64,
          autocomplete: "off", placeholder: "Add a tag", list: "model-tags",
        }),
        h("datalist", { key: "known", id: "model-tags" }, tagsOf(state.get("models") ?? []).map((tag) =>
          h("option", { key: tag, value: tag })))));
  }
}
