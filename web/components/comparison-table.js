import { h } from "../core/component.js";

/**
 * Two things side by side, a row for each of their facts.
 * @param {string} caption @param {[string, string]} titles
 * @param {Array<[string, unknown, unknown]>} rows what it is and the two values
 */
export function comparisonTable(caption, titles, rows) {
  return h("table", { key: "comparison", className: "comparison" },
    h("caption", { className: "comparison-caption" }, caption),
    h("thead", null, h("tr", null, ["", ...titles].map((title, index) => (
      h("th", { key: index, className: "comparison-cell", scope: "col" }, title))))),
    h("tbody", null, rows.map(([title, ...values]) => h("tr", { key: title },
      h("th", { className: "comparison-cell comparison-title", scope: "row" }, title),
      values.map((value, index) => h("td", { key: index, className: "comparison-cell" }, String(value ?? "–")))))));
}
