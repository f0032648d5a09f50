import { h } from "../core/component.js";
import { bytes } from "../core/format.js";

/** Beside the weights: a short context, buffers, what a process takes (bytes), and a share of the file. */
const BASE = 0.6 * 2 ** 30;
const SHARE = 1.05;

/**
 * @typedef {{kind: string, budget: number, free: number, held: number, unified?: boolean, own?: number,
 *   spare?: boolean}} Device of the engine
 */

/** About what a file of `size` bytes takes in memory. @param {number} size */
export const memoryFor = (size) => size * SHARE + BASE;

/** What a model took last time, or about what it will take. @param {Record<string, any>} model bytes */
export const needOf = ({ memory_correction: last, file_size: size }) => (
  last?.taken || (size ? memoryFor(size) : null));

/**
 * Where something of `need` bytes would be in memory if nothing else was there, how much of it spills from the GPUs
 * into main memory, and whether there is room `now`, beside the models that are loaded and what other programs use.
 * @param {number | null | undefined} need @param {Device[] | null | undefined} devices
 * @returns {{fit: "gpu" | "memory" | "spills" | "none" | "unknown", spills: number, now: boolean}}
 */
export function fitOf(need, devices) {
  const [gpu, all] = rooms(devices ?? [], ({ budget }) => budget);
  const [gpuNow, allNow] = rooms(devices ?? [], ({ free, held }) => Math.max(0, free - held));
  if (!need || !all) return { fit: "unknown", spills: 0, now: true };
  if (need <= gpu) return { fit: "gpu", spills: 0, now: need <= gpuNow };
  if (need > all) return { fit: "none", spills: 0, now: false };
  return { fit: gpu ? "spills" : "memory", spills: gpu && need - gpu, now: need <= allNow };
}

/**
 * What the GPUs have that the engine uses, and all memories: that of a unified GPU is main memory, but for its own.
 * @param {Device[]} devices @param {(device: Device) => number} amount @returns {[number, number]} bytes
 */
function rooms(devices, amount) {
  const sum = (/** @type {Device[]} */ some) => some.reduce((total, device) => total + amount(device), 0);
  const used = devices.filter(({ spare }) => !spare);
  const own = used.map((device) => device.unified ? Math.min(device.own ?? 0, amount(device)) : amount(device));
  return [sum(used.filter(({ kind }) => kind === "gpu")), own.reduce((total, part) => total + part, 0)];
}

/**
 * Whether a model fits, in one of three answers; nothing where that is not known, or, when `quiet`, where it can.
 * @param {number | null | undefined} need bytes @param {Device[] | null | undefined} devices
 * @param {{quiet?: boolean, suffix?: string}} [options]
 */
export function fitBadge(need, devices, { quiet = false, suffix = "" } = {}) {
  const { fit } = fitOf(need, devices);
  if (fit === "unknown" || quiet && (fit === "gpu" || fit === "memory")) return null;
  const kind = { gpu: "success", memory: "success", none: "danger", spills: "warning" }[fit];
  const title = `Takes about ${bytes(need)}`;
  return h("span", { key: "fit", className: `badge badge-${kind}`, title }, fitWords(need, devices) + suffix);
}

/**
 * Whether it fits, in words; none where that is not known.
 * @param {number | null | undefined} need bytes @param {Device[] | null | undefined} devices
 */
export function fitWords(need, devices) {
  const { fit, spills, now } = fitOf(need, devices);
  const words = { unknown: "", gpu: "Fits on the GPU", memory: "Fits", none: "Too large", spills: "" }[fit];
  const later = now || fit === "none" ? "" : " once memory is freed";
  return (fit === "spills" ? `${bytes(spills)} spill, slow` : words) + later;
}
