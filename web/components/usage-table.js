import { Component, h } from "../core/component.js";
import { csv } from "../core/csv.js";
import {
  dateTime, day, duration, energy, fixed, modelName, now, number, tokenRate, tokens, zoneOffset,
} from "../core/format.js";
import { Chart } from "./chart.js";
import { saveText } from "./copy-button.js";
import { icon } from "./icon.js";
import { emptyState, errorState, loadingState } from "./states.js";
import { eventMarks, eventsOf, newestFirst } from "./timeline.js";
import { toast } from "./toast.js";

/** @typedef {{[name: string]: any}} Json */

const REFRESH_MS = 10_000; // what finishes within this is counted at once

/** @type {[string, string, string][]} what it is counted by, the button, and the words for what has none */
const GROUPS = [
  ["model", "Model", "No model in memory"], ["key", "API key", "Without a key"], ["day", "Day", "–"],
  ["build", "Build", "Unknown build"], ["parameters", "Parameters", "Unknown parameters"],
];

/** What each of them is told by. @param {string} by @returns {string[]} */
const columnsOf = (by) => (by === "parameters" ? ["model", "build", by] : by === "build" ? ["model", by] : [by]);

/** What a line of the CSV file has, after what it is counted by; times in ms, energy in J. */
const EXPORTED = [
  "requests", "errors", "prompt_tokens", "cached_tokens", "generated_tokens", "busy", "prompt_median", "prompt_p95",
  "generated_median", "generated_p95", "energy", "idle_energy", "energy_per_1000", "cost",
];

/** @typedef {(row: Json) => number | null} Figure */
/**
 * What a chart shows of each day: its name, how a figure is told, and each line's name and figures.
 * @type {Record<string, [string, (value: any, currency: string) => string, [string, Figure][]]>}
 */
export const MEASURES = {
  tokens: ["Tokens", tokens,
    [["Generated", (row) => row.generated_tokens], ["Prompt", (row) => row.prompt_tokens],
      ["Cached", (row) => row.cached_tokens]]],
  requests: ["Requests", (value) => number(value, 0),
    [["Requests", (row) => row.requests], ["Failed", (row) => row.errors]]],
  busy: ["Busy time", (value) => duration(value), [["Busy", (row) => row.busy / 1000]]],
  prompt: ["Prompt speed", tokenRate,
    [["Median", (row) => row.prompt_speeds?.[0] ?? null], ["95 %", (row) => row.prompt_speeds?.[1] ?? null]]],
  generated: ["Speed while answering", tokenRate,
    [["Median", (row) => row.generated_speeds?.[0] ?? null], ["95 %", (row) => row.generated_speeds?.[1] ?? null]]],
  energy: ["Energy", energy, [["Requests", (row) => row.energy], ["Idle", (row) => row.idle_energy]]],
  cost: ["Cost", money, [["Cost", (row) => row.cost]]],
};

/** Which days the sums are of, which are kept by the day. @param {number} from @param {number} to Unix ms */
export function usageDays(from, to) {
  const [first, last] = [day(from), day(to)];
  return first === last ? `Of the whole day ${first}` : `Of whole days: ${first} to ${last}`;
}

/** When the server's clocks show a time, in Unix ms. @param {string} date YYYY-MM-DD @param {string} time HH:MM */
export function serverTime(date, time) {
  const shown = Date.parse(`${date}T${time}Z`);
  return shown - zoneOffset(shown - zoneOffset(shown));
}

/** The file that "CSV" saves. @param {string} by @param {Json[]} rows */
export function usageCsv(by, rows) {
  const groups = columnsOf(by);
  return csv([...groups, ...EXPORTED], rows.map((row) => {
    const [[promptMedian, prompt95], [median, p95]] = [row.prompt_speeds ?? [], row.generated_speeds ?? []];
    const values = /** @type {Json} */ ({
      ...row, prompt_median: promptMedian, prompt_p95: prompt95, generated_median: median, generated_p95: p95,
    });
    return [...groups, ...EXPORTED].map((name) => values[name]);
  }));
}

/** An amount of money: `0.57 €`. @param {number | null | undefined} value @param {string} currency */
function money(value, currency) {
  return typeof value === "number" ? `${fixed(value, value && value < 0.1 ? 4 : 2)} ${currency}` : "–";
}

/**
 * What it costs to keep a model, in one sentence.
 * @param {string} name @param {{since: number, energy: number | null, loading: number}} kept
 * @param {{energy_price?: number | null, currency?: string}} settings
 */
