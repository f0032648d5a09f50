/**
 * The requests that the engine has answered: filtered, summed up, live.
 *
 * @typedef {{id: number, timestamp: number, model: string, prompt_tokens: number | null, cached_tokens: number | null,
 * generated_tokens: number | null, prompt_per_second: number | null, generated_per_second: number | null, duration:
 *   number | null}} Request
 * @typedef {{count: number, prompt_tokens: number | null, generated_tokens: number | null, prompt_per_second: number |
 *   null,
 *   generated_per_second: number | null}} Summary
 */

import { Component, h } from "../core/component.js";
import { clock, dateTime, duration, number, tokens } from "../core/format.js";
import { icon } from "./icon.js";
import { emptyState, errorState, loadingState } from "./states.js";

const PAGE_SIZE = 25;
const MOST_ROWS = 1000; // shown at once; older ones are a filter away

/** @type {{key: keyof Request, label: string, numeric: boolean, show: (request: Request) => string}[]} */
const COLUMNS = [
  { key: "timestamp", label: "Time", numeric: false, show: ({ timestamp }) => moment(timestamp) },
  { key: "model", label: "Model", numeric: false, show: ({ model }) => model ?? "–" },
  { key: "prompt_tokens", label: "Prompt", numeric: true, show: ({ prompt_tokens }) => tokens(prompt_tokens) },
  { key: "cached_tokens", label: "Cached", numeric: true, show: ({ cached_tokens }) => tokens(cached_tokens) },
  {
    key: "generated_tokens", label: "Generated", numeric: true,
    show: ({ generated_tokens }) => tokens(generated_tokens),
  },
  {
    key: "prompt_per_second", label: "Prompt t/s", numeric: true,
    show: ({ prompt_per_second }) => number(prompt_per_second),
  },
  {
    key: "generated_per_second", label: "Generated t/s", numeric: true,
    show: ({ generated_per_second }) => number(generated_per_second),
  },
  {
    key: "duration", label: "Duration", numeric: true,
    show: (request) => duration(request.duration === null ? null : request.duration / 1000),
  },
];

/** Props: `state` (the StateManager). */
export class RequestTable extends Component {
  /** @param {any} props */
  constructor(props) {
    super(props);
    this.turn = 0;
    /**
     * @type {{rows: Request[], summary: Summary | null, more: boolean, model: string, sort: keyof Request, down:
     *   boolean, loading: boolean, error: string | null}}
     */
    this.state = {
      rows: [], summary: null, more: false, model: "", sort: "timestamp", down: true, loading: true, error: null,
    };
  }

  didMount() {
    const { state } = this.props;
    void this.load();
    return [
      state.on("requests:finished", (/** @type {any} */ { request }) => this.add(request)),
      state.subscribe("info", (/** @type {any} */ info) => (
        info?.recovered && !this.state.error) || this.state.loading || void this.load(
      )),
      state.subscribe("models", (/** @type {any[]} */ models, /** @type {any[]} */ old) =>
        models?.length !== old?.length && this.setState({})),
    ];
  }

  getEventMap() {
    return {
      "click [data-sort]": (
        /** @type {Event} */ _event, /** @type {HTMLElement} */ button
      ) => this.sortBy(/** @type {keyof Request} */ (button.dataset.sort)),
      "change [data-choice=\"model\"]": (
        /** @type {Event} */ _event, /** @type {HTMLSelectElement} */ select
      ) => this.filter(select.value),
      "change [data-choice=\"sort\"]": (
        /** @type {Event} */ _event, /** @type {HTMLSelectElement} */ select
      ) => this.sortBy(/** @type {keyof Request} */ (select.value)),
      "click [data-action=\"older\"]": () => this.load(true),
      "click [data-action=\"retry\"]": () => this.load(),
    };
  }

  /** @param {boolean} [older] go on after the oldest one shown */
  async load(older = false) {
    const turn = ++this.turn;
    const { model, rows } = this.state;
    const before = older ? Math.min(...rows.map(({ id }) => id)) : null;
    this.setState({ loading: true, error: null });
    try {
      const wanted = { limit: PAGE_SIZE, ...(model ? { model } : {}), ...(before ? { before } : {}) };
      const { requests, summary } = await this.props.state.request("requests:list", wanted);
      if (turn !== this.turn) return; // another filter was chosen meanwhile
      const all = older ? [...this.state.rows, ...requests] : requests;
      this.setState({
        rows: all.slice(0, MOST_ROWS), summary, more: requests.length === PAGE_SIZE && all.length < MOST_ROWS,
        loading: false,
      });
    } catch (problem) {
      if (turn === this.turn) this.setState({ loading: false, error: /** @type {Error} */ (problem).message });
    }
  }

  /** @param {Request} request */
  add(request) {
    const { model, rows, summary } = this.state;
    if ((model && request.model !== model) || rows.some(({ id }) => id === request.id)) return;
    this.setState({ rows: [request, ...rows].slice(0, MOST_ROWS), summary: summary && withRequest(summary, request) });
  }

  /** @param {string} model "" for all */
  filter(model) {
    this.setState({ model });
    void this.load();
  }

  /** @param {keyof Request} key */
  sortBy(key) {
    const { sort, down } = this.state;
    this.setState({ sort: key, down: key === sort ? !down : key !== "model" });
  }

