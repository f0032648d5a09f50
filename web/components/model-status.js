import { h } from "../core/component.js";
import { number, percent } from "../core/format.js";

/** @typedef {Record<string, any>} Model */

/** @type {Record<string, [string, string]>} label and kind of badge by status */
const STATUSES = {
  unloaded: ["Not loaded", "neutral"],
  loading: ["Loading", "info"],
  loaded: ["Loaded", "success"],
  sleeping: ["Sleeping", "info"],
  failed: ["Failed", "danger"],
  missing: ["File missing", "warning"],
};

/** The statuses of models that take memory. */
export const IN_MEMORY = ["loaded", "loading", "sleeping"];

/** @type {Record<string, string>} what the engine calls them */
const STAGES = {
  text_model: "Reading weights", spec_model: "Reading the draft model", mmproj_model: "Reading the projector",
};

/** A status as people call it, and its kind of badge. @param {string} status @returns {[string, string]} */
export function statusLabel(status) {
  return STATUSES[status] ?? [status ?? "Unknown", "neutral"];
}

/**
 * What a load is at, and how far that is (0 to 1) where it can be told.
 * @param {Model} model @returns {{text: string, part: number | null}}
 */
export function loadingStage({ stage, progress }) {
  if (stage === "warming up" || progress >= 1) return { text: "Warming up…", part: null };
  const words = stage ? STAGES[stage] ?? sentence(stage) : "Starting";
  return progress === null || progress === undefined
    ? { text: `${words}…`, part: null }
    : { text: `${words}: ${percent(progress * 100)}`, part: progress };
}

/**
 * A model's status as badge, with progress while it loads and what else there is to say in one line.
 * @param {Model} model
 */
export function modelStatus(model) {
  const [label, kind] = statusLabel(model.status);
  const line = detail(model);
  return h("div", { className: "model-status" },
    h("span", { className: `badge badge-${kind}` }, label),
    model.status === "loading" && h("progress", {
      className: "model-progress", max: 1, value: model.progress ?? undefined, "aria-label": `Loading ${model.name}`,
    }),
    line && h("span", {
      className: `model-detail-line${model.status === "failed" ? " text-danger" : " muted"}`, title: line,
    }, line));
}

/** @param {Model} model @returns {string} */
function detail(model) {
  switch (model.status) {
    case "loading": return loadingStage(model).text;
    case "loaded": {
      const speed = model.runtime?.tokens_per_second;
      return speed ? `${number(Math.round(speed * 10) / 10)} tokens/s` : "Ready";
    }
    case "sleeping": return "Wakes on the next request";
    case "failed": return model.error || model.reason || "";
    case "missing": return "";
    default: return model.reason && model.reason !== "user" ? sentence(model.reason) : "";
  }
}

/** @param {string} text */
function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
