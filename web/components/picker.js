import { h } from "../core/component.js";
import { Dialog } from "./dialog.js";
import { icon } from "./icon.js";

/**
 * @typedef {{id: string, title: string, detail?: string, kind?: string, iconName?: string, note?: string}} Choice
 *   `note` stands at the end of the line
 */

const PAGE = 8;

/**
 * A field and the list of what fits to what is typed: arrow keys choose, Enter takes, Escape and Tab leave.
 *
 * Props: `title`, `placeholder`, `search(query) → Choice[]`, `choose(Choice)`, `aim?(Choice)`, `close`, `query?`,
 * `none?` (words where nothing fits), `foot?(Choice | undefined)` (a line below the list).
 */
export class Picker extends Dialog {
  init() {
    /** @type {{query: string, choices: Choice[]} | null} */
    this.found = null;
  }

  getInitialState() {
    return { query: this.props.query ?? "", at: 0 };
  }

  /** What fits; looked for once for what is typed. @returns {Choice[]} */
  get choices() {
    const { query } = this.state;
    const known = this.found?.query === query && this.found;
    this.found = known || { query, choices: this.props.search(query) };
    return /** @type {Choice[]} */ (this.found.choices);
  }

  /** Look again for what fits. */
  refresh() {
    this.found = null;
    this.setState({});
  }

  render() {
    const { title, placeholder, none = "Nothing fits.", foot } = this.props;
    const choices = this.choices;
    const at = Math.min(this.state.at, choices.length - 1);
    return h("dialog", { className: "dialog picker", "aria-label": title },
      h("div", { className: "picker-field" }, icon("search"),
        h("input", {
          className: "picker-input", type: "text", value: this.state.query, placeholder, "aria-label": title,
          role: "combobox", "aria-expanded": true, "aria-controls": "picker-list", "aria-autocomplete": "list",
          "aria-activedescendant": at < 0 ? null : `picker-${at}`, autocomplete: "off", spellcheck: false,
          autocapitalize: "off", enterkeyhint: "go",
        }),
        h("button", {
          type: "button", className: "button button-ghost button-icon", dataset: { dialog: "close" },
          "aria-label": "Close", tabindex: -1,
        }, icon("close"))),
      h("ul", { className: "picker-list", id: "picker-list", role: "listbox", "aria-label": title },
        choices.map((choice, place) => this.renderChoice(choice, place, place === at))),
      choices.length ? null : h("p", { key: "none", className: "picker-none muted", role: "status" }, none),
      foot ? h("p", { key: "foot", className: "picker-foot muted" }, foot(choices[at])) : null);
  }

  /** @param {Choice} choice @param {number} place @param {boolean} chosen */
  renderChoice({ id, title, detail, kind, iconName, note }, place, chosen) {
    return h("li", {
      key: id, id: `picker-${place}`, role: "option", "aria-selected": chosen,
      className: chosen ? "picker-item is-chosen" : "picker-item", dataset: { place },
    },
      icon(iconName ?? "chevron-right", { size: 16 }),
      h("span", { className: "picker-words" },
        h("span", { className: "picker-title truncate" }, title),
        detail ? h("span", { className: "picker-detail muted truncate" }, detail) : null),
      note ?? kind ? h("span", { className: "picker-kind muted" }, note ?? kind) : null);
  }

  getEventMap() {
    return {
      ...super.getEventMap(),
      "input .picker-input": "handleInput",
      keydown: "handleKey",
      "click [data-place]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ item) => (
        this.take(Number(item.dataset.place))),
      "pointermove [data-place]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ item) => (
        this.point(Number(item.dataset.place))),
    };
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  handleInput(_event, input) {
    this.setState({ query: input.value, at: 0 });
    this.update();
    this.element.querySelector(".picker-list").scrollTop = 0;
  }

  /** @param {KeyboardEvent} event */
  handleKey(event) {
    if (event.isComposing) return;
    if (event.key === "Tab") this.leave();
    if (event.key === "Enter") this.take(this.state.at);
    const last = this.choices.length - 1;
    const { at } = this.state;
    const moves = /** @type {{[key: string]: number}} */ ({
      ArrowDown: at >= last ? 0 : at + 1, ArrowUp: at <= 0 ? last : at - 1,
      PageDown: Math.min(last, at + PAGE), PageUp: Math.max(0, at - PAGE),
    });
    if (event.key in moves) this.point(moves[event.key], true);
    else if (!["Tab", "Enter"].includes(event.key)) return;
    event.preventDefault();
  }

  /** @param {number} at @param {boolean} [scroll] */
  point(at, scroll = false) {
    if (at === this.state.at && this.aimed) return;
    this.aimed = true;
    this.setState({ at });
    if (!scroll) return this.aim();
    this.update();
    this.element.querySelector(".is-chosen")?.scrollIntoView({ block: "nearest" });
    return this.aim();
  }

  aim() {
    const choice = this.choices[this.state.at];
    if (choice) this.props.aim?.(choice);
  }

  /** @param {number} at */
  take(at) {
    const choice = this.choices[Math.min(at, this.choices.length - 1)];
    if (choice) this.props.choose(choice);
  }

  didMount() {
    /** Whether somebody has pointed at something yet. */
    this.aimed = false;
    super.didMount();
    this.element.querySelector(".picker-input").focus();
  }
}
