import { Component, h } from "../core/component.js";
import { dateTime, relativeTime } from "../core/format.js";
import { base } from "../core/router.js";
import { Dialog } from "./dialog.js";
import { icon } from "./icon.js";
import { emptyState, errorState } from "./states.js";

/** @typedef {{[name: string]: any}} Json */

/** What alerts are told of, and how it looks. @type {Record<string, [string, string, string]>} icon, colour, name */
export const ALERT_KINDS = {
  crashed: ["error", "danger", "A model crashed"],
  failed: ["error", "danger", "A model could not be loaded"],
  unserved: ["clock", "danger", "No request was answered for a minute"],
  temperature: ["gpu", "warning", "A GPU is too hot"],
  throttled: ["gpu", "warning", "A GPU is slowed down by heat"],
  memory: ["memory", "warning", "GPU memory is nearly full"],
  disk: ["disk", "warning", "A disk is nearly full"],
  backup: ["disk", "danger", "A backup failed"],
  download: ["download", "info", "A download ended"],
  build: ["bolt", "info", "A newer llama.cpp is available"],
};

/** Tell of alerts where the browser may and nobody looks. @param {{reason: string}[]} alerts */
export function notify(alerts) {
  if (!document.hidden || globalThis.Notification?.permission !== "granted") return;
  new Notification("llamadash", { // one for all, which replaces the last one
    body: alerts.length > 3 ? `${alerts.length} alerts` : alerts.map(({ reason }) => reason).join("\n"),
    tag: "llamadash", icon: `${base}/favicon-alert.svg`,
  });
}

/** The tab tells as well how many alerts there are. @param {number} count */
export function markTab(count) {
  const title = document.title.replace(/^\(\d+\) /, "");
  document.title = count ? `(${count}) ${title}` : title;
  document.querySelector("link[rel=icon]")?.setAttribute("href", `${base}/favicon${count ? "-alert" : ""}.svg`);
}

/** What lasts now, and the newest alerts. Props: `state`, `close`. */
export class AlertsPanel extends Component {
  getInitialState() {
    return { alerts: null, error: "" };
  }

  getEventMap() {
    return {
      "click [data-action=\"allow-notifications\"]": "handleAllow",
      "click [data-action=\"retry\"]": () => this.load(),
      "click a": () => this.props.close(),
    };
  }

  async handleAllow() {
    await Notification.requestPermission();
    this.setState({});
  }

  didMount() {
    void this.load();
    const { state } = this.props;
    return [
      state.subscribe("info", () => this.setState({})),
      state.on("timeline:added", (/** @type {Json} */ { events }) =>
        events.some((/** @type {Json} */ { kind }) => kind === "alert") && this.load()),
    ];
  }

  async load() {
    try {
      const asked = { from: 0, to: Date.now() + 60_000, kind: "alert", limit: 100 };
      const { events } = await this.props.state.request("timeline:list", asked);
      this.setState({ alerts: events, error: "" });
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message });
    }
  }

  render() {
    const active = this.props.state.get("info")?.features?.alerts ?? [];
    const ask = "Notification" in globalThis && Notification.permission === "default";
    return h(Dialog, {
      title: "Alerts", close: this.props.close,
      footer: [
        h("a", { key: "settings", className: "button button-ghost", href: "/settings#alerts" }, "Alert settings"),
        ask && h("button", {
          key: "ask", type: "button", className: "button", dataset: { action: "allow-notifications" },
        }, "Notify me in this browser"),
      ],
    },
      h("div", { className: "stack alerts-panel" },
        active.length > 0 && h("ul", { key: "active", className: "list alerts-active", "aria-label": "Now" },
          active.map((/** @type {Json} */ { kind, message, since }) =>
            alertItem(message, kind, message, `since ${dateTime(since)}`))),
        this.history()));
  }

  history() {
    const { alerts, error } = this.state;
    if (error) {
      return errorState({
        title: "The alerts could not be loaded", body: error,
        action: h("button", { type: "button", className: "button", dataset: { action: "retry" } }, "Try again"),
      });
    }
    if (!alerts) return h("div", { key: "wait", className: "skeleton" });
    if (!alerts.length) {
      return emptyState({
        title: "No alerts", body: "Crashes, heat, full disks and finished downloads appear here.", iconName: "bell",
      });
    }
    return h("ul", { key: "history", className: "list", "aria-label": "Earlier" },
      alerts.map((/** @type {Json} */ { id, details, reason, timestamp }) =>
        alertItem(id, details?.kind, reason, relativeTime(timestamp), dateTime(timestamp))));
  }
}

/**
 * @param {string | number} key @param {string} kind @param {string} message @param {string} when
 * @param {string} [title]
 */
function alertItem(key, kind, message, when, title = when) {
  const [symbol, color] = ALERT_KINDS[kind] ?? ["info", "info"];
  return h("li", { key, className: "list-item alert-item" },
    h("span", { className: `text-${color}` }, icon(symbol)),
    h("span", { className: "alert-text break-all" }, message),
    h("time", { className: "muted", title }, when));
}
