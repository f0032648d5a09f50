/**
 * The requests of all clients: those under way live, the finished ones filtered and sorted by the server.
 *
 * @typedef {{[name: string]: any, id: number, timestamp: number, model: string, status: string}} Request
 * @typedef {{[name: string]: number | null}} Summary
 * @typedef {{model: string, key: string, status: string}} Filters "" for all
 */

import { Component, h } from "../core/component.js";
import { csv } from "../core/csv.js";
import { dateTime, duration, modelName, now, number, rowTime, tokenRate, tokens } from "../core/format.js";
import { ActiveRequests } from "./active-requests.js";
import { saveText } from "./copy-button.js";
import { Filters as FilterBox } from "./filters.js";
import { icon } from "./icon.js";
import { requestAnatomy } from "./request-anatomy.js";
import { MANY_MODELS, ModelSelect } from "./model-select.js";
import { REQUEST_STATUSES, requestStatus } from "./request-status.js";
import { emptyState, errorState, loadingState } from "./states.js";
import { toast } from "./toast.js";

const PAGE_SIZE = 25;
const MOST_ROWS = 1000; // shown at once; older ones are a filter away
const EXPORT_PAGE = 500; // the most that the server gives at once
const MOST_EXPORTED = 50_000;
const SORTED_ROWS = 50_000; // the newest ones, of which the server finds those with the largest value
const SUMMARY_DELAY_MS = 2000; // what finishes within this is summed up at once
const LAST_STATUSES = ["ok", "cancelled", "failed"];

/** @param {number | null | undefined} ms */
const time = (ms) => duration(typeof ms === "number" ? ms / 1000 : null);

/** @type {{key: string, label: string, sorts?: boolean, text?: boolean, show: (request: Request) => any}[]} */
const COLUMNS = [
  { key: "timestamp", label: "Time", sorts: true, text: true, show: rowTime },
  { key: "status", label: "Status", text: true, show: requestStatus },
  { key: "model", label: "Model and client", text: true, show: modelCell },
  { key: "prompt_tokens", label: "Prompt", sorts: true, show: promptCell },
  { key: "generated_tokens", label: "Generated", sorts: true, show: (request) => tokens(request.generated_tokens) },
  { key: "waited", label: "Waited", sorts: true, show: waitedCell },
  { key: "first_token", label: "First token", sorts: true, show: (request) => time(request.first_token) },
  { key: "prompt_per_second", label: "Prompt speed", sorts: true, show: (it) => tokenRate(it.prompt_per_second) },
  {
    key: "generated_per_second", label: "Speed while answering", sorts: true,
    show: (request) => tokenRate(request.generated_per_second),
  },
  { key: "duration", label: "Duration", sorts: true, show: (request) => time(request.duration) },
];

/** What a line of the CSV file has, after the time. */
const EXPORTED = [
  "id", "model", "build", "key", "client", "endpoint", "stream", "status", "code", "error", "waited", "loading",
  "first_token", "duration", "prompt_tokens", "cached_tokens", "generated_tokens", "drafted", "accepted",
  "prompt_per_second", "generated_per_second", "slot", "energy",
];

/** Props: `state`, `span` (ms that are shown), `until?` (when they end), `model?` (the filter to begin with). */
export class RequestTable extends Component {
  static loadedBy = ["span", "until"];

  /** @param {any} props */
  constructor(props) {
    super(props);
    this.turn = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.summaryTimer = undefined;
    /** @type {{[name: string]: any, rows: Request[], summary: Summary | null, filters: Filters}} */
    this.state = {
      rows: [], summary: null, more: false, filters: { model: props.model ?? "", key: "", status: "" },
      sort: "timestamp", loading: true, error: null, exported: null, open: null,
    };
  }

  didMount() {
    const { state } = this.props;
    void this.load();
    state.load("keys").catch(() => {});
    const redraw = () => this.setState({});
    return [
      state.on("requests:finished", (/** @type {any} */ { request }) => this.add(request)),
      state.subscribe("info", (/** @type {any} */ info) => {
        if ((!info?.recovered || this.state.error) && !this.state.loading) void this.load();
      }),
      state.subscribe("models", redraw),
      state.subscribe("keys", redraw),
      () => clearTimeout(this.summaryTimer),
    ];
  }