  render() {
    const { summary, rows, loading, error } = this.state;
    return h("section", { className: "card request-table", "aria-label": "Requests" },
      h("div", { className: "card-header" },
        h("h2", { className: "card-title" }, icon("monitoring"), "Requests"),
        this.renderTools()),
      summary?.count ? this.renderSummary(summary) : null,
      error ? errorState({
        title: "The requests could not be read", body: error,
        action: h("button", { type: "button", className: "button", dataset: { action: "retry" } },
          icon("refresh"),
          "Try again"),
      }) : !rows.length ? this.renderNone(loading) : this.renderRows());
  }

  renderTools() {
    const { model, rows, sort } = this.state;
    const known = (this.props.state.get("models") ?? []).map((/** @type {any} */ item) => item.id);
    const names = [
      ...new Set([...known, ...rows.map((row) => row.model), ...(model ? [model] : [])]),
    ].filter(Boolean).sort();
    return h("div", { className: "toolbar" },
      h("label", { className: "request-sort" },
        h("span", { className: "visually-hidden" }, "Sort by"),
        h("select", { className: "select", dataset: { choice: "sort" } },
          COLUMNS.map(({ key, label }) =>
            h("option", { key, value: key, selected: key === sort }, `By ${label.toLowerCase()}`)))),
      h("label", null,
        h("span", { className: "visually-hidden" }, "Model"),
        h("select", { className: "select", dataset: { choice: "model" } },
          h("option", { key: "", value: "", selected: !model }, "All models"),
          names.map((name) => h("option", { key: name, value: name, selected: name === model }, name)))));
  }

  /** @param {Summary} summary */
  renderSummary(summary) {
    const figures = [
      ["Requests", number(summary.count, 0)],
      ["Prompt tokens", tokens(summary.prompt_tokens)],
      ["Generated tokens", tokens(summary.generated_tokens)],
      ["Avg. prompt speed", `${number(summary.prompt_per_second)} t/s`],
      ["Avg. generation", `${number(summary.generated_per_second)} t/s`],
    ];
    return h("dl", { className: "request-summary" },
      figures.map(([label, value]) => h("div", { key: label }, h("dt", null, label), h("dd", null, value))));
  }

  /** @param {boolean} loading */
  renderNone(loading) {
    if (loading) return loadingState("Reading the requests…");
    if (this.state.model) {
      return emptyState({
        iconName: "search", title: "No request to this model yet",
        body: "Requests from the chat and from other programs appear here as they finish.",
      });
    }
    return emptyState({
      iconName: "chat",
      title: "No requests yet",
      body: "Requests from the chat and from other programs that use the engine appear here as they finish.",
      action: h("a", { className: "button", href: "/chat" }, "Open the chat"),
    });
  }

  renderRows() {
    const { sort, down, more, loading, rows } = this.state;
    return h("div", { className: "card-body card-flush" },
      h("div", { className: "table-wrap", tabindex: "0", role: "region", "aria-label": "Table of requests" },
        h("table", { className: "table" },
          h("thead", null, h("tr", null, COLUMNS.map(({ key, label, numeric }) => (
            h("th", { key, scope: "col", className: numeric ? "numeric" : null, "aria-sort": key === sort ? (down ? "descending" : "ascending") : null },
              h("button", { type: "button", className: "request-head", dataset: { sort: key } }, label,
                h("span", { className: "request-arrow", "aria-hidden": "true" },
                  key === sort ? (down ? "↓" : "↑") : ""))))))),
          h("tbody", null,
            sorted(rows, sort, down).map((row) =>
              h(RequestRow, { key: row.id, row, today: new Date().toDateString() }))))),
      more ? h("div", { className: "request-more" },
        h("button", { type: "button", className: "button", disabled: loading, dataset: { action: "older" } },
          loading ? "Reading…" : "Show older requests")) : null);
  }
}

/** One request; it never changes, so it is drawn again only on another day. */
class RequestRow extends Component {
  render() {
    const { row } = this.props;
    return h("tr", null, COLUMNS.map(({ key, label, numeric, show }) => (
      h("td", {
        key, className: numeric ? "numeric" : `request-${key}`, dataset: { label },
        title: key === "timestamp" ? dateTime(row.timestamp) : null,
      }, show(row)))));
  }
}

/**
 * @param {Request[]} rows
 * @param {keyof Request} key
 * @param {boolean} down
 * @returns {Request[]} what is unknown last
 */
export function sorted(rows, key, down) {
  const sign = down ? -1 : 1;
  return [...rows].sort((one, other) => {
    const [a, b] = [one[key], other[key]];
    if (a === b) return other.id - one.id;
    if (a === null || a === undefined) return 1;
    if (b === null || b === undefined) return -1;
    return a < b ? -sign : sign;
  });
}

/**
 * `summary` with one more request in it.
 * @param {Summary} summary
 * @param {Request} request
 * @returns {Summary}
 */
export function withRequest(summary, request) {
  const { count } = summary;
  /** @type {(average: number | null, value: number | null) => number | null} */
  const mean = (average, value) => (
    value === null ? average : average === null ? value : average + (value - average) / (count + 1)
  );
  return {
    count: count + 1,
    prompt_tokens: (summary.prompt_tokens ?? 0) + (request.prompt_tokens ?? 0),
    generated_tokens: (summary.generated_tokens ?? 0) + (request.generated_tokens ?? 0),
    prompt_per_second: mean(summary.prompt_per_second, request.prompt_per_second),
    generated_per_second: mean(summary.generated_per_second, request.generated_per_second),
  };
}

/** The time of day, with the date where it was another day. @param {number} timestamp Unix ms */
function moment(timestamp) {
  return new Date(timestamp).toDateString() === new Date().toDateString() ? clock(timestamp) : dateTime(timestamp);
}
