import { h } from "../core/component.js";

/**
 * A bar that fills, or moves where the end is not known.
 * @param {{value?: number | null, label?: string, showLabel?: boolean, className?: string}} options value: 0 to 1, null
 *   where unknown
 */
export function progressBar({ value = null, label = "Progress", showLabel = false, className = "" }) {
  const bar = h("progress", { className: "progress-bar", max: 1, value, "aria-label": label });
  return h("div", { className: `progress ${className}`.trim() },
    bar,
    showLabel ? h("span", { className: "progress-label" }, label) : null);
}

/**
 * How full something is; its colour warns from 75 and 90 %.
 * @param {{value: number | null | undefined, label: string}} options value: 0 to 100
 */
export function meter({ value, label }) {
  const level = value === null || value === undefined
    ? ""
    : value >= 90
    ? "meter-danger"
    : value >= 75
    ? "meter-warning"
    : "";
  return h("div", {
    className: `meter ${level}`.trim(), role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100,
    "aria-valuenow": value ?? null,
  },
    h("span", { className: "meter-fill", style: { width: `${Math.min(100, Math.max(0, value ?? 0))}%` } }));
}
