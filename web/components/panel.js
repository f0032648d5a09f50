import { Component, h } from "../core/component.js";
import { modelName } from "../core/format.js";
import { icon } from "./icon.js";

/** @typedef {{[name: string]: any}} Json */

/** Follows the keys of the state that it shows, and nothing else. Props: `state`. */
export class Panel extends Component {
  /** @type {string[]} */
  static keys = [];

  /** @param {string} key */
  get(key) {
    return this.props.state.get(key);
  }

  /** @returns {Json[]} */
  get models() {
    return this.get("models") ?? [];
  }

  /** What people call a model. @param {string} id */
  nameOf(id) {
    return modelName(/** @type {any} */ (this.models), id);
  }

  didMount() {
    const { keys } = /** @type {typeof Panel} */ (this.constructor);
    return keys.map((key) => this.props.state.subscribe(key, () => this.setState({})));
  }
}

/** @param {string} name of the icon @param {string} title @param {any} [actions] */
export function cardHeader(name, title, actions) {
  return h("header", { className: "card-header" },
    h("h2", { className: "card-title" }, icon(name), title),
    actions ?? null);
}

/** @param {number} [rows] */
export function skeleton(rows = 3) {
  return h("div", { className: "stack", "aria-busy": true }, Array.from({ length: rows }, (_, at) =>
    h("span", { key: at, className: "skeleton", style: { width: `${90 - at * 18}%` } })));
}
