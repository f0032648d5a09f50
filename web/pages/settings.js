import { Component, guarded, h } from "../core/component.js";
import { bytes, dateTime, duration, number, percent, relativeTime } from "../core/format.js";
import { settingName } from "../core/setting-name.js";
import { AlertSettings } from "../components/alert-settings.js";
import { ApiKeys } from "../components/api-keys.js";
import { CopyButton, saveText } from "../components/copy-button.js";
import { confirmDialog, Dialog } from "../components/dialog.js";
import { formField } from "../components/form-field.js";
import { icon } from "../components/icon.js";
import { SignInCode } from "../components/sign-in-code.js";
import { errorState, loadingState } from "../components/states.js";
import { toast } from "../components/toast.js";

/** @typedef {Record<string, any>} Json */

/** The same least length as the server asks for. */
const MIN_PASSWORD = 8;

/** @type {Array<[string, string, string]>} value, label, icon */
const THEMES = [["system", "System", "settings"], ["light", "Light", "sun"], ["dark", "Dark", "moon"]];

/** @type {Array<[string, string]>} */
const LEVELS = [["debug", "Debug: everything"], ["info", "Info"], ["warning", "Warning"], ["error", "Error only"]];

/** @type {number[]} seconds between two measurements that are offered */
const INTERVALS = [1, 2, 5, 10, 15, 30, 60];

/** @type {Record<string, [number, number]>} */
const BOUNDS = {
  metrics_retention_days: [1, 3650], metrics_history_days: [1, 3650], logs_retention_days: [1, 3650],
  logs_max_rows: [1000, 5_000_000], alert_disk: [1, 100], alert_memory: [1, 100], alert_temperature: [1, 150],
};

/** How this installation looks, measures, remembers and is protected. */
export class SettingsPage extends Component {
  static title = "Settings";

  getInitialState() {
    const { state } = this.props;
    return {
      settings: state.get("settings"),
      info: state.get("info"),
      system: state.get("system"),
      locked: state.get("config")?.locked ?? {},
      sessions: null,
      draft: {},
      errors: {},
      error: "",
      password: { password: "", again: "", current: "" }, passwordErrors: {}, backup: null, busy: "", importing: null,
    };
  }

  getEventMap() {
    return {
      "change [data-setting]": "handleChange",
      "input input[data-setting]": "handleInput",
      "input [data-password]": "handlePasswordInput",
      "submit .password-form": "handlePassword",
      "click [data-action=\"password-remove\"]": "handlePasswordRemove",
      "click [data-action=\"revoke\"]": "handleRevoke",
      "click [data-action=\"backup\"]": "handleBackup",
      "click [data-action=\"export\"]": "handleExport",
      "change [data-role=\"import-file\"]": "handleImportFile",
      "click [data-action=\"import-apply\"]": "handleImportApply",
      "click [data-action=\"import-cancel\"]": () => this.setState({ importing: null }),
      "click [data-action=\"retry\"]": () => this.fetch(),
    };
  }

  didMount() {
    const { state } = this.props;
    const follow = (/** @type {string} */ key) => state.subscribe(key, (/** @type {any} */ value) =>
      this.setState({ [key]: value }));
    this.fetch();
    return [
      ...["settings", "info", "system"].map(follow),
      state.subscribe("info", () => { if (!this.state.sessions?.length) this.fetchSessions(); }),
      state.subscribe("config", (/** @type {Json} */ config) => this.setState({ locked: config.locked ?? {} })),
    ];
  }

  fetch() {
    const { state } = this.props;
    this.setState({ error: "" });
    state.load("settings").catch((/** @type {Error} */ error) => this.setState({ error: error.message }));
    state.load("config").catch(() => {});
    state.reload("system").catch(() => {});
    this.fetchSessions();
  }

  async fetchSessions() {
    try {
      const { sessions, password } = await this.props.state.request("sessions:list");
      this.setState({ sessions });
      this.notePassword(password);
    } catch {
      this.setState({ sessions: [] });
    }
  }

