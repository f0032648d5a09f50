/**
 * Charts of the machine and the engine over one time range, carried on live.
 *
 * @typedef {{title: string, symbol: string, format: (value: number | null | undefined) => string, max?: number, base?:
 *   number,
 * least?: number, series: {name: string, label: string}[]}} Spec one chart; `least`: the top of its scale is never
 *   below
 * @typedef {import("../core/component.js").VNode} VNode
 */

import { Component, h } from "../core/component.js";
import { bytes, duration, now, number, percent, rate, tokenRate } from "../core/format.js";
import { History } from "../core/history.js";
import { icon } from "./icon.js";
import { ChartLink, LinkedChart } from "./linked-chart.js";
import { modelLanes } from "./model-lanes.js";
import { emptyState, errorState, loadingState } from "./states.js";
import { eventMarks, eventsOf, newestFirst } from "./timeline.js";

const POINTS = 360; // of each line: about what a chart has pixels for
const CHART_HEIGHT_PX = 168;
const FEW_MOMENTS = 3; // fewer than this and a chart shows nothing to look at

const celsius = (/** @type {number | null | undefined} */ value) => `${number(value, 0)} °C`;
const watts = (/** @type {number | null | undefined} */ value) => `${number(value, 0)} W`;
const count = (/** @type {number | null | undefined} */ value) => number(value);

/** @type {Spec[]} */
const ENGINE = [
  {
    title: "Throughput: generated tokens", symbol: "bolt", format: tokenRate,
    series: [{ name: "generated_tokens_per_second", label: "Generated" }],
  },
  {
    title: "Throughput: prompt tokens", symbol: "chat", format: tokenRate,
    series: [{ name: "prompt_tokens_per_second", label: "Prompt" }],
  },
  {
    title: "Requests", symbol: "monitoring", format: count, least: 4,
    series: [{ name: "requests_processing", label: "In flight" }, { name: "requests_deferred", label: "Waiting" }],
  },
  {
    title: "Models in memory", symbol: "models", format: count, least: 4,
    series: [{ name: "active_models", label: "Models" }],
  },
];

/** @type {Spec[]} */
const MACHINE = [
  { title: "CPU", symbol: "cpu", format: percent, max: 100, series: [{ name: "cpu_usage", label: "CPU" }] },
  {
    title: "Memory", symbol: "memory", format: percent, max: 100,
    series: [{ name: "memory_usage", label: "Memory" }, { name: "swap_usage", label: "Swap" }],
  },
  {
    title: "Network", symbol: "network", format: rate, base: 1024,
    series: [{ name: "network_received", label: "Received" }, { name: "network_sent", label: "Sent" }],
  },
  { title: "Disk", symbol: "disk", format: percent, max: 100, series: [{ name: "disk_usage", label: "Used" }] },
];

/** @type {{title: string, field: string, format: Spec["format"], max?: number, base?: number}[]} */
const GPU = [
  { title: "GPU utilization", field: "utilization", format: percent, max: 100 },
  { title: "GPU memory", field: "memory_used", format: bytes, base: 1024 },
  { title: "GPU temperature", field: "temperature", format: celsius },
  { title: "GPU power", field: "power", format: watts },
];

/**
 * Props: `state` (the StateManager), `span` (ms that are shown), `until?` (Unix ms at which they end; else they go on),
 * `onZoom(from, to)`, `onBack()`.
 */
export class MetricsCharts extends Component {
  static loadedBy = ["span", "until"];

  /** @param {any} props */
  constructor(props) {
    super(props);
    this.link = new ChartLink();
    this.turn = 0;
    /** @type {History | null} */
    this.history = null;
    /** @type {any[]} what happened, the newest first */
    this.events = [];
    /** @type {{since?: number, around?: any[]}} what is known of the models' lives beyond these */
    this.known = {};
    /** @type {any[]} */
    this.marks = [];
    this.state = { loading: true, error: null };
  }