  getEventMap() {
    return {
      "click [data-open]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ button) => {
        const id = Number(button.dataset.open);
        this.setState({ open: id === this.state.open ? null : id });
      },
      "click [data-sort]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ button) =>
        this.sortBy(button.dataset.sort ?? ""),
      "change [data-choice]": "handleChoice",
      "click [data-action=\"older\"]": () => this.load(true),
      "click [data-action=\"retry\"]": () => this.load(),
      "click [data-action=\"clear\"]": () => this.filter({ model: "", key: "", status: "" }),
      "click [data-action=\"export\"]": "handleExport",
    };
  }

  /** What is asked of the server. */
  query() {
    const { filters, sort } = this.state;
    const { span, until } = this.props;
    return {
      ...chosen(filters), sort, from: Math.max(0, (until ?? now()) - span), ...(until ? { to: until } : {}),
    };
  }

  /** @param {boolean} [older] go on after the last one shown */
  async load(older = false) {
    const turn = ++this.turn;
    const { rows } = this.state;
    const before = older && rows.length ? { before: rows[rows.length - 1].id } : {};
    this.setState({ loading: true, error: null });
    try {
      const query = { ...this.query(), ...before, limit: PAGE_SIZE };
      const { requests, summary, active } = await this.props.state.request("requests:list", query);
      if (turn !== this.turn) return; // another filter was chosen meanwhile
      if (active) this.props.state.set("active", active);
      const all = older ? joined(this.state.rows, requests) : requests;
      const more = requests.length === PAGE_SIZE && all.length < MOST_ROWS;
      this.setState({ rows: all.slice(0, MOST_ROWS), summary, more, loading: false });
    } catch (problem) {
      if (turn === this.turn) this.setState({ loading: false, error: /** @type {Error} */ (problem).message });
    }
  }

  /** The averages are the server's to work out. */
  async refreshSummary() {
    const { turn } = this;
    try {
      const { summary } = await this.props.state.request("requests:list", { ...this.query(), limit: 1 });
      if (turn === this.turn) this.setState({ summary });
    } catch {
      // the rows are still right; the next request to finish asks again
    }
  }

  /** @param {Request} request */
  add(request) {
    const { filters, sort, rows } = this.state;
    if (this.props.until && request.timestamp > this.props.until) return;
    if (!passes(request, filters) || rows.some(({ id }) => id === request.id)) return;
    this.setState({ rows: placed(rows, request, sort, this.state.more).slice(0, MOST_ROWS) });
    clearTimeout(this.summaryTimer);
    this.summaryTimer = setTimeout(() => this.refreshSummary(), SUMMARY_DELAY_MS);
  }

  /** @param {Event} _event @param {HTMLSelectElement} select */
  handleChoice(_event, select) {
    const { choice = "" } = select.dataset;
    if (choice === "sort") this.sortBy(select.value);
    else this.filter({ ...this.state.filters, [choice]: select.value });
  }

  /** @param {Filters} filters */
  filter(filters) {
    this.setState({ filters });
    void this.load();
  }

  /** @param {string} sort */
  sortBy(sort) {
    this.setState({ sort });
    void this.load();
  }

  /** Saves all requests that the filters leave, page by page. */
  async handleExport() {
    if (this.state.exported !== null) return;
    /** @type {Request[]} */
    const rows = [];
    this.setState({ exported: 0 });
    try {
      const query = { ...this.query(), to: now(), limit: EXPORT_PAGE };
      for (let full = true; full && rows.length < MOST_EXPORTED && !this.destroyed;) {
        const before = rows.length ? { before: rows[rows.length - 1].id } : {};
        const { requests } = await this.props.state.request("requests:list", { ...query, ...before });
        rows.push(...requests);
        full = requests.length === EXPORT_PAGE;
        this.setState({ exported: rows.length });
      }
      if (!this.destroyed) saveText(`requests-${new Date().toISOString().slice(0, 10)}.csv`, csvOf(rows), "text/csv");
    } catch (problem) {
      toast(`The export failed: ${/** @type {Error} */ (problem).message}`, { kind: "error" });
    }
    this.setState({ exported: null });
  }

  render() {
    const { summary, rows, loading, error, filters } = this.state;
    return h("section", { className: "card request-table", "aria-label": "Requests" },
      h("div", { className: "card-header" },
        h("h2", { className: "card-title" }, icon("bolt"), "Requests"),
        this.renderTools()),
      h(ActiveRequests, { state: this.props.state, model: filters.model, apiKey: filters.key }),
      summary?.count ? this.renderSummary(summary) : null,
      error ? errorState({
        title: "The requests could not be read", body: error,
        action: h("button", { type: "button", className: "button", dataset: { action: "retry" } },
          icon("refresh"), "Try again"),
      }) : rows.length ? this.renderRows() : this.renderNone(loading));
  }

  renderTools() {
    const { filters, rows, sort, exported } = this.state;
    const { state } = this.props;
    const ids = (state.get("models") ?? []).map((/** @type {any} */ item) => item.id);
    const models = names([...ids, ...rows.map((row) => row.model), filters.model]);
    const keys = names([...(state.get("keys") ?? []).map((/** @type {any} */ item) => item.name), filters.key]);
    const sorts = COLUMNS.filter(({ sorts: can }) => can).map(({ key, label }) => [key, `By ${label.toLowerCase()}`]);
    const statuses = LAST_STATUSES.map((key) => [key, REQUEST_STATUSES[key][0]]);
    return h("div", { className: "toolbar" },
      h(FilterBox, { key: "filters", count: Object.values(filters).filter(Boolean).length },
        choice("sort", "Sort by", sort, sorts),
        models.length > MANY_MODELS
          ? h(ModelSelect, {
            key: "pick", state, label: "Model", value: filters.model, models, none: "All models",
            dataset: { choice: "model" },
          })
          : choice("model", "Model", filters.model, [["", "All models"], ...models.map((name) => [name, name])]),
        keys.length > 0
          && choice("key", "API key", filters.key, [["", "All keys"], ...keys.map((name) => [name, name])]),
        choice("status", "Status", filters.status, [["", "Any status"], ...statuses])),
      h("button", {
        key: "export", type: "button", className: "button", disabled: exported !== null || !rows.length,
        "aria-busy": exported !== null, dataset: { action: "export" },
      }, icon("download", { size: 16 }), exported === null ? "CSV" : `${number(exported, 0)}…`));
  }

  /** @param {Summary} summary */
  renderSummary(summary) {
    const { count, failed, cancelled, prompt_tokens: prompt, cached_tokens: cached, generated_tokens: made } = summary;
    const ends = [failed && `${number(failed, 0)} failed`, cancelled && `${number(cancelled, 0)} cancelled`];
    /** @type {[string, string, string][]} */
    const figures = [
      ["Requests", number(count, 0), ends.filter(Boolean).join(", ")],
      ["Prompt tokens", tokens(prompt), cached ? `${tokens(cached)} of them cached` : ""],
      ["Generated tokens", tokens(made), ""],
      ["Prompt speed", tokenRate(summary.prompt_per_second), "prompt tokens over the time spent reading them"],
      ["Speed while answering", tokenRate(summary.generated_per_second), "tokens over the time spent answering"],
      ["Throughput", tokenRate(summary.throughput), "tokens over the whole time range"],
    ];
    return h("dl", { className: "request-summary" }, figures.map(([label, value, hint]) => h("div", { key: label },
      h("dt", null, label), h("dd", null, value), hint ? h("dd", { className: "request-hint" }, hint) : null)));
  }

  /** @param {boolean} loading */
  renderNone(loading) {
    if (loading) return loadingState("Reading the requests…");
    const filtered = Object.values(this.state.filters).some(Boolean);
    return emptyState(filtered ? {
      iconName: "search", title: "No matching requests", body: "Choose a longer time range, or fewer filters.",
      action: h("button", { type: "button", className: "button", dataset: { action: "clear" } }, "Clear filters"),
    } : {
      iconName: "chat", title: "No requests in this time range",
      body: "Requests of Chat and of all other programs appear here, also those that fail or are cancelled.",
      action: h("a", { className: "button", href: "/chat" }, "Open Chat"),
    });
  }

  renderRows() {
    const { more, loading, rows, open } = this.state;
    const today = new Date().toDateString();
    const { state } = this.props;
    return h("div", { className: "card-body card-flush" },
      this.state.sort !== "timestamp" && (this.state.summary?.count ?? 0) > SORTED_ROWS
        ? h("p", { key: "sorted", className: "muted usage-note" },
          `Sorted among the newest ${number(SORTED_ROWS, 0)} requests.`) : null,
      h("div", { className: "table-wrap", tabindex: "0", role: "region", "aria-label": "Table of requests" },
        h("table", { className: "table", "aria-busy": loading },
          h("thead", null, h("tr", null, COLUMNS.map((column) => this.renderHead(column)))),
          h("tbody", null, rows.flatMap((row) => [
            h(RequestRow, { key: row.id, row, today, state, open: row.id === open }),
            row.id === open ? h("tr", { key: `open-${row.id}`, className: "request-opened" },
              h("td", { colspan: COLUMNS.length }, requestAnatomy(row, nameOf(state, row)))) : null,
          ])))),
      more ? h("div", { className: "request-more" },
        h("button", { type: "button", className: "button", disabled: loading, dataset: { action: "older" } },
          loading ? "Reading…" : "Show more")) : null);
  }

  /** @param {typeof COLUMNS[number]} column */
  renderHead({ key, label, sorts, text }) {
    const active = key === this.state.sort;
    return h("th", {
      key, scope: "col", className: text ? null : "numeric", "aria-sort": active ? "descending" : null,
    }, sorts ? h("button", { type: "button", className: "request-head", dataset: { sort: key } }, label,
      h("span", { className: "request-arrow", "aria-hidden": "true" }, active ? "↓" : "")) : label);
  }
}

