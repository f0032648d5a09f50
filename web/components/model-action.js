import { h } from "../core/component.js";
import { icon } from "./icon.js";

/** @type {Record<string, [string, string, string]>} action, label and icon by status */
const ACTIONS = {
  unloaded: ["load", "Load", "play"],
  failed: ["load", "Try again", "refresh"],
  waiting: ["unload", "Cancel", "close"],
  loading: ["unload", "Cancel", "close"],
  loaded: ["unload", "Unload", "stop"],
};

/**
 * The button that does the next sensible thing with a model: load, cancel, unload.
 * @param {Record<string, any>} model @param {{busy?: boolean, primary?: boolean}} [options]
 */
export function modelAction(model, { busy = false, primary = false } = {}) {
  const found = ACTIONS[model.status];
  if (!found) return null;
  const [action, label, name] = found;
  return h("button", {
    type: "button", className: `button${primary && action === "load" ? " button-primary" : ""}`,
    "aria-disabled": busy ? "true" : undefined, "aria-busy": busy ? "true" : undefined,
    dataset: { action, id: model.id }, "aria-label": `${label} ${model.name}`,
  }, icon(name), h("span", null, label));
}
