import { Component, h } from "../core/component.js";
import { dateTime, number } from "../core/format.js";

/** @typedef {[at: number, level: string, count: number, id: number]} Bucket */
/** @typedef {{from: number | null, bucket: number, buckets: Bucket[]}} Counts as the page adds them up */

const PARTS = 60;
const FINGER = "(pointer: coarse), (max-width: 640px)";
const FINGER_PX = 45; // with the gap
const MARGINS_PX = 64; // of the page, and of a part that is begun
const LEVELS = ["error", "warning", "info", "debug"];

/** In how many parts the time is counted: so many that each bar can be hit. */
export function partsCount() {
  return matchMedia(FINGER).matches ? Math.max(2, Math.min(PARTS, Math.floor((innerWidth - MARGINS_PX) / FINGER_PX)))
    : PARTS;
}

/**
 * How many lines there were over time, by level. Each bar goes to its first line.
 * Props: `counts` (Counts), `onJump(id)`.
 */
export class LogHistogram extends Component {
  getEventMap() {
    return {
      "click [data-line]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ bar) =>
        this.props.onJump(Number(bar.dataset.line)),
      "keydown [data-line]": "handleKey",
    };
  }

  /** Arrows go from bar to bar. @param {KeyboardEvent} event @param {HTMLElement} bar */
  handleKey(event, bar) {
    const side = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
    if (!side) return;
    event.preventDefault();
    let next = /** @type {any} */ (bar)[side];
    while (next && !next.dataset.line) next = next[side];
    next?.focus();
  }

  render() {
    const counts = /** @type {Counts} */ (this.props.counts);
    const bars = logBars(counts);
    const highest = Math.max(...bars.map(({ total }) => total), 1);
    const first = bars.findIndex(({ total }) => total);
    return h("div", { className: "log-histogram", role: "group", "aria-label": "Lines over time" },
      h("div", { className: "log-bars" }, bars.map((bar, at) => (bar.total
        ? h("button", {
          key: at, type: "button", className: "log-bar", tabIndex: at === first ? 0 : -1,
          dataset: { line: String(bar.id) }, title: bar.words, "aria-label": `${bar.words}. Show`,
        }, LEVELS.filter((level) => bar.levels[level]).map((level) => h("span", {
          key: level, className: `log-part is-${level}`,
          style: { height: `${100 * Math.max(bar.levels[level] / highest, 0.03)}%` },
        })))
        : h("span", { key: at, className: "log-bar" })))),
      h("div", { className: "log-axis" },
        h("span", null, counts.from === null ? "" : dateTime(counts.from)),
        h("span", null, `highest: ${number(highest)}`),
        h("span", null, counts.from === null ? "" : dateTime(counts.from + bars.length * counts.bucket - 1))));
  }
}

/** One bar for each part of the time, also where nothing was said. @param {Counts} counts */
export function logBars({ from, bucket, buckets }) {
  const length = Math.max(0, ...buckets.map(([at]) => at)) + 1;
  const bars = Array.from({ length }, (_, at) => ({
    id: Infinity, total: 0, levels: /** @type {Record<string, number>} */ ({}), words: "",
    time: (from ?? 0) + at * bucket,
  }));
  for (const [at, level, count, id] of buckets) {
    bars[at].id = Math.min(bars[at].id, id);
    bars[at].total += count;
    bars[at].levels[level] = count;
  }
  for (const bar of bars) {
    const parts = LEVELS.filter((level) => bar.levels[level]).map((level) => `${number(bar.levels[level])} ${level}`);
    bar.words = `From ${dateTime(bar.time)}: ${parts.join(", ")}`;
  }
  return bars;
}