  didMount() {
    const { state } = this.props;
    void this.load();
    return [
      state.on("timeline:added", (/** @type {any} */ { events }) => {
        if (!this.props.until) this.events = newestFirst([...events, ...this.events]);
      }),
      state.on("metrics:update", (/** @type {any} */ { metrics }, /** @type {any} */ envelope) =>
        this.add(metrics, envelope.timestamp)),
      state.subscribe("info", (/** @type {any} */ info) => (
        info?.recovered && !this.state.error) || this.state.loading || void this.load(
      )),
    ];
  }

  getEventMap() {
    return { "click [data-action=\"retry\"]": () => this.load() };
  }

  /** Milliseconds between samples. */
  get interval() {
    return (this.props.state.get("settings")?.metrics_interval ?? 10) * 1000;
  }

  async load() {
    const turn = ++this.turn;
    const { span, state, until } = this.props;
    this.setState({ loading: true, error: null });
    try {
      const to = until ?? now();
      const range = { from: to - span, to };
      const [answer, { events, lives }] = await Promise.all([
        state.request("metrics:history", { ...range, points: POINTS }), eventsOf(state, range),
      ]);
      if (turn !== this.turn) return; // another range was chosen meanwhile
      this.events = events;
      this.known = lives;
      this.history = new History(answer, span, this.interval);
      if (state.get("metrics")) this.history.note(state.get("metrics"));
      this.setState({ loading: false });
    } catch (problem) {
      if (turn === this.turn) this.setState({ loading: false, error: /** @type {Error} */ (problem).message });
    }
  }

  /** @param {any} metrics @param {number} timestamp Unix ms */
  add(metrics, timestamp) {
    if (!this.history || this.state.loading || this.props.until) return;
    const last = this.history.timestamps.at(-1) ?? timestamp;
    if (Math.abs(timestamp - last) > this.props.span) return void this.load(); // the server's clock was set
    this.history.interval = this.interval; // may be set anew while the page is open
    this.history.append(metrics, timestamp ?? now());
    this.setState({});
  }

  render() {
    const { loading, error } = this.state;
    if (error) {
      return h("div", { className: "card" }, errorState({
        title: "The history could not be read", body: error,
        action: h("button", { type: "button", className: "button", dataset: { action: "retry" } },
          icon("refresh"),
          "Try again"),
      }));
    }
    const { history } = this;
    if (!history) return h("div", { className: "card monitoring-wait" }, loadingState("Reading the history…"));
    if (!history.length) {
      return h("div", { className: "card" }, emptyState({
        iconName: "monitoring", title: "Nothing recorded in this time range yet",
        body: `llamadash records every ${duration(this.interval / 1000)}: the first values appear here soon.`,
      }));
    }
    this.marks = eventMarks(this.props.state, this.events);
    return h("div", {
      className: loading ? "monitoring-charts monitoring-stale" : "monitoring-charts", "aria-busy": loading,
    },
      history.length < FEW_MOMENTS
        ? h("p", { className: "muted" },
          `Recording has just begun. A value is added every ${duration(this.interval / 1000)}.`)
        : null,
      this.lanes(),
      this.engineSection(),
      this.section("Machine", MACHINE),
      this.gpuSection());
  }

  /** @param {string} title @param {Spec[]} specs @param {VNode | null} [note] */
  section(title, specs, note = null) {
    return h("section", { key: title, className: "monitoring-section", "aria-label": title },
      h("h2", { className: "monitoring-heading" }, title),
      note, h("div", { className: "monitoring-grid" }, specs.map((spec) => this.card(spec))));
  }

  lanes() {
    const { state, span, until } = this.props;
    const { timestamps } = /** @type {History} */ (this.history);
    const to = until ?? Math.max(timestamps.at(-1) ?? 0, this.events[0]?.timestamp ?? 0);
    return modelLanes(state, this.events, to - span, to, this.known);
  }

