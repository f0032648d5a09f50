import { Component, h } from "../core/component.js";
import {
  bytes, dateTime, duration, fixed, number, percent, plural, rate, relativeTime, tokens,
} from "../core/format.js";
import { Chart, Sparkline } from "../components/chart.js";
import { CopyButton } from "../components/copy-button.js";
import { confirmDialog } from "../components/dialog.js";
import { icon } from "../components/icon.js";
import { ENGINE_STATES } from "../components/layout.js";
import { IN_MEMORY, loadingStage, statusLabel } from "../components/model-status.js";
import { meter, progressBar } from "../components/progress.js";
import { emptyState } from "../components/states.js";
import { toast } from "../components/toast.js";

/** @typedef {{[name: string]: any}} Json */
/** @typedef {import("../core/component.js").VNode} VNode */

const SLOTS = 90; // samples across a sparkline
const SHOWN_REQUESTS = 8;
const MENU_LENGTH = 12;
const DISK_WARNING = 90; // percent

/** Follows the keys of the state that it shows, and nothing else. */
class Panel extends Component {
  /** @type {string[]} */
  static keys = [];

  /** @param {string} key */
  get(key) {
    return this.props.state.get(key);
  }

  /** @returns {Json[]} */
  get models() {
    return this.get("models") ?? [];
  }

  didMount() {
    const { keys } = /** @type {typeof Panel} */ (this.constructor);
    return keys.map((key) => this.props.state.subscribe(key, () => this.setState({})));
  }
}

/** @param {string} name @param {string} title @param {any} [actions] */
function cardHeader(name, title, actions) {
  return h("header", { className: "card-header" },
    h("h2", { className: "card-title" }, icon(name), title),
    actions ?? null);
}

/** @param {number} [rows] */
function skeleton(rows = 3) {
  return h("div", { className: "stack", "aria-busy": true },
    Array.from({ length: rows }, (_, at) =>
      h("span", { key: at, className: "skeleton", style: { width: `${90 - at * 18}%` } })));
}

/** What needs attention, most urgent first; nothing where all is well. */
class Warnings extends Panel {
  static keys = ["models", "engine", "metrics"];

  /** @returns {{key: string, danger?: boolean, text: string, href?: string, link?: string}[]} */
  warnings() {
    const engine = this.get("engine");
    const failed = this.models.filter(({ status, error, reason }) =>
      status === "failed" || (error && reason === "crashed"));
    const missing = this.models.filter(({ status }) => status === "missing");
    const disks = (this.get("metrics")?.disks ?? []).filter((/** @type {Json} */ disk) => disk.usage >= DISK_WARNING);
    return [
      ...failed.map(({ id, name, error }) => (
        {
          key: `failed-${id}`, danger: true, text: `${name} did not load: ${error ?? "the engine's log says why"}`,
          href: `/models/${encodeURIComponent(id)}`, link: "Details",
        }
      )),
      ...(engine?.warnings ?? []).map((/** @type {string} */ text) => (
        { key: text, text, href: "/logs?source=engine", link: "Log" }
      )),
      ...this.shrunk(engine?.warnings ?? []),
      ...disks.map((/** @type {Json} */ disk) => (
        {
          key: `disk-${disk.path}`,
          text: `The disk of ${disk.path} is ${percent(disk.usage)} full: ${bytes(disk.total - disk.used)} left`,
        }
      )),
      ...(
        missing.length
          ? [
            {
              key: "missing",
              text: `${plural(missing.length, "model file is", "model files are")} gone: ${missing.map(({ name }) => name).join(", ")}`,
              href: "/models", link: "Models",
            },
          ]
          : []
      ),
    ];
  }

  /**
   * Models that got less context than asked for, where the engine's own warnings do not say it.
   * @param {string[]} said
   */
  shrunk(said) {
    const cut = this.models.filter(({ id, name, parameters, runtime }) =>
      runtime?.n_ctx && Number(parameters?.["ctx-size"]) > runtime.n_ctx
        && !said.some((text) => text.includes(id) || text.includes(name)));
    return cut.map(({ id, name, parameters, runtime }) => (
      {
        key: `context-${id}`,
        text: `${name}: the context was cut from ${number(parameters["ctx-size"])} to ${number(runtime.n_ctx)} tokens to fit into memory`,
        href: `/models/${encodeURIComponent(id)}`, link: "Tune",
      }
    ));
  }

