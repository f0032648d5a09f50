import { Component, h } from "../core/component.js";
import { ALERT_KINDS } from "./alerts-panel.js";
import { toast } from "./toast.js";

/** Which alerts there are, and where they are sent. Props: `state`, `settings`, `targets` (of system:info). */
export class AlertSettings extends Component {
  getInitialState() {
    return { testing: false, tested: null };
  }

  getEventMap() {
    return {
      "change [data-alert]": "handleKind",
      "click [data-action=\"test-alerts\"]": "handleTest",
    };
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  async handleKind(_event, input) {
    const others = this.props.settings.alerts_off.filter((/** @type {string} */ kind) => kind !== input.dataset.alert);
    const alerts_off = input.checked ? others : [...others, input.dataset.alert];
    try {
      const { settings } = await this.props.state.request("settings:update", { changes: { alerts_off } });
      this.props.state.set("settings", settings);
    } catch (error) {
      input.checked = !input.checked;
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
  }

  async handleTest() {
    this.setState({ testing: true });
    try {
      const { targets } = await this.props.state.request("alerts:test", {}, { timeout: 60_000 });
      this.setState({ tested: new Map(targets.map((/** @type {any} */ { name, error }) => [name, error])) });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
    this.setState({ testing: false });
  }

  render() {
    const { settings, targets } = this.props;
    return h("div", { className: "stack" },
      h("fieldset", { key: "kinds", className: "field alert-kinds" },
        h("legend", { className: "field-label" }, "Tell me when"),
        Object.entries(ALERT_KINDS).map(([kind, [, , words]]) => h("label", { key: kind, className: "check" },
          h("input", { type: "checkbox", checked: !settings.alerts_off.includes(kind), dataset: { alert: kind } }),
          h("span", null, words)))),
      h("h3", { key: "title", className: "section-title" }, "Sent to"),
      targets.length
        ? h("ul", { key: "targets", className: "list" }, targets.map((/** @type {any} */ it) => this.target(it)))
        : h("p", { key: "none", className: "field-hint" }, "No targets yet. ntfy, webhooks and e-mail are set with ",
          h("code", null, "--alert NAME=URL"), " or in ", h("code", null, "data/alerts.ini"), " (see the README)."),
      targets.length > 0 && h("div", { key: "test", className: "row" },
        h("button", {
          type: "button", className: "button", disabled: this.state.testing, "aria-busy": this.state.testing,
          dataset: { action: "test-alerts" },
        }, this.state.testing ? "Sending…" : "Send a test")));
  }

  /** @param {{name: string, kind: string, host: string, error: string | null}} target */
  target({ name, kind, host, error }) {
    const { tested } = this.state;
    const problem = tested?.has(name) ? tested.get(name) : error;
    return h("li", { key: name, className: "list-item alert-item" },
      h("span", { className: "alert-text" },
        h("strong", null, name), h("span", { className: "muted" }, ` ${kind} · ${host}`),
        problem && h("span", { key: "error", className: "field-error", role: "alert" }, `Not sent: ${problem}`)),
      !problem && tested?.has(name) && h("span", { className: "badge badge-success", role: "status" }, "Sent"));
  }
}
