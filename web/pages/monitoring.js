import { readStorage, writeStorage } from "../core/auth.js";
import { Component, h } from "../core/component.js";
import { dateTime, duration, foreignZone, now } from "../core/format.js";
import { icon } from "../components/icon.js";
import { MetricsCharts } from "../components/metrics-charts.js";
import { RequestTable } from "../components/request-table.js";
import { timelineCard } from "../components/timeline.js";
import { UsageTable } from "../components/usage-table.js";

const RANGE_KEY = "llamadash.monitoring.range";
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** @type {{id: string, label: string, words: string, span: number}[]} span in ms */
const RANGES = [
  { id: "15m", label: "15 min", words: "15 minutes", span: 15 * MINUTE_MS },
  { id: "1h", label: "1 h", words: "hour", span: HOUR_MS },
  { id: "24h", label: "24 h", words: "24 hours", span: DAY_MS },
  { id: "7d", label: "7 d", words: "7 days", span: 7 * DAY_MS },
  { id: "30d", label: "30 d", words: "30 days", span: 30 * DAY_MS },
  { id: "1y", label: "1 y", words: "year", span: 365 * DAY_MS },
];

/** What the machine and the engine do, now and over weeks. */
export class MonitoringPage extends Component {
  static title = "Monitoring";

  getEventMap() {
    return { "click [data-range]": "handleRange", "click [data-action=\"zoom-back\"]": () => this.zoomBack() };
  }

  init() {
    this.onZoom = (/** @type {number} */ from, /** @type {number} */ to) =>
      this.go({ range: this.range.id, from: String(from), to: String(to) });
    this.onBack = () => this.zoomBack();
  }

  /** The stretch of the address that was zoomed into. @returns {{from: number, to: number} | null} */
  get zoomed() {
    const { query } = this.props;
    const [from, to] = [momentOf(query?.get("from")), momentOf(query?.get("to") ?? String(now()))];
    return from !== null && to !== null && from < to ? { from, to } : null;
  }

  /** This page's address with another time range. @param {Record<string, string>} range */
  address(range) {
    const model = this.props.query?.get("model");
    return `/monitoring?${new URLSearchParams({ ...range, ...(model ? { model } : {}) })}`;
  }

  /** Show another time range, at the same place of the page. @param {Record<string, string>} range */
  go(range) {
    void this.props.router.navigate(this.address(range), { scroll: null });
  }

  zoomBack() {
    if (this.zoomed) this.go({ range: this.range.id });
  }

  /** The time range of the address, else the one last chosen. */
  get range() {
    const wanted = [this.props.query?.get("range"), readStorage(RANGE_KEY)];
    return wanted.map((id) => RANGES.find((range) => range.id === id)).find(Boolean) ?? RANGES[0];
  }

  render() {
    const { range, zoomed, onZoom, onBack } = this;
    const { state, query } = this.props;
    const stretch = { state, span: zoomed ? zoomed.to - zoomed.from : range.span, until: zoomed?.to };
    return h("section", { className: "page monitoring-page" },
      h("header", { className: "page-header" },
        h("h1", { className: "page-title" }, "Monitoring"),
        h("div", { className: "page-actions" }, this.renderRanges(zoomed ? { id: "" } : range)),
        zoomed ? this.renderZoom(zoomed) : this.renderHint()),
      h(MetricsCharts, { ...stretch, onZoom, onBack }),
      h(RequestTable, { ...stretch, model: query?.get("model") ?? "" }),
      h("div", { className: "grid monitoring-lists" }, h(UsageTable, stretch), timelineCard(stretch)));
  }

  renderHint() {
    const zone = foreignZone();
    return h("p", { key: "hint", className: "muted monitoring-hint" },
      `Drag over a chart to zoom in, double-click to go back.${zone ? ` Times are the server's (${zone}).` : ""}`);
  }

  /** @param {{from: number, to: number}} stretch */
  renderZoom({ from, to }) {
    return h("p", { key: "zoom", className: "row monitoring-hint" },
      h("span", null, `${dateTime(from)} to ${dateTime(to)} (${duration((to - from) / 1000)})`),
      h("button", { type: "button", className: "button button-small", dataset: { action: "zoom-back" } },
        icon("close", { size: 14 }), "Zoom out"));
  }

  /** @param {{id: string}} chosen */
  renderRanges(chosen) {
    return h("div", { className: "segmented", role: "group", "aria-label": "Time range" },
      RANGES.map(({ id, label, words }) => h("button", {
        key: id, type: "button", dataset: { range: id }, "aria-pressed": id === chosen.id, title: `The last ${words}`,
      }, label)));
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleRange(_event, button) {
    const { range = "" } = button.dataset;
    writeStorage(RANGE_KEY, range);
    void this.props.router.navigate(this.address({ range }), { replace: true });
  }
}

/**
 * A moment as an address has it: Unix ms, or a date as 2026-11-27T14:00Z; null where it is none.
 * @param {string | null | undefined} text
 */
function momentOf(text) {
  if (!text) return null;
  const time = /^\d+$/.test(text) ? Number(text) : Date.parse(text);
  return time >= 0 && time <= 8.64e15 ? time : null;
}