  render() {
    const list = this.warnings();
    return h("ul", { className: "card list warnings", hidden: !list.length, "aria-label": "Needs attention" },
      list.map(({ key, danger, text, href, link }) => h("li", { key, className: danger ? "list-item warning warning-danger" : "list-item warning" },
        icon(danger ? "error" : "warning"), h("span", { className: "banner-text" }, text), href
          ? h("a", { className: "card-link", href }, link)
          : null)));
  }
}

/** The three steps from nothing to a first answer; gone once they are taken. */
class Welcome extends Panel {
  static keys = ["models", "engine"];

  render() {
    const engine = this.get("engine");
    const known = engine && this.get("models");
    const running = engine?.status === "running";
    const stocked = this.models.some(({ missing }) => !missing);
    const open = known && (engine.status === "missing" || !stocked);
    return h("section", { className: "card welcome", hidden: !open, "aria-label": "First steps" }, open ? [
      h("div", { key: "words", className: "welcome-words" },
        h("h2", null, "Welcome to llamadash"),
        h("p", { className: "muted" }, "Three steps, and a model that runs on this machine answers you.")),
      h("ol", { key: "steps", className: "welcome-steps" },
        this.step(
          1, running, "An engine",
          running
            ? `${engine.kind === "embedded" ? "The embedded CPU engine" : "llama-server"} is running`
            : "llama.cpp runs the models; see below"
        ),
        this.step(
          2, stocked, "A model",
          stocked ? `${plural(this.models.length, "model")} found` : "Download one, or point to a folder",
          h("a", { className: "button button-primary button-small", href: "/models" }, "Get a model")
        ),
        this.step(
          3, false, "A question", "Chat here, or connect any OpenAI client",
          running && stocked
            ? h("a", { className: "button button-primary button-small", href: "/chat" }, "Open chat")
            : null
        )),
    ] : null);
  }

  /**
   * @param {number} at @param {boolean} done @param {string} title @param {string} words @param {VNode | null} [action]
   */
  step(at, done, title, words, action) {
    return h("li", { key: at, className: done ? "welcome-step welcome-done" : "welcome-step" },
      h("span", { className: "welcome-mark", "aria-hidden": "true" }, done ? icon("check", { size: 16 }) : at),
      h("div", { className: "welcome-step-words" },
        h("strong", null, title),
        h("span", { className: "muted" }, words),
        done ? null : (action ?? null)));
  }
}

/** The engine: what it is, how it does, its address for other programs, and its switch. */
class EngineCard extends Panel {
  static keys = ["engine", "models", "connection", "metrics"];

  init() {
    this.state = { busy: false, Help: null };
    this.follow(this.get("engine"));
  }

  didMount() {
    return [
      ...super.didMount(), this.props.state.subscribe("engine", (/** @type {any} */ engine) => this.follow(engine)),
    ];
  }

  /** @param {Json | null} engine */
  follow(engine) {
    if (engine?.status === "missing" && !this.state.Help) void this.loadHelp();
  }

  async loadHelp() {
    const { EngineHelp } = await import("../components/engine-help.js");
    this.setState({ Help: EngineHelp });
  }

  render() {
    const engine = this.get("engine");
    const [kind, words] = ENGINE_STATES[engine?.status] ?? ["neutral", "unknown"];
    const badge = engine
      ? h("span", { className: `badge badge-${kind}` },
        h("span", { className: kind === "info" ? "dot dot-busy" : "dot" }),
        words[0].toUpperCase() + words.slice(1))
      : null;
    return h("section", { className: "card engine-card", "aria-label": "Engine" },
      h("header", { className: "card-header" },
        h("h2", { className: "card-title" }, icon("bolt"), "Engine", badge),
        engine ? this.renderSwitch(engine) : null),
      h("div", { className: "card-body" }, engine ? this.renderBody(engine) : skeleton(4)));
  }