function keepingWords(name, { since, energy: joules, loading }, { energy_price: price, currency = "" }) {
  const after = `unloading it adds ${duration(loading)} to the first request`;
  if (joules === null) return `${name} has been loaded since ${dateTime(since)}: its energy is unknown, ${after}.`;
  const cost = typeof price === "number" ? ` (${money((joules / 3.6e6) * price, currency)})` : "";
  return `Keeping ${name} loaded since ${dateTime(since)} cost ${energy(joules)}${cost}; ${after}.`;
}

/**
 * Requests, tokens, speeds, energy and cost by model, key, day, build or parameters. Props: `state`, `span` (ms),
 * `until?` (Unix ms).
 */
export class UsageTable extends Component {
  static loadedBy = ["span", "until"];

  /** @param {any} props */
  constructor(props) {
    super(props);
    this.turn = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {any} */
    this.state = {
      by: "model", shownBy: "model", rows: null, total: null, resident: {}, meters: [], error: null,
      measure: "tokens", events: [],
    };
  }

  didMount() {
    const { state } = this.props;
    void this.load();
    return [
      state.on("requests:finished", () => {
        this.timer ??= setTimeout(() => this.load(false), REFRESH_MS);
      }),
      state.on("timeline:added", (/** @type {Json} */ { events }) => {
        if (!this.props.until) this.setState({ events: newestFirst([...events, ...this.state.events]) });
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
      "change [data-measure]": (/** @type {Event} */ _event, /** @type {HTMLSelectElement} */ select) =>
        this.setState({ measure: select.value }),
      "click [data-action=\"usage-retry\"]": () => this.load(),
      "click [data-action=\"usage-csv\"]": () => saveText(`usage-${new Date().toISOString().slice(0, 10)}.csv`,
        usageCsv(this.state.shownBy, this.state.rows), "text/csv"),
      "click [data-action=\"usage-unload\"]": "handleUnload",
    };
  }

  /** @param {globalThis.Event} _event @param {HTMLElement} button */
  handleGroup(_event, button) {
    this.setState({ by: button.dataset.by });
    void this.load();
  }

  /** @param {globalThis.Event} _event @param {HTMLElement} button */
  async handleUnload(_event, button) {
    try {
      await this.props.state.request("models:unload", { id: button.dataset.id });
    } catch (problem) {
      toast(`It was not unloaded: ${/** @type {Error} */ (problem).message}`, { kind: "error" });
    }
    void this.load();
  }

  /** @param {boolean} whole whether what happened is asked for as well, of which a chart has marks */
  async load(whole = true) {
    const turn = ++this.turn;
    const { by, events: known } = this.state;
    clearTimeout(this.timer);
    this.timer = undefined;
    try {
      const to = this.props.until ?? now();
      const from = to - this.props.span;
      const { state } = this.props;
      const [answer, { events }] = await Promise.all([
        state.request("usage:get", { from, to, by }),
        whole && by === "day" ? eventsOf(state, { from, to }) : { events: known },
      ]);
      if (turn === this.turn) this.setState({ ...answer, events, days: usageDays(from, to), shownBy: by, error: null });
    } catch (problem) {
      if (turn === this.turn) this.setState({ error: /** @type {Error} */ (problem).message });
    }
  }

  render() {
    const { by, rows, days, error } = this.state;
    return h("section", { className: "card usage", "aria-label": "Usage" },
      h("header", { className: "card-header" },
        h("h2", { className: "card-title" }, icon("monitoring"), "Usage"),
        h("div", { className: "segmented", role: "group", "aria-label": "Counted by" }, GROUPS.map(([key, label]) => (
          h("button", { key, type: "button", dataset: { by: key }, "aria-pressed": key === by }, label)))),
        h("button", {
          type: "button", className: "button", disabled: !rows?.length, dataset: { action: "usage-csv" },
        }, icon("download", { size: 16 }), "CSV")),
      error ? errorState({
        title: "The usage could not be read", body: error,
        action: h("button", { type: "button", className: "button", dataset: { action: "usage-retry" } }, "Try again"),
      }) : !rows ? loadingState("Adding up…")
        : rows.length ? [
          h("p", { key: "of", className: "muted usage-note" }, days),
          this.renderDays(rows), this.renderTable(rows), this.renderKept(),
        ]
          : emptyState({ iconName: "monitoring", title: "No usage in this time range" }));
  }

  /** One of the MEASURES of each day, with what happened. @param {Json[]} rows */
  renderDays(rows) {
    const { shownBy, measure, events } = this.state;
    if (shownBy !== "day" || rows.length < 2) return null;
    const [name, words, lines] = MEASURES[measure];
    const { currency = "" } = this.props.state.get("settings") ?? {};
    return h("div", { key: "days", className: "card-body" },
      h("select", {
        className: "select", "aria-label": "Chart of", value: measure, dataset: { measure: "" },
      }, Object.entries(MEASURES).map(([key, [label]]) => h("option", { key, value: key }, `${label} by day`))),
      h(Chart, {
        key: measure, label: `${name} by day`, height: 160,
        format: (/** @type {number | null} */ value) => words(value, currency),
        timestamps: rows.map(({ day: one }) => serverTime(one, "12:00")),
        from: serverTime(rows[0].day, "00:00"), to: serverTime(rows[rows.length - 1].day, "23:59"),
        series: lines.map(([label, figure]) => ({ label, values: rows.map(figure) })),
        marks: eventMarks(this.props.state, events),
      }));
  }

  /** @param {Json[]} rows */
  renderTable(rows) {
    const { shownBy, total } = this.state;
    const [, label] = GROUPS.find(([key]) => key === shownBy) ?? GROUPS[0];
    const heads = [
      label, "Requests", "Prompt", "Generated", "Busy", "Prompt speed", "Speed while answering", "Energy",
      "Per 1,000 tokens", "Cost",
    ];
    const name = (/** @type {Json} */ row) => columnsOf(shownBy).map((column) => {
      const [, , none] = GROUPS.find(([key]) => key === column) ?? GROUPS[0];
      return column === "model" ? this.nameOf(row.model ?? none) : row[column] ?? none;
    }).join(" · ");
    return h("div", { key: "table", className: "table-wrap", tabindex: 0, role: "region", "aria-label": "Sums" },
      h("table", { className: "table" },
        h("thead", null, h("tr", null, heads.map((head, at) => (
          h("th", { key: head, scope: "col", className: at ? "numeric" : null }, head))))),
        h("tbody", null, rows.map((row) => this.renderRow(name(row), row))),
        rows.length > 1 && total ? h("tfoot", null, this.renderRow("Total", total)) : null));
  }

  /** @param {string} id @returns {string} */
  nameOf(id) {
    return modelName(this.props.state.get("models"), id);
  }

  /** @param {string} name @param {Json} row */
  renderRow(name, row) {
    const { currency = "" } = this.props.state.get("settings") ?? {};
    /** @type {[string, string][]} the figure, and what is to be said below it */
    const figures = [
      [number(row.requests, 0), row.errors ? `${number(row.errors, 0)} failed` : ""],
      [tokens(row.prompt_tokens), row.cached_tokens ? `${tokens(row.cached_tokens)} cached` : ""],
      [tokens(row.generated_tokens), ""],
      [duration(row.busy / 1000), ""], speeds(row.prompt_speeds), speeds(row.generated_speeds),
      [energy(row.energy), typeof row.idle_energy === "number" ? `idle ${energy(row.idle_energy)}` : ""],
      [energy(row.energy_per_1000), ""], [money(row.cost, currency), ""],
    ];
    return h("tr", { key: name },
      h("td", { className: "usage-name", title: name }, h("span", { className: "truncate" }, name)),
      figures.map(([text, below], at) => h("td", { key: at, className: "numeric" }, text,
        below ? h("span", { className: "request-small muted" }, below) : null)));
  }

  /** What the models in memory cost, each with its unloading; why nothing is known. */
  renderKept() {
    const { resident, meters, total } = this.state;
    const settings = this.props.state.get("settings") ?? {};
    if (!meters.length) {
      return h("p", { key: "kept", className: "muted usage-note" },
        total?.energy ? "No energy meter can be read now."
          : "Energy is unknown: neither a GPU nor the processor of this machine reports it.");
    }
    return h("div", { key: "kept", className: "usage-note" },
      h("p", { className: "muted" }, `Measured: ${meters.join(", ")}. `,
        typeof settings.energy_price === "number" ? "" : h("a", { href: "/settings#energy" }, "Set a price per kWh")),
      Object.entries(resident).map(([id, kept]) => h("p", { key: id, className: "usage-kept" },
        h("span", null, keepingWords(this.nameOf(id), /** @type {any} */ (kept), settings)),
        h("button", {
          type: "button", className: "button button-small", dataset: { action: "usage-unload", id },
          "aria-label": `Unload ${this.nameOf(id)}`,
        }, icon("stop", { size: 14 }), "Unload"))));
  }
}

/** @param {number[] | null} both the median and the 95th percentile @returns {[string, string]} */
function speeds(both) {
  return both ? [tokenRate(both[0]), `95 %: ${tokenRate(both[1])}`] : ["–", ""];
}
