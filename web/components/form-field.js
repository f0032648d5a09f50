import { h } from "../core/component.js";
import { icon } from "./icon.js";

/**
 * A labelled control with its hint, its error and what fixes it from outside.
 * @param {{id: string, label: string, hint?: string, error?: string, locked?: string, inline?: boolean}} options
 *   locked: the option or variable that fixes the value
 * @param {any} control the input; give it `id` and `"aria-describedby": id + "-hint"`
 */
export function formField({ id, label, hint, error, locked, inline = false }, control) {
  const notes = [
    locked && h("p", { key: "locked", className: "field-hint locked-note" },
      icon("key", { size: 14 }),
      h("span", null, "Fixed by ", h("code", null, locked))),
    error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
    hint && h("p", { key: "hint", className: "field-hint" }, hint),
  ];
  if (inline) {
    return h("div", { key: id, className: "field field-inline" },
      h("div", { className: "field-text" },
        h("label", { className: "field-label", htmlFor: id }, label),
        h("div", { id: `${id}-hint`, className: "field-notes" }, notes)), control);
  }
  return h("div", { key: id, className: "field" },
    h("label", { className: "field-label", htmlFor: id }, label),
    control,
    h("div", { id: `${id}-hint`, className: "field-notes" }, notes));
}
