import { Component, h } from "../core/component.js";
import { CopyButton } from "./copy-button.js";
import { icon } from "./icon.js";
import { OfficialBuild } from "./official-build.js";
import { toast } from "./toast.js";

/** Installing compiles nothing but downloads some ten megabytes; a slow line may need this long (ms). */
const TIMEOUT = 15 * 60_000;
/** Lines of the installer's output kept on the page. */
const KEPT_LINES = 400;

/**
 * How to get an engine on this system: a button for llama.cpp's build, one for the embedded engine, and commands.
 *
 * Props: `state`, `engine`.
 */
export class EngineHelp extends Component {
  init() {
    this.state = { lines: [], installing: false, error: "" };
  }

  getEventMap() {
    return { "click [data-action=\"engine-install\"]": "handleInstall" };
  }

  didMount() {
    const { state } = this.props;
    return [
      state.on("engine:install", (/** @type {any} */ { line, done, success }) => {
        const lines = line ? [...this.state.lines, line].slice(-KEPT_LINES) : this.state.lines;
        this.setState({
          lines, installing: !done,
          error: done && success === false ? "Installation failed; see its last lines." : this.state.error,
        });
      }),
      state.on("connection:established", (/** @type {{recovered: boolean}} */ { recovered }) => {
        if (!recovered) this.setState({ installing: false });
      }),
    ];
  }

  didUpdate() {
    const output = this.element.querySelector(".install-output");
    if (output) output.scrollTop = output.scrollHeight;
  }

  async handleInstall() {
    this.setState({ installing: true, lines: [], error: "" });
    try {
      await this.props.state.request("engine:install", {}, { timeout: TIMEOUT });
      toast("Embedded engine installed", { kind: "success" });
      this.setState({ installing: false });
    } catch (error) {
      this.setState({ installing: false, error: /** @type {Error} */ (error).message });
    }
  }

  render() {
    const { lines, installing, error } = this.state;
    const hint = this.props.engine?.hint;
    return h("div", { className: "stack engine-help" },
      h(OfficialBuild, { key: "official", state: this.props.state }),
      h("div", { key: "embedded", className: "engine-choice" },
        h("div", null,
          h("strong", null, "Embedded engine"),
          h("p", { className: "field-hint" },
            "llama.cpp inside Python. Runs on the CPU, needs nothing else, ready in a minute.")),
        h("button", {
          type: "button", className: "button", disabled: installing, "aria-busy": installing,
          dataset: { action: "engine-install" },
        }, icon("download"), installing ? "Installing…" : "Install")),
      error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
      lines.length > 0 && h("pre", {
        key: "output", className: "code code-block install-output", tabIndex: 0, role: "log",
        "aria-label": "Output of the installation",
      }, lines.join("\n")),
      hint && h("div", { key: "llama", className: "stack" },
        h("div", null, h("strong", null, "llama.cpp for this system"), h("p", { className: "field-hint" }, hint.text)),
        (hint.commands ?? []).map((/** @type {string} */ command) => (
          h("div", { key: command, className: "row copy-row" },
            h("code", { className: "code break-all" }, command),
            h(CopyButton, { text: command, label: "Copy the command" }))))));
  }
}
