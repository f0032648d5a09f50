import { h } from "../core/component.js";
import { bytes, modelName } from "../core/format.js";
import { IN_MEMORY } from "./model-status.js";
import { Panel, cardHeader } from "./panel.js";

/** @typedef {{[name: string]: any}} Json */

const COLORS = 7; // of the series; the eighth is grey

/** The series whose colour a model has. @param {number} at its place among those in memory */
export const deviceColor = (at) => (at % COLORS) + 1;

/**
 * How the memory of a device is divided: a part for each model on it, what is reserved for loads, what other programs
 * use, and what is free, in bytes that add up to its total; null where that is not known.
 * @param {Json} device as the engine lists it @param {Json[]} models those in memory, in the order of their colours
 * @returns {{parts: Array<{key: string, name: string, size: number, color: number | null}>, free: number} | null}
 */
export function divided({ name, total, free, held }, models) {
  if (!total) return null;
  let room = total;
  const take = (/** @type {number} */ size) => {
    const taken = Math.max(0, Math.min(size, room));
    room -= taken;
    return taken;
  };
  /** @type {Array<{key: string, name: string, size: number, color: number | null}>} */
  const parts = models.map(({ id, runtime }, at) => {
    const used = (runtime?.devices ?? []).find((/** @type {Json} */ one) => one.name === name)?.used ?? 0;
    const title = modelName(/** @type {any} */ (models), id);
    return { key: `model-${id}`, name: title, size: take(used), color: deviceColor(at) };
  });
  const known = total - room;
  parts.push({ key: "reserved", name: "reserved for models", size: take((held ?? 0) - known), color: null });
  parts.push({ key: "other", name: "other programs", size: take(room - (free ?? room)), color: null });
  return { parts: parts.filter(({ size }) => size > 0), free: room };
}

/** How full the memory of each device is, with what, and where a model would go that is about to be loaded. */
export class DeviceMemory extends Panel {
  static keys = ["engine", "models", "newcomer"];

  render() {
    const devices = this.get("engine")?.devices ?? [];
    return h("section", { className: "card", hidden: !devices.length, "aria-label": "Memory of each device" },
      cardHeader("memory", "Memory for models", h("span", { className: "row" },
        this.models.some(({ status }) => IN_MEMORY.includes(status)) && h("button", {
          key: "free", type: "button", className: "button button-small", dataset: { action: "free" },
          title: "Unloads every model; busy ones finish first",
        }, "Free now"),
        h("a", { key: "budget", className: "card-link", href: "/configuration" }, "Budget"))),
      h("div", { className: "card-body devices" }, devices.map((/** @type {Json} */ one) => this.renderDevice(one))));
  }

  getEventMap() {
    return { "click [data-action=\"free\"]": () => this.props.state.request("models:free") };
  }

  /** @param {Json} device */
  renderDevice(device) {
    const { name, description, total, budget, unused } = device;
    const split = divided({ ...device, free: unused }, this.models.filter(({ status }) => IN_MEMORY.includes(status)));
    if (!split) return h("p", { key: name, className: "muted" }, `${name}: memory unknown`);
    const { parts, free } = split;
    const coming = this.get("newcomer")?.devices.find((/** @type {Json} */ one) => one.name === name)?.used ?? 0;
    const freed = free + parts.reduce((sum, { key, size }) => sum + (key === "other" ? 0 : size), 0);
    const width = (/** @type {number} */ size) => ({ width: `${(size / total) * 100}%` });
    const limited = budget !== null && budget !== undefined && budget < total;
    const words = [...parts.map((part) => `${part.name} ${bytes(part.size)}`), `free ${bytes(free)}`].join(", ");
    return h("div", { key: name, className: "gauge" },
      h("div", { className: "gauge-words" },
        h("span", { className: "truncate" },
          h("strong", null, name), description && h("span", { className: "muted" }, ` ${description}`)),
        h("span", { className: "muted" }, limited ? `budget ${bytes(budget)} of ${bytes(total)}` : bytes(total))),
      h("div", { className: "device-bar", role: "img", "aria-label": `${name}: ${words}` },
        parts.map(({ key, name: title, size, color }) => h("span", {
          key, className: `device-part is-${key}`, style: { ...width(size), ...colored(color) },
          title: `${title}: ${bytes(size)}`,
        })),
        coming > 0 && h("span", {
          key: "coming", className: `device-part is-coming${coming > free ? " is-over" : ""}`,
          style: width(Math.min(coming, free)),
        }),
        limited && h("span", {
          key: "budget", className: "device-budget", style: { left: `${(budget / total) * 100}%` },
        })),
      h("ul", { className: "device-legend", "aria-hidden": "true" },
        parts.map(({ key, name: title, size, color }) => this.legend(key, color, `${bytes(size)} ${title}`)),
        this.legend("free", null, `${bytes(free)} free`)),
      coming > 0 && h("p", { key: "words", className: `field-hint${coming > free ? " text-warning" : ""}` },
        `${this.get("newcomer").name} needs about ${bytes(coming)}`,
        coming > free && (coming > freed ? `: ${bytes(coming - freed)} more than there can be`
          : ": other models will be unloaded")));
  }

  /** @param {string} key @param {number | null} color @param {string} words */
  legend(key, color, words) {
    return h("li", { key },
      h("span", { className: `device-key is-${key}`, style: colored(color) }),
      h("span", { className: "truncate" }, words));
  }
}

/** @param {number | null} color of the series; null where the kind of the part has one @returns {Json} */
const colored = (color) => color ? { background: `var(--series-${color})` } : {};