  /** Whether there is a password may have changed since the server welcomed this browser. @param {boolean} password */
  notePassword(password) {
    const info = this.props.state.get("info");
    if (info?.features?.password !== password) {
      this.props.state.set("info", { ...info, features: { ...info?.features, password } });
    }
  }

  /** What is typed stays what it is until it was saved. @param {Event} _event @param {HTMLInputElement} element */
  handleInput(_event, element) {
    if (element.type === "radio" || element.type === "checkbox") return undefined;
    const key = element.dataset.setting ?? "";
    if (element.value === String(this.state.settings[key] ?? "")) return this.forget(key);
    return this.setState({
      draft: { ...this.state.draft, [key]: element.value }, errors: { ...this.state.errors, [key]: "" },
    });
  }

  /** @param {Event} _event @param {HTMLInputElement|HTMLSelectElement} element */
  async handleChange(_event, element) {
    const key = element.dataset.setting ?? "";
    const numeric = key in BOUNDS || key === "metrics_interval";
    const value = key === "energy_price" ? price(element.value) : numeric ? Number(element.value) : element.value;
    if (Number.isNaN(value)) {
      this.setState({ errors: { ...this.state.errors, [key]: "Enter a price, such as 0.30, or nothing." } });
      return;
    }
    const bounds = BOUNDS[key];
    if (bounds && (!/^\d+$/.test(element.value.trim()) || Number(value) < bounds[0] || Number(value) > bounds[1])) {
      this.setState({
        errors: {
          ...this.state.errors, [key]: `Enter a whole number from ${number(bounds[0])} to ${number(bounds[1])}.`,
        },
      });
      return;
    }
    if (value === this.state.settings[key]) return this.forget(key);
    try {
      const { settings } = await this.props.state.request("settings:update", { changes: { [key]: value } });
      this.props.state.set("settings", settings);
      this.forget(key);
      toast("Saved", { kind: "success" });
    } catch (error) {
      this.setState({ errors: { ...this.state.errors, [key]: /** @type {Error} */ (error).message } });
      const saved = String(this.state.settings[key]); // a choice goes back to it; what was typed stays to be corrected
      if (key === "theme") this.element.querySelector(`[name="theme"][value="${saved}"]`).checked = true;
      else if (element.tagName === "SELECT") element.value = saved;
    }
  }