  /** @param {Json} engine */
  renderSwitch({ status, kind }) {
    if (kind === "remote" || status === "missing") return null;
    const disabled = this.state.busy || this.get("connection") !== "connected" || status === "stopping";
    /** @param {string} action @param {string} name @param {string} label @param {string} look */
    const button = (action, name, label, look) => h("button", {
      key: action, type: "button", className: `button button-small ${look}`, disabled, dataset: { engine: action },
    }, icon(name, { size: 14 }), label);
    if (["stopped", "crashed", "crash_loop"].includes(status)) {
      return button("start", "play", "Start", "button-primary");
    }
    return h("div", { className: "row" },
      button("restart", "refresh", "Restart", ""),
      button("stop", "stop", "Stop", ""));
  }

  /** @param {Json} engine */
  renderBody(engine) {
    if (engine.status === "missing") return this.renderMissing(engine);
    return [this.renderTrouble(engine), this.renderFacts(engine),
        engine.kind === "embedded" && engine.hint
          ? h("p", { key: "hint", className: "field-hint" }, engine.hint.text)
          : null, engine.base_url
          ? this.renderAddress(engine)
          : null];
  }

  /** @param {Json} engine */
  renderMissing(engine) {
    const { Help } = this.state;
    return [
      h("p", { key: "words", className: "muted" },
        engine.error ?? "No engine was found on this machine. Everything else works; to run models, take one of these:"),
      Help ? h(Help, { key: "help", state: this.props.state, engine }) : null,
    ];
  }

  /** @param {Json} engine */
  renderTrouble({ status, error, last_lines: lines }) {
    if (!error) return null;
    const bad = status === "crashed" || status === "crash_loop";
    return h("div", { key: "trouble", className: "stack" },
      h("p", { className: bad ? "field-error" : "muted", role: bad ? "alert" : null }, error),
      bad && lines?.length
        ? h("details", { className: "trouble-lines", open: status === "crash_loop" },
          h("summary", null, "Its last lines"),
          h("pre", { className: "code", tabindex: 0 }, lines.slice(-12).join("\n")))
        : null);
  }

  /** @param {Json} engine */
  renderFacts({ kind, version, pid, restarts, models_max: most, status, since }) {
    const names = /** @type {Json} */ ({
      "llama-server": "llama-server", embedded: "Embedded CPU engine", remote: "llama-server, started elsewhere",
    });
    const count = this.models.filter(({ status: state }) => IN_MEMORY.includes(state)).length;
    const uptime = status === "running" && typeof since === "number"
      ? duration(Math.max(1, Math.round((Date.now() - since) / 1000)))
      : "–";
    return h("dl", { key: "facts", className: "facts" },
      h("dt", null, "Program"),
      h("dd", null, names[kind] ?? "–", version ? h("span", { className: "muted" }, ` ${version}`) : null),
      h("dt", null, "Running for"),
      h("dd", null, uptime, pid ? h("span", { className: "muted" }, ` (process ${pid})`) : null),
      h("dt", null, "Models in memory"), h("dd", null, most ? `${count} of ${most}` : String(count)),
      h("dt", null, "Restarts"), h("dd", null, number(restarts, 0)));
  }

  /** @param {Json} engine */
  renderAddress({ base_url: url, api_key_required: key }) {
    return h("div", { key: "address", className: "field" },
      h("span", { className: "field-label" }, "Address for OpenAI clients"),
      h("div", { className: "code-line" },
        h("code", { tabindex: 0 }, url),
        h(CopyButton, { text: url, label: "Copy the address" })),
      h("span", { className: "field-hint" },
        key
          ? "Clients need the API key: LLAMADASH_ENGINE_API_KEY, or the one in data/engine-key."
          : "No API key is needed; any value will do where a client insists on one."));
  }

  getEventMap() {
    return { "click [data-engine]": "handleSwitch" };
  }

  /** @param {Event} _event @param {HTMLElement} button */
  async handleSwitch(_event, button) {
    const action = /** @type {string} */ (button.dataset.engine);
    if (action !== "start" && !(await this.confirmed(action))) return;
    this.setState({ busy: true });
    try {
      await this.props.state.request(`engine:${action}`);
    } finally {
      this.setState({ busy: false });
    }
  }

