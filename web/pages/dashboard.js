import { Component, h } from "../core/component.js";
import { bytes, now, number, percent, plural, tokenRate } from "../core/format.js";
import { readStorage, writeStorage } from "../core/auth.js";
import { stylesheet } from "../core/router.js";
import { Chart } from "../components/chart.js";
import { CopyButton } from "../components/copy-button.js";
import { icon } from "../components/icon.js";
import { IN_MEMORY } from "../components/model-status.js";
import { Panel } from "../components/panel.js";
import { DeviceMemory } from "../components/device-memory.js";
import { ModelsInMemory, Queue } from "../components/residency.js";
import { timelineCard } from "../components/timeline.js";

/** @typedef {{[name: string]: any}} Json */
/** @typedef {import("../core/component.js").VNode} VNode */

const OWN_ONLY = "The API listens on this machine alone. Set its address to 0.0.0.0 for other machines and phones.";
const FEED_SPAN_MS = 86_400_000;
const DETAILS_KEY = "llamadash.dashboard.details";
const DISK_WARNING = 90; // percent

/** @type {{[kind: string]: string}} what a build is called */
const BUILDS = { "llama-server": "llama-server", embedded: "Embedded engine" };

/** Everything at a glance, in one line: is all well, how much is done, and where other programs reach it. */
class Strip extends Panel {
  static keys = ["engine", "models", "metrics", "connection", "requests", "info"];

  getInitialState() {
    return { errors: null, busy: false };
  }

  render() {
    const engine = this.get("engine");
    const metrics = this.get("metrics");
    const loaded = this.models.filter(({ status }) => IN_MEMORY.includes(status));
    const { models_max: most, waiting } = engine ?? {};
    const power = (metrics?.gpus ?? []).map((/** @type {Json} */ gpu) => gpu.power)
      .filter((/** @type {any} */ watts) => typeof watts === "number");
    const watts = power.reduce((/** @type {number} */ sum, /** @type {number} */ one) => sum + one, 0);
    const { errors } = this.state;
    return h("section", { className: "card strip", "aria-label": "Overview" },
      this.renderHealth(engine),
      h("dl", { className: "strip-facts" },
        fact("In memory", this.get("models") ? `${loaded.length}${most ? ` of ${most}` : ""}` : "–"),
        fact("Speed while answering", tokenRate(this.speed(loaded)), "Of all answers together"),
        fact("Throughput", tokenRate(metrics?.engine?.generated_tokens_per_second), "Tokens over wall time"),
        fact("Waiting", number(waiting, 0), "Requests waiting for a model", waiting > 0 && "text-warning"),
        power.length > 0 && fact("Power", `${number(watts, 0)} W`, "Of all GPUs together"),
        fact("Errors today", errors === null ? "–" : h("a", { href: "/monitoring?status=failed" }, number(errors, 0)),
          "Requests that failed since midnight", errors > 0 && "text-danger")),
      this.renderAddress(engine));
  }

  /** What all answers under way generate together, else the last known. @param {Json[]} loaded */
  speed(loaded) {
    const speeds = (/** @type {Json[]} */ list) => list.map(({ runtime }) => runtime?.tokens_per_second)
      .filter((value) => typeof value === "number");
    const running = speeds(loaded.filter(({ runtime }) => runtime?.requests));
    if (running.length) return running.reduce((sum, one) => sum + one, 0);
    const last = (this.get("requests") ?? []).find((/** @type {Json} */ one) => one.generated_per_second);
    return last?.generated_per_second ?? speeds(loaded)[0] ?? null;
  }

  /** @param {Json | null} engine */
  renderHealth(engine) {
    const [kind, symbol, words] = this.health(engine);
    return h("div", { className: `strip-health strip-${kind}`, role: "status" },
      icon(symbol, { size: 20 }), h("strong", null, words),
      engine?.status === "stopped" && this.get("connection") === "connected" && h("button", {
        key: "start", type: "button", className: "button button-primary button-small", dataset: { action: "start" },
        disabled: this.state.busy,
      }, "Start"));
  }

