import { Component, h } from "../core/component.js";
import { bytes } from "../core/format.js";
import { Dialog } from "./dialog.js";
import { DownloadQueue } from "./download-queue.js";
import { icon } from "./icon.js";
import { fitBadge, memoryFor } from "./fit-badge.js";
import { recommendedModels } from "./recommended-models.js";
import { toast } from "./toast.js";

/** @typedef {Record<string, any>} RepoFile */

/**
 * Looks a repository up and downloads from it. Props: `state`, `close()`.
 */
export class GetModels extends Component {
  init() {
    this.state = {
      repo: "", found: null, looking: false, error: "", recommended: [], busy: new Set(), folder: "",
      config: this.props.state.get("config"), downloads: this.props.state.get("downloads") ?? [],
    };
  }

  getEventMap() {
    return {
      "input #get-repo": "handleInput",
      "change #get-folder": "handleFolder",
      "submit .get-models-form": "handleLookUp",
      "click [data-action=\"download\"]": "handleDownload",
      "click [data-action=\"get-back\"]": "handleBack",
    };
  }

  didMount() {
    const { state } = this.props;
    this.element.querySelector("#get-repo")?.focus();
    this.fetch();
    state.load("config").catch(() => {});
    return [
      state.subscribe("downloads", (/** @type {any[]} */ downloads) => this.setState({ downloads })),
      state.subscribe("config", (/** @type {any} */ config) => this.setState({ config })),
    ];
  }

  async fetch() {
    try {
      const { downloads, recommended = [] } = await this.props.state.request("models:downloads");
      this.setState({ recommended, downloads });
      this.props.state.set("downloads", downloads);
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message });
    }
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleInput(_event, element) {
    this.setState({ repo: element.value, error: "" });
  }

  /** @param {Event} _event @param {HTMLSelectElement} element */
  handleFolder(_event, element) {
    this.setState({ folder: element.value });
  }

  handleBack() {
    this.setState({ found: null, error: "" });
  }

  /** @param {Event} event */
  async handleLookUp(event) {
    event.preventDefault();
    const repo = this.state.repo.trim();
    if (!repo) return;
    this.setState({ looking: true, error: "", found: null });
    try {
      this.setState({ found: await this.props.state.request("models:repo", { repo }), looking: false });
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message, looking: false });
    }
  }

  /** @param {Event} _event @param {HTMLElement} element */
  async handleDownload(_event, element) {
    const { repo = "", file = "" } = element.dataset;
    const id = `${repo}/${file}`;
    this.setState({ busy: new Set([...this.state.busy, id]) });
    try {
      await this.props.state.request("models:download", {
        repo, file, ...(this.state.folder ? { folder: this.state.folder } : {}),
      });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
    this.setState({ busy: new Set([...this.state.busy].filter((item) => item !== id)) });
  }

  render() {
    const { repo, found, looking, error, recommended, downloads, busy } = this.state;
    const devices = this.props.state.get("engine")?.devices;
    return h(Dialog, { title: "Get models", wide: true, close: this.props.close },
      h("div", { className: "stack get-models" },
        h("form", { key: "form", className: "get-models-form field", noValidate: true },
          h("label", { className: "field-label", htmlFor: "get-repo" }, "Hugging Face repository"),
          h("div", { className: "row" },
            h("input", {
              id: "get-repo", className: "input get-models-input", value: repo,
              placeholder: "user/repo, user/repo:Q4_K_M, a link, or a command", autocomplete: "off", spellcheck: false,
              "aria-describedby": "get-repo-hint",
            }),
            h("button", { type: "submit", className: "button button-primary", disabled: looking, "aria-busy": looking },
              icon("search"),
              looking ? "Looking…" : "Look up")),
          h("p", { id: "get-repo-hint", className: "field-hint" },
            "Lists the GGUF files of a repository. Private ones need HF_TOKEN in llamadash's environment.")),
        this.folders(),
        error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
        downloads.length > 0 && h("section", { key: "queue", className: "stack" },
          h("h3", { className: "section-title" }, "Downloads"),
          h(DownloadQueue, { state: this.props.state, downloads })),
        looking && h("div", { key: "looking", className: "skeleton panel-skeleton" }),
        found && h("section", { key: "found", className: "stack" },
          h("div", { className: "row" },
            h("h3", { className: "section-title" }, found.repo),
            h("span", { className: "spacer" }),
            recommended.length > 0 && h("button", {
              type: "button", className: "button button-small", dataset: { action: "get-back" },
            }, "Back to suggestions")),
          (found.license || found.gated || found.more) && h("p", { key: "terms", className: "field-hint" },
            [
              found.license && `Licence: ${found.license}`, found.more && "not all files are shown",
              found.gated && "gated: request access on Hugging Face",
            ].filter(Boolean).join(" · ")),
          found.files.length
            ? this.files(found, devices)
            : h("p", { className: "muted" },
              "This repository has no GGUF files. Look for one whose name ends in GGUF.")),
        !found && !looking && recommended.length > 0 && h("section", { key: "recommended", className: "stack" },
          h("h3", { className: "section-title" }, "Models that are known to work"),
          recommendedModels({ recommended, devices, downloads, busy }))));
  }

  /** Where downloads go, when there is a choice. */
  folders() {
    const known = /** @type {Array<Record<string, any>>} */ (this.state.config?.folders ?? []);
    const folders = known.filter(({ exists }) => exists);
    if (folders.length < 2) return null;
    return h("div", { key: "folder", className: "row get-models-folder" },
      h("label", { className: "field-label", htmlFor: "get-folder" }, "Save to"),
      h("select", { id: "get-folder", className: "select", value: this.state.folder },
        h("option", { key: "", value: "" }, "llamadash's own folder"), folders.map(({ path }) =>
          h("option", { key: path, value: path }, path))));
  }

  /** @param {{repo: string, files: RepoFile[], selected?: string|null}} found @param {any[]|undefined} devices */
  files(found, devices) {
    const { repo, files } = found;
    return h("ul", { className: "list repo-files" }, files.map((item) => {
      const download = this.state.downloads.find((/** @type {any} */ one) =>
        one.repo === repo && one.file === item.file);
      const under = download && !["failed", "cancelled"].includes(download.status);
      const chosen = found.selected === item.file;
      return h("li", { key: item.file, className: `list-item repo-file${chosen ? " is-selected" : ""}` },
        h("span", { className: "repo-file-name" },
          h("span", { className: "row" },
            item.quantization && h("span", { className: "badge badge-neutral" }, item.quantization),
            fitBadge(memoryFor(item.size), devices)),
          h("span", { className: "mono break-all" }, item.file),
          h("span", { className: "field-hint" },
            [
              item.shards?.length > 1 && `${item.shards.length} parts`, item.projector && "with projector",
            ].filter(Boolean).join(" · "))),
        h("span", { className: "mono repo-file-size" }, bytes(item.size)),
        h("button", {
          type: "button", className: `button${chosen ? " button-primary" : ""}`,
          disabled: Boolean(under) || this.state.busy.has(`${repo}/${item.file}`),
          dataset: { action: "download", repo, file: item.file }, "aria-label": `Download ${item.file}`,
        }, icon("download"), download?.status === "done" ? "Downloaded" : under ? "In the queue" : "Download"));
    }));
  }
}
