import { Component, h } from "../core/component.js";
import {
  bytes, dateTime, duration, fixed, number, percent, plural, rate, relativeTime, tokenRate,
} from "../core/format.js";
import { Chart, Sparkline } from "../components/chart.js";
import { CopyButton } from "../components/copy-button.js";
import { icon } from "../components/icon.js";
import { ENGINE_STATES } from "../components/layout.js";
import { IN_MEMORY, sentence } from "../components/model-status.js";
import { Panel, cardHeader, skeleton } from "../components/panel.js";
import { meter } from "../components/progress.js";
import { DeviceMemory } from "../components/device-memory.js";
import { ModelsInMemory, Queue } from "../components/residency.js";
import { emptyState } from "../components/states.js";

/** @typedef {{[name: string]: any}} Json */
/** @typedef {import("../core/component.js").VNode} VNode */

const SLOTS = 90; // samples across a sparkline
const SHOWN_REQUESTS = 8;
const DISK_WARNING = 90; // percent

/** @type {{[kind: string]: string}} what a build is called */
const BUILDS = { "llama-server": "llama-server", embedded: "Embedded engine" };

/** What needs attention, most urgent first; nothing where all is well. */
class Warnings extends Panel {
  static keys = ["models", "engine", "metrics"];

  /** @returns {{key: string, danger?: boolean, text: string, href?: string, link?: string}[]} */
  warnings() {
    const engine = this.get("engine");
    const missing = this.models.filter(({ status }) => status === "missing");
    const disks = (this.get("metrics")?.disks ?? []).filter((/** @type {Json} */ disk) => disk.usage >= DISK_WARNING);
    return [
      ...this.failures(),
      ...(engine?.warnings ?? []).map((/** @type {string} */ text) => ({
        key: text, text, href: "/logs?source=engine", link: "Log",
      })),
      ...this.compromises(),
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
        text: `${plural(missing.length, "model file is", "model files are")} not there: ${names(missing)}`,
      }] : []),
    ];
  }

  failures() {
    const failed = this.models.filter(({ status, error, reason }) => (
      status === "failed" || (error && reason === "crashed")));
    return failed.map(({ id, name, error }) => ({
      key: `failed-${id}`, danger: true, href: `/models/${encodeURIComponent(id)}`, link: "Details",
      text: `${name} did not load: ${error ?? "see the engine's log"}`,
    }));
  }

  /** Models that run with less than was asked for. */
  compromises() {
    return this.models.filter(({ runtime }) => runtime?.warning).map(({ id, name, runtime }) => ({
      key: `context-${id}`, text: `${name}: ${runtime.warning}`,
      href: `/models/${encodeURIComponent(id)}`, link: "Tune",
    }));
  }

  render() {
    const list = this.warnings();
    return h("ul", { className: "card list warnings", hidden: !list.length, "aria-label": "Needs attention" },
      list.map(({ key, danger, text, href, link }) => (
        h("li", { key, className: danger ? "list-item warning warning-danger" : "list-item warning" },
          icon(danger ? "error" : "warning"),
          h("span", { className: "banner-text" }, text),
          href ? h("a", { className: "card-link", href }, link) : null))));
  }
}

/** @param {Json[]} models */
const names = (models) => models.map(({ name }) => name).join(", ");

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

/** The engine: what it is, how it does, the address for other programs, and its switch. */
class EngineCard extends Panel {
  static keys = ["engine", "models", "connection", "metrics"];

  init() {
    this.state = { busy: false, Help: null };
    this.follow(this.get("engine"));
  }

