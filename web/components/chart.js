import { Component, h } from "../core/component.js";
import { dateTime, number, wall, zoneOffset } from "../core/format.js";

/** @typedef {(number | null | undefined)[]} Values */
/**
 * @typedef {object} Series
 * @property {string} label
 * @property {Values} values one for each timestamp; null is a gap
 * @property {Values} [max] the highest within each bucket: drawn as a band above the line
 * @property {number | null} [now] the newest value, where the last one is an average
 * @property {number} [color] 1 to 8; its place in the list where left out
 * @property {boolean} [area] fill below the line
 * @property {string} [figure] what the legend says of it: the newest value
 * @property {string} [detail] and what is less important
 * @property {number} [at] its place in the list
 */

const LEFT_PAD = 10;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 22;
const CHARACTER = 6.4; // width of an axis label's character, px
const MARK_ROOM = 64; // px from one time on the axis to the next
const MARK_GAP = 14; // px between two of them that are long, as "10:30:15 PM"
const MARK_REACH = 6; // px around the pointer in which marks are read out
const MOST_MARKS = 4; // read out at once
const DASHES = ["", "6 3", "2 3", "9 3 2 3"];
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const TIME_STEPS = [
  1000, 2000, 5000, 10_000, 15_000, 30_000, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE,
  HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY, 56 * DAY, 112 * DAY,
];

/**
 * Round values that divide `low`..`high` into about `count` parts.
 * @param {number} low @param {number} high @param {number} [count] @param {number} [base] 1024 for sizes
 */
export function niceTicks(low, high, count = 4, base = 10) {
  const rough = Math.max((high - low) / Math.max(1, count), Number.EPSILON);
  const power = base ** Math.floor(Math.log(rough) / Math.log(base));
  const factors = base === 10
    ? (power >= 10 ? [1, 2, 2.5, 5, 10] : [1, 2, 5, 10])
    : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
  const step = power * (factors.find((factor) => factor * power >= rough * 0.999) ?? base);
  const ticks = [];
  for (let tick = Math.floor(low / step) * step; ; tick += step) {
    ticks.push(Number(tick.toPrecision(12)));
    if (tick >= high - step * 1e-9) return ticks;
  }
}

/**
 * Times to mark between `from` and `to`, on whole steps of the server's clock.
 * @param {number} from @param {number} to @param {number} count
 */
export function timeTicks(from, to, count) {
  const step = TIME_STEPS.find((it) => (to - from) / it <= count) ?? TIME_STEPS[TIME_STEPS.length - 1];
  const offset = (/** @type {number} */ time) => -zoneOffset(time);
  const shift = step >= HOUR ? offset(from) : 0;
  const ticks = [];
  for (let even = Math.ceil((from - shift) / step) * step + shift; ; even += step) {
    const moved = step > HOUR ? even + offset(even) - shift : even; // by a change of the clocks that lies between
    const tick = offset(moved) === offset(even) ? moved : even; // but not over the change
    if (tick > to) return { ticks, step };
    ticks.push(tick);
  }
}

/**
 * The marks of a time axis of this width, as many as there is room for in the browser's own form.
 * @param {number} from @param {number} to @param {number} width px
 * @returns {{tick: number, text: string}[]}
 */
export function timeMarks(from, to, width) {
  const marks = (/** @type {number} */ room) => {
    const { ticks, step } = timeTicks(from, to, Math.max(2, Math.floor(width / room)));
    return ticks.map((tick) => ({ tick, text: timeLabel(tick, step) }));
  };
  const usual = marks(MARK_ROOM);
  const room = Math.max(...usual.map(({ text }) => text.length)) * CHARACTER + MARK_GAP;
  return room > MARK_ROOM ? marks(room) : usual;
}

/** @param {number} time @param {number} step */
function timeLabel(time, step) {
  const date = wall(time);
  const midnight = date.getUTCHours() === 0 && date.getUTCMinutes() === 0;
  if (step >= DAY || (midnight && step >= MINUTE)) {
    return date.toLocaleDateString(undefined, { day: "numeric", month: "short", timeZone: "UTC" });
  }
  return date.toLocaleTimeString(undefined, {
    hour: "numeric", minute: "2-digit", ...(step < MINUTE ? { second: "2-digit" } : {}), timeZone: "UTC",
  });
}

