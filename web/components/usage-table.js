import { Component, h } from "../core/component.js";
import { energy, now, number, tokens } from "../core/format.js";
import { icon } from "./icon.js";
import { emptyState, errorState, loadingState } from "./states.js";

/** @typedef {{[name: string]: any}} Json */

const REFRESH_MS = 10_000; // what finishes within this is counted at once

/** @type {[string, string, string][]} what it is counted by, the button, and the words for what has none */
const GROUPS = [["model", "Model", "Unknown model"], ["key", "API key", "Without a key"], ["day", "Day", "–"]];

/** Requests, tokens and energy by model, key or day. Props: `state`, `span` (ms), `until?` (Unix ms). */
export class UsageTable extends Component {
  static loadedBy = ["span", "until"];

  /** @param {any} props */
  constructor(props) {
    super(props);
    this.turn = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {any} */
    this.state = { by: "model", shownBy: "model", rows: null, total: null, error: null };
  }

  didMount() {
    const { state } = this.props;
    void this.load();
    return [
      state.on("requests:finished", () => {
        this.timer ??= setTimeout(() => this.load(), REFRESH_MS);
      }),
      state.subscribe("info", (/** @type {any} */ info) => {
        if (!info?.recovered || this.state.error) void this.load();
      }),
      () => clearTimeout(this.timer),
    ];
  }

  getEventMap() {
    return {
      "click [data-by]": "handleGroup",
      "click [data-action=\"usage-retry\"]": () => this.load(),
    };
  }

  /** @param {globalThis.Event} _event @param {HTMLElement} button */
  handleGroup(_event, button) {
    this.setState({ by: button.dataset.by });
    void this.load();
  }

  async load() {
    const turn = ++this.turn;
    const { by } = this.state;
    clearTimeout(this.timer);
    this.timer = undefined;
    try {
      const to = this.props.until ?? now();
      const answer = await this.props.state.request("usage:get", { from: to - this.props.span, to, by });
      if (turn === this.turn) this.setState({ rows: answer.rows, total: answer.total, shownBy: by, error: null });
    } catch (problem) {
      if (turn === this.turn) this.setState({ error: /** @type {Error} */ (problem).message });
    }
  }

  render() {
    const { by, rows, error } = this.state;
    return h("section", { className: "card usage", "aria-label": "Usage" },
      h("header", { className: "card-header" },
        h("h2", { className: "card-title" }, icon("monitoring"), "Usage"),
        h("div", { className: "segmented", role: "group", "aria-label": "Counted by" }, GROUPS.map(([key, label]) => (
          h("button", { key, type: "button", dataset: { by: key }, "aria-pressed": key === by }, label))))),
      error ? errorState({
        title: "The usage could not be read", body: error,
        action: h("button", { type: "button", className: "button", dataset: { action: "usage-retry" } }, "Try again"),
      }) : !rows ? loadingState("Adding up…")
        : rows.length ? this.renderTable(rows)
          : emptyState({ iconName: "monitoring", title: "No usage in this time range" }));
  }

  /** @param {Json[]} rows */
  renderTable(rows) {
    const { shownBy, total } = this.state;
    const [, label, none] = GROUPS.find(([key]) => key === shownBy) ?? GROUPS[0];
    const heads = [label, "Requests", "Prompt", "Cached", "Generated", "Energy"];
    return h("div", { className: "table-wrap", tabindex: 0, role: "region", "aria-label": "Table of usage" },
      h("table", { className: "table" },
        h("thead", null, h("tr", null, heads.map((head, at) => (
          h("th", { key: head, scope: "col", className: at ? "numeric" : null }, head))))),
        h("tbody", null, rows.map((row) => this.renderRow(row[shownBy] ?? none, row))),
        rows.length > 1 && total ? h("tfoot", null, this.renderRow("Total", total)) : null));
  }

  /** @param {string} name @param {Json} row */
  renderRow(name, { requests, prompt_tokens: prompt, cached_tokens: cached, generated_tokens: made, energy: spent }) {
    const known = this.props.state.get("models") ?? [];
    const words = known.find((/** @type {Json} */ model) => model.id === name)?.name ?? name;
    const figures = [number(requests, 0), tokens(prompt), tokens(cached), tokens(made), energy(spent)];
    return h("tr", { key: name },
      h("td", { className: "usage-name", title: words }, h("span", { className: "truncate" }, words)),
      figures.map((text, at) => h("td", { key: at, className: "numeric" }, text)));
  }
}