  /** @param {Json | null} engine @returns {[string, string, string]} kind, icon and words */
  health(engine) {
    if (this.get("connection") !== "connected") return ["danger", "warning", "Not connected"];
    if (!engine || !this.get("models")) return ["info", "clock", "Looking…"];
    if (engine.status === "missing") return ["warning", "warning", "No engine"];
    if (engine.status === "stopped") return ["warning", "stop", "Engine stopped"];
    if (engine.status === "stopping") return ["info", "clock", "Engine is stopping"];
    const list = warnings(this.props.state);
    if (!list.length) return ["success", "check", "All is well"];
    return [list.some(({ danger }) => danger) ? "danger" : "warning", "warning", plural(list.length, "problem")];
  }

  /** @param {Json | null} engine */
  renderAddress(engine) {
    const url = engine?.base_url;
    if (!url) {
      return h("div", { className: "strip-address strip-label muted" }, "API: not running. ",
        h("a", { key: "why", href: "/configuration" }, "Address and port"));
    }
    const own = isOwn(new URL(url).hostname);
    return h("div", { className: "strip-address" },
      h("span", { className: "strip-label muted" },
        own ? ["API, this machine only. ",
          h("a", { key: "why", href: "/configuration", title: OWN_ONLY }, "Open to others"),
          h("span", { key: "words", className: "strip-why" }, OWN_ONLY)]
          : `API for all devices${engine.api_key_required ? ", with an API key" : ""}`),
      h("div", { className: "strip-url" },
        h("code", { className: "truncate", title: url }, url),
        h(CopyButton, { text: url, label: "Copy the API address" })));
  }

  getEventMap() {
    return { "click [data-action=\"start\"]": "handleStart" };
  }

  async handleStart() {
    this.setState({ busy: true });
    try {
      await this.props.state.request("engine:start");
    } finally {
      this.setState({ busy: false });
    }
  }

  didMount() {
    const { state } = this.props;
    void this.load();
    const fresh = (/** @type {any} */ { request }) => {
      if (new Date(now()).toDateString() !== this.day) void this.load();
      else if (request.status === "failed") this.setState({ errors: (this.state.errors ?? 0) + 1 });
    };
    return [
      ...super.didMount(), state.on("requests:finished", fresh),
      state.subscribe("info", (/** @type {any} */ info) => info?.recovered || void this.load()),
    ];
  }

  async load() {
    const midnight = new Date(now());
    this.day = midnight.toDateString();
    const from = midnight.setHours(0, 0, 0, 0);
    try {
      const { summary } = await this.props.state.request("requests:list", { status: "failed", from, limit: 1 });
      this.setState({ errors: summary.count });
    } catch {
      this.setState({ errors: null }); // not known
    }
  }
}

/** @param {string} label @param {any} value @param {string} [title] @param {string | false} [look] */
function fact(label, value, title, look) {
  return h("div", { key: label, className: "strip-fact", title: title ?? null },
    h("dt", { className: "strip-label muted" }, label),
    h("dd", { className: `strip-value ${look || ""}`.trim() }, value));
}

/** Whether a name in an address stands for the machine itself. @param {string} name */
const isOwn = (name) => name === "localhost" || name.startsWith("127.") || name === "[::1]";

/**
 * What needs attention, most urgent first.
 * @typedef {{key: string, danger?: boolean, text: string, href?: string, link?: string, short?: string}} Warning
 * @param {any} state @returns {Warning[]}
 */
function warnings(state) {
  const engine = state.get("engine");
  const models = /** @type {Json[]} */ (state.get("models") ?? []);
  const missing = models.filter(({ status }) => status === "missing");
  const disks = (state.get("metrics")?.disks ?? []).filter((/** @type {Json} */ disk) => disk.usage >= DISK_WARNING);
  return [
    ...failures(models),
    ...(engine?.warnings ?? []).map((/** @type {string} */ text) => ({
      key: text, text, href: "/logs?source=engine", link: "Log",
    })),
    ...compromises(models),
    ...(engine?.upstreams ?? []).filter((/** @type {Json} */ { status }) => status !== "connected")
      .map((/** @type {Json} */ { name, status, error }) => ({
        key: `upstream-${name}`, text: `Upstream ${name} is ${status}${error ? `: ${error}` : ""}`,
      })),
    ...disks.map((/** @type {Json} */ disk) => ({
      key: `disk-${disk.path}`,
      text: `The disk of ${disk.path} is ${percent(disk.usage)} full: ${bytes(disk.free)} left`,
    })),
    ...(missing.length ? [{
      key: "missing", href: "/models", link: "Models",
      text: `${plural(missing.length, "model file is", "model files are")} missing: ${names(missing)}`,
    }] : []),
  ];
}

