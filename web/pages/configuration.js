import { Component, h } from "../core/component.js";
import { CopyButton } from "../components/copy-button.js";
import { confirmDialog } from "../components/dialog.js";
import { EngineHelp } from "../components/engine-help.js";
import { formField } from "../components/form-field.js";
import { icon } from "../components/icon.js";
import { ParameterForm } from "../components/parameter-form.js";
import { errorState, loadingState } from "../components/states.js";
import { toast } from "../components/toast.js";

/** @typedef {Record<string, any>} Json */

/** What idle models sleep after when that is switched on (s). */
const SLEEP_AFTER = 900;

/** @type {Record<string, [number, number]>} bounds of the numbers */
const BOUNDS = { engine_port: [1, 65_535], models_max: [0, 64], sleep_idle_seconds: [-1, 604_800] };

/** @type {Record<string, string>} names of the fields in messages */
const LABELS = {
  models_dirs: "Model folders", engine_host: "Engine address", engine_port: "Engine port", models_max: "Models at once",
  models_autoload: "Load on demand", sleep_idle_seconds: "Idle sleep", autostart: "Start with llamadash",
};

/** The engine's configuration: what is saved, what was typed, and what it makes of both. */
export class ConfigurationPage extends Component {
  static title = "Configuration";

  init() {
    const { state } = this.props;
    this.state = {
      result: state.get("config"),
      engine: state.get("engine"),
      draft: {},
      texts: {},
      folder: "",
      fieldErrors: {},
      theirs: null,
      saving: false,
      restarting: false,
      error: "",
    };
    this.onParameter = (/** @type {string} */ key, /** @type {string} */ text) => this.typeParameter(key, text);
  }

  getEventMap() {
    return {
      "input [data-config]": "handleInput",
      "change [data-switch]": "handleSwitch",
      "input #config-folder": "handleFolderInput",
      "submit .folder-add": "handleFolderAdd",
      "click [data-action=\"folder-remove\"]": "handleFolderRemove",
      "submit .config-form": "handleSubmit",
      "click [data-action=\"save\"]": "handleSubmit",
      "click [data-action=\"discard\"]": "handleDiscard",
      "click [data-action=\"theirs\"]": "handleDiscard",
      "click [data-action=\"mine\"]": "handleKeepMine",
      "click [data-action=\"reset\"]": "handleReset",
      "click [data-action=\"engine-restart\"]": "handleRestart",
      "click [data-action=\"retry\"]": "handleRetry",
    };
  }

  didMount() {
    const { state, router } = this.props;
    const guardUnload = (/** @type {BeforeUnloadEvent} */ event) => { if (this.isDirty()) event.preventDefault(); };
    window.addEventListener("beforeunload", guardUnload);
    this.fetch();
    return [
      state.subscribe("config", (/** @type {Json} */ result) => this.meet(result)),
      state.subscribe("engine", (/** @type {Json} */ engine, /** @type {Json | null} */ old) => {
        this.setState({ engine });
        if (engine.pid !== old?.pid) state.refresh("config"); // it may have been started with what is saved
      }),
      router.before((/** @type {any} */ to) => this.guard(to)),
      () => window.removeEventListener("beforeunload", guardUnload),
    ];
  }

