import { h } from "../core/component.js";
import { plural } from "../core/format.js";
import { icon } from "./icon.js";
import { statusLabel } from "./model-status.js";

/** @typedef {Record<string, any>} Json */

/** @type {Record<string, [string, string]>} label and kind of badge by status */
const STATUSES = {
  connected: ["Connected", "success"], unreachable: ["Unreachable", "warning"], refused: ["Refused", "danger"],
};

/** The models of servers elsewhere; nothing where there are none. @param {Json[] | undefined} upstreams */
export function upstreamModels(upstreams) {
  if (!upstreams?.length) return null;
  return h("section", { key: "upstreams", className: "card upstreams", "aria-label": "Models of upstreams" },
    h("div", { className: "card-header" },
      h("h2", { className: "card-title" }, icon("network"), "On other machines")),
    upstreams.map(upstreamSection));
}

/** @param {Json} upstream */
function upstreamSection({ name, url, kind: program, status, error, models = [] }) {
  const [label, kind] = STATUSES[status] ?? [status, "neutral"];
  return h("section", { key: name, className: "upstream", "aria-label": name },
    h("div", { className: "row upstream-head" },
      h("h3", { className: "upstream-name" }, name),
      h("span", { className: `badge badge-${kind}` }, label),
      h("span", { className: "muted upstream-url truncate", title: url }, program ? `${program} at ${url}` : url),
      status === "connected" && h("span", { key: "count", className: "muted" }, plural(models.length, "model"))),
    error && h("p", { key: "error", className: "field-error" }, error),
    models.length > 0 && h("ul", { key: "models", className: "list upstream-models" }, models.map(upstreamModel)));
}

/** @param {Json} model */
function upstreamModel({ id, status }) {
  const [label, kind] = status ? statusLabel(status) : [];
  return h("li", { key: id, className: "list-item upstream-model" },
    h("code", { className: "break-all" }, id),
    h("span", { className: "spacer" }),
    label && h("span", { key: "status", className: `badge badge-${kind}` }, label),
    h("a", {
      className: "button button-small", href: `/chat?model=${encodeURIComponent(id)}`, "aria-label": `Chat with ${id}`,
    }, icon("chat", { size: 14 }), "Chat"));
}
