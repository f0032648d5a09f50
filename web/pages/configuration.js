import { Component, guarded, h } from "../core/component.js";
import { bytes, plural } from "../core/format.js";
import { settingName } from "../core/setting-name.js";
import { BuildRehearsal } from "../components/build-rehearsal.js";
import { CopyButton } from "../components/copy-button.js";
import { confirmDialog } from "../components/dialog.js";
import { EngineHelp } from "../components/engine-help.js";
import { formField } from "../components/form-field.js";
import { icon } from "../components/icon.js";
import { MANY_MODELS, ModelSelect } from "../components/model-select.js";
import { buildName } from "../components/model-serving.js";
import { OfficialBuild } from "../components/official-build.js";
import { ParameterForm } from "../components/parameter-form.js";
import { Schedules } from "../components/schedules.js";
import { errorState, loadingState } from "../components/states.js";
import { toast } from "../components/toast.js";

/** @typedef {Record<string, any>} Json */

const GIB = 2 ** 30;

/** @type {Record<string, [number, number]>} bounds of the numbers */
const BOUNDS = {
  api_port: [1, 65_535], models_max: [0, 64], idle_seconds: [0, 31_536_000], min_residency: [0, 3600],
  max_wait: [1, 86_400],
};

/** The configuration of API, memory and engine: what is saved, what was typed, and what it makes of both. */
export class ConfigurationPage extends Component {
  static title = "Configuration";

  getInitialState() {
    const { state } = this.props;
    return {
      result: state.get("config"), engine: state.get("engine"),
      builds: state.get("builds"), models: state.get("models"),
      draft: {}, texts: {}, folder: "", fieldErrors: {}, theirs: null, saving: false, restarting: false, error: "",
    };
  }

