import { h } from "../core/component.js";
import { now, percent, plural, sentence, until } from "../core/format.js";

/** @typedef {Record<string, any>} Model */

/** @type {Record<string, [string, string]>} label and kind of badge by status */
const STATUSES = {
  unloaded: ["Not loaded", "neutral"],
  waiting: ["Waiting", "warning"],
  loading: ["Loading", "info"],
  loaded: ["Loaded", "success"],
  stopping: ["Unloading", "info"],
  failed: ["Failed", "danger"],
  missing: ["File missing", "warning"],
};

/** The statuses of models that take memory. */
export const IN_MEMORY = ["loaded", "loading", "stopping"];

/** Those in memory, then all others, each as they come. @template {Record<string, any>} T @param {T[]} models */
export function inMemoryFirst(models) {
  const place = (/** @type {T} */ { status }) => (IN_MEMORY.includes(status) ? 0 : 1);
  return [...models].sort((one, other) => place(one) - place(other));
}

/** @type {Record<string, string>} what the engine calls them */
const STAGES = {
  text_model: "Reading weights", spec_model: "Reading the draft model", mmproj_model: "Reading the projector",
};

/** @type {Record<string, string>} what happens to a model next */
const NEXT = { unloads: "Unloads", leaves: "Leaves memory", loads: "Loads", returns: "Comes back" };

/** @type {Record<string, string>} why a model was loaded or unloaded, where that reads better than the server's word */
const REASONS = { user: "manually", "by hand": "manually" };

/** A status as people call it, and its kind of badge. @param {string} status @returns {[string, string]} */
export function statusLabel(status) {
  return STATUSES[status] ?? [status ?? "Unknown", "neutral"];
}

/** Why something happened, to be read after a colon. @param {string | null | undefined} reason */
export function reasonWords(reason) {
  return reason ? REASONS[reason] ?? reason : "";
}

/**
 * What happens to a model next: `Unloads in 4 min`, `Leaves memory: room for X`. "" where nothing is planned.
 * @param {{what: string, at?: number | null, reason?: string | null} | null | undefined} next @param {number} [at]
 */
export function nextWords(next, at = now()) {
  if (!next) return "";
  const words = NEXT[next.what] ?? sentence(next.what);
  if (typeof next.at === "number") return `${words} ${until(next.at, at)}`;
  if (!next.reason) return words;
  return next.reason.startsWith("when ") ? `${words} ${next.reason}` : `${words}: ${next.reason}`;
}

/**
 * What a load is at, and how far that is (0 to 1) where it can be told.
 * @param {Model} model @returns {{text: string, part: number | null}}
 */
export function loadingStage({ stage, progress }) {
  if (stage === "warming up" || progress >= 1) return { text: "Warming up…", part: null };
  const words = stage ? STAGES[stage] ?? sentence(stage) : "Starting";
  if (progress === null || progress === undefined) return { text: `${words}…`, part: null };
  return { text: `${words}: ${percent(progress * 100)}`, part: progress };
}

/** A model's status as badge, with progress while it loads and what else to say in one line. @param {Model} model */
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
    case "loaded": return model.runtime?.requests ? `Answering ${plural(model.runtime.requests, "request")}` : "Ready";
    case "waiting": return sentence(model.reason ?? "");
    case "failed": return model.error || model.reason || "";
    case "missing": return model.error || "";
    case "stopping": return "";
    default: return reasonWords(model.reason) === "manually" ? "" : sentence(reasonWords(model.reason));
  }
}

export { sentence };
