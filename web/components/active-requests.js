import { h } from "../core/component.js";
import { duration, now, plural, tokenRate } from "../core/format.js";
import { icon } from "./icon.js";
import { sentence } from "./model-status.js";
import { Panel } from "./panel.js";
import { requestStatus } from "./request-status.js";

/** @typedef {{[name: string]: any}} Json */

const TICK_MS = 1000;

/**
 * The requests under way, live, each with a button that stops it.
 *
 * Props: `state`, `model` and `apiKey` ("" for all).
 */
export class ActiveRequests extends Panel {
  static keys = ["active", "models"];

  getInitialState() {
    return { stopping: new Set() };
  }

  get shown() {
    const { model, apiKey } = this.props;
    const all = /** @type {Json[]} */ (this.get("active") ?? []);
    return all.filter((request) => (!model || request.model === model) && (!apiKey || request.key === apiKey));
  }

  render() {
    const { shown } = this;
    return h("section", { className: "active-requests", hidden: !shown.length, "aria-label": "Requests under way" },
      h("h3", { className: "active-title" }, `${plural(shown.length, "request")} under way`),
      h("ul", { className: "list" }, shown.map((request) => this.renderRequest(request))));
  }

  /** @param {Json} request */
  renderRequest(request) {
    const { id, model, client, timestamp, reason, status, generated_tokens: generated } = request;
    const { generated_per_second: speed } = request;
    const seconds = Math.max(0, Math.round((now() - timestamp) / 1000));
    const doing = status === "waiting" ? sentence(reason ?? "")
      : generated ? `${plural(generated, "token")}${speed ? ` at ${tokenRate(speed)}` : ""}` : "Reading the prompt";
    const name = this.nameOf(model);
    return h("li", { key: id, className: "list-item active-request" },
      requestStatus(request),
      h("span", { className: "active-words" },
        h("strong", { className: "truncate" }, name), h("span", { className: "muted truncate" }, client ?? "–")),
      h("span", { className: "active-doing muted" }, doing),
      h("span", { className: "nowrap active-time" }, seconds ? duration(seconds) : "just now"),
      h("button", {
        type: "button", className: "button button-small", disabled: this.state.stopping.has(id), dataset: { stop: id },
        "aria-label": `Stop the request of ${client ?? "somebody"} to ${name}`,
      }, icon("stop", { size: 14 }), "Stop"));
  }

  getEventMap() {
    return { "click [data-stop]": "handleStop" };
  }

  /** @param {Event} _event @param {HTMLElement} button */
  async handleStop(_event, button) {
    const id = Number(button.dataset.stop);
    this.setState({ stopping: new Set([...this.state.stopping, id]) });
    try {
      await this.props.state.request("requests:cancel", { id });
    } finally {
      this.setState({ stopping: new Set([...this.state.stopping].filter((other) => other !== id)) });
    }
  }

  didMount() {
    const clock = setInterval(() => this.shown.length && this.setState({}), TICK_MS);
    return [...super.didMount(), () => clearInterval(clock)];
  }
}
