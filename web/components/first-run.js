import { Component, h } from "../core/component.js";
import { DownloadQueue } from "./download-queue.js";
import { EngineHelp } from "./engine-help.js";
import { icon } from "./icon.js";
import { OfficialBuild } from "./official-build.js";
import { recommendedModels } from "./recommended-models.js";
import { toast } from "./toast.js";

/**
 * The library of a fresh machine: an engine, where llamadash looked, and models to start with.
 *
 * Props: `state`, `engine`, `scanning`. Scan, import and "get models" bubble to the page.
 */
export class FirstRun extends Component {
  getInitialState() {
    const { state } = this.props;
    return {
      config: state.get("config"), recommended: null,
      downloads: state.get("downloads") ?? [], busy: new Set(),
    };
  }

  getEventMap() {
    return { "click [data-action=\"download\"]": "handleDownload" };
  }

  didMount() {
    const { state } = this.props;
    state.load("config").catch(() => {});
    this.fetch();
    return [
      state.subscribe("config", (/** @type {any} */ config) => this.setState({ config })),
      state.subscribe("downloads", (/** @type {any} */ downloads) => this.setState({ downloads })),
    ];
  }

  async fetch() {
    try {
      const { downloads, recommended = [] } = await this.props.state.request("models:downloads");
      this.setState({ recommended });
      this.props.state.set("downloads", downloads);
    } catch {
      this.setState({ recommended: [] });
    }
  }

  /** @param {Event} _event @param {HTMLElement} element */
  async handleDownload(_event, element) {
    const { repo = "", file = "" } = element.dataset;
    const id = `${repo}/${file}`;
    this.setState({ busy: new Set([...this.state.busy, id]) });
    try {
      await this.props.state.request("models:download", { repo, file });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
    this.setState({ busy: new Set([...this.state.busy].filter((item) => item !== id)) });
  }

  render() {
    const { recommended, downloads, busy } = this.state;
    const { state, engine } = this.props;
    return h("div", { className: "first-run stack" },
      h("div", { key: "intro", className: "first-run-intro" },
        h("h2", { className: "first-run-title" }, "No models yet"),
        h("p", { className: "muted" }, "Download one below, or point llamadash to yours.")),
      engine?.status === "missing" && h("section", { key: "engine", className: "card" },
        h("div", { className: "card-header" },
          h("h3", { className: "card-title" }, "First, an engine"),
          h("span", { className: "badge badge-warning" }, "Missing")),
        h("div", { className: "card-body" },
          h("p", { className: "muted" }, "Models need llama.cpp to run. None was found on this machine."),
          h(EngineHelp, { state, engine }))),
      engine?.status !== "missing" && engine?.unused_gpu && h("section", { key: "gpu", className: "card" },
        h("div", { className: "card-header" },
          h("h3", { className: "card-title" }, "First, an engine for the GPU"),
          h("span", { className: "badge badge-warning" }, "Not used yet")),
        h("div", { className: "card-body" }, h(OfficialBuild, { state }))),
      downloads.length > 0 && h("section", { key: "queue", className: "card" },
        h("div", { className: "card-header" }, h("h3", { className: "card-title" }, "Downloads")),
        h("div", { className: "card-body" }, h(DownloadQueue, { state, downloads }))),
      (recommended === null || recommended.length > 0) && h("section", { key: "recommended", className: "stack" },
        h("div", { className: "row" },
          h("h3", { className: "section-title" }, "Good first models"),
          h("span", { className: "spacer" }),
          h("button", { type: "button", className: "button button-small", dataset: { action: "get-models" } },
            icon("search"),
            "Another one…")),
        recommended
          ? recommendedModels({ recommended, devices: engine?.devices, downloads, busy })
          : h("div", { className: "skeleton panel-skeleton" })),
      this.folders());
  }

  folders() {
    const known = /** @type {Array<Record<string, any>>} */ (this.state.config?.folders ?? []);
    const folders = known.filter(({ exists }) => exists).map(({ path }) => path);
    const usual = known.filter(({ exists }) => !exists).map(({ path }) => path);
    return h("section", { key: "folders", className: "card" },
      h("div", { className: "card-header" }, h("h3", { className: "card-title" }, "Already have GGUF files?")),
      h("div", { className: "card-body stack" },
        h("p", { className: "muted" },
          folders.length
            ? "llamadash looked in these folders and found no model:"
            : "None of the usual model folders exists yet."),
        folders.length > 0 && h("ul", { key: "list", className: "list folder-list" },
          folders.map((folder) => h("li", { key: folder, className: "list-item mono break-all" }, folder))),
        h("p", { className: "muted" },
          "Put a .gguf file into one of them and scan, or name another folder in the configuration."),
        usual.length > 0 && h("details", { key: "usual", className: "usual-folders" },
          h("summary", { className: "muted" }, "Other folders searched if present"),
          h("ul", { className: "usual-list mono break-all" }, usual.map((folder) => h("li", { key: folder }, folder)))),
        h("div", { className: "row" },
          h("a", { className: "button", href: "/configuration" }, icon("plus"), "Add a folder"),
          h("button", {
            type: "button", className: "button", disabled: this.props.scanning, dataset: { action: "scan" },
          }, icon("refresh"), this.props.scanning ? "Scanning…" : "Scan again"),
          h("button", { type: "button", className: "button button-ghost", dataset: { action: "import" } },
            "Add one file by path"))));
  }
}
