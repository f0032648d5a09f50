import { Component, h } from "../core/component.js";
import { CopyButton } from "./copy-button.js";
import { icon } from "./icon.js";
import { OfficialBuild } from "./official-build.js";
import { progressBar } from "./progress.js";
import { toast } from "./toast.js";

/** Lines of the installer's output kept on the page. */
const KEPT_LINES = 400;

/**
 * How to get an engine on this system: a button for llama.cpp's build, one for the embedded engine, and commands.
 *
 * Props: `state`, `engine`.
 */
export class EngineHelp extends Component {
  getInitialState() {
    return { lines: [], installation: this.props.engine?.installation, error: "" };
  }

  getEventMap() {
    return { "click [data-action=\"engine-install\"]": "handleInstall" };
  }

  didMount() {
    const { state } = this.props;
    return [
      state.on("engine:install", (/** @type {any} */ installation) => this.follow(installation)),
      // what another browser began, or the server's end cut off
      state.subscribe("engine", (/** @type {any} */ engine) => this.setState({ installation: engine?.installation })),
    ];
  }

  /** @param {{line: string, done: boolean, success: boolean | null}} installation */
  follow(installation) {
    const { line, done, success } = installation;
    const before = this.state.installation?.done === false ? this.state.lines : [];
    this.setState({ installation, lines: [...before, ...(line ? [line] : [])].slice(-KEPT_LINES), error: "" });
    if (done && success) toast(line, { kind: "success" });
  }

  didUpdate() {
    const output = this.element.querySelector(".install-output");
    if (output) output.scrollTop = output.scrollHeight;
  }

  async handleInstall() {
    this.setState({ error: "" });
    try {
      await this.props.state.request("engine:install");
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message });
    }
  }

  render() {
    const { lines, installation } = this.state;
    const installing = installation?.done === false;
    const error = this.state.error || (installation?.success === false && installation.line);
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
      installing && progressBar({ label: installation.line || "Installing", showLabel: true }),
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
