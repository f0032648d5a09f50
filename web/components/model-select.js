import { Component, h } from "../core/component.js";
import { modelName } from "../core/format.js";
import { icon } from "./icon.js";

/** Lists of more models than this are searched instead of scrolled. */
export const MANY_MODELS = 30;

/**
 * What a select would be for few models: a button that opens the picker. What is chosen arrives as the `change` of an
 * input that holds it and has `dataset`.
 *
 * Props: `state`, `value`, `label`, `dataset`, `models` (those to choose from, or their ids), `none?` (words for "").
 */
export class ModelSelect extends Component {
  /** @returns {{[name: string]: any}[]} */
  get models() {
    const known = new Map((this.props.state.get("models") ?? []).map((/** @type {any} */ model) => [model.id, model]));
    return this.props.models.map((/** @type {any} */ model) => (
      typeof model === "string" ? known.get(model) ?? { id: model, name: model } : model));
  }

  render() {
    const { value, label, dataset, none } = this.props;
    const name = modelName(/** @type {any} */ (this.models), value) || none || "No model";
    return h("span", { className: "model-select" },
      h("button", {
        type: "button", className: "button model-select-button", "aria-haspopup": "dialog",
        "aria-label": `${label}: ${name}`, dataset: { pick: "model" },
      }, h("span", { className: "truncate" }, name), icon("chevron-down", { size: 14 })),
      h("input", { type: "hidden", value, dataset }));
  }

  getEventMap() {
    return { "click [data-pick]": "handlePick" };
  }

  async handlePick() {
    const { state, label, none } = this.props;
    const { pickModel } = await import("./palette.js");
    const id = await pickModel({ state, title: label, models: () => this.models, none });
    if (id === null || this.destroyed) return;
    const input = this.element.querySelector("input");
    input.value = id;
    for (const type of ["input", "change"]) input.dispatchEvent(new Event(type, { bubbles: true })); // as a select does
  }
}