  /** @param {string} action */
  confirmed(action) {
    const loaded = this.models.filter(({ status }) => IN_MEMORY.includes(status));
    if (!loaded.length) return true;
    const title = action === "stop" ? "Stop the engine?" : "Restart the engine?";
    const body = `${plural(loaded.length, "model leaves", "models leave")} memory and running answers are cut off:`;
    return confirmDialog({
      title, body, details: loaded.map(({ name }) => name), confirmLabel: action === "stop" ? "Stop" : "Restart",
      danger: true,
    });
  }
}

/** The models in memory, live, and a short way to load another. */
class LoadedModels extends Panel {
  static keys = ["models", "engine", "connection"];

  init() {
    this.state = { open: false };
  }

  render() {
    const shown = this.models.filter(({ status }) => IN_MEMORY.includes(status));
    const body = !this.get("models") ? h("div", { className: "card-body" }, skeleton(4))
      : shown.length
      ? h("ul", { className: "list" }, shown.map((model) => this.renderModel(model)))
      : this.renderEmpty();
    return h("section", { className: "card", "aria-label": "Models in memory" },
      cardHeader("models", "In memory", this.renderMenu()),
      body);
  }

  renderEmpty() {
    if (!this.models.length) {
      return emptyState({
        title: "No models yet", iconName: "models",
        body: "llamadash looks through your model folders for GGUF files and can download some for you.",
        action: h("a", { className: "button button-primary", href: "/models" }, "Go to Models"),
      });
    }
    const status = this.get("engine")?.status;
    if (status && status !== "running" && status !== "starting") {
      return emptyState({
        title: "The engine is not running", iconName: "bolt", body: "Models can be loaded once it runs.",
      });
    }
    const favorites = this.models.filter(({ favorite, missing }) => favorite && !missing).slice(0, 4);
    const action = favorites.length
      ? favorites.map((model) => this.loadButton(model))
      : h("a", { className: "button", href: "/models" }, "Choose a model");
    return emptyState({
      title: "No model is loaded", iconName: "models",
      body: "Load one here, or let the first request of a client do it.", action,
    });
  }

  /** @param {Json} model */
  loadButton({ id, name }) {
    return h("button", {
      key: id, type: "button", className: "button load-button", disabled: this.get("connection") !== "connected",
      dataset: { load: id },
    }, icon("play", { size: 14 }), h("span", { className: "truncate" }, name));
  }

  renderMenu() {
    const free = this.models.filter(({ status }) => status === "unloaded" || status === "failed");
    if (!free.length || this.get("engine")?.status !== "running") return null;
    const list = [...free].sort((a, b) =>
      Number(b.favorite) - Number(a.favorite) || a.name.localeCompare(b.name)).slice(0, MENU_LENGTH);
    return h("div", { className: "menu" },
      h("button", {
        type: "button", className: "button button-small", "aria-expanded": this.state.open, dataset: { action: "menu" },
      }, icon("plus", { size: 14 }), "Load a model"),
      this.state.open ? h("ul", { className: "menu-list" },
        list.map(({ id, name, favorite, file_size: size }) => h("li", { key: id }, h("button", { type: "button", className: "menu-item", dataset: { load: id } },
          favorite ? icon("star-filled", { size: 14, className: "menu-star" }) : h("span", { className: "menu-gap" }),
          h("span", { className: "truncate" }, name),
          h("span", { className: "muted nowrap" }, bytes(size))))),
        h("li", { key: "all", className: "menu-foot" },
          h("a", { className: "menu-item", href: "/models" }, "All models"))) : null);
  }

