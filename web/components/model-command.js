import { Component, h } from "../core/component.js";
import { CopyButton } from "./copy-button.js";

/** How a model would be started, asked for once it is looked at. Props: `state`, `model`. */
export class ModelCommand extends Component {
  getInitialState() {
    return { open: false, asking: true, command: null, error: "" };
  }

  init() {
    /** What was asked for last: id and revision. @type {string} */ this.asked = "";
  }

  getEventMap() {
    return { "toggle .model-command": "handleToggle" };
  }

  /** @param {globalThis.Event} _event @param {HTMLDetailsElement} details */
  handleToggle(_event, details) {
    this.setState({ open: details.open });
    void this.fetch();
  }

  didUpdate() {
    void this.fetch();
  }

  /** Asks again where the model has changed since. */
  async fetch() {
    const { id, revision } = this.props.model;
    const wanted = `${id} ${revision}`;
    if (!this.state.open || wanted === this.asked) return;
    this.asked = wanted;
    try {
      const { command } = await this.props.state.request("models:get", { id });
      if (wanted === this.asked) this.setState({ asking: false, command, error: "" });
    } catch (problem) {
      if (wanted === this.asked) this.setState({ asking: false, error: /** @type {Error} */ (problem).message });
    }
  }

  render() {
    const { open, asking, command, error } = this.state;
    const text = commandText(command);
    return h("details", { className: "model-command", open },
      h("summary", null, "How it is started"),
      h("div", { className: "stack" },
        error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
        text && h("pre", {
          key: "text", className: "code code-block", tabIndex: 0, role: "group", "aria-label": "Command",
        }, text),
        text && h("div", { key: "copy", className: "row" }, h(CopyButton, { text, caption: "Copy" })),
        !text && !error && h("p", { key: "none", className: "muted" }, asking ? "…" : "No engine can start it.")));
  }
}

/** A command as a shell would take it, an option a line. @param {string[] | null | undefined} command */
export function commandText(command) {
  if (!command) return "";
  const quoted = command.map((part) => (
    /^[\w@%+=:,./-]+$/.test(part) ? part : `'${part.replaceAll("'", "'\\''")}'`));
  return quoted.reduce((text, part) => (
    text + (/^-{1,2}[a-z]/.test(part) ? ` \\\n  ${part}` : `${text && " "}${part}`)), "");
}