  didMount() {
    return [
      ...super.didMount(),
      this.props.state.subscribe("engine", (/** @type {any} */ engine) => this.follow(engine)),
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
    const badge = engine ? h("span", { className: `badge badge-${kind}` },
      h("span", { className: kind === "info" ? "dot dot-busy" : "dot" }), sentence(words)) : null;
    return h("section", { className: "card engine-card", "aria-label": "Engine" },
      h("header", { className: "card-header" },
        h("h2", { className: "card-title" }, icon("bolt"), "Engine", badge),
        engine ? this.renderSwitch(engine) : null),
      h("div", { className: "card-body" }, engine ? this.renderBody(engine) : skeleton(4)));
  }

  /** @param {Json} engine */
  renderSwitch({ status }) {
    if (status === "missing") return null;
    const disabled = this.state.busy || this.get("connection") !== "connected" || status === "stopping";
    /** @param {string} action @param {string} name @param {string} label @param {string} look */
    const button = (action, name, label, look) => h("button", {
      key: action, type: "button", className: `button button-small ${look}`, disabled, dataset: { engine: action },
    }, icon(name, { size: 14 }), label);
    if (status === "stopped") return button("start", "play", "Start", "button-primary");
    return h("div", { className: "row" },
      button("restart", "refresh", "Restart", ""),
      button("stop", "stop", "Stop", ""));
  }

  /** @param {Json} engine */
  renderBody(engine) {
    const { status, error, build, hint, base_url: url } = engine;
    if (status === "missing") return this.renderMissing(engine);
    return [
      error ? h("p", { key: "error", className: "field-error", role: "alert" }, error) : null,
      this.renderFacts(engine),
      build?.kind === "embedded" && hint ? h("p", { key: "hint", className: "field-hint" }, hint.text) : null,
      url ? this.renderAddress(engine) : null,
    ];
  }

  /** @param {Json} engine */
  renderMissing(engine) {
    const { Help } = this.state;
    const words = "No engine was found on this machine. Everything else works; to run models, get one of these:";
    return [
      h("p", { key: "words", className: "muted" }, engine.error ?? words),
      Help ? h(Help, { key: "help", state: this.props.state, engine }) : null,
    ];
  }

  /** @param {Json} engine */
  renderFacts({ build, models_max: most, status, since, waiting, upstreams = [] }) {
    const count = this.models.filter(({ status: state }) => IN_MEMORY.includes(state)).length;
    const seconds = status === "running" && typeof since === "number" ? Math.round((Date.now() - since) / 1000) : null;
    return h("dl", { key: "facts", className: "facts" },
      h("dt", null, "Build"),
      h("dd", null, BUILDS[build?.kind] ?? "–",
        build?.version ? h("span", { className: "muted" }, ` ${build.version}`) : null),
      h("dt", null, "Running for"), h("dd", null, seconds === null ? "–" : duration(Math.max(1, seconds))),
      h("dt", null, "Models in memory"), h("dd", null, most ? `${count} of ${most}` : String(count)),
      h("dt", null, "Waiting requests"), h("dd", null, number(waiting, 0)),
      upstreams.length ? [
        h("dt", { key: "upstreams" }, "Upstreams"),
        h("dd", { key: "names" }, upstreams.map((/** @type {Json} */ { name, status: state, models }) => (
          `${name}: ${state === "connected" ? plural(models.length, "model") : state}`)).join(", ")),
      ] : null);
  }

  /** @param {Json} engine */
  renderAddress({ base_url: url, api_key_required: key }) {
    return h("div", { key: "address", className: "field" },
      h("span", { className: "field-label" }, "Address for OpenAI and Anthropic clients"),
      h("div", { className: "code-line" },
        h("code", { tabindex: 0 }, url),
        h(CopyButton, { text: url, label: "Copy the address" })),
      h("span", { className: "field-hint" }, key
        ? ["Clients need an API key: ", h("a", { key: "keys", href: "/settings" }, "create one in Settings"), "."]
        : "No API key is needed. If a client requires a key, enter anything."));
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
  async confirmed(action) {
    const loaded = this.models.filter(({ status }) => IN_MEMORY.includes(status));
    if (!loaded.length) return true;
    const { confirmDialog } = await import("../components/dialog.js");
    const back = action === "restart" ? " Loaded models come back." : "";
    return confirmDialog({
      title: action === "stop" ? "Stop the engine?" : "Restart the engine?", danger: true,
      body: `${plural(loaded.length, "model leaves", "models leave")} memory and running answers are cut off.${back}`,
      details: loaded.map(({ name }) => name), confirmLabel: action === "stop" ? "Stop" : "Restart",
    });
  }
}

/** CPU, memory, network, disks and GPUs, each with its last quarter of an hour. */
class Machine extends Panel {
  static keys = ["metrics", "metricsRecent"];

  render() {
    const metrics = this.get("metrics");
    const gpus = (metrics?.gpus ?? []).map((/** @type {Json} */ gpu) => this.gpu(gpu));
    const one = gpus.length === 1; // stands beside the others; several have a row of their own
    return h("div", { className: "stack machine" },
      h("div", { className: "grid machine-grid" }, metrics
        ? [this.cpu(metrics), this.memory(metrics), this.network(metrics), this.disk(metrics), one ? gpus[0] : null]
        : ["cpu", "memory", "network", "disk"].map((key) => (
          h("section", { key, className: "card machine-card" }, skeleton())))),
      gpus.length > 1 ? h("div", { key: "gpus", className: "grid machine-grid" }, gpus) : null);
  }

  /** @param {(sample: Json) => any} pick */
  recent(pick) {
    return this.get("metricsRecent").map(pick);
  }

  /**
   * @param {{key: string, name: string, title: string, value: string, label: string, hint?: any, values?: any[],
   *   color?: number, max?: number, full?: number | null, extra?: any}} it
   */
  card({ key, name, title, value, hint, values, color = 1, max, full, label, extra }) {
    return h("section", { key, className: "card machine-card", "aria-label": label },
      h("div", { className: "stat" },
        h("h3", { className: "stat-label" },
          icon(name, { size: 16 }), h("span", { className: "truncate", title }, title)),
        h("span", { className: "stat-value" }, value),
        h("span", { className: "stat-hint truncate" }, hint ?? "")),
      full === undefined ? null : meter({ value: full, label: `${label} in use` }),
      extra ?? null,
      values ? h(Sparkline, {
        key: "trend", values, color, max, slots: SLOTS, label: `${label} over the last minutes`,
      }) : null);
  }

  /** @param {Json} metrics */
  cpu({ cpu_usage: usage, load_average: load }) {
    const loads = load ? [load].flat().map((/** @type {any} */ value) => fixed(value, 2)).join(" · ") : "";
    return this.card({
      key: "cpu", name: "cpu", title: "CPU", label: "CPU", value: percent(usage), hint: loads ? `Load ${loads}` : "",
      values: this.recent((sample) => sample.cpu_usage), max: 100,
    });
  }

  /** @param {Json} metrics */
  memory({ memory_usage: usage, memory_used: used, memory_total: total, swap_usage: swap }) {
    return this.card({
      key: "memory", name: "memory", title: "Memory", label: "Memory", value: percent(usage),
      hint: part(used, total) + (swap ? `, swap ${percent(swap)}` : ""),
      values: this.recent((sample) => sample.memory_usage), color: 3, max: 100,
    });
  }

  /** @param {Json} metrics */
  network({ network_received: received, network_sent: sent }) {
    return this.card({
      key: "network", name: "network", title: "Network", label: "Network", value: rate(received),
      hint: known(sent) ? `received; ${rate(sent)} sent` : "",
      values: this.recent((sample) => sample.network_received), color: 6,
    });
  }

  /** @param {Json} metrics */
  disk({ disks, disk_used: used, disk_free: free, disk_total: total, disk_usage: usage }) {
    const list = disks?.length ? disks : [{ path: "Disk", used, free, total, usage }];
    return this.card({
      key: "disk", name: "disk", title: list.length > 1 ? "Disks" : "Disk", label: "Disk",
      value: percent(list[0].usage), hint: part(list[0].used, list[0].total),
      extra: h("div", { className: "disks" }, list.slice(0, 3).map((/** @type {Json} */ disk) => (
        this.share(disk.path, `${bytes(disk.free)} free`, disk.usage, `Disk of ${disk.path}`)))),
    });
  }

  /** @param {Json} gpu */
  gpu({ index, name, utilization, memory_used: used, memory_total: total, temperature, power, lost }) {
    const label = name ?? `GPU ${index}`;
    const facts = [
      lost && "Does not answer", known(temperature) && `${number(temperature, 0)} °C`,
      known(power) && `${number(power, 0)} W`,
    ];
    const full = known(used) && total ? (100 * used) / total : null;
    const own = (/** @type {Json} */ sample) => sample.gpus?.find((/** @type {Json} */ one) => one.index === index);
    return this.card({
      key: `gpu${index}`, name: "gpu", title: label, label, value: percent(utilization), color: 2, max: 100,
      hint: facts.filter(Boolean).join(" · "), values: this.recent((sample) => own(sample)?.utilization),
      extra: this.share("VRAM", part(used, total), full, "VRAM in use"),
    });
  }

  /** @param {string} title @param {string} words @param {number | null} value @param {string} label */
  share(title, words, value, label) {
    return h("div", { key: title, className: "gauge" },
      h("div", { className: "gauge-words" },
        h("span", { className: "truncate", title }, title),
        h("span", { className: "nowrap muted" }, words)),
      meter({ value, label }));
  }
}

/** @param {any} used @param {any} total bytes */
const part = (used, total) => (known(total) ? `${bytes(used)} of ${bytes(total)}` : bytes(total));

/** @param {any} value */
const known = (value) => typeof value === "number";

/** Throughput of all models together: tokens over wall time, generated and read. */
class Throughput extends Panel {
  static keys = ["metricsRecent"];

  render() {
    return h("div", { className: "grid grid-2" },
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
    return h("section", { className: "card", "aria-label": "Last requests" },
      cardHeader("bolt", "Last requests", h("a", { className: "card-link", href: "/monitoring" }, "Monitoring")),
      !list ? h("div", { className: "card-body" }, skeleton())
        : list.length ? this.renderTable(list)
          : emptyState({
            title: "No requests yet", iconName: "bolt",
            body: "Requests of Chat and of all other programs appear here with their speeds.",
          }));
  }

  /** @param {Json[]} list */
  renderTable(list) {
    const heads = ["Time", "Model", "Client", "Prompt", "Generated", "Speed while answering", "Duration"];
    return h("div", { className: "table-wrap", tabindex: 0, role: "region", "aria-label": "Last requests" },
      h("table", { className: "table" },
        h("thead", null, h("tr", null, heads.map((head, at) => (
          h("th", { key: head, scope: "col", className: at > 2 ? "numeric" : null }, head))))),
        h("tbody", null, list.slice(0, SHOWN_REQUESTS).map((request) => this.renderRequest(request)))));
  }

  /** @param {Json} request */
  renderRequest({ id, timestamp, model, client, status, error, duration: took, ...counts }) {
    const { prompt_tokens: prompt, generated_tokens: generated, generated_per_second: speed } = counts;
    const name = this.nameOf(model);
    const figures = [
      number(prompt, 0), number(generated, 0), tokenRate(speed),
      known(took) ? duration(took / 1000) : "–",
    ];
    return h("tr", { key: id },
      h("td", { className: "nowrap muted", title: dateTime(timestamp) }, relativeTime(timestamp)),
      h("td", { className: "request-model" }, h("span", { className: "truncate", title: name }, name)),
      h("td", { className: "request-client" }, h("span", { className: "truncate", title: client }, client ?? "–"),
        status && status !== "ok" ? h("span", {
          key: "status", className: `badge badge-${status === "failed" ? "danger" : "neutral"}`, title: error,
        }, sentence(status)) : null),
      figures.map((text, at) => h("td", { key: at, className: "numeric" }, text)));
  }

  didMount() {
    const clock = setInterval(() => this.setState({}), 30_000); // "3 min ago" grows older
    return [...super.didMount(), () => clearInterval(clock)];
  }
}

/** The start page: is it running, what is loaded, who waits, how fast is it, what does it cost. */
export class DashboardPage extends Component {
  static title = "Dashboard";

  render() {
    const { state } = this.props;
    return h("section", { className: "page dashboard" },
      h("header", { className: "page-header" }, h("h1", { className: "page-title" }, "Dashboard")),
      h(Welcome, { key: "welcome", state }),
      h(Warnings, { key: "warnings", state }),
      h("div", { key: "engine", className: "grid dashboard-top" },
        h("div", { className: "dashboard-column" }, h(EngineCard, { state }), h(DeviceMemory, { state })),
        h("div", { className: "dashboard-column" }, h(Queue, { state }), h(ModelsInMemory, { state }))),
      h(Machine, { key: "machine", state }),
      h(Throughput, { key: "throughput", state }),
      h(RecentRequests, { key: "requests", state }));
  }

  didMount() {
    const { state } = this.props;
    for (const key of ["queue", "requests", "metricsRecent"]) state.load(key).catch(() => {});
  }
}