/** @param {Json[]} models */
function failures(models) {
  const failed = models.filter(({ status, error, reason }) => status === "failed" || (error && reason === "crashed"));
  return failed.map(({ id, name, error }) => ({
    key: `failed-${id}`, danger: true, href: `/models/${encodeURIComponent(id)}`, link: "Details",
    text: `${name} did not load: ${error ?? "see the engine's log"}`,
  }));
}

/** Models that run with less than was asked for. @param {Json[]} models */
function compromises(models) {
  return models.filter(({ runtime }) => runtime?.warning).map(({ id, name, runtime }) => ({
    key: `context-${id}`, text: `${name}: ${runtime.warning}`, href: `/models/${encodeURIComponent(id)}`, link: "Tune",
    short: id,
  }));
}

/** What needs attention; nothing where all is well. */
class Warnings extends Panel {
  static keys = ["models", "engine", "metrics"];

  render() {
    const { props: { state }, models, state: { mend } } = this;
    const list = warnings(state);
    if (!mend && list.some(({ short }) => short)) {
      import("../components/remedies.js").then(({ Remedies }) => this.setState({ mend: Remedies }));
    }
    return h("ul", { className: "card list warnings", hidden: !list.length, "aria-label": "Needs attention" },
      list.map(({ key, danger, text, href, link, short }) => (
        h("li", { key, className: danger ? "list-item warning warning-danger" : "list-item warning" },
          icon(danger ? "error" : "warning"),
          h("span", { className: "banner-text" }, text),
          short && mend ? h(mend, { key: "mend", state, model: models.find(({ id }) => id === short) }) : null,
          href ? h("a", { className: "card-link", href }, link) : null))));
  }
}

/** @param {Json[]} models */
const names = (models) => models.slice(0, 5).map(({ name }) => name).join(", ") + (models.length > 5 ? ", …" : "");

/** The three steps from nothing to a first answer; gone once they are taken. */
class Welcome extends Panel {
  static keys = ["models", "engine"];

  render() {
    const engine = this.get("engine");
    const stocked = this.models.some(({ missing }) => !missing);
    const open = engine && this.get("models") && (engine.status === "missing" || !stocked);
    return h("section", { className: "card welcome", hidden: !open, "aria-label": "First steps" }, open ? [
      h("div", { key: "words", className: "welcome-words" },
        h("h2", null, "Welcome to llamadash"),
        h("p", { className: "muted" }, "Three steps to your first answer.")),
      this.renderSteps(engine, stocked),
    ] : null);
  }

  /** @param {Json} engine @param {boolean} stocked */
  renderSteps(engine, stocked) {
    const running = engine.status === "running";
    const build = BUILDS[engine.build?.kind] ?? "The engine";
    return h("ol", { key: "steps", className: "welcome-steps" },
      this.step(1, running, "An engine", running ? `${build} is ready` : "llama.cpp runs the models; see below"),
      this.step(2, stocked, "A model",
        stocked ? `${plural(this.models.length, "model")} found` : "Download one, or point to a folder",
        h("a", { className: "button button-primary button-small", href: "/models" }, "Get a model")),
      this.step(3, false, "A question", "Chat here, or connect any OpenAI or Anthropic client",
        running && stocked ? h("a", { className: "button button-primary button-small", href: "/chat" }, "Open chat")
          : null));
  }

  /**
   * @param {number} at @param {boolean} done @param {string} title @param {string} words
   * @param {VNode | null} [action] while it is not done
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

/** Throughput of all models together: tokens over wall time, generated and read. */
class Throughput extends Panel {
  static keys = ["metricsRecent"];

  render() {
    return h("div", { className: "dashboard-column" },
      this.chart("generated_tokens_per_second", "Throughput: generated tokens", 1),
      this.chart("prompt_tokens_per_second", "Throughput: prompt tokens", 3));
  }