  /** @param {string} key */
  forget(key) {
    const { [key]: _typed, ...draft } = this.state.draft;
    this.setState({ draft, errors: { ...this.state.errors, [key]: "" } });
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handlePasswordInput(_event, element) {
    this.setState({
      password: { ...this.state.password, [element.dataset.password ?? ""]: element.value }, passwordErrors: {},
    });
  }

  /** @param {Event} event */
  handlePassword(event) {
    event.preventDefault();
    const { password, again } = this.state.password;
    if (password.length < MIN_PASSWORD) {
      return this.setState({ passwordErrors: { password: `Use at least ${MIN_PASSWORD} characters.` } });
    }
    if (password !== again) return this.setState({ passwordErrors: { again: "Passwords don't match." } });
    return this.sendPassword(password);
  }

  async handlePasswordRemove() {
    const sure = await confirmDialog({
      title: "Remove the password?", body: "All other sessions end. The link with the access key still works.",
      confirmLabel: "Remove", danger: true,
    });
    if (sure) await this.sendPassword("");
  }

  /** @param {string} password */
  async sendPassword(password) {
    const { current } = this.state.password;
    this.setState({ busy: "password", passwordErrors: {} });
    try {
      const answer = await this.props.state.request("password:set", { password, ...(current ? { current } : {}) });
      this.setState({ password: { password: "", again: "", current: "" } });
      this.notePassword(answer.password);
      toast(password ? "Password set; other sessions have ended" : "Password removed", { kind: "success" });
      this.fetchSessions();
    } catch (error) {
      const { field, message } = /** @type {any} */ (error);
      this.setState({ passwordErrors: { [field || "password"]: message } });
    }
    this.setState({ busy: "" });
  }

  /** @param {Event} _event @param {HTMLElement} element */
  async handleRevoke(_event, element) {
    const current = element.dataset.current === "true";
    const sure = !current || await confirmDialog({
      title: "End this session?", body: "This browser will have to sign in again.", confirmLabel: "End session",
      danger: true,
    });
    if (!sure) return;
    try {
      await this.props.state.request("sessions:revoke", { id: element.dataset.id });
      toast("Session ended", { kind: "success" });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
    this.fetchSessions();
  }

  async handleBackup() {
    this.setState({ busy: "backup" });
    try {
      this.setState({ backup: await this.props.state.request("system:backup", {}, { timeout: 300_000 }) });
    } catch (error) {
      toast(`No backup: ${/** @type {Error} */ (error).message}`, { kind: "error" });
    }
    this.setState({ busy: "" });
  }

  async handleExport() {
    try {
      const { document } = await this.props.state.request("system:export");
      saveText(
        `llamadash-${new Date().toISOString().slice(0, 10)}.json`, `${JSON.stringify(document, null, 2)}\n`,
        "application/json"
      );
    } catch (error) {
      toast(`No export: ${/** @type {Error} */ (error).message}`, { kind: "error" });
    }
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  async handleImportFile(_event, element) {
    const file = element.files?.[0];
    if (!file) return;
    try {
      const document = JSON.parse(await file.text());
      const preview = await this.props.state.request("system:import", { document, dryRun: true });
      this.setState({ importing: { name: file.name, document, preview } });
    } catch (error) {
      const message = error instanceof SyntaxError ? "it is not JSON" : /** @type {Error} */ (error).message;
      toast(`${file.name} cannot be imported: ${message}`, { kind: "error" });
    }
    element.value = "";
  }

  async handleImportApply() {
    const { document } = this.state.importing;
    this.setState({ busy: "import" });
    try {
      await this.props.state.request("system:import", { document, dryRun: false });
      toast("Imported", { kind: "success" });
      this.setState({ importing: null });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
    this.setState({ busy: "" });
  }

  /** Whether this browser signed in with a password, not with the link. */
  get byPassword() {
    return (this.state.sessions ?? []).some((/** @type {Json} */ session) => session.current);
  }

  render() {
    const { settings, error } = this.state;
    return h("div", { className: "page settings-page" },
      h("header", { key: "header", className: "page-header" }, h("h1", { className: "page-title" }, "Settings")),
      settings ? h("div", { key: "full", className: "settings-grid" },
        h("div", { key: "left", className: "stack settings-column" },
          h(ApiKeys, { state: this.props.state }),
          guarded("appearance", () => this.appearance(settings)),
          guarded("measuring", () => this.measuring(settings)),
          guarded("energy", () => this.energy()),
          guarded("logging", () => this.logging(settings))),
        h("div", { key: "right", className: "stack settings-column" },
          guarded("security", () => this.security()),
          h(SignInCode, {
            key: "phone", system: this.state.system, byPassword: this.byPassword,
            open: this.state.info?.features?.auth === false,
          }),
          "alerts_off" in settings && guarded("alerts", () => this.alerts(settings)),
          guarded("backups", () => this.backups()),
          guarded("about", () => this.about())))
        : h("div", { key: "wait", className: "card" }, error
          ? errorState({
            title: "The settings could not be loaded", body: error,
            action: h("button", { type: "button", className: "button", dataset: { action: "retry" } }, "Try again"),
          })
          : loadingState("Loading settings…")),
      this.state.importing && this.importDialog());
  }

  /** @param {string} title @param {any} body @param {any} [extra] */
  card(title, body, extra) {
    return h("section", { key: title, className: "card" },
      h("div", { className: "card-header" },
        h("h2", { className: "card-title" }, title),
        extra), h("div", { className: "card-body stack" }, body));
  }

  /** @param {Json} settings */
  appearance(settings) {
    return this.card("Appearance", h("fieldset", { className: "field theme-choice" },
      h("legend", { className: "field-label" }, "Theme"),
      h("div", { className: "segmented theme-segments" }, THEMES.map(([value, label, name]) => h("label", {
        key: value, className: `theme-segment${settings.theme === value ? " is-on" : ""}`,
      },
        h("input", {
          type: "radio", name: "theme", value, checked: settings.theme === value, className: "visually-hidden",
          dataset: { setting: "theme" },
        }),
        icon(name, { size: 16 }),
        h("span", null, label)))),
      this.state.errors.theme
        ? h("p", { key: "error", className: "field-error", role: "alert" }, this.state.errors.theme)
        : h("p", { key: "hint", className: "field-hint" }, "For every browser that uses this llamadash.")));
  }

  /** @param {Json} settings */
  measuring(settings) {
    const options = INTERVALS.includes(settings.metrics_interval)
      ? INTERVALS
      : [...INTERVALS, settings.metrics_interval].sort((a, b) => a - b);
    return this.card("Monitoring", [
      formField({
        id: "setting-interval", label: "Measure every", hint: "Shorter intervals need more storage.",
        error: this.state.errors.metrics_interval,
      },
        h("select", {
          id: "setting-interval", className: "select", value: String(settings.metrics_interval),
          dataset: { setting: "metrics_interval" }, "aria-describedby": "setting-interval-hint",
        },
          options.map((seconds) =>
            h("option", { key: seconds, value: String(seconds) }, seconds === 1 ? "1 second" : `${seconds} seconds`)))),
      this.numberField("metrics_retention_days", "Keep measurements", "days in full detail"),
      "metrics_history_days" in settings && this.numberField(
        "metrics_history_days", "Keep their averages", "days for the long charts"
      ),
    ]);
  }

  energy() {
    return h("div", { key: "energy", id: "energy" }, this.card("Energy", [
      this.numberField("energy_price", "Price", "per kWh"),
      this.numberField("currency", "Currency", "such as € or USD"),
      h("p", { key: "hint", className: "field-hint" },
        "Monitoring shows what requests and idle models cost, where the machine's energy can be measured."),
    ]));
  }

  /** @param {Json} settings */
  logging(settings) {
    const locked = this.state.locked.log_level;
    return this.card("Logs", [
      formField({ id: "setting-level", label: "Minimum level", locked, error: this.state.errors.log_level },
        h("select", {
          id: "setting-level", className: "select", value: settings.log_level, disabled: Boolean(locked),
          dataset: { setting: "log_level" }, "aria-describedby": "setting-level-hint",
        }, LEVELS.map(([value, label]) => h("option", { key: value, value }, label)))),
      this.numberField("logs_retention_days", "Keep log lines", "days"),
      this.numberField("logs_max_rows", "At most", "lines"),
    ]);
  }

  /** @param {Json} settings */
  alerts(settings) {
    return h("div", { key: "alerts", id: "alerts" }, this.card("Alerts", [
      h(AlertSettings, {
        key: "kinds", state: this.props.state, settings, targets: this.state.system?.alerts ?? [],
      }),
      h("h3", { key: "title", className: "section-title" }, "Limits"),
      this.numberField("alert_temperature", "GPU temperature", "°C"),
      this.numberField("alert_memory", "GPU memory in use", "%"),
      this.numberField("alert_disk", "Disk in use", "%"),
    ]));
  }

  /** @param {string} key @param {string} label @param {string} unit */
  numberField(key, label, unit) {
    const id = `setting-${key}`;
    const error = this.state.errors[key];
    return formField({ id, label, error }, h("div", { className: "row unit-row" },
      h("input", {
        id, className: "input unit-input", type: "text", inputmode: key in BOUNDS ? "numeric" : "text",
        autocomplete: "off",
        value: this.state.draft[key] ?? String(this.state.settings[key] ?? ""), dataset: { setting: key },
        "aria-describedby": `${id}-hint ${id}-unit`, "aria-invalid": error ? "true" : null,
      }),
      h("span", { id: `${id}-unit`, className: "muted" }, unit)));
  }

  security() {
    const features = this.state.info?.features ?? {};
    const { passwordErrors, password, busy, sessions } = this.state;
    if (features.auth === false) {
      return this.card("Security", h("div", { className: "banner banner-box banner-warning" }, icon("warning"),
        h("span", { className: "banner-text" },
          "Authentication is off (--no-auth): anyone who reaches this address can do everything.")));
    }
    const { byPassword } = this;
    return this.card("Security", [
      h("p", { key: "intro", className: "muted" },
        features.password
          ? "A password is set. The link with the access key works as well."
          : "Signed in with the access key. A password lets you sign in without the link."),
      h("form", { key: "form", className: "stack password-form", noValidate: true },
        h("input", {
          key: "user", type: "text", name: "username", autocomplete: "username", value: "llamadash", hidden: true,
          readonly: true,
        }),
        features.password && byPassword && this.passwordField(
          "current", "Current password", password.current, passwordErrors.current, "current-password"
        ),
        this.passwordField(
          "password", "New password", password.password, passwordErrors.password, "new-password"
        ),
        this.passwordField("again", "Repeat password", password.again, passwordErrors.again, "new-password"),
        h("div", { key: "row", className: "row" },
          h("button", {
            type: "submit", className: "button button-primary", disabled: busy === "password" || !password.password,
            "aria-busy": busy === "password",
          }, features.password ? "Change password" : "Set password"),
          features.password && h("button", {
            type: "button", className: "button", disabled: busy === "password", dataset: { action: "password-remove" },
          }, "Remove password"))),
      h("h3", { key: "title", className: "section-title" }, "Sessions"),
      this.sessions(sessions),
    ], features.password && h("span", { className: "badge badge-success" }, "Password set"));
  }

  /**
   * @param {string} key @param {string} label @param {string} value @param {string} error @param {string} autocomplete
   */
  passwordField(key, label, value, error, autocomplete) {
    const id = `password-${key}`;
    return formField({ id, label, error }, h("input", {
      id, className: "input", type: "password", autocomplete, value, dataset: { password: key },
      "aria-describedby": `${id}-hint`, "aria-invalid": error ? "true" : null,
    }));
  }

  /** @param {Json[]|null} sessions */
  sessions(sessions) {
    if (!sessions) return h("div", { key: "sessions", className: "skeleton" });
    if (!sessions.length) {
      return h("p", { key: "sessions", className: "muted" }, "No browser is signed in with a password.");
    }
    return h("ul", { key: "sessions", className: "list session-list" }, sessions.map((session) => h("li", {
      key: session.id, className: "list-item session-item",
    },
      h("span", { className: "session-text" },
        h("span", { className: "row" },
          h("strong", null, session.address ?? "Unknown address"),
          session.current && h("span", { className: "badge badge-success" }, "This browser")),
        h("span", { className: "field-hint" },
          `Since ${dateTime(session.created_at)} · used ${relativeTime(session.used_at)} · `,
          `until ${dateTime(session.expires_at)}`)),
      h("button", {
        type: "button", className: "button button-small",
        dataset: { action: "revoke", id: session.id, current: String(Boolean(session.current)) },
        "aria-label": `End the session of ${session.address}`,
      }, "End"))));
  }

  backups() {
    const { backup, busy } = this.state;
    return this.card("Backup and transfer", [
      h("div", { key: "backup", className: "field field-inline" },
        h("div", { className: "field-text" },
          h("span", { className: "field-label" }, "Back up the database"),
          h("span", { className: "field-hint" },
            "History, logs and everything else, into the data folder. Backed up daily.")),
        h("button", {
          type: "button", className: "button", disabled: busy === "backup", "aria-busy": busy === "backup",
          dataset: { action: "backup" },
        }, icon("disk"), busy === "backup" ? "Working…" : "Back up now")),
      backup && h("div", { key: "done", className: "stack backup-done", role: "status" },
        h("span", { className: "text-success" }, `Written: ${bytes(backup.bytes)}`),
        h("div", { className: "row copy-row" },
          h("code", { className: "code break-all" }, backup.path),
          h(CopyButton, { text: backup.path, label: "Copy the path" }))),
      h("div", { key: "export", className: "field field-inline" },
        h("div", { className: "field-text" },
          h("span", { className: "field-label" }, "Export or import settings"),
          h("span", { className: "field-hint" },
            "Settings, configuration and each model's parameters as a JSON file.")),
        h("span", { className: "row" },
          h("button", { type: "button", className: "button", dataset: { action: "export" } },
            icon("download"),
            "Export"),
          h("label", { className: "button file-button" },
            icon("upload"),
            "Import…",
            h("input", {
              type: "file", accept: ".json,application/json", className: "visually-hidden",
              dataset: { role: "import-file" },
            })))),
    ]);
  }

  about() {
    const { system, info } = this.state;
    if (!system) return this.card("About", h("div", { className: "skeleton panel-skeleton" }));
    const { engine, database, paths } = system;
    /** @type {Array<[string, any, string?]>} */
    const rows = [
      ["Version", system.version ?? info?.version],
      ["Engine", [engine?.build?.kind, engine?.build?.version].filter(Boolean).join(" ") || engine?.status],
      ["Python", system.python],
      ["System", system.os],
      [
        "Machine",
        [
          system.hostname, system.cpu?.model, system.cpu?.threads && `${system.cpu.threads} threads`,
        ].filter(Boolean).join(" · "),
      ],
      ["Up for", duration(system.uptime)],
      ["This program", ownUse(system.process)],
      ["Database", database && `${database.path} (${bytes(database.size ?? database.bytes)})`, "mono break-all"],
      ["Data folder", paths?.data, "mono break-all"],
      ["Program", paths?.script, "mono break-all"],
      ["Licence", "MIT"],
      ["Needs attention", (system.warnings ?? []).join(" "), "text-warning"],
    ];
    return this.card("About", h("dl", { className: "facts" },
      rows.filter(([, value]) => value).map(([label, value, name]) =>
        [h("dt", { key: `${label}-t` }, label), h("dd", { key: `${label}-d`, className: name ?? "" }, value)])));
  }

  importDialog() {
    const { name, preview } = this.state.importing;
    const changes = /** @type {any[]} */ (preview.changes ?? []);
    return h(Dialog, {
      key: "import", title: `Import ${name}`, wide: true, close: () => this.setState({ importing: null }),
      footer: [
        h("button", { key: "cancel", type: "button", className: "button", dataset: { action: "import-cancel" } },
          "Cancel"),
        h("button", {
          key: "apply", type: "button", className: "button button-primary",
          disabled: !changes.length || this.state.busy === "import", dataset: { action: "import-apply" },
        }, "Apply"),
      ],
    },
      h("div", { className: "stack" },
        h("p", null, changes.length ? "This would change:" : "Nothing to change: everything matches the file."),
        h("ul", { key: "changes", className: "change-list" },
          changes.flatMap(importLines).map((line, index) => h("li", { key: index, className: "break-all" }, line))),
        (preview.warnings ?? []).map((/** @type {string} */ warning) =>
          h("p", { key: warning, className: "text-warning break-all" }, warning))));
  }
}

/** What llamadash itself takes, and how late its event loop was at worst of late. @param {any} process */
function ownUse(process) {
  const { cpu, memory, lag } = process ?? {};
  return [
    typeof cpu === "number" && `${percent(cpu)} CPU`, memory && `${bytes(memory)} of memory`,
    typeof lag === "number" && `response delay ≤ ${Math.round(lag)} ms`,
  ].filter(Boolean).join(" · ");
}

/** @param {any} change @returns {string[]} */
function importLines(change) {
  if (typeof change === "string") return [change];
  const where = change.kind === "model"
    ? `Model ${change.id}`
    : change.kind === "config"
    ? "Configuration"
    : "Settings";
  return Object.entries(change.changes ?? {}).map(([key, value]) =>
    `${where} · ${settingName(key)}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
}

/** A price that was typed in; null for nothing, NaN for what is none. @param {string} text */
function price(text) {
  const plain = text.trim().replace(",", ".");
  return plain === "" ? null : /^\d{1,3}(\.\d{1,6})?$/.test(plain) ? Number(plain) : NaN;
}
