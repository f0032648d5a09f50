import { h } from "../core/component.js";
import { bytes, number, plural, tokenRate } from "../core/format.js";
import { icon } from "./icon.js";
import { IN_MEMORY } from "./model-status.js";

/** @typedef {Record<string, any>} Json */

/** @type {Array<[string, string, string]>} key of a device's part, its words and its colour */
const PARTS = [
  ["model", "Weights", "weights"], ["context", "KV cache", "kvCache"], ["compute", "Compute", "compute"],
  ["other", "Other", "projector"],
];

/** @type {[string, string, string]} where only the sum is known */
const UNDIVIDED = ["used", "Used", "weights"];

/**
 * What a model in memory does and takes: figures, memory on each device, and what differs from what was asked for.
 * @param {Json} model @param {Json[]} devices of the engine, for how much there is
 * @param {any} [mend] what mends that
 */
export function modelRuntime({ status, runtime = {}, last_speed: last }, devices, mend = null) {
  if (!IN_MEMORY.includes(status)) return null;
  const { n_ctx: context, memory, tokens_per_second: speed, requests, waiting, slots } = runtime;
  const { warning, left_out: left = [], devices: used = [], build, pid } = runtime;
  const inFlight = `${number(requests ?? 0, 0)}${slots ? ` of ${plural(slots, "slot")}` : ""}`;
  return h("section", { key: "runtime", className: "stack", "aria-label": "In memory" },
    warning && note("warning", warning, mend),
    left.length > 0 && note("left", `Left out, since its build does not know them: ${left.join(", ")}.`),
    h("div", { key: "figures", className: "grid runtime-stats" },
      stat("In memory", bytes(memory)),
      stat("Context", context ? number(context) : "–"),
      stat("In flight", inFlight, waiting ? `${number(waiting, 0)} waiting` : ""),
      stat("Speed while answering", tokenRate(speed ?? last))),
    used.length > 0 && h("ul", { key: "devices", className: "runtime-devices" }, used.map((/** @type {Json} */ one) =>
      deviceBar(one, devices.find(({ name }) => name === one.name)?.total))),
    (build || pid) && h("p", { key: "process", className: "field-hint" },
      [build && `Build ${build}`, pid && `process ${pid}`].filter(Boolean).join(", ")));
}

/** @param {Json} device @param {number | null | undefined} total */
function deviceBar({ name, used, ...known }, total) {
  const scale = Math.max(total ?? 0, used ?? 0) || 1;
  const divided = PARTS.some(([key]) => known[key] > 0);
  const parts = divided ? known : { used };
  const shown = divided ? PARTS.filter(([key]) => parts[key] > 0) : [UNDIVIDED];
  return h("li", { key: name, className: "stack estimate" },
    h("div", { className: "row" },
      h("strong", null, name),
      h("span", { className: "muted" }, total ? `${bytes(used)} of ${bytes(total)}` : bytes(used))),
    h("div", {
      className: "estimate-bar", role: "img",
      "aria-label": shown.map(([key, words]) => `${words} ${bytes(parts[key])}`).join(", "),
    }, shown.map(([key, , look]) => h("span", {
      key, className: `estimate-part is-${look}`, style: { width: `${(parts[key] / scale) * 100}%` },
    }))),
    h("ul", { className: "estimate-legend" }, shown.map(([key, words, look]) => h("li", { key },
      h("span", { className: `estimate-key is-${look}`, "aria-hidden": "true" }),
      h("span", { className: "muted" }, words),
      h("span", { className: "mono" }, bytes(parts[key]))))));
}

/** @param {string} key @param {string} text @param {any} [mend] */
function note(key, text, mend = null) {
  return h("div", { key, className: "banner banner-box banner-warning" },
    icon("warning"), h("span", { className: "banner-text" }, text), mend);
}

/** @param {string} label @param {string} value @param {string} [hint] */
function stat(label, value, hint) {
  return h("div", { key: label, className: "stat" },
    h("span", { className: "stat-label" }, label),
    h("span", { className: "stat-value stat-value-small" }, value),
    hint ? h("span", { className: "stat-hint" }, hint) : null);
}