/** The index whose timestamp is nearest. @param {number[]} timestamps ascending @param {number} time */
export function nearestIndex(timestamps, time) {
  let low = 0;
  let high = timestamps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (timestamps[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low > 0 && time - timestamps[low - 1] < timestamps[low] - time ? low - 1 : low;
}

/** @param {any} value @returns {value is number} */
const known = (value) => typeof value === "number" && Number.isFinite(value);
/** @param {number} value */
const px = (value) => Number(value.toFixed(1));

/**
 * Points of a line, at most four for each pixel column: first, lowest, highest, last. A gap ends a run.
 * @param {number[]} xs @param {Values} values @param {(value: number) => number} y
 * @returns {[number, number][][]} runs of points
 */
export function lineRuns(xs, values, y) {
  /** @type {[number, number][][]} */
  const runs = [];
  /** @type {[number, number][]} */
  let run = [];
  for (let at = 0; at < xs.length; ) {
    const value = values[at];
    if (!known(value)) {
      if (run.length) runs.push(run);
      run = [];
      at += 1;
      continue;
    }
    const column = Math.floor(xs[at]);
    let [low, high, last] = [at, at, at];
    for (; at < xs.length && Math.floor(xs[at]) === column && known(values[at]); at += 1) {
      if (/** @type {number} */ (values[at]) < /** @type {number} */ (values[low])) low = at;
      if (/** @type {number} */ (values[at]) > /** @type {number} */ (values[high])) high = at;
      last = at;
    }
    for (const index of [...new Set([Math.min(low, high), Math.max(low, high), last])]) {
      run.push([px(xs[index]), px(y(/** @type {number} */ (values[index])))]);
    }
  }
  return run.length ? [...runs, run] : runs;
}

/** @param {[number, number][][]} runs */
function linePath(runs) {
  return runs.map((run) => (
    run.length === 1 ? `M${run[0][0]} ${run[0][1]}h.01` : `M${run.map((point) => point.join(" ")).join("L")}`
  )).join("");
}

/** @param {[number, number][][]} runs @param {number} floor */
function areaPath(runs, floor) {
  return runs.map((run) => {
    const line = run.map((point) => point.join(" ")).join("L");
    return `M${run[0][0]} ${floor}L${line}L${run[run.length - 1][0]} ${floor}Z`;
  }).join("");
}

/**
 * Between the line and the highest values.
 * @param {number[]} xs @param {Values} low @param {Values} high @param {(value: number) => number} y
 */
function bandPath(xs, low, high, y) {
  const both = low.map((value, at) => known(value) && known(high[at]));
  const upper = lineRuns(xs, high.map((value, at) => (both[at] ? value : null)), y);
  const lower = lineRuns(xs, low.map((value, at) => (both[at] ? value : null)), y);
  return upper.map((run, at) =>
    `M${[...run, ...(lower[at] ?? []).slice().reverse()].map((point) => point.join(" ")).join("L")}Z`).join("");
}

/** @type {Set<Chart>} with new values that are not drawn yet */
const renewed = new Set();

function drawRenewed() {
  const [chart] = renewed;
  renewed.delete(chart);
  chart.update();
  if (renewed.size) setTimeout(drawRenewed);
}

/**
 * A time series chart with a read-out under pointer, finger and arrow keys.
 *
 * Props: `label` (what it shows, for the sentence), `timestamps` (Unix ms, ascending), `series`, `format?` (value →
 * text), `height?` (px), `min?` and `max?` (of the y axis; it grows beyond `max` only with `grow`), `from?` and `to?`
 * (Unix ms), `base?` (1024 for sizes), `legend?` (default: with several series), `empty?` (text), `marks?` (what
 * happened: `{timestamp, text, look}[]`, ascending; `look` is a kind of badge).
 */
export class Chart extends Component {
  /** @param {any} props */
  constructor(props) {
    super(props);
    /** @type {any} */
    this.state = { width: 0, at: null, keyboard: false, only: null };
    /** @type {any} */
    this.plot = null;
    /** @type {any} the plot whose width is observed */
    this.watched = null;
    /** @type {ResizeObserver | null} */
    this.observer = null;
  }

  /** New values come to many charts at once: each is drawn in a turn of its own, for all in one hold the page up. */
  receive(/** @type {any} */ props) {
    this.props = props;
    if (renewed.add(this).size === 1) setTimeout(drawRenewed);
  }

  /** The lines that are drawn: the one that was isolated, or all. @returns {Series[]} */
  get shown() {
    /** @type {Series[]} */
    const series = this.props.series ?? [];
    const all = series.map((one, at) => ({ ...one, at }));
    const only = all.filter(({ label }) => label === this.state.only);
    return only.length ? only : all;
  }

  /** Where things are, for this width and these values. */
  geometry() {
    const series = this.shown;
    const { timestamps = [], height = 200, min = 0, max, format = number, base = 10 } = this.props;
    const values = series.flatMap((/** @type {Series} */ one) => [...one.values, ...(one.max ?? [])]).filter(known);
    const highest = values.reduce(
      (/** @type {number} */ most, /** @type {number} */ value) => Math.max(most, value), -Infinity
    );
    const top = max ?? (highest > min ? highest : min + 1);
    const ticks = niceTicks(min, top, height < 140 ? 2 : 4, base);
    const high = max ?? ticks[ticks.length - 1];
    const labels = ticks.filter((tick) => tick <= high).map((tick) => ({ tick, text: format(tick) }));
    const left = LEFT_PAD + Math.ceil(Math.max(...labels.map(({ text }) => text.length)) * CHARACTER);
    const from = this.props.from ?? timestamps[0] ?? 0;
    const to = Math.max(this.props.to ?? timestamps[timestamps.length - 1] ?? 1, from + 1);
    const inner = Math.max(1, this.state.width - left - RIGHT);
    const floor = height - BOTTOM;
    return {
      left, inner, floor, height, labels, from, to, format, timestamps, series, empty: values.length === 0,
      x: (/** @type {number} */ time) => left + ((time - from) / (to - from)) * inner,
      y: (/** @type {number} */ value) => floor - ((Math.min(value, high) - min) / (high - min)) * (floor - TOP),
    };
  }

  render() {
    const { series = [], legend = series.length > 1, empty = "Nothing recorded in this time" } = this.props;
    const shape = this.geometry();
    return h("figure", { className: "chart" },
      legend ? h("ul", { className: "chart-legend" }, series.map(this.renderLegend, this)) : null,
      h("div", {
        className: "chart-plot", role: "img", tabindex: 0, "aria-label": this.sentence(shape),
        ref: (/** @type {any} */ element) => (this.plot = element),
      },
        h("svg", { width: Math.max(1, this.state.width), height: shape.height, "aria-hidden": "true" },
          this.state.width
            ? [this.renderAxes(shape), this.renderMarks(shape), this.renderSeries(shape), ...this.renderOverlay(shape)]
            : null),
        shape.empty ? h("div", { className: "chart-empty" }, empty) : null,
        this.renderReadout(shape)),
      h("span", { className: "visually-hidden", role: "status" }, this.state.keyboard ? this.readoutText(shape) : ""));
  }

  /**
   * One line's name and figures; a click shows it alone, and the next one all again.
   * @param {Series} one @param {number} at
   */
  renderLegend(one, at) {
    const content = [
      this.key(one, at), one.label,
      one.figure && h("strong", { key: "figure" }, one.figure), one.detail && h("span", { key: "detail" }, one.detail),
    ];
    if (this.props.series.length < 2) return h("li", { key: at, className: "chart-legend-item" }, content);
    const { only } = this.state;
    return h("li", { key: at }, h("button", {
      type: "button", className: `chart-legend-item${only && only !== one.label ? " is-off" : ""}`,
      "aria-pressed": only === one.label, dataset: { isolate: one.label }, title: "Show only this line",
    }, content));
  }

  /** @param {Series} one @param {number} at */
  color(one, at) {
    return `var(--series-${one.color ?? (at % 8) + 1})`;
  }

  /** @param {Series} one @param {number} at */
  key(one, at) {
    return h("svg", { className: "chart-key", width: 18, height: 8 },
      h("line", {
        className: "chart-line", x1: 1, x2: 17, y1: 4, y2: 4, "stroke-dasharray": DASHES[at % DASHES.length],
        style: { stroke: this.color(one, at), "stroke-width": "2" },
      }));
  }

  /** @param {any} shape */
  renderAxes({ left, inner, floor, labels, from, to, x, y, empty }) {
    const half = (/** @type {string} */ text) => (text.length * CHARACTER) / 2;
    const marks = timeMarks(from, to, inner).filter(({ tick, text }) => x(tick) > Math.max(left + 14, half(text))
      && x(tick) < left + inner + Math.min(-12, RIGHT - half(text)));
    return h("g", { key: "axes" },
      labels.map((/** @type {any} */ { tick, text }) => h("g", { key: `y${tick}` },
        h("line", { className: "chart-grid", x1: left, x2: left + inner, y1: px(y(tick)), y2: px(y(tick)) }),
        h("text", { className: "chart-axis", x: left - 7, y: px(y(tick)) + 4, "text-anchor": "end" },
          empty ? "" : text))),
      marks.map(({ tick, text }) =>
        h("text", { key: `x${tick}`, className: "chart-axis", x: px(x(tick)), y: floor + 16, "text-anchor": "middle" },
          text)));
  }

  /** @param {any} shape */
  renderSeries({ series, timestamps, x, y, floor }) {
    const xs = timestamps.map(x);
    return h("g", { key: "series" }, series.map((/** @type {Series} */ one) => {
      const { at = 0 } = one;
      const runs = lineRuns(xs, one.values, y);
      const color = this.color(one, at);
      return h("g", { key: at },
        one.area || series.length === 1
          ? h("path", { key: "area", className: "chart-area", d: areaPath(runs, floor), style: { fill: color } })
          : null,
        one.max
          ? h("path", {
            key: "band", className: "chart-band", d: bandPath(xs, one.values, one.max, y), style: { fill: color },
          })
          : null,
        h("path", {
          key: "line", className: "chart-line", d: linePath(runs), "stroke-dasharray": DASHES[at % DASHES.length],
          style: { stroke: color },
        }));
    }));
  }

  /** One line for all that happened within a pixel. @param {any} shape */
  renderMarks({ from, to, x, floor }) {
    const { marks = [] } = this.props;
    const inside = marks.filter((/** @type {any} */ { timestamp }) => timestamp >= from && timestamp <= to);
    const looks = new Map(inside.map((/** @type {any} */ { timestamp, look }) => [Math.round(x(timestamp)), look]));
    return h("g", { key: "marks" }, [...looks].map(([place, look]) =>
      h("path", {
        key: place, className: `chart-mark chart-mark-${look}`,
        d: `M${place} ${floor + 4}V${look === "danger" ? TOP : floor - 8}`,
      })));
  }

  /** What happened around the moment that is read. @param {any} shape @returns {any[]} the newest */
  marksAt({ timestamps, x }) {
    const { at } = this.state;
    const place = x(timestamps[at]);
    const sides = [timestamps[at - 1], timestamps[at + 1]].filter(known).map((time) => Math.abs(x(time) - place) / 2);
    const reach = Math.max(MARK_REACH, Math.min(...sides)); // where moments are far apart, those of a whole day
    return (this.props.marks ?? []).filter((/** @type {any} */ { timestamp }) =>
      Math.abs(x(timestamp) - place) <= (sides.length ? reach : MARK_REACH)).slice(-MOST_MARKS);
  }

  /** What lies above the lines. @param {any} shape @returns {(import("../core/component.js").VNode | null)[]} */
  renderOverlay(shape) {
    return [this.renderCursor(shape)];
  }

  /** @param {any} shape */
  renderCursor({ series, timestamps, x, y, floor }) {
    const { at } = this.state;
    if (at === null || at >= timestamps.length) return null;
    const place = px(x(timestamps[at]));
    return h("g", { key: "cursor" }, h("line", { className: "chart-cursor", x1: place, x2: place, y1: TOP, y2: floor }),
      series.map((/** @type {Series} */ one) => known(one.values[at])
        ? h("circle", {
          key: one.at, cx: place, cy: px(y(/** @type {number} */ (one.values[at]))), r: 3.5,
          style: { fill: this.color(one, one.at ?? 0), stroke: "var(--surface)", "stroke-width": "1.5" },
        })
        : null));
  }

  /** @param {any} shape */
  renderReadout(shape) {
    const { series, timestamps, x, format } = shape;
    const { at, width } = this.state;
    if (at === null || at >= timestamps.length) return null;
    const place = x(timestamps[at]);
    const beside = place > width / 2 ? `${px(place - 12)}px - 100%` : `${px(place + 12)}px`;
    const side = `translateX(max(0px, min(${beside}, ${width}px - 100%)))`; // never beyond the chart
    return h("div", { className: "chart-readout", "aria-hidden": "true", style: { transform: side } },
      h("div", { className: "chart-readout-time" }, dateTime(timestamps[at])),
      series.map((/** @type {Series} */ one) => (
        h("div", { key: one.at, className: "chart-readout-row" },
          this.key(one, one.at ?? 0),
          h("span", null, one.label),
          h("strong", null,
            format(one.values[at]), known(one.max?.[at]) ? ` (max ${format(one.max?.[at])})` : null)))),
      this.marksAt(shape).map(({ text }, index) => (
        h("div", { key: `mark${index}`, className: "chart-readout-mark" }, text))));
  }

  /** @param {any} shape */
  readoutText(shape) {
    const { series, timestamps, format } = shape;
    const { at } = this.state;
    if (at === null || at >= timestamps.length) return "";
    const values = series.map((/** @type {Series} */ one) => `${one.label} ${format(one.values[at])}`);
    const happened = this.marksAt(shape).map(({ text }) => `. ${text}`);
    return `${dateTime(timestamps[at])}: ${values.join(", ")}${happened.join("")}`;
  }

  /** @param {any} shape */
  sentence({ series, format, empty }) {
    const { label = "Chart" } = this.props;
    if (empty) return `${label}: nothing recorded`;
    const parts = series.map((/** @type {Series} */ one) => {
      const values = one.values.filter(known);
      if (!values.length) return `${one.label} not recorded`;
      const now = one.now === undefined ? values[values.length - 1] : one.now;
      const [least, most] = [Math.min(...values), Math.max(...values, ...(one.max ?? []).filter(known))];
      return `${one.label} now ${format(now)}, from ${format(least)} to ${format(most)}`;
    });
    return `${label}: ${parts.join("; ")}. Arrow keys read values.`;
  }

  getEventMap() {
    return {
      "click [data-isolate]": "handleIsolate",
      "pointermove .chart-plot": "handlePointer",
      "pointerdown .chart-plot": "handlePointer",
      // a lifted finger leaves the read-out
      pointerleave: (/** @type {PointerEvent} */ event) => event.pointerType === "mouse" && this.handleLeave(),
      "keydown .chart-plot": "handleKey",
      "blur .chart-plot": "handleLeave",
    };
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleIsolate(_event, button) {
    const { isolate } = button.dataset;
    this.setState({ only: this.state.only === isolate ? null : isolate });
  }

  /** The time at which somebody points, in Unix ms. @param {PointerEvent} event */
  timeAt(event) {
    const { from, to, left, inner } = this.geometry();
    const part = (event.clientX - this.plot.getBoundingClientRect().left - left) / inner;
    return from + Math.min(1, Math.max(0, part)) * (to - from);
  }

  /** @param {PointerEvent} event */
  handlePointer(event) {
    const { timestamps = [] } = this.props;
    if (!timestamps.length) return;
    const at = nearestIndex(timestamps, this.timeAt(event));
    if (at !== this.state.at) this.setState({ at, keyboard: false });
  }

  handleLeave() {
    if (this.state.at !== null) this.setState({ at: null, keyboard: false });
  }

  /** @param {KeyboardEvent} event */
  handleKey(event) {
    const last = (this.props.timestamps?.length ?? 0) - 1;
    const at = this.state.at ?? last;
    const moves = /** @type {{[key: string]: number | null}} */ ({
      ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - 10, PageDown: at + 10, Home: 0, End: last, Escape: null,
    });
    if (!(event.key in moves) || last < 0) return;
    event.preventDefault();
    const next = moves[event.key];
    this.setState({
      at: next === null ? null : Math.min(last, Math.max(0, this.state.at === null ? last : next)), keyboard: true,
    });
  }

  didMount() {
    this.observer = new ResizeObserver(() => {
      const width = Math.floor(this.plot.clientWidth);
      if (this.plot.isConnected && width !== this.state.width) this.setState({ width });
    });
    this.didUpdate();
    return [() => this.observer?.disconnect()];
  }

  /** What was drawn for the first time, or after a fault, is as wide as there is room. */
  didUpdate() {
    if (!this.observer || this.plot === this.watched) return;
    this.watched = this.plot;
    this.observer.disconnect();
    this.observer.observe(this.plot);
    this.state.width = Math.floor(this.plot.clientWidth);
    this.update();
  }
}

/**
 * A small line without axes. Props: `values`, `label`, `color?` (1 to 8), `min?` (0), `max?`, `height?` (36 px),
 * `slots?` (width in samples; the line grows from the right).
 */
export class Sparkline extends Component {
  render() {
    const { values = [], label = "Trend", color = 1, min = 0, max, height = 36, slots = values.length } = this.props;
    const top = Math.max(max ?? 0, ...values.filter(known), min + 1e-9);
    const width = 100;
    const count = Math.max(2, slots);
    const start = count - values.length;
    const xs = values.map((/** @type {any} */ _value, /** @type {number} */ at) =>
      ((at + start) / (count - 1)) * width);
    /** @param {number} value */
    const y = (value) => height - 1.5 - ((value - min) / (top - min)) * (height - 3);
    const runs = lineRuns(xs.map((/** @type {number} */ x) => x * 3), values, y).map((run) =>
      run.map(([x, at]) => /** @type {[number, number]} */ ([px(x / 3), at])));
    const stroke = `var(--series-${color})`;
    return h("svg", {
      className: "sparkline", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", height, role: "img",
      "aria-label": label,
    },
      h("path", { className: "chart-area", d: areaPath(runs, height), style: { fill: stroke } }),
      h("path", { className: "chart-line", d: linePath(runs), style: { stroke } }));
  }
}
