import { Component, h } from "../core/component.js";
import { icon } from "./icon.js";

/** Filters beside a search field; on a phone they are behind one button. Props: `count` (how many are set). */
export class Filters extends Component {
  getInitialState() {
    return { open: false };
  }

  render() {
    const { count = 0, children } = this.props;
    const { open } = this.state;
    return h("div", { className: open ? "filters is-open" : "filters" },
      h("button", {
        key: "button", type: "button", className: `button filters-button${count ? " is-on" : ""}`,
        "aria-expanded": open, dataset: { filters: "open" },
      }, icon("configuration", { size: 16 }), count ? `Filters (${count})` : "Filters"),
      h("div", { key: "body", className: "filters-body" }, children));
  }

  getEventMap() {
    return { "click [data-filters]": () => this.setState({ open: !this.state.open }) };
  }
}
