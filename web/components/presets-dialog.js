import { Component, h } from "../core/component.js";
import { plural } from "../core/format.js";
import { CopyButton, saveText } from "./copy-button.js";
import { Dialog } from "./dialog.js";
import { toast } from "./toast.js";

/**
 * Takes all models' parameters out as llama-server preset file, and reads one, or a pasted command line, in after
 * showing what it would change.
 *
 * Props: `state`, `close()`.
 */
export class PresetsDialog extends Component {
  getInitialState() {
    return { ini: null, text: "", preview: null, busy: false, error: "" };
  }

  getEventMap() {
    return {
      "input [data-role=\"presets-text\"]": "handleInput",
      "change [data-role=\"presets-file\"]": "handleFile",
      "click [data-action=\"presets-save\"]": "handleSave",
      "click [data-action=\"presets-preview\"]": "handlePreview",
      "click [data-action=\"presets-apply\"]": "handleApply",
      "click [data-action=\"presets-download\"]": "handleDownload",
    };
  }

  didMount() {
    this.fetch();
  }

  async fetch() {
    try {
      const { ini } = await this.props.state.request("presets:export");
      this.setState({ ini });
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message });
    }
  }

  /** @param {Event} _event @param {HTMLTextAreaElement} element */
  handleInput(_event, element) {
    this.setState({ text: element.value, preview: null, error: "" });
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  async handleFile(_event, element) {
    const file = element.files?.[0];
    if (!file) return;
    this.setState({ text: await file.text(), preview: null, error: "" });
    element.value = "";
    await this.send(true);
  }

  handleSave() {
    saveText("models.ini", this.state.ini ?? "");
  }

  handlePreview() {
    return this.send(true);
  }

  handleApply() {
    return this.send(false);
  }

  /** @param {Event} _event @param {HTMLElement} element */
  async handleDownload(_event, element) {
    const { repo = "" } = element.dataset;
    this.setState({ busy: true });
    try {
      const { download } = await this.props.state.request("models:download", { repo });
      toast(`${download.file} is being downloaded. Import again once it is there.`, { kind: "success" });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
    this.setState({ busy: false });
  }

  /** @param {boolean} dryRun */
  async send(dryRun) {
    this.setState({ busy: true, error: "" });
    try {
      const preview = await this.props.state.request("presets:import", { ini: this.state.text, dryRun });
      if (dryRun) return this.setState({ preview, busy: false });
      toast(`Presets of ${plural(preview.changes.length, "model")} imported`, { kind: "success" });
      return this.destroyed ? undefined : this.props.close();
    } catch (error) {
      return this.setState({ busy: false, error: /** @type {Error} */ (error).message });
    }
  }

  render() {
    const { ini, text, preview, busy, error } = this.state;
    return h(Dialog, { title: "Presets", wide: true, close: this.props.close },
      h("div", { className: "stack" },
        h("section", { key: "export", className: "stack" },
          h("div", { className: "row" },
            h("h3", { className: "section-title" }, "Export"),
            h("span", { className: "spacer" }),
            h(CopyButton, { text: ini ?? "", caption: "Copy", label: "Copy the presets" }),
            h("button", {
              type: "button", className: "button button-small", disabled: ini === null,
              dataset: { action: "presets-save" },
            }, "Download models.ini")),
          ini === null
            ? h("div", { key: "wait", className: "skeleton panel-skeleton" })
            : h("pre", { key: "ini", className: "code code-block", tabIndex: 0 }, ini || "No presets yet.")),
        h("section", { key: "import", className: "stack" },
          h("h3", { className: "section-title" }, "Import"),
          h("label", { className: "field-hint", htmlFor: "presets-text" },
            "Paste a preset file, a llama-server or docker command, a compose file, or llama-swap's configuration. ",
            "Nothing changes before you apply it."),
          h("textarea", {
            id: "presets-text", className: "input mono presets-text", rows: 6, value: text, spellcheck: false,
            placeholder: "llama-server -hf user/repo:Q4_K_M -c 8192\n\nor\n\n[model-id]\nctx-size = 8192",
            dataset: { role: "presets-text" },
          }),
          h("div", { className: "row" },
            h("label", { className: "button file-button" },
              "Choose file…",
              h("input", {
                type: "file", accept: ".ini,.yaml,.yml,text/plain", className: "visually-hidden",
                dataset: { role: "presets-file" },
              })),
            h("span", { className: "spacer" }),
            h("button", {
              type: "button", className: "button", disabled: busy || !text.trim(),
              dataset: { action: "presets-preview" },
            }, "Preview"),
            h("button", {
              type: "button", className: "button button-primary", disabled: busy || !preview?.changes?.length,
              dataset: { action: "presets-apply" },
            }, "Apply")),
          error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
          preview && h("div", { key: "preview", className: "stack", role: "status" },
            h("strong", null,
              preview.changes?.length
                ? `Changes to ${plural(preview.changes.length, "model")}`
                : "Nothing would change."),
            h("ul", { className: "change-list" },
              (preview.changes ?? []).flatMap(described).map((/** @type {string} */ line) =>
                h("li", { key: line }, line))),
            preview.warnings?.length > 0 && h("strong", { key: "left" }, "Skipped"),
            (preview.warnings ?? []).map((/** @type {string} */ warning, /** @type {number} */ index) =>
              h("p", { key: `w${index}`, className: "text-warning break-all" }, warning)),
            (preview.downloads ?? []).map((/** @type {string} */ repo) =>
              h("div", { key: repo, className: "row" },
                h("code", { className: "break-all" }, repo),
                h("span", { className: "spacer" }),
                h("button", {
                  type: "button", className: "button button-small", disabled: busy,
                  dataset: { action: "presets-download", repo },
                }, "Download")))))));
  }
}

/**
 * @param {{id: string, name?: string, created?: boolean, parameters: Record<string, [unknown, unknown]>,
 *   fields: Record<string, [unknown, unknown]>}} change old and new values
 * @returns {string[]}
 */
function described({ id, name = id, created, parameters, fields }) {
  const shown = (/** @type {any} */ value) => (Array.isArray(value) ? value.join(", ") || "none" : value ?? "default");
  return [
    ...(created ? [`${name}: a new entry`] : []),
    ...Object.entries({ ...parameters, ...fields }).map(([key, [before, after]]) =>
      `${name} · ${key}: ${shown(before)} → ${shown(after)}`),
  ];
}
