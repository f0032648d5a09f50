import { Component, h } from "../core/component.js";
import { bytes, plural, relativeTime, tokens } from "../core/format.js";
import { Dialog } from "./dialog.js";
import { DownloadQueue } from "./download-queue.js";
import { icon } from "./icon.js";
import { fitBadge, memoryFor } from "./fit-badge.js";
import { recommendedModels } from "./recommended-models.js";
import { toast } from "./toast.js";

/** @typedef {Record<string, any>} RepoFile */
/** @typedef {Record<string, any>} Repo as `models:search` tells of it */

/** A repository by itself, an address, or a command that downloads from one. */
const NAMES_REPO = /^[`<]?[\w.-]+\/[^\s/]|:\/\/|\]\(|^\$?\s*(ollama|hf|huggingface-cli|llama(-\w+)?)\s.*\w\/\w/;
/** Bytes of a weight as most people download it: 4 bits and what belongs to them. */
const USUAL_WEIGHT = 0.6;

/** Whether a text names a repository, and is not to be searched for. @param {string} text */
export const namesRepo = (text) => NAMES_REPO.test(text);

/** What is known of a repository, in a line. @param {Repo} repo */
function repoFacts({ downloads, likes, license, gated, updated, parameters, more }) {
  return [
    parameters && `${tokens(parameters)} parameters`, downloads !== null && plural(downloads, "download"),
    likes !== null && plural(likes, "like"), license ? `Licence: ${license}` : "Licence not stated",
    updated && `updated ${relativeTime(updated)}`, gated && "gated: request access on Hugging Face",
    more && "not all files are shown",
  ].filter(Boolean).join(" · ");
}

/**
 * Searches the hub, looks repositories up and downloads from them. Props: `state`, `close()`.
 */
export class GetModels extends Component {
  getInitialState() {
    return {
      repo: "", repos: null, found: null, looking: false, error: "", recommended: [], busy: new Set(), folder: "",
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
      "click [data-action=\"get-repo\"]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ button) =>
        this.ask("models:repo", { repo: button.dataset.repo }, (found) => ({ found })),
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

  /** From a repository back to what was found, from there to the suggestions. */
  handleBack() {
    this.setState(this.state.found ? { found: null, error: "" } : { repos: null, error: "" });
  }

  /** @param {Event} event */
  handleLookUp(event) {
    event.preventDefault();
    const text = this.state.repo.trim();
    if (!text) return undefined;
    return namesRepo(text)
      ? this.ask("models:repo", { repo: text }, (found) => ({ found, repos: null }))
      : this.ask("models:search", { query: text }, ({ repos }) => ({ repos }));
  }

  /** @param {string} event @param {any} data @param {(answer: any) => any} change what the answer changes */
  async ask(event, data, change) {
    const turn = this.turn = (this.turn ?? 0) + 1;
    this.setState({ looking: true, error: "", found: null });
    try {
      const answer = change(await this.props.state.request(event, data));
      if (turn === this.turn) this.setState({ ...answer, looking: false });
    } catch (error) {
      if (turn === this.turn) this.setState({ error: /** @type {Error} */ (error).message, looking: false });
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
    const { repo, repos, found, looking, error, recommended, downloads, busy } = this.state;
    const devices = this.props.state.get("engine")?.devices;
    return h(Dialog, { title: "Get models", wide: true, close: this.props.close },
      h("div", { className: "stack get-models" },
        h("form", { key: "form", className: "get-models-form field", noValidate: true },
          h("label", { className: "field-label", htmlFor: "get-repo" }, "Search Hugging Face"),
          h("div", { className: "row" },
            h("input", {
              id: "get-repo", className: "input get-models-input", value: repo,
              placeholder: "Words, user/repo, user/repo:Q4_K_M, a link, or a command", autocomplete: "off",
              spellcheck: false,
              "aria-describedby": "get-repo-hint",
            }),
            h("button", { type: "submit", className: "button button-primary", disabled: looking, "aria-busy": looking },
              icon("search"),
              looking ? "Searching…" : "Search")),
          h("p", { id: "get-repo-hint", className: "field-hint" },
            "Finds GGUF models. Private ones need HF_TOKEN in llamadash's environment.")),
        this.folders(),
        error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
        downloads.length > 0 && h("section", { key: "queue", className: "stack" },
          h("h3", { className: "section-title" }, "Downloads"),
          h(DownloadQueue, { state: this.props.state, downloads })),
        looking && h("div", { key: "looking", className: "skeleton panel-skeleton" }),
        found ? this.repository(found, devices) : repos && !looking && this.results(repos, devices),
        !found && !repos && !looking && recommended.length > 0 && h("section", {
          key: "recommended", className: "stack",
        },
          h("h3", { className: "section-title" }, "Models known to work"),
          recommendedModels({ recommended, devices, downloads, busy }))));
  }

  /** @param {string} title @param {string} back */
  heading(title, back) {
    return h("div", { className: "row" },
      h("h3", { className: "section-title break-all" }, title),
      h("span", { className: "spacer" }),
      h("button", { type: "button", className: "button button-small", dataset: { action: "get-back" } }, back));
  }

  /** @param {Repo} found @param {any[]|undefined} devices */
  repository(found, devices) {
    return h("section", { key: "found", className: "stack" },
      this.heading(found.repo, this.state.repos ? "Back to the results" : "Back to suggestions"),
      h("p", { key: "facts", className: "field-hint" }, repoFacts(found)),
      found.files.length
        ? this.files(/** @type {any} */ (found), devices)
        : h("p", { className: "muted" },
          "This repository has no GGUF files. Look for one whose name ends in GGUF."));
  }

  /** @param {Repo[]} repos @param {any[]|undefined} devices */
  results(repos, devices) {
    return h("section", { key: "results", className: "stack" },
      this.heading(repos.length ? plural(repos.length, "repository", "repositories") : "Nothing found",
        "Back to suggestions"),
      repos.length > 0 && h("ul", { key: "repos", className: "list repo-files" }, repos.map((item) =>
        h("li", { key: item.repo, className: "list-item repo-file" },
          h("span", { className: "repo-file-name" },
            h("span", { className: "row" },
              h("strong", { className: "break-all" }, item.repo),
              item.parameters && fitBadge(memoryFor(item.parameters * USUAL_WEIGHT), devices, {
                suffix: " at 4 bits",
              })),
            h("span", { className: "field-hint" }, repoFacts(item))),
          h("button", {
            type: "button", className: "button", dataset: { action: "get-repo", repo: item.repo },
            "aria-label": `Files of ${item.repo}`,
          }, "Files", icon("chevron-right"))))),
      !repos.length && h("p", { key: "none", className: "muted" },
        "No repository with GGUF files has these words in its name. Try fewer."));
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