  engineSection() {
    const history = /** @type {History} */ (this.history);
    const specs = ENGINE.filter(({ series }) => series.some(({ name }) => history.has(name)));
    if (specs.length) return this.section("Engine", specs);
    return this.section("Engine", [], h("p", { className: "muted monitoring-note" },
      icon("bolt"), "No engine ran in this time: throughput and requests appear here once one does."));
  }

  gpuSection() {
    const history = /** @type {History} */ (this.history);
    const gpus = this.gpus();
    if (!gpus.length) {
      return this.section("GPU", [], h("p", { className: "muted monitoring-note" },
        icon("gpu"), "No GPU was found on this machine: models run on the CPU. ",
        "GPUs of NVIDIA (nvidia-smi) and AMD (sysfs) are shown here."));
    }
    const specs = GPU.map(({ title, field, format, max, base }) => ({
      title, symbol: "gpu", format, base, max: max ?? this.capacity(field),
      series: gpus.filter(({ index }) => history.has(`gpu${index}_${field}`)).map(({ index, name }) => (
        { name: `gpu${index}_${field}`, label: name }
      )),
    }));
    return this.section("GPU", specs.filter(({ series }) => series.length));
  }

  /** The GPUs that exist now or did in this time range. */
  gpus() {
    const history = /** @type {History} */ (this.history);
    /** @type {any[]} */
    const present = this.props.state.get("metrics")?.gpus ?? [];
    const indexes = new Set(present.map(({ index }) => index));
    for (const name of history.columns.keys()) {
      const index = /^gpu(\d+)_/.exec(name)?.[1];
      if (index && history.has(name)) indexes.add(Number(index));
    }
    const several = indexes.size > 1;
    return [...indexes].sort((one, other) => one - other).map((index) => {
      const name = present.find((gpu) => gpu.index === index)?.name ?? "GPU";
      return { index, name: several ? `${index}: ${name}` : name };
    });
  }

  /** The top of the scale where the hardware sets one. @param {string} field */
  capacity(field) {
    if (field !== "memory_used") return undefined;
    const totals = (this.props.state.get("metrics")?.gpus ?? []).map((/** @type {any} */ gpu) => gpu.memory_total ?? 0);
    return Math.max(0, ...totals) || undefined;
  }

  /** @param {Spec} spec */
  card({ title, symbol, format, max, least = 0, base, series }) {
    const history = /** @type {History} */ (this.history);
    const columns = series.map(({ name, label }, at) => {
      const { avg, max: highest } = history.column(name);
      const now = this.props.until ? avg.at(-1) : history.now(name);
      return { label, values: avg, max: highest, now, color: at + 1, ...figures(avg, highest, now, format) };
    });
    const { span, until, onZoom, onBack } = this.props;
    const to = until ?? history.timestamps[history.length - 1];
    const low = least && columns.every((column) => column.max.every((value) => (value ?? 0) < least));
    return h("article", { key: title, className: "card monitoring-card" },
      h("h3", { className: "card-title" }, icon(symbol), title),
      h(LinkedChart, {
        link: this.link, label: title, timestamps: history.timestamps, series: columns, format, max: low ? least : max,
        base, from: to - span, to, height: CHART_HEIGHT_PX, legend: true, onZoom, onBack,
        marks: this.marks,
      }));
  }
}

/**
 * What is said of a line: its newest, its average and its highest value.
 * @param {(number | null)[]} values @param {(number | null)[]} max @param {number | null | undefined} now
 * @param {Spec["format"]} format
 */
function figures(values, max, now, format) {
  const known = /** @type {number[]} */ (values.filter((value) => value !== null));
  if (!known.length) return { detail: "not recorded" };
  const average = known.reduce((sum, value) => sum + value, 0) / known.length;
  const highest = max.reduce((/** @type {number} */ most, value) => Math.max(most, value ?? most), known[0]);
  return {
    figure: typeof now === "number" ? format(now) : "–", detail: `avg ${format(average)} · max ${format(highest)}`,
  };
}
