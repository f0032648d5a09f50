import { Component, h } from "../core/component.js";
import { icon } from "./icon.js";
import { MANY_MODELS, ModelSelect } from "./model-select.js";

/** @typedef {{action: string, model: string, at: string, days: number[]}} Schedule */

const DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/** @type {[string, string][]} */
const ACTIONS = [
  ["load", "Load"], ["unload", "Unload"], ["pin", "Pin"], ["unpin", "Unpin"], ["free", "Free the memory"],
];

/**
 * What happens at times of day.
 * Props: `state`, `items` (Schedule[]), `models` ([id, name][]), `onChange(items)`, `error`.
 */
export class Schedules extends Component {
  getEventMap() {
    return {
      "change [data-schedule]": "handleChange",
      "click [data-action=\"schedule-add\"]": "handleAdd",
      "click [data-action=\"schedule-remove\"]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ button) =>
        this.props.onChange(this.props.items.filter((/** @type {Schedule} */ _item, /** @type {number} */ at) =>
          at !== Number(button.dataset.at))),
    };
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  handleChange(_event, input) {
    const { schedule = "", at = "", day } = input.dataset;
    this.props.onChange(this.props.items.map((/** @type {Schedule} */ item, /** @type {number} */ index) => {
      if (index !== Number(at)) return item;
      if (schedule !== "days") return { ...item, [schedule]: input.value };
      const others = item.days.filter((it) => it !== Number(day));
      return { ...item, days: input.checked ? [...others, Number(day)].sort() : others };
    }));
  }

  handleAdd() {
    const item = { action: "load", model: this.props.models[0]?.[0] ?? "", at: "08:00", days: [0, 1, 2, 3, 4] };
    this.props.onChange([...this.props.items, item]);
  }

  render() {
    const { items, error } = this.props;
    return h("fieldset", { className: "field schedules" },
      h("legend", { className: "field-label" }, "Schedules"),
      h("p", { className: "field-hint" }, "At times of day, by the clock of the machine that llamadash runs on."),
      error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
      items.map((/** @type {Schedule} */ item, /** @type {number} */ at) => this.row(item, at)),
      h("div", { key: "add" },
        h("button", { type: "button", className: "button button-small", dataset: { action: "schedule-add" } },
          icon("plus"), "Add a schedule")));
  }

  /** @param {Schedule} item @param {number} at */
  row({ action, model, at: time, days }, at) {
    const data = (/** @type {string} */ schedule) => ({ schedule, at: String(at) });
    return h("div", { key: `row${at}`, className: "schedule", role: "group", "aria-label": `Schedule ${at + 1}` },
      h("select", { className: "select", "aria-label": "What", value: action, dataset: data("action") },
        ACTIONS.map(([value, label]) => h("option", { key: value, value }, label))),
      action !== "free" && this.model(model, data("model")),
      h("input", { className: "input", type: "time", "aria-label": "At", value: time, dataset: data("at") }),
      h("button", {
        type: "button", className: "button button-ghost button-icon", "aria-label": `Remove schedule ${at + 1}`,
        dataset: { action: "schedule-remove", at: String(at) },
      }, icon("trash")),
      h("div", { className: "schedule-days" }, DAYS.map((name, day) => h("label", {
        key: name, className: `schedule-day${days.includes(day) ? " is-on" : ""}`,
      },
        h("input", {
          type: "checkbox", className: "visually-hidden", checked: days.includes(day),
          dataset: { ...data("days"), day: String(day) },
        }), name))));
  }

  /** @param {string} model @param {{[name: string]: string}} dataset */
  model(model, dataset) {
    const { state, models } = this.props;
    if (models.length > MANY_MODELS) {
      const ids = models.map((/** @type {[string, string]} */ [id]) => id);
      return h(ModelSelect, { key: "pick", state, label: "Model", value: model, models: ids, dataset });
    }
    const known = models.some((/** @type {[string, string]} */ [id]) => id === model);
    const options = [...(known ? [] : [[model, model || "Choose a model"]]), ...models];
    return h("select", { key: "model", className: "select", "aria-label": "Model", value: model, dataset },
      options.map(([id, name]) => h("option", { key: id, value: id }, name)));
  }
}
