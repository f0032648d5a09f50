import { h } from "../core/component.js";

/** @type {Record<string, [string, string]>} label and kind of badge by status */
export const REQUEST_STATUSES = {
  ok: ["OK", "success"],
  cancelled: ["Cancelled", "neutral"],
  failed: ["Failed", "danger"],
  running: ["Answering", "info"],
  waiting: ["Waiting", "warning"],
};

/** How a request ended, or what it does. @param {{[name: string]: any}} request */
export function requestStatus({ status, code, error }) {
  const [label, kind] = REQUEST_STATUSES[status] ?? [status ?? "–", "neutral"];
  return h("span", { className: `badge badge-${kind}`, title: error || null },
    status === "failed" && code ? `${label} ${code}` : label);
}