/** One request; it never changes, so it is drawn again only on another day. */
class RequestRow extends Component {
  render() {
    const { row, state, open } = this.props;
    const name = nameOf(state, row);
    return h("tr", null, COLUMNS.map(({ key, label, text, show }) => h("td", {
      key, className: text ? `request-${key}` : "numeric", dataset: { label },
      title: key === "timestamp" ? dateTime(row.timestamp) : null,
    }, key === "timestamp" ? h("button", {
      type: "button", className: "request-toggle", dataset: { open: String(row.id) }, "aria-expanded": open,
      "aria-label": `Where the time of the request at ${rowTime(row)} went`,
    }, icon(open ? "chevron-down" : "chevron-right", { size: 14 }), rowTime(row)) : show({ ...row, name }))));
  }
}

/** @param {any} state @param {Request} row @returns {string} what its model is called */
const nameOf = (state, row) => modelName(state.get("models"), row.model);

/** @param {string} name @param {string} label @param {string} value @param {string[][]} options value and words */
function choice(name, label, value, options) {
  return h("label", { key: name, className: `request-${name}-choice` },
    h("span", { className: "visually-hidden" }, label),
    h("select", { className: "select", dataset: { choice: name } }, options.map(([key, words]) =>
      h("option", { key, value: key, selected: key === value }, words))));
}