  /** @param {Json} model */
  renderModel(model) {
    const { id, name, status, quantization, size_label: label } = model;
    const [words, kind] = statusLabel(status);
    return h("li", { key: id, className: "list-item loaded-model" },
      h("div", { className: "loaded-name" },
        h("a", { className: "loaded-link truncate", href: `/models/${encodeURIComponent(id)}`, title: name }, name),
        h("div", { className: "row" },
          h("span", { className: `badge badge-${kind}` },
            h("span", { className: status === "loading" ? "dot dot-busy" : "dot" }),
            words),
          h("span", { className: "muted loaded-kind" }, [label, quantization].filter(Boolean).join(" · ")))),
      status === "loading" ? this.renderProgress(model) : this.renderFigures(model),
      h("div", { className: "loaded-actions" },
        status === "loading"
          ? null
          : h("a", {
            className: "button button-ghost button-icon", href: `/chat?model=${encodeURIComponent(id)}`,
            "aria-label": `Chat with ${name}`, title: "Chat",
          }, icon("chat")),
        h("button", { type: "button", className: "button button-small", dataset: { unload: id } },
          status === "loading" ? "Cancel" : "Unload")));
  }

  /** @param {Json} model */
  renderProgress(model) {
    const { text, part } = loadingStage(model);
    return h("div", { key: "progress", className: "loaded-progress" }, progressBar({ value: part, label: `Loading ${model.name}` }),
      h("span", { className: "muted" }, text));
  }

  /** @param {Json} model */
  renderFigures({ runtime, context_length: length }) {
    const { tokens_per_second: speed, n_ctx: context, memory } = runtime ?? {};
    /** @param {string} label @param {string} value @param {string} [title] */
    const figure = (label, value, title) => h("div", { key: label, className: "figure", title: title ?? null },
      h("span", { className: "figure-label" }, label),
      h("span", { className: "figure-value" }, value));
    return h("div", { key: "figures", className: "loaded-figures" },
      figure("Tokens/s", fixed(speed)),
      figure(
        "Context", tokens(context),
        length ? `${number(context)} of ${number(length)} tokens that it was trained for` : ""
      ),
      figure("Memory", bytes(memory)));
  }

  getEventMap() {
    return {
      "click [data-action=\"menu\"]": () => this.setState({ open: !this.state.open }),
      "click [data-load]": "handleLoad",
      "click [data-unload]": "handleUnload",
      keydown: "handleKey",
    };
  }

  /** @param {Event} _event @param {HTMLElement} button */
  async handleLoad(_event, button) {
    this.setState({ open: false });
    const { model } = await this.props.state.request("models:load", { id: button.dataset.load });
    toast(`Loading ${model.name}`);
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleUnload(_event, button) {
    return this.props.state.request("models:unload", { id: button.dataset.unload });
  }

  /** @param {KeyboardEvent} event */
  handleKey(event) {
    if (event.key !== "Escape" || !this.state.open) return;
    this.setState({ open: false });
    this.element.querySelector("[data-action=\"menu\"]").focus();
  }

  didMount() {
    /** @param {Event} event */
    const away = (event) => this.state.open && !(/** @type {Element} */ (event.target).closest(".menu"))
      && this.setState({ open: false });
    document.addEventListener("pointerdown", away);
    return [...super.didMount(), () => document.removeEventListener("pointerdown", away)];
  }
}

/** CPU, memory, network, disks and GPUs, each with its last quarter of an hour. */
class Machine extends Panel {
  static keys = ["metrics", "metricsRecent"];

  render() {
    const metrics = this.get("metrics");
    const gpus = (metrics?.gpus ?? []).map((/** @type {Json} */ gpu) => this.gpu(gpu));
    const one = gpus.length === 1; // stands beside the others; several have a row of their own
    const cards = metrics
      ? [this.cpu(metrics), this.memory(metrics), this.network(metrics), this.disk(metrics), one ? gpus[0] : null]
      : ["cpu", "memory", "network", "disk"].map((key) =>
        h("section", { key, className: "card machine-card" }, skeleton()));
    return h("div", { className: "stack machine" },
      h("div", { className: "grid machine-grid" }, cards),
      gpus.length > 1 ? h("div", { key: "gpus", className: "grid machine-grid" }, gpus) : null);
  }

  /** @param {(sample: Json) => any} pick */
  recent(pick) {
    return this.get("metricsRecent").map(pick);
  }

