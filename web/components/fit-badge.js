import { h } from "../core/component.js";
import { bytes } from "../core/format.js";

/** Beside the weights: a short context, buffers, what a process takes (bytes), and a share of the file. */
const BASE = 0.6 * 2 ** 30;
const SHARE = 1.05;

/** @typedef {{kind: string, budget: number}} Device as the engine lists them */

/** About what a file of `size` bytes takes in memory. @param {number} size */
export const memoryFor = (size) => size * SHARE + BASE;

/** What a model took last time, or about what it will take. @param {Record<string, any>} model bytes */
export const needOf = ({ memory_correction: last, file_size: size }) => (
  last?.taken || (size ? memoryFor(size) : null));

/**
 * Where something of `need` bytes would be in memory, and how much of it spills from the GPUs into main memory.
 * @param {number | null | undefined} need @param {Device[] | null | undefined} devices
 * @returns {{fit: "gpu" | "memory" | "spills" | "none" | "unknown", spills: number}}
 */
export function fitOf(need, devices) {
  const room = (/** @type {string} */ kind) => (devices ?? []).filter((device) => device.kind === kind)
    .reduce((sum, { budget }) => sum + budget, 0);
  const [gpu, main] = [room("gpu"), room("cpu")];
  if (!need || !gpu && !main) return { fit: "unknown", spills: 0 };
  if (gpu && need <= gpu) return { fit: "gpu", spills: 0 };
  if (need > gpu + main) return { fit: "none", spills: 0 };
  return gpu ? { fit: "spills", spills: need - gpu } : { fit: "memory", spills: 0 };
}

/**
 * Whether a model fits, in one of three answers; nothing where that is not known, or, when `quiet`, where it does.
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
  const { fit, spills } = fitOf(need, devices);
  const words = { unknown: "", gpu: "Fits on the GPU", memory: "Fits", none: "Too large", spills: "" }[fit];
  return fit === "spills" ? `${bytes(spills)} spill, slow` : words;
}