/** @param {string[]} all @returns {string[]} each once, in order */
function names(all) {
  return [...new Set(all)].filter(Boolean).sort();
}

/** @param {Request} request */
function modelCell({ model, name, client, key, error, status }) {
  return [
    h("span", { key: "model", className: "request-name", title: model }, name ?? model ?? "–"),
    h("span", { key: "client", className: "request-small muted" }, client ?? key ?? "–"),
    status === "failed" && error
      ? h("span", { key: "error", className: "request-small text-danger", title: error }, error) : null,
  ];
}

/** @param {Request} request */
function promptCell({ prompt_tokens: prompt, cached_tokens: cached }) {
  return [tokens(prompt), small(cached ? `${tokens(cached)} cached` : "")];
}

/** @param {Request} request */
function waitedCell({ waited, loading }) {
  return [time(waited), small(loading ? `${time(loading)} loading` : "")];
}

/** @param {string} text */
function small(text) {
  return text ? h("span", { key: "small", className: "request-small muted" }, text) : null;
}

/** The filters that are set. @param {Filters} filters @returns {{[name: string]: string}} */
export function chosen(filters) {
  return Object.fromEntries(Object.entries(filters).filter(([, value]) => value));
}

/** @param {Request} request @param {Filters} filters */
export function passes(request, filters) {
  return Object.entries(chosen(filters)).every(([name, value]) => request[name] === value);
}

/**
 * `rows` with one more in its place, as the server sorts: descending, the newer first among equals, unknown last, as
 * those from the future are by time.
 * @param {Request[]} rows @param {Request} request @param {string} sort @param {boolean} [more] there are others
 *   after these, so one that belongs behind all of them is not shown yet
 */
export function placed(rows, request, sort, more = false) {
  const late = (/** @type {Request} */ row) => (sort === "timestamp" && row.future ? Number.MAX_SAFE_INTEGER : 0);
  const value = (/** @type {Request} */ row) => (row[sort] ?? -Infinity) - late(row);
  const own = value(request);
  const at = rows.findIndex((row) => value(row) < own || (value(row) === own && row.id < request.id));
  if (at < 0) return more ? rows : [...rows, request];
  return rows.toSpliced(at, 0, request);
}

/** @param {Request[]} rows @param {Request[]} others @returns {Request[]} each once */
function joined(rows, others) {
  const known = new Set(rows.map(({ id }) => id));
  return [...rows, ...others.filter(({ id }) => !known.has(id))];
}

/** The file that "CSV" saves; times in ms, energy in J. @param {Request[]} rows */
export function csvOf(rows) {
  return csv(["time", ...EXPORTED], rows.map((row) => (
    [new Date(row.timestamp).toISOString(), ...EXPORTED.map((name) => row[name])])));
}
