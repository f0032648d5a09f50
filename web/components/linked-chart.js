import { h } from "../core/component.js";
import { dateTime, now } from "../core/format.js";
import { Chart, nearestIndex } from "./chart.js";
import { icon } from "./icon.js";

const LEAST_DRAG_PX = 6; // shorter is a click
const LEAST_SPAN_MS = 2000;
const ZOOM_STEP = 0.5; // of what is shown, by + and -

/** Charts that point at the same moment. */
export class ChartLink {
  constructor() {
    /** @type {Set<LinkedChart>} */
    this.charts = new Set();
  }

  /** @param {LinkedChart} source where the person points @param {number | null} time Unix ms, null when nowhere */
  point(source, time) {
    for (const chart of this.charts) if (chart !== source) chart.follow(time);
  }
}

/**
 * A Chart whose read-out moves with those of the other charts in `props.link` (a ChartLink); it is zoomed by dragging,
 * by Shift with the arrow keys and Enter, or by + and -, and saved as an image or a table.
 *
 * More props: `onZoom(from, to)` (Unix ms), `onBack()`: to what was shown before.
 */
export class LinkedChart extends Chart {
  init() {
    /** The time where a selection began, and where it is, in Unix ms. @type {[number, number] | null} */
    this.state.selected = null;
    /** Where a drag began, in px. @type {number | null} */
    this.dragged = null;
  }

  didMount() {
    this.props.link.charts.add(this);
    return [...super.didMount(), () => this.props.link.charts.delete(this)];
  }

  getEventMap() {
    return {
      ...super.getEventMap(),
      "pointerdown .chart-plot": "handleDown",
      "pointermove .chart-plot": "handleMove",
      "pointerup .chart-plot": "handleUp",
      "pointercancel .chart-plot": "endSelection",
      "dblclick .chart-plot": () => this.props.onBack(),
      "click [data-save]": "handleSave",
    };
  }

  /** @param {PointerEvent} event */
  handleDown(event) {
    this.handlePointer(event);
    if (event.button || !this.props.timestamps.length) return;
    this.dragged = event.clientX;
    this.setState({ selected: [this.timeAt(event), this.timeAt(event)] });
    this.plot.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  handleMove(event) {
    this.handlePointer(event);
    if (this.dragged !== null) this.setState({ selected: [this.state.selected[0], this.timeAt(event)] });
  }

  /** @param {PointerEvent} event */
  handleUp(event) {
    const far = this.dragged !== null && Math.abs(event.clientX - this.dragged) >= LEAST_DRAG_PX;
    if (far) this.zoom(this.state.selected[0], this.timeAt(event));
    this.endSelection();
  }

  endSelection() {
    this.dragged = null;
    if (this.state.selected) this.setState({ selected: null });
  }

  /** @param {number} one Unix ms @param {number} other */
  zoom(one, other) {
    const [from, to] = [Math.round(Math.min(one, other)), Math.round(Math.max(one, other))];
    this.props.onZoom(from, Math.max(to, from + LEAST_SPAN_MS));
  }

  /** @param {KeyboardEvent} event */
  handleKey(event) {
    const { timestamps = [] } = this.props;
    const before = timestamps[this.state.at ?? timestamps.length - 1];
    if (this.handleZoomKey(event, before)) return event.preventDefault();
    super.handleKey(event);
    if (!event.shiftKey || this.state.at === null || !event.defaultPrevented) return this.endSelection();
    return this.setState({ selected: [this.state.selected?.[0] ?? before, timestamps[this.state.at]] });
  }

  /** Whether a key zoomed in or out. @param {KeyboardEvent} event @param {number} at the time that is pointed at */
  handleZoomKey({ key }, at) {
    const { from, to } = this.geometry();
    const { selected } = this.state;
    if (key === "Enter" && selected && selected[0] !== selected[1]) this.zoom(selected[0], selected[1]);
    else if (key === "+" || key === "=") this.zoom(at - (at - from) * ZOOM_STEP, at + (to - at) * ZOOM_STEP);
    else if (key === "-") this.zoom(at - (at - from) / ZOOM_STEP, Math.min(now(), at + (to - at) / ZOOM_STEP));
    else if (key === "0" || key === "Backspace") this.props.onBack();
    else return false;
    this.endSelection();
    return true;
  }

  render() {
    const tree = super.render();
    tree.children.push(h("div", { key: "tools", className: "chart-tools" }, ["PNG", "CSV"].map((kind) => h("button", {
      key: kind, type: "button", className: "chart-tool", dataset: { save: kind },
      "aria-label": `Save ${this.props.label} as ${kind}`, title: `Save as ${kind}`,
    }, icon("download", { size: 12 }), kind))));
    return tree;
  }

  /** @param {any} shape */
  renderOverlay(shape) {
    return [this.renderSelection(shape), ...super.renderOverlay(shape)];
  }

  /** @param {any} shape */
  renderSelection({ x, floor, left, inner }) {
    if (!this.state.selected) return null;
    const [one, other] = this.state.selected.map((/** @type {number} */ time) =>
      Math.min(left + inner, Math.max(left, x(time))));
    return h("rect", {
      key: "selection", className: "chart-selection", x: Math.min(one, other), y: 0, width: Math.abs(other - one),
      height: floor,
    });
  }

  /** @param {any} shape */
  readoutText(shape) {
    const { selected } = this.state;
    const text = super.readoutText(shape);
    if (!selected || selected[0] === selected[1]) return text;
    const [from, to] = [...selected].sort((/** @type {number} */ a, /** @type {number} */ b) => a - b);
    return `${text}. Selected ${dateTime(from)} to ${dateTime(to)}: Enter zooms in.`;
  }

  /** @param {any} shape */
  sentence(shape) {
    return `${super.sentence(shape)} Shift and arrow keys select, Enter zooms in, 0 goes back.`;
  }

  /** @param {Event} _event @param {HTMLElement} button */
  async handleSave(_event, button) {
    const { label, timestamps } = this.props;
    const name = label.toLowerCase().replace(/[^a-z0-9]+/g, "-");
    const { saveChart, saveTable } = await import("./chart-export.js"); // not before somebody wants it
    if (button.dataset.save === "CSV") saveTable(name, timestamps, this.shown);
    else await saveChart(name, this.element, label);
  }

  /** @param {{[name: string]: any}} partial */
  setState(partial) {
    super.setState(partial);
    if ("at" in partial) {
      this.props.link.point(this, partial.at === null ? null : this.props.timestamps[partial.at] ?? null);
    }
  }

  /** @param {number | null} time Unix ms */
  follow(time) {
    const { timestamps = [] } = this.props;
    const at = time === null || !timestamps.length ? null : nearestIndex(timestamps, time);
    if (at !== this.state.at) super.setState({ at, keyboard: false });
  }
}
