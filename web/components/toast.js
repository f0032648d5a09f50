import { Component, h } from "../core/component.js";
import { icon } from "./icon.js";

const SHOWN_MS = 5_000;
const ERROR_SHOWN_MS = 10_000;
const MOST = 4; // at once

/** @typedef {"info" | "success" | "error"} Kind */
/** @typedef {{label: string, run: () => void}} Action */
/** @typedef {{id: number, message: string, kind: Kind, action?: Action}} Toast */

/** @type {Toast[]} */
let shown = [];
let counter = 0;
/** @type {Set<() => void>} */
const watchers = new Set();

/**
 * Say something in the corner for a while.
 * @param {string} message @param {{kind?: Kind, action?: Action}} [options]
 * @returns {() => void} takes it away at once
 */
export function toast(message, { kind = "info", action } = {}) {
  const same = shown.find((item) => item.message === message && item.kind === kind);
  const id = same?.id ?? ++counter;
  if (!same) shown = [...shown, { id, message, kind, action }].slice(-MOST);
  const away = () => change(shown.filter((item) => item.id !== id));
  change(shown);
  if (!same) setTimeout(away, kind === "error" || action ? ERROR_SHOWN_MS : SHOWN_MS);
  return away;
}

/** @param {Toast[]} next */
function change(next) {
  shown = next;
  for (const watcher of watchers) watcher();
}

/** The region where toasts appear; the layout holds one. */
export class ToastRegion extends Component {
  render() {
    return h("div", { className: "toasts" }, shown.map((item) => this.renderToast(item)));
  }

  /** @param {Toast} item */
  renderToast({ id, message, kind, action }) {
    const name = { info: "info", success: "check", error: "warning" }[kind];
    return h("div", { key: id, className: `toast toast-${kind}`, role: kind === "error" ? "alert" : "status" },
      icon(name), h("span", { className: "toast-text" }, message),
      action
        ? h("button", { type: "button", className: "button button-small", dataset: { toast: id, part: "action" } },
          action.label)
        : null,
      h("button", {
        type: "button", className: "button button-ghost button-icon", "aria-label": "Dismiss", dataset: { toast: id },
      }, icon("close", { size: 16 })));
  }

  getEventMap() {
    return { "click [data-toast]": "handleClick" };
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleClick(_event, button) {
    const item = shown.find(({ id }) => String(id) === button.dataset.toast);
    change(shown.filter((other) => other !== item));
    if (button.dataset.part) item?.action?.run();
  }

  didMount() {
    const watcher = () => this.update();
    watchers.add(watcher);
    return [() => watchers.delete(watcher)];
  }
}
