/** What stands behind "Details" on the dashboard: the engine, this machine, and the last requests. */

import { Component, h } from "../core/component.js";
import {
  bytes, dateTime, duration, fixed, now, number, percent, plural, rate, relativeTime, tokenRate,
} from "../core/format.js";
import { Sparkline } from "./chart.js";
import { CopyButton } from "./copy-button.js";
import { icon } from "./icon.js";
import { ENGINE_STATES } from "./layout.js";
import { IN_MEMORY, sentence } from "./model-status.js";
import { Panel, cardHeader, skeleton } from "./panel.js";
import { meter } from "./progress.js";
import { emptyState } from "./states.js";

/** @typedef {{[name: string]: any}} Json */

const SLOTS = 90; // samples across a sparkline
const SHOWN_REQUESTS = 8;

/** @type {{[kind: string]: string}} what a build is called */
const BUILDS = { "llama-server": "llama-server", embedded: "Embedded engine" };

/** The engine: what it is, how it does, the address for other programs, and its switch. */
class EngineCard extends Panel {
  static keys = ["engine", "models", "connection", "metrics"];

  getInitialState() {
    return { busy: false };
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
    const { error, build, hint, base_url: url } = engine;
    return [
      error ? h("p", { key: "error", className: "field-error", role: "alert" }, error) : null,
      this.renderFacts(engine),
      build?.kind === "embedded" && hint ? h("p", { key: "hint", className: "field-hint" }, hint.text) : null,
      url ? this.renderAddress(engine) : null,
    ];
  }

  /** @param {Json} engine */
  renderFacts({ build, models_max: most, status, since, waiting, upstreams = [] }) {
    const count = this.models.filter(({ status: state }) => IN_MEMORY.includes(state)).length;
    const seconds = status === "running" && typeof since === "number" ? Math.round((now() - since) / 1000) : null;
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
    const { confirmDialog } = await import("./dialog.js");
    const back = action === "restart" ? " Loaded models come back." : "";
    return confirmDialog({
      title: action === "stop" ? "Stop the engine?" : "Restart the engine?", danger: true,
      body: `${plural(loaded.length, "model is", "models are")} unloaded and running answers are cut off.${back}`,
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
  gpu(gpu) {
    const { index, name, utilization, memory_used: used, memory_total: total } = gpu;
    const { temperature, power, lost, clock, throttled } = gpu;
    const label = name ?? `GPU ${index}`;
    const facts = [
      lost && "Does not answer", throttled?.length > 0 && `Slowed by ${throttled.join(" and ")}`,
      known(clock) && `${number(clock, 0)} MHz`, known(temperature) && `${number(temperature, 0)} °C`,
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
    return h("div", { className: "table-wrap", tabindex: 0, role: "region", "aria-label": "Table of requests" },
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

/** All of it. Props: `state`. */
export class DashboardDetails extends Component {
  render() {
    const { state } = this.props;
    return h("div", { className: "stack details-body" },
      h("div", { className: "grid details-grid" }, h(EngineCard, { state }), h(Machine, { state })),
      h(RecentRequests, { state }));
  }
}