  init() {
    this.arrived = false; // where the address points to
    this.onSchedules = (/** @type {Json[]} */ items) => this.edit("schedules", items);
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
      "click [data-action=\"build-use\"]": "handleBuild",
      "click [data-action=\"build-remove\"]": "handleBuild",
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
      state.subscribe("builds", (/** @type {Json[]} */ builds) => this.setState({ builds })),
      state.subscribe("models", (/** @type {Json[]} */ models) => this.setState({ models })),
      state.subscribe("engine", (/** @type {Json} */ engine, /** @type {Json | null} */ old) => {
        this.setState({ engine });
        const restarted = engine.status !== old?.status || engine.build?.id !== old?.build?.id;
        if (restarted) state.refresh("config"); // it may have been started with what is saved
      }),
      router.before((/** @type {any} */ to) => this.guard(to)),
      () => window.removeEventListener("beforeunload", guardUnload),
    ];
  }

  didUpdate() {
    const place = this.arrived ? null : document.getElementById(window.location.hash.slice(1) || "-");
    place?.scrollIntoView();
    this.arrived ||= Boolean(place);
  }

  async fetch() {
    this.props.state.load("builds").catch(() => {});
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
    const [old, now] = [saved(before), saved(after)];
    const fields = Object.keys(draft).filter((key) => !same(old[key], now[key])).map((key) =>
      change(settingName(key.replace(/^budget\./, "Budget of ").replace(/^yields\./, "Left to others on ")),
        old[key], now[key], shown(draft[key])));
    const defaults = Object.keys(texts).filter((key) => !same(before.defaults?.[key], after.defaults?.[key]))
      .map((key) => change(
        labels.get(key) ?? key, before.defaults?.[key], after.defaults?.[key], texts[key] || "default"));
    return [...fields, ...defaults];
  }

  /** @param {string} key @returns {any} what is typed, or else saved */
  value(key) {
    return key in this.state.draft ? this.state.draft[key] : saved(this.state.result.config)[key];
  }

  /** @param {string} key @param {any} value */
  edit(key, value) {
    const draft = { ...this.state.draft, [key]: value };
    const before = saved(this.state.result.config)[key] ?? "";
    if (Array.isArray(value) ? same(value, before) : String(value) === String(before)) delete draft[key];
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
    this.edit(element.dataset.switch ?? "", element.checked);
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
      if (/^(budget|yields)\./.test(key)) continue;
      const bounds = BOUNDS[key];
      const number = Number(value);
      if (!bounds) changes[key] = value;
      else if (/^\d+$/.test(String(value).trim()) && number >= bounds[0] && number <= bounds[1]) changes[key] = number;
      else errors[key] = `Enter a whole number from ${bounds[0]} to ${bounds[1]}.`;
    }
    for (const kind of ["budget", "yields"]) {
      const sizes = budgetOf(result.config[kind], draft, kind);
      Object.assign(errors, sizes.errors);
      if (Object.keys(draft).some((key) => key.startsWith(`${kind}.`))) changes[kind] = sizes.values;
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
      this.state.theirs = ["Someone else saved first."];
      this.fetch();
      return;
    }
    const field = String(error.field ?? "").replace(/^changes\./, "");
    if (field) this.setState({ fieldErrors: { [field]: error.message } });
    else toast(error.message, { kind: "error" });
  }

  async handleReset() {
    const sure = await confirmDialog({
      title: "Reset to defaults?", confirmLabel: "Reset", danger: true,
      body: ["Folders, API, memory and engine settings and the defaults for all models are reset. ",
        "Each model's own parameters stay."],
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
        guarded("folders", () => this.folders(result)),
        h("form", { key: "form", className: "stack config-form", noValidate: true },
          guarded("api", () => this.apiCard(result)),
          guarded("memory", () => this.memoryCard(result)),
          guarded("engine", () => this.engineCard(result)),
          h("button", { key: "submit", type: "submit", hidden: true }, "Save")),
        guarded("defaults", () => this.defaultsCard(result)),
        this.saveBar()),
      h("aside", { key: "side", className: "stack config-side" },
        guarded("builds", () => this.buildsCard(result)),
        guarded("presets", () => this.presetsCard(result.ini ?? ""))));
  }

  restartBanner() {
    const { restarting } = this.state;
    return h("div", { key: "restart", className: "banner banner-box banner-warning", role: "status" },
      icon("warning"),
      h("span", { className: "banner-text" },
        "The engine still runs with earlier settings. Restart it to use what is saved; loaded models come back."),
      h("button", {
        type: "button", className: "button button-small", disabled: restarting, dataset: { action: "engine-restart" },
      }, icon("refresh", { size: 16 }), restarting ? "Restarting…" : "Restart engine"));
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
            "Keep mine"),
          h("button", { type: "button", className: "button button-small", dataset: { action: "theirs" } },
            "Use theirs"))));
  }

  /** @param {Json} result */
  folders(result) {
    const locked = result.locked?.models_dirs;
    const known = new Map((result.folders ?? []).map((/** @type {Json} */ item) => [item.path, item]));
    const listed = /** @type {string[]} */ (this.value("models_dirs") ?? []);
    const folders = listed.filter((path) => known.get(path)?.exists !== false || !known.get(path)?.usual);
    const general = this.state.fieldErrors.models_dirs;
    return h("section", { key: "folders", className: "card" },
      h("div", { className: "card-header" },
        h("h2", { className: "card-title" }, "Model folders"),
        locked && this.lockedBadge(locked)),
      h("div", { className: "card-body stack" },
        h("p", { className: "muted" },
          "Searched for GGUF files, with their sub-folders. Its download folder is always included."),
        folders.length > 0 && h("ul", { key: "list", className: "list folder-list" }, folders.map((path) => {
          const error = this.state.fieldErrors[`models_dirs.${listed.indexOf(path)}`];
          const problem = known.get(path)?.problem;
          return h("li", { key: path, className: "list-item folder-item" },
            h("div", { className: "folder-path" },
              h("span", { className: "mono break-all" }, path),
              error
                ? h("span", { className: "field-error", role: "alert" }, error)
                : problem && h("span", { className: "field-hint text-warning" }, `${problem}.`)),
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
  apiCard(result) {
    return card("api", "API for clients",
      h("div", { key: "address", className: "form-grid" },
        this.text(result, "api_host", "Address", "127.0.0.1 = this machine only. Any other address requires API keys."),
        this.text(result, "api_port", "Port", "Where OpenAI and Anthropic clients connect.", "numeric"),
        this.choice(result, "default_model", "Default model",
          "Answers requests that name no model. None = the only one in memory.",
          [["", "None"], ...this.modelChoices()])));
  }

  /** @returns {string[][]} id and name */
  modelChoices() {
    const models = /** @type {Json[]} */ (this.state.models ?? []);
    return models.filter(({ missing }) => !missing).map(({ id, name }) => [id, name]);
  }

  /** @param {Json} result */
  memoryCard(result) {
    const devices = this.budgetDevices(result);
    return card("memory", "Memory",
      h("div", { key: "limits", className: "form-grid" },
        this.text(result, "models_max", "Models at once", "The least recently used is unloaded. 0 = as many as fit.",
          "numeric"),
        this.text(result, "idle_seconds", "Idle time (s)",
          "Models unused for this long are unloaded. 0 = never. Models can override it.", "numeric"),
        this.text(result, "min_residency", "Minimum residency (s)",
          "A model just loaded stays this long before it makes room for another.", "numeric"),
        this.text(result, "max_wait", "Longest wait (s)", "A request that waits longer for its model is refused.",
          "numeric")),
      devices.length > 0 && h("fieldset", { key: "budget", className: "field budget" },
        h("legend", { className: "field-label" }, "Memory budget of each device in GiB"),
        h("p", { className: "field-hint" }, "How much memory llamadash may use. Empty = all of it."),
        h("div", { className: "form-grid" }, devices.map((device) => this.budget(result, device)))),
      devices.length > 0 && h("fieldset", { key: "yields", className: "field budget" },
        h("legend", { className: "field-label" }, "Left to other programs in GiB"),
        h("p", { className: "field-hint" },
          "Idle models are unloaded when a game or another program takes memory, or less than this is free. They ",
          "return when it is over. Empty = models stay."),
        h("div", { className: "form-grid" }, devices.map((device) => this.budget(result, device, "yields")))),
      h(Schedules, {
        key: "schedules", state: this.props.state, items: this.value("schedules") ?? [],
        models: this.modelChoices(), onChange: this.onSchedules,
        error: Object.entries(this.state.fieldErrors).find(([key, error]) => key.startsWith("schedules") && error)?.[1],
      }));
  }

  /** The devices there are, and those that a budget is saved for. @param {Json} result @returns {Json[]} */
  budgetDevices({ config }) {
    const present = /** @type {Json[]} */ (this.state.engine?.devices ?? []);
    const others = Object.keys(config.budget ?? {}).filter((name) => !present.some((device) => device.name === name));
    return [...present, ...others.map((name) => ({ name, total: null }))];
  }

  /** @param {Json} result @param {Json} device @param {string} [kind] */
  budget(result, { name, total, free }, kind = "budget") {
    const locked = result.locked?.[kind];
    const key = `${kind}.${name}`;
    const id = `config-${kind}-${name}`;
    const hint = total ? `${bytes(total)} in all, ${bytes(free)} free now` : "Currently unavailable";
    const error = this.state.fieldErrors[key];
    return formField({ id, label: name, hint, error, locked }, h("input", {
      id, className: "input", type: "text", inputmode: "decimal", autocomplete: "off", 
      placeholder: kind === "budget" ? "All" : "Models stay",
      value: String(this.value(key) ?? ""), disabled: Boolean(locked), dataset: { config: key },
      "aria-describedby": `${id}-hint`, "aria-invalid": error ? "true" : null,
    }));
  }

  /** @param {Json} result */
  engineCard(result) {
    const builds = /** @type {Json[]} */ (this.state.builds ?? []);
    const first = builds.find((build) => build.default);
    return card("engine", "Engine",
      this.choice(result, "build", "Default build", "The engine program for models that choose none.",
        [["", first ? `Automatic (${buildName(first)})` : "Automatic"],
          ...builds.map((build) => [build.id, buildName(build)])]),
      this.toggle(result, "autostart", "Start with llamadash", "Clients are served as soon as llamadash runs."),
      this.toggle(result, "check_releases", "Look for newer builds",
        "Once a day, where there is a build of llama.cpp; GitHub is asked."),
      this.toggle(result, "check_models", "Look for newer models",
        "Once a day for each repository that models were downloaded from."));
  }

  /** @param {Json} result @param {string} key @param {string} label @param {string} hint @param {string[][]} options */
  choice(result, key, label, hint, options) {
    const locked = result.locked?.[key];
    const error = this.state.fieldErrors[key];
    const id = `config-${key}`;
    const value = String(this.value(key) ?? "");
    const known = options.some(([option]) => option === value);
    if (options.length > MANY_MODELS && !locked) {
      return formField({ id, label, hint, error, locked }, h(ModelSelect, {
        state: this.props.state, label, value, models: options.flatMap(([option]) => option || []), none: options[0][1],
        dataset: { config: key },
      }));
    }
    return formField({ id, label, hint, error, locked }, h("select", {
      id, className: "select", value, disabled: Boolean(locked), dataset: { config: key },
      "aria-describedby": `${id}-hint`,
    },
      (known ? options : [...options, [value, `${value} (not found)`]]).map(([option, words]) =>
        h("option", { key: option, value: option, selected: option === value }, words))));
  }

  /** @param {Json} result @param {string} key @param {string} label @param {string} hint @param {string} [mode] */
  text(result, key, label, hint, mode) {
    const locked = result.locked?.[key];
    const error = this.state.fieldErrors[key];
    const id = `config-${key}`;
    return formField({ id, label, hint, error, locked }, h("input", {
      id, className: "input", type: "text", inputmode: mode ?? "text", autocomplete: "off", spellcheck: false,
      value: String(this.value(key) ?? ""), disabled: Boolean(locked), dataset: { config: key },
      "aria-describedby": `${id}-hint`, "aria-invalid": error ? "true" : null,
    }));
  }

  /** @param {Json} result @param {string} key @param {string} label @param {string} hint */
  toggle(result, key, label, hint) {
    const locked = result.locked?.[key];
    const id = `switch-${key}`;
    return formField({ id, label, hint, locked, inline: true, error: this.state.fieldErrors[key] }, h("input", {
      id, className: "switch", type: "checkbox", role: "switch", checked: Boolean(this.value(key)),
      disabled: Boolean(locked), dataset: { switch: key }, "aria-describedby": `${id}-hint`,
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
          "Models can override these. Saving unloads models whose parameters change."),
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

  /** The engine programs of this machine. @param {Json} result */
  buildsCard(result) {
    const { engine } = this.state;
    const builds = /** @type {Json[]} */ (this.state.builds ?? []);
    const fixed = result.llama_server?.fixed && (result.locked?.llama_server ?? "--llama-server");
    return h("section", { key: "builds", id: "builds", className: "card" },
      h("div", { className: "card-header" },
        h("h2", { className: "card-title" }, "Engine builds"), fixed && this.lockedBadge(fixed)),
      builds.length > 0 && h("ul", { key: "list", className: "list" }, builds.map((build) => this.build(build))),
      h("div", { key: "body", className: "card-body stack" }, engine?.status === "missing"
        ? h(EngineHelp, { key: "help", state: this.props.state, engine })
        : h(OfficialBuild, { key: "official", state: this.props.state }),
        h("p", { key: "note", className: "field-hint" },
          "Other programs can be set only on the command line (--llama-server or LLAMADASH_LLAMA_SERVER).")));
  }

  /** @param {Json} build */
  build(build) {
    const { id, path, backends = [], devices = [], problem, warning, used_by: users = [], removable, size } = build;
    const names = devices.map((/** @type {Json} */ one) => one.description || one.name).join(", ");
    const facts = [
      backends.join(", "), names, size && bytes(size), users.length && `used by ${plural(users.length, "model")}`,
    ];
    return h("li", { key: id, className: "list-item build" },
      h("div", { className: "row" },
        h("strong", null, buildName({ ...build, problem: null })),
        build.default && h("span", { key: "default", className: "badge badge-success" }, "Default"),
        this.state.builds.length > 1 && build.id === this.props.state.get("recommendedBuild") && h("span", {
          key: "recommended", className: "badge badge-info",
        }, "Recommended"),
        h("span", { className: "spacer" }),
        !build.default && !problem && this.buildButton("build-use", id, "Use"),
        removable && !build.default && this.buildButton("build-remove", id, "Remove")),
      h("span", { className: "muted build-facts" }, facts.filter(Boolean).join(" · ")),
      h("code", { className: "muted break-all build-facts" }, path),
      (problem || warning) && h("p", { key: "problem", className: "field-error" }, problem || warning),
      !build.default && !problem && h(BuildRehearsal, {
        key: "rehearsal", state: this.props.state, build, models: this.state.models,
      }));
  }

  /** @param {string} action @param {string} id @param {string} words */
  buildButton(action, id, words) {
    return h("button", {
      key: action, type: "button", className: "button button-small", dataset: { action, id },
      "aria-label": `${words} ${id}`,
    }, words);
  }

  /** @param {Event} _event @param {HTMLElement} element */
  async handleBuild(_event, element) {
    const { action = "", id = "" } = element.dataset;
    const use = action === "build-use";
    if (!use && !await confirmDialog({
      title: `Remove ${id}?`, body: "The build is deleted from this machine.", confirmLabel: "Remove", danger: true,
    })) return;
    try {
      await this.props.state.request(use ? "engines:use" : "engines:remove", { id });
      toast(use ? `${id} is used from the next load on` : `${id} removed`, { kind: "success" });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
  }

  /** @param {string} text */
  presetsCard(text) {
    return h("section", { key: "presets", className: "card" },
      h("div", { className: "card-header" },
        h("h2", { className: "card-title" }, "models.ini"),
        h(CopyButton, { text, caption: "Copy", label: "Copy models.ini" })),
      h("div", { className: "card-body stack" },
        h("pre", {
          className: "code code-block", tabIndex: 0, role: "group", "aria-label": "models.ini",
        }, text || "Nothing yet."),
        h("p", { className: "field-hint" }, "All models' parameters as llama.cpp's presets, for other programs.")));
  }
}

/** @param {string} key @param {string} title @param {...any} body */
function card(key, title, ...body) {
  return h("section", { key, className: "card", "aria-label": title },
    h("div", { className: "card-header" }, h("h2", { className: "card-title" }, title)),
    h("div", { className: "card-body config-card" }, body));
}

/** The saved values by field, each device's budget in GiB. @param {Json} config @returns {Json} */
function saved(config) {
  const sizes = ["budget", "yields"].flatMap((kind) =>
    Object.entries(config[kind] ?? {}).map(([name, size]) => [`${kind}.${name}`, gibibytes(size)]));
  return { ...config, ...Object.fromEntries(sizes) };
}

/** @param {number} size bytes @returns {string} GiB, as one would type it */
function gibibytes(size) {
  return String(Number((size / GIB).toFixed(2)));
}

/**
 * The budget of each device in bytes, from what is saved and what was typed in GiB ("" for all of a device).
 * @param {Json | undefined} before @param {Json} draft @param {string} [kind] what the fields' names begin with
 * @returns {{values: Record<string, number>, errors: Record<string, string>}}
 */
export function budgetOf(before, draft, kind = "budget") {
  /** @type {Record<string, number>} */ const values = { ...before };
  /** @type {Record<string, string>} */ const errors = {};
  for (const [key, typed] of Object.entries(draft)) {
    if (!key.startsWith(`${kind}.`)) continue;
    const [name, text] = [key.slice(kind.length + 1), String(typed).trim()];
    if (!text) delete values[name];
    else if (/^\d+([.,]\d+)?$/.test(text) && Number(text.replace(",", ".")) > 0) {
      values[name] = Math.round(Number(text.replace(",", ".")) * GIB);
    } else errors[key] = "Enter a size in GiB, e.g. 20, or nothing.";
  }
  return { values, errors };
}

/** @param {string} label @param {unknown} before @param {unknown} after @param {string} mine */
function change(label, before, after, mine) {
  return `${label}: ${shown(before)} → ${shown(after)} (you: ${mine})`;
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
