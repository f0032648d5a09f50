import { Component, h } from "../core/component.js";
import { icon } from "./icon.js";

/** @typedef {import("../core/component.js").VNode} VNode */

/** Shown while something is on its way. @param {string} [label] @returns {VNode} */
export function loadingState(label = "Loading…") {
  return h("div", { className: "state-box", role: "status" },
    h("span", { className: "spinner", "aria-hidden": "true" }),
    h("p", { className: "muted" }, label));
}

/**
 * Nothing here yet, and what to do next.
 * @param {{title: string, body?: any, action?: any, iconName?: string}} options body: text or nodes; action: a button
 *   or link
 * @returns {VNode}
 */
export function emptyState({ title, body, action, iconName = "info" }) {
  return h("div", { className: "state-box" }, h("span", { className: "state-icon" }, icon(iconName, { size: 24 })),
    h("p", { className: "state-title" }, title), body
      ? h("div", { className: "state-body muted" }, body)
      : null, action
      ? h("div", { className: "row" }, action)
      : null);
}

/** What went wrong, and what to do. @param {{title?: string, body?: any, action?: any}} options @returns {VNode} */
export function errorState({ title = "Something went wrong", body, action }) {
  return h("div", { className: "state-box state-error", role: "alert" },
    h("span", { className: "state-icon" }, icon("warning", { size: 24 })),
    h("p", { className: "state-title" }, title), body
      ? h("div", { className: "state-body muted" }, body)
      : null, action
      ? h("div", { className: "row" }, action)
      : null);
}

/** Shown in place of a page that does not exist, or (`props.error`) that could not be loaded. */
export class MissingPage extends Component {
  static title = "Not found";

  render() {
    const { error } = this.props;
    return h("section", { className: "page" },
      h("header", { className: "page-header" },
        h("h1", { className: "page-title" }, error ? "This page could not be loaded" : "Page not found")),
      h("div", { className: "card" }, error
        ? errorState({
          title: "llamadash did not answer", body: "It may be restarting. Nothing was lost.",
          action: h("button", { type: "button", className: "button button-primary", dataset: { action: "reload" } },
            icon("refresh"),
            "Reload"),
        })
        : emptyState({
          title: "There is nothing at this address", iconName: "search",
          action: h("a", { className: "button button-primary", href: "/" }, "Go to the dashboard"),
        })));
  }

  getEventMap() {
    return { "click [data-action=\"reload\"]": () => location.reload() };
  }
}