  /**
   * @param {{key: string, name: string, title: string, value: string, hint?: any, values?: any[], color?: number, max?:
   *   number, full?: number | null, label: string, extra?: any}} it
   */
  card({ key, name, title, value, hint, values, color = 1, max, full, label, extra }) {
    return h("section", { key, className: "card machine-card", "aria-label": label },
      h("div", { className: "stat" },
        h("h3", { className: "stat-label" },
          icon(name, { size: 16 }),
          h("span", { className: "truncate", title }, title)),
        h("span", { className: "stat-value" }, value),
        h("span", { className: "stat-hint truncate" }, hint ?? "")),
      full === undefined ? null : meter({ value: full, label: `${label} in use` }),
      extra ?? null,
      values
        ? h(Sparkline, { key: "trend", values, color, max, slots: SLOTS, label: `${label} over the last minutes` })
        : null);
  }

  /** @param {Json} metrics */
  cpu({ cpu_usage: usage, load_average: load }) {
    return this.card({
      key: "cpu", name: "cpu", title: "CPU", label: "CPU", value: percent(usage),
      hint: load ? `Load ${[load].flat().map((/** @type {any} */ value) => fixed(value, 2)).join(" · ")}` : "",
      values: this.recent((sample) => sample.cpu_usage), max: 100,
    });
  }

  /** @param {Json} metrics */
  memory({ memory_usage: usage, memory_used: used, memory_total: total, swap_usage: swap }) {
    const hint = `${bytes(used)} of ${bytes(total)}${swap ? `, swap ${percent(swap)}` : ""}`;
    return this.card({
      key: "memory", name: "memory", title: "Memory", label: "Memory", value: percent(usage), hint,
      values: this.recent((sample) => sample.memory_usage), color: 3, max: 100,
    });
  }

  /** @param {Json} metrics */
  network({ network_received: received, network_sent: sent }) {
    return this.card({
      key: "network", name: "network", title: "Network", label: "Network", value: rate(received),
      hint: `received; ${rate(sent)} sent`, values: this.recent((sample) => sample.network_received), color: 6,
    });
  }

  /** @param {Json} metrics */
  disk({ disks, disk_used: used, disk_total: total, disk_usage: usage }) {
    const list = disks?.length ? disks : [{ path: "Disk", used, total, usage }];
    const rows = list.slice(0, 3).map((/** @type {Json} */ disk) => h("div", { key: disk.path, className: "disk" },
      h("div", { className: "disk-words" },
        h("span", { className: "truncate", title: disk.path }, disk.path),
        h("span", { className: "nowrap muted" },
          `${bytes(disk.total - disk.used)} free`)), meter({ value: disk.usage, label: `Disk of ${disk.path}` })));
    return this.card({
      key: "disk", name: "disk", title: list.length > 1 ? "Disks" : "Disk", label: "Disk",
      value: percent(list[0].usage), hint: `${bytes(list[0].used)} of ${bytes(list[0].total)}`,
      extra: h("div", { className: "disks" }, rows),
    });
  }

  /** @param {Json} gpu */
  gpu({ index, name, utilization, memory_used: used, memory_total: total, temperature, power }) {
    const facts = [
      temperature === null ? "" : `${number(temperature, 0)} °C`, power === null ? "" : `${number(power, 0)} W`,
    ].filter(Boolean).join(" · ");
    const full = known(used) && total ? (100 * used) / total : null;
    return this.card({
      key: `gpu${index}`,
      name: "gpu",
      title: name ?? `GPU ${index}`,
      label: name ?? `GPU ${index}`,
      value: percent(utilization),
      hint: facts,
      color: 2,
      max: 100,
      values: this.recent((sample) => sample.gpus?.find((/** @type {Json} */ one) => one.index === index)?.utilization),
      extra: h("div", { className: "disk" },
        h("div", { className: "disk-words" },
          h("span", null, "VRAM"),
          h("span", { className: "nowrap muted" }, `${bytes(used)} of ${bytes(total)}`)),
        meter({ value: full, label: "VRAM in use" })),
    });
  }
}

/** @param {any} value */
const known = (value) => typeof value === "number";

/** Tokens per second, generated and read. */
class Speed extends Panel {
  static keys = ["metricsRecent"];

