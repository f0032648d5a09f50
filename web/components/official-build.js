import { Component, h } from "../core/component.js";
import { bytes } from "../core/format.js";
import { icon } from "./icon.js";
import { progressBar } from "./progress.js";

/**
 * The button that installs llama.cpp's official build for this machine, and how far that is, in every browser.
 *
 * Props: `state`.
 */
export class OfficialBuild extends Component {
  getInitialState() {
    const { state } = this.props;
    return {
      installing: state.get("installing"), newer: state.get("newerBuild"), engine: state.get("engine"), error: "",
    };
  }

  getEventMap() {
    return { "click [data-action=\"build-install\"]": "handleInstall" };
  }

  didMount() {
    const { state } = this.props;
    state.load("builds").catch(() => {});
    return [
      state.subscribe("installing", (/** @type {any} */ installing) => this.setState({ installing, error: "" })),
      state.subscribe("newerBuild", (/** @type {any} */ newer) => this.setState({ newer })),
      state.subscribe("engine", (/** @type {any} */ engine) =>
        engine.unused_gpu !== this.state.engine?.unused_gpu && this.setState({ engine })),
    ];
  }

  async handleInstall() {
    this.setState({ error: "" });
    try {
      await this.props.state.request("engines:install", {}, { timeout: 60_000 });
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message });
    }
  }

  render() {
    const { installing, newer, engine, error } = this.state;
    const status = installing?.build.status;
    const busy = status === "installing";
    const gpu = engine?.unused_gpu;
    return h("div", { className: "stack engine-help" },
      h("div", { key: "choice", className: "engine-choice" },
        h("div", null,
          h("strong", null, gpu ? `llama.cpp for your ${gpu}` : "llama.cpp, official build"),
          h("p", { className: "field-hint" }, newer
            ? `A newer release is out: ${newer}.`
            : "The newest release for this machine's GPU and processor, downloaded and checked.")),
        h("button", {
          type: "button", className: gpu || newer ? "button button-primary" : "button", disabled: busy,
          "aria-busy": busy, dataset: { action: "build-install" },
        }, icon("download"), busy ? "Installing…" : "Install")),
      busy && progressBar({
        value: installing.total ? installing.done / installing.total : null, showLabel: true,
        label: installing.total
          ? `${installing.line}: ${bytes(installing.done)} of ${bytes(installing.total)}`
          : installing.line,
      }),
      status === "installed" && h("p", { key: "line", className: "field-hint", role: "status" }, installing.line),
      (error || status === "failed") && h("p", { key: "error", className: "field-error", role: "alert" },
        error || installing.line));
  }
}