  /** @param {string} name @param {string} title @param {number} color */
  chart(name, title, color) {
    const samples = this.get("metricsRecent");
    const values = samples.map((/** @type {Json} */ sample) => sample.engine?.[name]);
    const last = values[values.length - 1];
    return h("section", { key: name, className: "card", "aria-label": title },
      h("header", { className: "card-header", title: "Tokens over wall time, all models together" },
        h("h2", { className: "card-title" }, icon("monitoring"), title),
        h("span", { className: "chart-now" }, tokenRate(last))),
      h("div", { className: "card-body" }, h(Chart, {
        key: name, label: title, height: 120, legend: false, empty: "Nothing yet: it appears with the first answer",
        timestamps: samples.map((/** @type {Json} */ sample) => sample.timestamp),
        series: [{ label: title, values, color, area: true }],
      })));
  }
}

/** How to get an engine, where there is none. */
class NoEngine extends Panel {
  static keys = ["engine"];

  render() {
    const engine = this.get("engine");
    const missing = engine?.status === "missing";
    const { Help } = this.state;
    if (missing && !this.asked) void this.loadHelp();
    const words = "No engine was found on this machine. Everything else works; to run models, get one of these:";
    return h("section", { className: "card engine-card", hidden: !missing, "aria-label": "Engine" },
      h("div", { className: "card-body" }, missing && [
        h("p", { key: "words", className: "muted" }, engine.error ?? words),
        Help && h(Help, { key: "help", state: this.props.state, engine }),
      ]));
  }

  async loadHelp() {
    this.asked = true;
    const { EngineHelp } = await import("../components/engine-help.js");
    this.setState({ Help: EngineHelp });
  }
}

/** Numbers of the process, builds, the machine and the last requests: loaded when they are first wanted. */
class Details extends Component {
  getInitialState() {
    return { open: readStorage(DETAILS_KEY) === "open", Body: null };
  }

  render() {
    const { open, Body } = this.state;
    return h("details", { className: "dashboard-details", open },
      h("summary", null, "Details", h("span", { className: "muted" }, " Engine, machine and last requests")),
      open && Body && h(Body, { key: "body", state: this.props.state }));
  }

  getEventMap() {
    return { toggle: "handleToggle" };
  }

  /** @param {Event} event @param {HTMLDetailsElement} details */
  handleToggle(event, details) {
    if (event.target !== details || details.open === this.state.open) return;
    writeStorage(DETAILS_KEY, details.open ? "open" : "");
    this.setState({ open: details.open });
    void this.load();
  }

  async load() {
    if (!this.state.open || this.state.Body) return;
    const [{ DashboardDetails }] = await Promise.all([
      import("../components/dashboard-details.js"),
      stylesheet(new URL("../css/dashboard-details.css", import.meta.url).pathname),
    ]);
    this.setState({ Body: DashboardDetails });
  }

  didMount() {
    void this.load();
  }
}

/** The start page: is all well, what is in memory on which device, what happened and how fast it goes. */
export class DashboardPage extends Component {
  static title = "Dashboard";

  render() {
    const { state } = this.props;
    return h("section", { className: "page dashboard" },
      h("h1", { className: "visually-hidden" }, "Dashboard"),
      h(Strip, { key: "strip", state }),
      h(Welcome, { key: "welcome", state }),
      h(NoEngine, { key: "engine", state }),
      h(Warnings, { key: "warnings", state }),
      h("div", { key: "memory", className: "grid dashboard-band" },
        h("div", { className: "dashboard-column" }, h(Queue, { state }), h(ModelsInMemory, { state })),
        h("div", { className: "dashboard-column" }, h(DeviceMemory, { state }))),
      h("div", { key: "happened", className: "grid dashboard-band dashboard-feed" },
        timelineCard({ state, span: FEED_SPAN_MS, first: 8 }), h(Throughput, { state })),
      h(Details, { key: "details", state }));
  }

  didMount() {
    const { state } = this.props;
    for (const key of ["queue", "requests", "metricsRecent"]) state.load(key).catch(() => {});
  }
}
