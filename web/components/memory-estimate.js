import { Component, h } from "../core/component.js";
import { bytes, dateTime, number } from "../core/format.js";
import { IN_MEMORY } from "./model-status.js";

/** Long enough to skip the keystrokes in between, short enough to feel immediate (ms). */
const DEBOUNCE = 250;

/** @type {Array<[string, string]>} key in the estimate and label, in the order they are stacked */
const PARTS = [
  ["weights", "Weights"], ["adapters", "LoRA adapters"], ["projector", "Projector"], ["kvCache", "KV cache"],
  ["compute", "Compute"], ["draft", "Draft model"], ["process", "Driver and copies"],
];

/**
 * All that a model would take, however many devices share it: what a unified GPU takes beyond its own is main memory's.
 * @param {Array<Record<string, any>>} devices of an estimate @returns {number} bytes
 */
export function takenOf(devices) {
  return devices.reduce((sum, { used, unified, own }) => (
    sum + (unified ? Math.min(used ?? 0, own ?? 0) : used ?? 0)), 0);
}

/**
 * What a model would take in memory with the given parameters, against what the machine has.
 *
 * Props: `state`, `id`, `parameters` (null while something typed cannot be read), `loaded` (whether it is in memory
 * already).
 */
export class MemoryEstimate extends Component {
  /** @param {any} props */
  constructor(props) {
    super(props);
    /** @type {any} */ this.state = { estimate: null, error: "", waiting: false };
    /** @type {ReturnType<typeof setTimeout>|undefined} */ this.timer = undefined;
    /** @type {string} */ this.asked = "";
    this.latest = 0;
  }

  getEventMap() {
    return { "click [data-action=\"estimate-again\"]": () => this.fetch() };
  }

  didMount() {
    this.ask(0);
    return [
      this.props.state.subscribe("info", () => { if (this.state.error) this.fetch(); }),
      this.props.state.subscribe("models", (/** @type {any[]} */ models, /** @type {any[]} */ old) =>
        inMemory(models) !== inMemory(old) && this.again()),
      this.props.state.subscribe("config", (/** @type {any} */ { config }, /** @type {any} */ old) =>
        old && config.revision !== old.config.revision && this.again()),
      () => clearTimeout(this.timer), () => { this.latest += 1; },
    ];
  }

  didUpdate() {
    this.ask(DEBOUNCE);
  }

