import { h } from "../core/component.js";
import { bytes } from "../core/format.js";

/** Beside the weights: a short context, buffers, what a process takes (bytes), and a share of the file. */
const BASE = 0.6 * 2 ** 30;
const SHARE = 1.05;
/** What the engine leaves free on each GPU (bytes). */
const MARGIN = 2 ** 30;

/**
 * @typedef {{kind: string, budget: number, free: number, held: number, unified?: boolean, own?: number,
 *   spare?: boolean}} Device of the engine
 */

/** About what a file of `size` bytes takes in memory. @param {number} size */
export const memoryFor = (size) => size * SHARE + BASE;

/** What a model took last time, or about what it will take. @param {Record<string, any>} model bytes */
export const needOf = ({ memory_correction: last, file_size: size }) => (
  last?.taken || (size ? memoryFor(size) : null));

/** What has been there fits as it did; else what the engine leaves free. @param {Record<string, any>} model bytes */
export const marginOf = ({ memory_correction: last }) => (last?.taken ? 0 : MARGIN);

/**
 * Where something of `need` bytes would be in memory if nothing else was there, how much of it spills from the GPUs
 * into main memory, and whether there is room `now`, beside the models that are loaded and what other programs use.
 * @param {number | null | undefined} need @param {Device[] | null | undefined} devices @param {number} [margin]
 * @returns {{fit: "gpu" | "memory" | "spills" | "none" | "unknown", spills: number, now: boolean}}
 */
export function fitOf(need, devices, margin = MARGIN) {
  const [gpu, all] = rooms(devices ?? [], margin, ({ budget }) => budget);
  const [gpuNow, allNow] = rooms(devices ?? [], margin, ({ free, held }) => Math.max(0, free - held));
  if (!need || !all) return { fit: "unknown", spills: 0, now: true };
  if (need <= gpu) return { fit: "gpu", spills: 0, now: need <= gpuNow };
  if (need > all) return { fit: "none", spills: 0, now: false };
  return { fit: gpu ? "spills" : "memory", spills: gpu && need - gpu, now: need <= allNow };
}

/**
 * What a model can have of the GPUs that the engine uses, and of all memories: that of a unified GPU is main memory,
 * but for its own.
 * @param {Device[]} devices @param {number} margin @param {(device: Device) => number} amount
 * @returns {[number, number]} bytes
 */
function rooms(devices, margin, amount) {
  const used = devices.filter(({ spare }) => !spare);
  const own = used.map((device) => device.unified ? Math.min(device.own ?? 0, amount(device)) : amount(device));
  const sum = (/** @type {number[]} */ parts) => parts.reduce((total, part) => total + part, 0);
  const gpus = used.filter(({ kind }) => kind === "gpu").map((device) => Math.max(0, amount(device) - margin));
  return [sum(gpus), sum(own)];
}

/**
 * Whether a model fits, in one of three answers; nothing where that is not known, or, when `quiet`, where it can.
 * @param {number | null | undefined} need bytes @param {Device[] | null | undefined} devices
 * @param {{quiet?: boolean, suffix?: string, margin?: number}} [options]
 */
export function fitBadge(need, devices, { quiet = false, suffix = "", margin = MARGIN } = {}) {
  const { fit } = fitOf(need, devices, margin);
  if (fit === "unknown" || quiet && (fit === "gpu" || fit === "memory")) return null;
  const kind = { gpu: "success", memory: "success", none: "danger", spills: "warning" }[fit];
  const title = `Takes about ${bytes(need)}`;
  return h("span", { key: "fit", className: `badge badge-${kind}`, title }, fitWords(need, devices, margin) + suffix);
}

/**
 * Whether it fits, in words; none where that is not known.
 * @param {number | null | undefined} need bytes @param {Device[] | null | undefined} devices @param {number} [margin]
 */
export function fitWords(need, devices, margin = MARGIN) {
  const { fit, spills, now } = fitOf(need, devices, margin);
  const words = { unknown: "", gpu: "Fits on the GPU", memory: "Fits", none: "Too large", spills: "" }[fit];
  const later = now || fit === "none" ? "" : " once memory is freed";
  return (fit === "spills" ? `${bytes(spills)} spill, slow` : words) + later;
}