  render() {
    return h("div", { className: "grid grid-2" },
      this.chart("generated_tokens_per_second", "Generated tokens/s", 1),
      this.chart("prompt_tokens_per_second", "Prompt tokens/s", 3));
  }

  /** @param {string} name @param {string} title @param {number} color */
  chart(name, title, color) {
    const samples = this.get("metricsRecent");
    const values = samples.map((/** @type {Json} */ sample) => sample.engine?.[name]);
    const last = values[values.length - 1];
    return h("section", { key: name, className: "card", "aria-label": title },
      h("header", { className: "card-header" },
        h("h2", { className: "card-title" }, icon("monitoring"), title),
        h("span", { className: "chart-now" }, fixed(last))),
      h("div", { className: "card-body" }, h(Chart, {
        key: name, label: title, height: 168, legend: false, empty: "Nothing yet: it appears with the first answer",
        timestamps: samples.map((/** @type {Json} */ sample) => sample.timestamp),
        series: [{ label: title, values, color, area: true }],
      })));
  }
}

/** The last finished requests, whoever made them. */
class RecentRequests extends Panel {
  static keys = ["requests", "models"];

  render() {
    const list = this.get("requests");
    const body = !list
      ? h("div", { className: "card-body" }, skeleton())
      : list.length
      ? this.renderTable(list)
      : emptyState({
        title: "No requests yet", iconName: "bolt",
        body: "Every answer of the engine appears here with its speed, whether it was asked for in Chat or by another program.",
      });
    return h("section", { className: "card", "aria-label": "Last requests" },
      cardHeader("bolt", "Last requests", h("a", { className: "card-link", href: "/monitoring" }, "Monitoring")),
      body);
  }

  /** @param {Json[]} list */
  renderTable(list) {
    const heads = ["Time", "Model", "Prompt", "Cached", "Generated", "Tokens/s", "Duration"];
    return h("div", { className: "table-wrap", tabindex: 0, role: "region", "aria-label": "Last requests" }, h("table", { className: "table" },
      h("thead", null,
        h("tr", null,
          heads.map((head, at) => h("th", { key: head, scope: "col", className: at > 1 ? "numeric" : null }, head)))),
      h("tbody", null, list.slice(0, SHOWN_REQUESTS).map((request) => this.renderRequest(request)))));
  }

  /** @param {Json} request */
  renderRequest({
    id, timestamp, model, prompt_tokens: prompt, cached_tokens: cached, generated_tokens: generated,
    generated_per_second: speed, duration: took,
  }) {
    const name = this.models.find((item) => item.id === model)?.name ?? model;
    return h("tr", { key: id },
      h("td", { className: "nowrap muted", title: dateTime(timestamp) }, relativeTime(timestamp)),
      h("td", { className: "request-model" }, h("span", { className: "truncate", title: name }, name)),
      [
        number(prompt, 0), number(cached, 0), number(generated, 0), fixed(speed),
        known(took) ? duration(took / 1000) : "–",
      ].map((text, at) => h("td", { key: at, className: "numeric" }, text)));
  }

  didMount() {
    const clock = setInterval(() => this.setState({}), 30_000); // "3 min ago" grows older
    return [...super.didMount(), () => clearInterval(clock)];
  }
}

/** The start page: is it running, what is loaded, how fast is it, what does it cost. */
export class DashboardPage extends Component {
  static title = "Dashboard";

  render() {
    const { state } = this.props;
    return h("section", { className: "page dashboard" },
      h("header", { className: "page-header" }, h("h1", { className: "page-title" }, "Dashboard")),
      h(Welcome, { key: "welcome", state }),
      h(Warnings, { key: "warnings", state }),
      h("div", { key: "engine", className: "grid dashboard-top" },
        h(EngineCard, { key: "engine", state }),
        h(LoadedModels, { key: "loaded", state })),
      h(Machine, { key: "machine", state }),
      h(Speed, { key: "speed", state }),
      h(RecentRequests, { key: "requests", state }));
  }

  didMount() {
    const { state } = this.props;
    state.load("requests").catch(() => {});
    state.load("metricsRecent").catch(() => {});
  }
}