  async fetch() {
    try {
      await this.props.state.reload("config");
      this.setState({ error: "" });
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message });
    }
  }

  handleRetry() {
    this.setState({ error: "" });
    this.fetch();
  }

  /** @param {any} to */
  async guard(to) {
    if (!this.isDirty() || to.pattern === "/configuration") return undefined;
    return confirmDialog({
      title: "Leave without saving?", body: "The changes to the configuration have not been saved.",
      confirmLabel: "Leave", cancelLabel: "Keep editing", danger: true,
    });
  }

  /** Take in the configuration as the server has it now; what was typed stays. @param {Json} result */
  meet(result) {
    const before = this.state.result?.config;
    if (before && !this.state.saving && result.config.revision > before.revision) {
      const overlap = this.overlap(before, result.config);
      if (overlap.length) this.state.theirs = overlap;
    }
    this.setState({ result, error: "" });
  }

  /**
   * What changed from `before` to `after` of that which was edited here.
   * @param {Json} before @param {Json} after @returns {string[]} sentences
   */
  overlap(before, after) {
    const { draft, texts, result } = this.state;
    const labels = new Map((result?.parameters ?? []).map((/** @type {Json} */ item) => [item.key, item.label]));
    const fields = Object.keys(draft).filter((key) => !same(before[key], after[key])).map((key) =>
      `${LABELS[key]}: ${shown(before[key])} → ${shown(after[key])} (you: ${shown(draft[key])})`);
    const defaults = Object.keys(texts).filter((key) => !same(before.defaults?.[key], after.defaults?.[key]))
      .map((key) =>
        `${labels.get(key) ?? key}: ${shown(before.defaults?.[key])} → ${shown(after.defaults?.[key])} (you: ${texts[key] || "default"})`);
    return [...fields, ...defaults];
  }

  /** @param {string} key @returns {any} what is typed, or else saved */
  value(key) {
    return key in this.state.draft ? this.state.draft[key] : this.state.result.config[key];
  }

  /** @param {string} key @param {any} value */
  edit(key, value) {
    const draft = { ...this.state.draft, [key]: value };
    if (same(String(value), String(this.state.result.config[key])) && !Array.isArray(value)) delete draft[key];
    if (Array.isArray(value) && same(value, this.state.result.config[key])) delete draft[key];
    this.setState({ draft, fieldErrors: { ...this.state.fieldErrors, [key]: "" } });
  }

  /** @param {string} key @param {string} text */
  typeParameter(key, text) {
    const texts = { ...this.state.texts, [key]: text };
    if (text.trim() === String(this.state.result.config.defaults?.[key] ?? "")) delete texts[key];
    this.setState({ texts, fieldErrors: { ...this.state.fieldErrors, [`defaults.${key}`]: "" } });
  }

  isDirty() {
    return Object.keys(this.state.draft).length + Object.keys(this.state.texts).length > 0;
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleInput(_event, element) {
    this.edit(element.dataset.config ?? "", element.value);
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleSwitch(_event, element) {
    const key = element.dataset.switch ?? "";
    this.edit(key, key === "sleep_idle_seconds" ? String(element.checked ? SLEEP_AFTER : -1) : element.checked);
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleFolderInput(_event, element) {
    this.setState({ folder: element.value });
  }

  /** @param {Event} event */
  handleFolderAdd(event) {
    event.preventDefault();
    const folder = this.state.folder.trim();
    if (!folder) return;
    this.edit("models_dirs", [...new Set([...this.value("models_dirs"), folder])]);
    this.setState({ folder: "" });
  }

  /** @param {Event} _event @param {HTMLElement} element */
  handleFolderRemove(_event, element) {
    this.edit(
      "models_dirs", this.value("models_dirs").filter((/** @type {string} */ path) => path !== element.dataset.path)
    );
    this.setState({ fieldErrors: {} });
  }

  handleDiscard() {
    this.setState({ draft: {}, texts: {}, fieldErrors: {}, theirs: null });
  }

  handleKeepMine() {
    this.setState({ theirs: null });
    return this.save();
  }

  /** @param {Event} event */
  handleSubmit(event) {
    event.preventDefault();
    return this.save();
  }

  /** @returns {{changes: Json, errors: Record<string, string>}} what was typed as the server wants it */
  read() {
    const { draft, texts, result } = this.state;
    /** @type {Json} */ const changes = {};
    /** @type {Record<string, string>} */ const errors = {};
    for (const [key, value] of Object.entries(draft)) {
      const bounds = BOUNDS[key];
      const number = Number(value);
      if (!bounds) changes[key] = value;
      else if (
        !/^-?\d+$/.test(String(value).trim()) || number < bounds[0] || number > bounds[1]
          || (key === "sleep_idle_seconds" && number === 0)
      ) {
        errors[key] = `Enter a whole number from ${key === "sleep_idle_seconds" ? 1 : bounds[0]} to ${bounds[1]}.`;
      } else changes[key] = number;
    }
    if (Object.keys(texts).length) {
      const parsed = ParameterForm.parse(result.parameters, this.parameterTexts());
      changes.defaults = parsed.values;
      for (const [key, error] of Object.entries(parsed.errors)) errors[`defaults.${key}`] = error;
    }
    return { changes, errors };
  }

  /** @returns {Record<string, string>} */
  parameterTexts() {
    return { ...ParameterForm.texts(this.state.result.config.defaults), ...this.state.texts };
  }

  async save() {
    const { draft, texts } = this.state;
    const { changes, errors } = this.read();
    if (Object.keys(errors).length) return this.setState({ fieldErrors: errors });
    this.setState({ saving: true, fieldErrors: {} });
    try {
      const result = await this.props.state.request("config:update", {
        revision: this.state.result.config.revision, changes,
      });
      this.setState({ draft: without(this.state.draft, draft), texts: without(this.state.texts, texts), theirs: null });
      this.props.state.set("config", result);
      toast(result.restartRequired ? "Saved; the engine must be restarted" : "Configuration saved", {
        kind: "success",
      });
    } catch (error) {
      this.refused(/** @type {any} */ (error));
    }
    return this.setState({ saving: false });
  }

  /** @param {any} error */
  refused(error) {
    if (error.code === "CONFLICT") {
      this.state.saving = false;
      this.state.theirs = ["Somebody else saved the configuration first."];
      this.fetch();
      return;
    }
    const field = String(error.field ?? "").replace(/^changes\./, "");
    if (field) this.setState({ fieldErrors: { [field]: error.message } });
    else toast(error.message, { kind: "error" });
  }

  async handleReset() {
    const sure = await confirmDialog({
      title: "Go back to the defaults?",
      body: "Folders, engine settings and the defaults for all models are forgotten. Each model's own parameters stay.",
      confirmLabel: "Reset",
      danger: true,
    });
    if (!sure) return;
    try {
      const result = await this.props.state.request("config:reset", { revision: this.state.result.config.revision });
      this.handleDiscard();
      this.props.state.set("config", result);
      toast("Configuration reset", { kind: "success" });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
  }

  async handleRestart() {
    this.setState({ restarting: true });
    try {
      await this.props.state.request("engine:restart");
      toast("The engine restarts", { kind: "success" });
      this.fetch();
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
    this.setState({ restarting: false });
  }

  render() {
    const { result, error } = this.state;
    return h("div", { className: "page config-page" },
      h("header", { key: "header", className: "page-header" }, h("h1", { className: "page-title" }, "Configuration"),
        h("div", { className: "page-actions" },
          result && h("button", { type: "button", className: "button button-ghost", dataset: { action: "reset" } },
            "Reset to defaults…"))),
      result ? this.full(result) : h("div", { key: "wait", className: "card" }, error
        ? errorState({
          title: "The configuration could not be loaded", body: error,
          action: h("button", { type: "button", className: "button", dataset: { action: "retry" } }, "Try again"),
        })
        : loadingState("Loading the configuration…")));
  }

  /** @param {Json} result */
  full(result) {
    return h("div", { key: "full", className: "config-split" },
      h("div", { key: "main", className: "stack config-main" },
        result.restartRequired && this.restartBanner(),
        this.state.theirs && this.conflict(),
        this.folders(result),
        this.engineCard(result),
        this.defaultsCard(result),
        this.saveBar()),
      h("aside", { key: "side", className: "stack config-side" }, this.programCard(result), this.outcome("Command line", commandText(result.command), "What the engine is started with. Updates when you save."),
        this.outcome("models.ini", result.ini ?? "", "The presets of all models, written for the engine.")));
  }

  restartBanner() {
    return h("div", { key: "restart", className: "banner banner-box banner-warning", role: "status" }, icon("warning"),
      h("span", { className: "banner-text" },
        "The engine still runs with earlier settings. Restart it to use what is saved; loaded models come back by themselves."),
      h("button", {
        type: "button", className: "button button-small", disabled: this.state.restarting,
        dataset: { action: "engine-restart" },
      }, icon("refresh", { size: 16 }), this.state.restarting ? "Restarting…" : "Restart engine"));
  }

  conflict() {
    return h("div", { key: "conflict", className: "banner banner-box banner-warning conflict", role: "alert" },
      h("div", { className: "stack" },
        h("strong", null, "Changed elsewhere while you were editing"),
        h("ul", { className: "conflict-list" },
          this.state.theirs.map((/** @type {string} */ line) => h("li", { key: line }, line))),
        h("p", null, "What you typed is still in the form."),
        h("div", { className: "row" },
          h("button", { type: "button", className: "button button-small", dataset: { action: "mine" } },
            "Save mine over it"),
          h("button", { type: "button", className: "button button-small", dataset: { action: "theirs" } },
            "Use theirs, drop mine"))));
  }

  /** @param {Json} result */
  folders(result) {
    const locked = result.locked?.models_dirs;
    const folders = /** @type {string[]} */ (this.value("models_dirs") ?? []);
    const known = new Map((result.folders ?? []).map((/** @type {Json} */ item) => [item.path, item]));
    const general = this.state.fieldErrors.models_dirs;
    return h("section", { key: "folders", className: "card" },
      h("div", { className: "card-header" },
        h("h2", { className: "card-title" }, "Model folders"),
        locked && this.lockedBadge(locked)),
      h("div", { className: "card-body stack" },
        h("p", { className: "muted" },
          "Searched for GGUF files, with their sub-folders. llamadash's own download folder always is."),
        folders.length > 0 && h("ul", { key: "list", className: "list folder-list" }, folders.map((path, index) => {
          const error = this.state.fieldErrors[`models_dirs.${index}`];
          const missing = known.get(path)?.exists === false;
          return h("li", { key: path, className: "list-item folder-item" },
            h("div", { className: "folder-path" },
              h("span", { className: "mono break-all" }, path),
              error
                ? h("span", { className: "field-error", role: "alert" }, error)
                : missing && h("span", { className: "field-hint text-warning" }, "Not there at the moment")),
            !locked && h("button", {
              type: "button", className: "button button-ghost button-icon", dataset: { action: "folder-remove", path },
              "aria-label": `Remove ${path}`,
            }, icon("close")));
        })),
        !folders.length && h("p", { key: "none", className: "muted" }, "None."),
        general && h("p", { key: "error", className: "field-error", role: "alert" }, general),
        !locked && h("form", { key: "add", className: "row folder-add", noValidate: true },
          h("label", { className: "visually-hidden", htmlFor: "config-folder" }, "Folder on the server"),
          h("input", {
            id: "config-folder", className: "input mono folder-input", value: this.state.folder,
            placeholder: "/path/to/models", autocomplete: "off", spellcheck: false,
          }),
          h("button", { type: "submit", className: "button" }, icon("plus"), "Add folder"))));
  }

  /** @param {string} fixed */
  lockedBadge(fixed) {
    return h("span", { className: "badge badge-warning", title: "Set outside; change it there" },
      icon("key", { size: 14 }),
      `Fixed by ${fixed}`);
  }

  /** @param {Json} result */
  engineCard(result) {
    const sleeps = Number(this.value("sleep_idle_seconds")) !== -1;
    return h("section", { key: "engine", className: "card" },
      h("div", { className: "card-header" }, h("h2", { className: "card-title" }, "Engine")),
      h("form", { className: "card-body config-form", noValidate: true },
        h("div", { key: "address", className: "form-grid" },
          this.text(
            result, "engine_host", "Address",
            "Only this machine reaches 127.0.0.1. With another address clients need the API key. Needs a restart."
          ),
          this.text(result, "engine_port", "Port", "Where OpenAI clients connect. Needs a restart.", "numeric"),
          this.text(
            result, "models_max", "Models at once",
            "Further ones push out the one used longest ago. 0 is without limit. Needs a restart.", "numeric"
          )),
        this.toggle(
          result, "models_autoload", "Load on demand", "A request for a model that is not in memory loads it."
        ),
        this.toggle(result, "autostart", "Start with llamadash", "The engine starts as soon as llamadash does."),
        this.toggle(
          result, "sleep_idle_seconds", "Free memory when idle",
          "Models nobody uses leave memory and return with the next request.", sleeps
        ),
        sleeps && h("div", { key: "sleep", className: "form-grid" },
          this.text(
            result, "sleep_idle_seconds", "Idle time in seconds", "How long a model stays without a request.",
            "numeric"
          )),
        h("button", { key: "submit", type: "submit", hidden: true }, "Save")));
  }

  /** @param {Json} result @param {string} key @param {string} label @param {string} hint @param {string} [mode] */
  text(result, key, label, hint, mode) {
    const locked = result.locked?.[key];
    const error = this.state.fieldErrors[key];
    const id = `config-${key}`;
    return formField({ id, label, hint, error, locked }, h("input", {
      id,
      className: "input",
      type: "text",
      inputmode: mode ?? "text",
      autocomplete: "off",
      spellcheck: false,
      value: String(this.value(key) ?? ""),
      disabled: Boolean(locked),
      dataset: { config: key }, "aria-describedby": `${id}-hint`, "aria-invalid": error ? "true" : null,
    }));
  }

  /** @param {Json} result @param {string} key @param {string} label @param {string} hint @param {boolean} [checked] */
  toggle(result, key, label, hint, checked = Boolean(this.value(key))) {
    const locked = result.locked?.[key];
    const id = `switch-${key}`;
    return formField({ id, label, hint, locked, inline: true, error: key === "sleep_idle_seconds" ? "" : this.state.fieldErrors[key] }, h("input", {
      id,
      className: "switch",
      type: "checkbox",
      role: "switch",
      checked,
      disabled: Boolean(locked),
      dataset: { switch: key },
      "aria-describedby": `${id}-hint`,
    }));
  }

  /** @param {Json} result */
  defaultsCard(result) {
    const texts = this.parameterTexts();
    const parsed = ParameterForm.parse(result.parameters, texts).errors;
    const own = Object.fromEntries(
      Object.entries(this.state.fieldErrors).filter(([key, error]) => key.startsWith("defaults.") && error).map(
        ([key, error]) => [key.slice("defaults.".length), String(error)]
      )
    );
    return h("section", { key: "defaults", className: "card" },
      h("div", { className: "card-header" }, h("h2", { className: "card-title" }, "Defaults for all models")),
      h("div", { className: "card-body stack" },
        h("p", { className: "muted" },
          "Each model may say otherwise in its own parameters. Saving unloads models whose parameters change."),
        h(ParameterForm, {
          schema: result.parameters, texts, errors: { ...parsed, ...own }, idPrefix: "default",
          onInput: this.onParameter,
        })));
  }

  saveBar() {
    const dirty = this.isDirty();
    const count = Object.keys(this.state.draft).length + Object.keys(this.state.texts).length;
    return h("div", { key: "bar", className: `save-bar card${dirty ? " is-dirty" : ""}` },
      h("span", { className: "muted save-note", role: "status" },
        dirty ? `${count} unsaved ${count === 1 ? "change" : "changes"}` : "Everything is saved"),
      h("button", {
        type: "button", className: "button button-ghost", disabled: !dirty || this.state.saving,
        dataset: { action: "discard" },
      }, "Discard"),
      h("button", {
        type: "button", className: "button button-primary", disabled: !dirty || this.state.saving,
        "aria-busy": this.state.saving, dataset: { action: "save" },
      }, this.state.saving ? "Saving…" : "Save"));
  }

  /** @param {Json} result */
  programCard(result) {
    const { engine } = this.state;
    const program = result.llama_server ?? {};
    const kind = {
      "llama-server": "llama-server", embedded: "Embedded engine", remote: "Remote llama-server",
    }[/** @type {string} */ (engine?.kind)] ?? "None found";
    return h("section", { key: "program", className: "card" },
      h("div", { className: "card-header" },
        h("h2", { className: "card-title" }, "Engine program"),
        program.fixed && this.lockedBadge(result.locked?.llama_server ?? "--llama-server")),
      h("div", { className: "card-body stack" },
        h("dl", { className: "facts" },
          h("dt", null, "Kind"), h("dd", null, kind),
          engine?.version && [h("dt", { key: "vt" }, "Version"), h("dd", { key: "vd" }, engine.version)],
          h("dt", null, "Program"),
          h("dd", { className: "mono break-all" }, program.value ?? engine?.command?.[0] ?? "–")),
        engine?.status === "missing"
          ? h(EngineHelp, { key: "help", state: this.props.state, engine })
          : h("p", { key: "note", className: "field-hint" },
            "What is executed is chosen on the command line only (--llama-server or LLAMADASH_LLAMA_SERVER), never from a browser."),
        engine?.status !== "missing" && engine?.kind === "embedded" && engine?.hint && h("p", {
          key: "hint", className: "field-hint",
        }, engine.hint.text)));
  }

  /** @param {string} title @param {string} text @param {string} hint */
  outcome(title, text, hint) {
    return h("section", { key: title, className: "card" },
      h("div", { className: "card-header" },
        h("h2", { className: "card-title" }, title),
        h(CopyButton, { text, caption: "Copy", label: `Copy: ${title}` })),
      h("div", { className: "card-body stack" },
        h("pre", { className: "code code-block", tabIndex: 0, "aria-label": title }, text || "Nothing yet."),
        h("p", { className: "field-hint" }, hint)));
  }
}

/** @param {string[]|string|null|undefined} command @returns {string} as a shell would take it, an option a line */
function commandText(command) {
  if (!command || typeof command === "string") return command ?? "";
  const quoted = command.map((part) => (/^[\w@%+=:,./-]+$/.test(part) ? part : `'${part.replaceAll("'", "'\\''")}'`));
  return quoted.reduce((text, part) => text + (part.startsWith("--") ? ` \\\n  ${part}` : `${text && " "}${part}`), "");
}

/** What was edited since `sent` was. @param {Json} edited @param {Json} sent */
function without(edited, sent) {
  return Object.fromEntries(Object.entries(edited).filter(([key, value]) => !same(value, sent[key])));
}

/** @param {unknown} a @param {unknown} b */
function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** @param {unknown} value */
function shown(value) {
  if (value === undefined || value === null || value === "") return "default";
  if (Array.isArray(value)) return value.join(", ") || "none";
  return value === true ? "on" : value === false ? "off" : String(value);
}
