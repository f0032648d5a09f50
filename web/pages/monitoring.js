import { readStorage, writeStorage } from "../core/auth.js";
import { Component, h } from "../core/component.js";
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
    return { "click [data-range]": "handleRange" };
  }

  /** The time range of the address, else the one last chosen. */
  get range() {
    const wanted = [this.props.query?.get("range"), readStorage(RANGE_KEY)];
    return wanted.map((id) => RANGES.find((range) => range.id === id)).find(Boolean) ?? RANGES[0];
  }

  render() {
    const { range } = this;
    const { state, query } = this.props;
    return h("section", { className: "page monitoring-page" },
      h("header", { className: "page-header" },
        h("h1", { className: "page-title" }, "Monitoring"),
        h("div", { className: "page-actions" }, this.renderRanges(range))),
      h(MetricsCharts, { state, span: range.span }),
      h(RequestTable, { state, span: range.span, model: query?.get("model") ?? "" }),
      h("div", { className: "grid monitoring-lists" },
        h(UsageTable, { state, span: range.span }),
        timelineCard({ state, span: range.span })));
  }

  /** @param {{id: string}} chosen */
  renderRanges(chosen) {
    return h("div", { className: "segmented", role: "group", "aria-label": "Time range" },
      RANGES.map(({ id, label, words }) => h("button", {
        key: id, type: "button", dataset: { range: id }, "aria-pressed": id === chosen.id,
        "aria-label": `The last ${words}`,
      }, label)));
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleRange(_event, button) {
    const { range = "" } = button.dataset;
    writeStorage(RANGE_KEY, range);
    void this.props.router.navigate(`/monitoring?range=${range}`, { replace: true });
  }
}