  /** @param {number} delay ms */
  ask(delay) {
    if (!this.props.parameters) return;
    const wanted = JSON.stringify([this.props.id, this.props.parameters]);
    if (wanted === this.asked) return;
    this.asked = wanted;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fetch(), delay);
  }

  /** What the machine has free, or the defaults, are others now. */
  again() {
    this.asked = "";
    this.ask(DEBOUNCE);
  }

  async fetch() {
    const ticket = ++this.latest;
    this.setState({ waiting: true });
    try {
      const estimate = await this.props.state.request("models:estimate", {
        id: this.props.id, parameters: this.props.parameters,
      });
      if (ticket === this.latest) this.setState({ estimate, error: "", waiting: false });
    } catch (error) {
      if (ticket === this.latest) this.setState({ error: /** @type {Error} */ (error).message, waiting: false });
    }
  }

  render() {
    const { estimate, error, waiting } = this.state;
    return h("section", { className: "estimate", "aria-label": "Memory estimate", "aria-busy": String(waiting) },
      error && h("div", { key: "error", className: "row" },
        h("p", { className: "field-error", role: "alert" }, `No estimate: ${error}`),
        h("button", {
          type: "button", className: "button button-small", "aria-disabled": waiting ? "true" : undefined,
          dataset: { action: "estimate-again" },
        }, "Try again")),
      !estimate && !error && h("div", { className: "skeleton estimate-skeleton" }),
      estimate && this.full(estimate));
  }

  /** @param {Record<string, any>} estimate */
  full(estimate) {
    const devices = /** @type {Array<Record<string, any>>} */ (estimate.devices ?? []);
    const capacity = devices.reduce((sum, { total, unified, own, spare }) => (
      sum + (spare ? 0 : (unified ? own : total) ?? 0)), 0);
    const total = Math.max(takenOf(devices), estimate.total ?? 0);
    const sizes = /** @type {Record<string, any>} */ ({ ...estimate, process: total - (estimate.total ?? 0) });
    const scale = Math.max(capacity, total) || 1;
    const parts = PARTS.filter(([key]) => sizes[key] > 0);
    const last = estimate.last ?? {};
    return h("div", { className: "stack" },
      h("div", { className: "row" },
        h("strong", { className: "estimate-total" }, bytes(total)),
        h("span", { className: "muted" }, capacity ? `of ${bytes(capacity)} memory` : "needed"),
        h("span", { className: "spacer" }),
        this.verdict(estimate)),
      h("div", {
        className: "estimate-bar", role: "img",
        "aria-label": parts.map(([key, label]) => `${label} ${bytes(sizes[key])}`).join(", "),
      },
        parts.map(([key]) =>
          h("span", {
            key, className: `estimate-part is-${key}`, style: { width: `${(sizes[key] / scale) * 100}%` },
          }))),
      h("ul", { className: "estimate-legend" }, parts.map(([key, label]) => h("li", { key },
        h("span", { className: `estimate-key is-${key}`, "aria-hidden": "true" }),
        h("span", { className: "muted" }, label),
        h("span", { className: "mono" }, bytes(sizes[key]))))),
      devices.length > 0 && h("ul", { className: "estimate-devices" }, devices.map((device) => this.device(device))),
      h("p", { className: "field-hint" }, [
        estimate.context > 0 && `With a context of ${number(estimate.context)} tokens.`,
        estimate.maxContext > 0 && `The largest that fits: ${number(estimate.maxContext)}.`,
        this.props.loaded && "This model is loaded: the memory it holds does not count as free.",
        last.taken > 0 && `Last time it took ${bytes(last.taken)} of GPU memory, ${bytes(last.estimated)} estimated.`,
      ].filter(Boolean).join(" ")),
      last.ledger?.length > 1 && h("details", { key: "ledger" },
        h("summary", null, `The last ${last.ledger.length} loads`),
        h("ul", { className: "field-hint" }, last.ledger.toReversed().map(
          (/** @type {Record<string, any>} */ load) => h("li", { key: load.at }, ledgerWords(load))))));
  }

  /** Whether it fits, where, or what spills. @param {Record<string, any>} estimate */
  verdict({ fits, spills, devices }) {
    const gpu = devices.some((/** @type {any} */ { kind, used }) => kind === "gpu" && used > 0);
    const [kind, words] = !fits ? ["danger", "Does not fit"] : spills > 0
      ? ["warning", `${gpu ? `${bytes(spills)} spill` : "Spills"} into main memory (slow)`]
      : ["success", gpu ? "Fits on the GPU" : "Fits"];
    const later = fits && devices.some((/** @type {any} */ device) => device.used > device.free - this.held(device));
    const when = later ? " once memory is freed" : "";
    return h("span", { className: `badge badge-${kind}`, role: "status" }, words + when);
  }

  /** What the models in memory hold, where this one would come beside them. @param {Record<string, any>} device */
  held({ held }) {
    return this.props.loaded ? 0 : held ?? 0;
  }

  /** @param {Record<string, any>} device */
  device(device) {
    const [used, held] = [device.used ?? 0, this.held(device)];
    const over = device.free !== null && device.free !== undefined && used > device.free;
    const now = over || used <= device.free - held;
    return h("li", { key: device.name, className: "estimate-device" },
      h("span", { className: "estimate-device-name" }, device.name ?? device.kind),
      h("span", { className: over ? "text-danger" : "muted" }, now
        ? `takes ${bytes(used)}${over ? ", more than" : " of"} ${bytes(over ? device.free : device.free - held)} free`
        : `takes ${bytes(used)} of ${bytes(device.free)}, of which models in memory hold ${bytes(held)}`));
  }
}

/** What was estimated for a load, taken, and by how much that was wrong. @param {Record<string, any>} load */
function ledgerWords({ at, estimated, taken }) {
  const error = `${taken < estimated ? "−" : "+"}${number(Math.abs(100 * (taken / estimated - 1)), 1)} %`;
  return `${dateTime(at)}: ${bytes(estimated)} estimated, ${bytes(taken)} taken (${error})`;
}

/** @param {any[]|null} models @returns {string} the ids of those that take memory */
function inMemory(models) {
  return (models ?? []).filter(({ status }) =>
    IN_MEMORY.includes(status)).map(({ id, status }) => `${id} ${status}`).join();
}
