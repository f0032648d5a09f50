import { Component, h } from "../core/component.js";
import { dateTime, now, number } from "../core/format.js";
import { saveText } from "../components/copy-button.js";
import { confirmDialog } from "../components/dialog.js";
import { Filters as FilterBox } from "../components/filters.js";
import { icon } from "../components/icon.js";
import { LogHistogram, partsCount } from "../components/log-histogram.js";
import { LogList } from "../components/log-list.js";
import { emptyState, errorState, loadingState } from "../components/states.js";
import { toast } from "../components/toast.js";

/** @typedef {import("../components/log-list.js").Line} Line */
/** @typedef {{id: number, timestamp: number, level: string, source: string, message: string}} Entry */
/** @typedef {Entry & Line} LogLine */
/** @typedef {{level: string, source: string, search: string, from: string, to: string, line: string}} Filters */

/** Lines asked for at a time, the most the server gives. */
const PAGE = 500;
/** Lines kept in the page; older ones go, or new ones wait while somebody reads far up. */
const MAX_LINES = 50_000;
/** Lines of an export, at most; more is what a backup is for. */
const MAX_EXPORT = 100_000;
/** Wait after the last keystroke before the server is asked (ms). */
const SEARCH_DELAY = 250;
/** Where this browser remembers whether long lines wrap. */
const WRAP_KEY = "llamadash.logs.wrap";

/** Wait from new lines until they are counted as well (ms). */
const COUNT_DELAY = 5000;
/** Lines shown before the one that is jumped to. */
const BEFORE = 100;

/** @type {Filters} */
const NO_FILTERS = { level: "", source: "", search: "", from: "", to: "", line: "" };
/** @type {Array<[string, string]>} */
const LEVELS = [
  ["", "All levels"], ["info", "Info and above"], ["warning", "Warnings and above"], ["error", "Errors"],
];
/** From the least important one on. */
const RANKS = ["debug", "info", "warning", "error"];

/** What llamadash, the engine and each model say, live. */
export class LogsPage extends Component {
  static title = "Logs";

  /** @param {any} props */
  constructor(props) {
    super(props);
    /** @type {LogLine[]} */ this.lines = [];
    this.lastId = 0;
    this.turn = 0;
    this.loadingOlder = false;
    /** @type {ReturnType<typeof setTimeout>|undefined} */ this.timer = undefined;
    /** @type {any} */ this.state = {
      lines: this.lines,
      filters: filtersOf(this.props.query),
      follow: true,
      paused: false,
      waiting: 0,
      hasMore: false,
      newer: false, // whether lines follow that were not fetched
      older: false,
      counts: null,
      wrap: remembered(),
      loaded: false, error: "", sources: new Set(["llamadash", "engine"]), models: this.props.state.get("models") ?? [],
    };
    /** @type {{entries: Entry[], dropped: number}[] | null} what came while a list is fetched */
    this.arrived = null;
    this.onFollow = (/** @type {boolean} */ follow) => this.setFollow(follow);
    this.onTop = () => this.loadOlder();
    this.onBottom = () => this.loadNewer();
    this.onLine = (/** @type {number} */ id) => this.filter({ ...NO_FILTERS, line: String(id) });
    this.onJump = (/** @type {number} */ id) => this.jump(id);
    /** @type {ReturnType<typeof setTimeout>|undefined} */ this.countTimer = undefined;
  }

  getEventMap() {
    return {
      "change [data-filter]": "handleFilter",
      "input [data-role=\"log-search\"]": "handleSearch",
      "click [data-action=\"pause\"]": "handlePause",
      "click [data-action=\"captures\"]": "handleCaptures",
      "click [data-action=\"newest\"]": "handleNewest",
      "click [data-action=\"wrap\"]": "handleWrap",
      "click [data-action=\"export\"]": "handleExport",
      "click [data-action=\"clear\"]": "handleClear",
      "click [data-action=\"clear-filters\"]": "handleClearFilters",
      "click [data-action=\"clear-span\"]": () => this.filter({ from: "", to: "" }),
      "click [data-action=\"retry\"]": () => this.reload(),
    };
  }

  didMount() {
    const { state } = this.props;
    this.reload();
    return [
      state.on("logs:entries", (/** @type {{entries: Entry[], dropped: number}} */ batch) => this.take(batch)),
      state.on("logs:cleared", () => this.empty()),
      state.on("connection:established", (/** @type {{recovered: boolean}} */ { recovered }) => {
        if (this.state.error || (!recovered && !this.state.paused)) this.reload();
      }),
      state.subscribe("models", (/** @type {any[]} */ models) => this.followModels(models)),
      () => clearTimeout(this.timer),
      () => clearTimeout(this.countTimer),
    ];
  }

  /** An address with other filters shows what they say, also from here. @param {any} props */
  receive(props) {
    const wanted = filtersOf(props.query);
    super.receive(props);
    if (addressOf(wanted) !== addressOf(this.state.filters)) this.filter(wanted);
  }

  /** Names for the source filter; only a change of the list itself matters here. @param {any[]} models */
  followModels(models) {
    if (models?.length !== this.state.models.length) this.setState({ models });
  }

  /** @returns {Record<string, any>} what the server is asked for */
  request() {
    const { level, source, search, from, to } = /** @type {Filters} */ (this.state.filters);
    return {
      ...(level ? { level } : {}), ...(source ? { source } : {}), ...(search.trim() ? { search: search.trim() } : {}),
      ...(from ? { from: Number(from) } : {}), ...(to ? { to: Number(to) } : {}),
    };
  }

  /** Start again from the newest lines that match, or from the one that the address names. */
  async reload() {
    void this.count();
    const { line } = /** @type {Filters} */ (this.state.filters);
    if (line) return this.jump(Number(line));
    return this.fetch([{ limit: PAGE }], { paused: false, follow: true, target: null });
  }

  /** Show the lines around one of those that match. @param {number} id */
  jump(id) {
    /** @type {Record<string, number>[]} */
    const around = [{ after: id - 1, limit: PAGE }, { before: id, limit: BEFORE }];
    return this.fetch(around, { paused: true, follow: false, target: id });
  }

  /**
   * Show what the server answers to `parts`, the newest first.
   * @param {Record<string, number>[]} parts @param {Record<string, any>} more
   */
  async fetch(parts, more) {
    const turn = ++this.turn;
    this.arrived = [];
    try {
      const answers = await Promise.all(parts.map((part) =>
        this.props.state.request("logs:list", { ...this.request(), ...part })));
      if (turn !== this.turn) return;
      const entries = answers.flatMap(({ logs }) => logs).reverse();
      this.lastId = entries.at(-1)?.id ?? 0;
      this.show(entries.map((/** @type {Entry} */ entry, /** @type {number} */ index) => ({ ...entry, seq: index })), {
        hasMore: answers.at(-1)?.hasMore, newer: answers.length > 1 && answers[0].hasMore, waiting: 0, loaded: true,
        error: "", ...more,
      });
      this.learnSources(entries);
      const { arrived } = this;
      this.arrived = null;
      for (const batch of arrived ?? []) this.take(batch);
    } catch (error) {
      if (turn !== this.turn) return;
      this.arrived = null;
      this.setState({ error: /** @type {Error} */ (error).message });
    }
  }

  /** Count what matches, over time and by level and source. */
  async count() {
    clearTimeout(this.countTimer);
    this.countTimer = undefined;
    const asked = addressOf(this.state.filters);
    try {
      const { level, source, ...others } = this.request();
      const answer = await this.props.state.request("logs:list", { ...others, parts: partsCount() });
      if (asked !== addressOf(this.state.filters) || !answer.counts) return;
      const counts = countsOf(answer, { level, source });
      this.setState({ counts });
      this.learnSources(Object.keys(counts.sources).map((name) => /** @type {any} */ ({ source: name })));
    } catch {
      // the lines are there all the same
    }
  }

  /** @param {LogLine[]} lines @param {Record<string, any>} [more] */
  show(lines, more = {}) {
    this.lines = lines;
    this.setState({ lines, ...more });
  }

  empty() {
    this.turn += 1;
    this.arrived = null;
    this.show([], { hasMore: false, newer: false, waiting: 0, loaded: true, counts: null });
  }

  /** Take in live lines. @param {{entries: Entry[], dropped: number}} batch */
  take({ entries, dropped }) {
    if (this.arrived) this.arrived.push({ entries, dropped });
    if (!this.state.loaded) return;
    this.learnSources(entries);
    this.countTimer ??= setTimeout(() => this.count(), COUNT_DELAY);
    const fresh = entries.filter((entry) => !(entry.id <= this.lastId) && this.matches(entry));
    if (!fresh.length && !dropped) return;
    if (this.state.paused || (!this.state.follow && this.lines.length + fresh.length > MAX_LINES)) {
      this.setState({ waiting: this.state.waiting + fresh.length, paused: true });
      return;
    }
    this.lastId = Math.max(this.lastId, ...fresh.map(({ id }) => id ?? 0));
    const suppressed = dropped
      ? [
        {
          id: 0, timestamp: entries[0]?.timestamp ?? now(), level: "warning", source: "llamadash",
          message: `${number(dropped)} lines were skipped in the live view; they are in the history.`,
        },
      ]
      : [];
    let seq = (this.lines.at(-1)?.seq ?? -1) + 1;
    const added = [...suppressed, ...fresh].map((entry) => ({ ...entry, seq: seq++ }));
    const lines = [...this.lines, ...added];
    this.show(
      lines.length > MAX_LINES ? lines.slice(-MAX_LINES) : lines,
      this.state.follow ? {} : { waiting: this.state.waiting + fresh.length }
    );
  }

  /** @param {Entry} entry */
  matches({ level, source, message, timestamp }) {
    const filters = /** @type {Filters} */ (this.state.filters);
    return RANKS.indexOf(level) >= RANKS.indexOf(filters.level) && (!filters.source || source === filters.source)
      && timestamp >= Number(filters.from) && (!filters.to || timestamp < Number(filters.to))
      && (!filters.search.trim() || message.toLowerCase().includes(filters.search.trim().toLowerCase()));
  }

  /** @param {Entry[]} entries */
  learnSources(entries) {
    const fresh = entries.map(({ source }) => source).filter((source) => !this.state.sources.has(source));
    if (fresh.length) this.setState({ sources: new Set([...this.state.sources, ...fresh]) });
  }

  async loadOlder() {
    const before = this.lines.find(({ id }) => id > 0);
    if (this.loadingOlder || !this.state.hasMore || !before || this.lines.length >= MAX_LINES) return;
    this.loadingOlder = true;
    this.setState({ older: true });
    const turn = this.turn;
    try {
      const { logs, hasMore } = await this.props.state.request("logs:list", {
        ...this.request(), before: before.id, limit: PAGE,
      });
      if (turn === this.turn) {
        let seq = this.lines[0].seq;
        const older = logs.map((/** @type {Entry} */ entry) => ({ ...entry, seq: --seq })).reverse();
        this.show([...older, ...this.lines], { hasMore });
        this.learnSources(logs);
      }
    } catch (error) {
      toast(`Older lines could not be loaded: ${/** @type {Error} */ (error).message}`, { kind: "error" });
    }
    this.loadingOlder = false;
    this.setState({ older: false });
  }

  /** Go on where the lines end that were jumped to. */
  async loadNewer() {
    if (this.loadingOlder || !this.state.newer) return;
    this.loadingOlder = true;
    const turn = this.turn;
    try {
      const { logs, hasMore } = await this.props.state.request("logs:list", {
        ...this.request(), after: this.lastId, limit: PAGE,
      });
      if (turn === this.turn) {
        let { seq } = this.lines[this.lines.length - 1];
        this.lastId = logs[0]?.id ?? this.lastId;
        const newer = logs.reverse().map((/** @type {Entry} */ entry) => ({ ...entry, seq: ++seq }));
        this.show([...this.lines, ...newer].slice(-MAX_LINES), { newer: hasMore });
      }
    } catch (error) {
      toast(`Newer lines could not be loaded: ${/** @type {Error} */ (error).message}`, { kind: "error" });
    }
    this.loadingOlder = false;
  }

  /** @param {boolean} follow */
  setFollow(follow) {
    if (this.state.paused && follow) return;
    this.setState({ follow, ...(follow ? { waiting: 0 } : {}) });
  }

  /** @param {Event} _event @param {HTMLSelectElement} element */
  handleFilter(_event, element) {
    this.filter({ [element.dataset.filter ?? ""]: element.value });
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleSearch(_event, element) {
    this.state.filters = { ...this.state.filters, search: element.value, line: "" };
    this.setState({});
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.filter({}), SEARCH_DELAY);
  }

  /** @param {Partial<Filters>} changes */
  filter(changes) {
    this.state.filters = { ...this.state.filters, line: "", ...changes };
    this.setState({});
    clearTimeout(this.timer);
    const { router, query } = this.props;
    const address = addressOf(this.state.filters);
    if (query && address !== addressOf(filtersOf(query))) {
      void router?.navigate(`/logs${address}`, { replace: !changes.line });
    }
    this.reload();
  }

  handleClearFilters() {
    this.filter(NO_FILTERS);
  }

  async handleCaptures() {
    const { Captures } = await import("../components/captures.js");
    this.setState({ Captures });
  }

  handlePause() {
    if (this.state.paused) return this.handleNewest();
    return this.setState({ paused: true, follow: false, waiting: 0 });
  }

  /** Go on live: what came in meanwhile is fetched, or just scrolled to. */
  handleNewest() {
    if (this.state.filters.line) return this.filter({});
    if (this.state.paused) return this.reload();
    return this.setState({ follow: true, waiting: 0 });
  }

  handleWrap() {
    const wrap = !this.state.wrap;
    try {
      localStorage.setItem(WRAP_KEY, String(wrap));
    } catch {
      // Not remembered then; it still holds for this visit.
    }
    this.setState({ wrap });
  }

  /** Save every line that matches the filters, as far back as there is history. */
  async handleExport() {
    this.setState({ exporting: true });
    try {
      /** @type {Entry[]} */ const entries = [];
      for (let before = 0, more = true; more && entries.length < MAX_EXPORT;) {
        const { logs, hasMore } = await this.props.state.request("logs:list", {
          ...this.request(), limit: PAGE, ...(before ? { before } : {}),
        });
        entries.push(...logs);
        before = logs.at(-1)?.id ?? 0;
        more = hasMore && logs.length > 0;
        if (more) await new Promise((resolve) => setTimeout(resolve, 30)); // Stays below the server's rate limit.
      }
      const text = entries.reverse().map((entry) =>
        [new Date(entry.timestamp).toISOString(), entry.level.toUpperCase().padEnd(7), entry.source, entry.message]
          .join(" ")).join("\n");
      saveText(`llamadash-${new Date().toISOString().slice(0, 19).replace(/[T:]/g, "-")}.log`, `${text}\n`);
      toast(`${number(entries.length)} lines exported`, { kind: "success" });
    } catch (error) {
      toast(`The export failed: ${/** @type {Error} */ (error).message}`, { kind: "error" });
    }
    this.setState({ exporting: false });
  }

  async handleClear() {
    const sure = await confirmDialog({
      title: "Delete all log lines?",
      body: "This clears the whole history, not only the filtered lines, and cannot be undone.",
      confirmLabel: "Delete all", danger: true,
    });
    if (!sure) return;
    try {
      const { cleared } = await this.props.state.request("logs:clear");
      toast(`${number(cleared)} lines deleted`, { kind: "success" });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
  }

  render() {
    const { paused, follow, waiting, wrap, exporting } = this.state;
    return h("div", { className: "page logs-page" },
      h("header", { key: "header", className: "page-header" },
        h("div", { className: "row" },
          h("h1", { className: "page-title" }, "Logs"),
          h("span", { className: `badge badge-${paused ? "warning" : "success"}`, role: "status" },
            paused ? "Paused" : "Live")),
        h("div", { className: "page-actions" },
          h("button", {
            key: "pause", type: "button", className: "button", dataset: { action: "pause" }, "aria-pressed": paused,
          }, icon(paused ? "play" : "pause"), paused ? "Resume" : "Pause"),
          h("button", {
            key: "wrap", type: "button", className: `button button-ghost${wrap ? " is-on" : ""}`,
            dataset: { action: "wrap" }, "aria-pressed": wrap,
          }, "Wrap lines"),
          h("button", {
            key: "captures", type: "button", className: "button button-ghost", dataset: { action: "captures" },
          }, icon("search"), "Captures"),
          h("button", {
            key: "export", type: "button", className: "button button-ghost", disabled: Boolean(exporting),
            dataset: { action: "export" },
          }, icon("download"), exporting ? "Exporting…" : "Export"),
          h("button", { key: "clear", type: "button", className: "button button-ghost", dataset: { action: "clear" } },
            icon("trash"),
            "Clear"))),
      this.toolbar(),
      this.state.Captures && h(this.state.Captures, {
        key: "captures", state: this.props.state, close: () => this.setState({ Captures: null }),
      }),
      this.state.counts?.buckets.length ? h(LogHistogram, {
        key: "histogram", counts: this.state.counts, onJump: this.onJump,
      }) : null,
      h("div", { key: "body", className: "card logs-card" },
        this.body(),
        (paused || !follow) && this.state.lines.length > 0
          && h("button", {
            key: "newest", type: "button", className: "button button-primary logs-newest",
            dataset: { action: "newest" },
          },
          icon("chevron-down"), waiting ? `${number(waiting)} new` : "Jump to newest"),
        this.state.older && h("div", { key: "older", className: "logs-older badge badge-info", role: "status" },
          "Loading older lines…")));
  }

  body() {
    const { lines, loaded, error, filters, wrap } = this.state;
    if (error && !lines.length) {
      return h("div", { key: "error" },
        errorState({
          title: "The logs could not be loaded", body: error,
          action: h("button", { type: "button", className: "button", dataset: { action: "retry" } }, "Try again"),
        }));
    }
    if (!loaded) return h("div", { key: "wait" }, loadingState("Loading logs…"));
    if (!lines.length) {
      const filtered = addressOf(filters) !== "";
      return h("div", { key: "none" }, filtered
        ? emptyState({
          title: "No line matches", body: "New ones appear here as they come.", iconName: "search",
          action: h("button", { type: "button", className: "button", dataset: { action: "clear-filters" } },
            "Clear filters"),
        })
        : emptyState({
          title: "Nothing logged yet", body: "Output appears here once the engine starts or a model loads.",
          iconName: "logs", action: h("a", { className: "button", href: "/models" }, "Go to the models"),
        }));
    }
    return h(LogList, {
      key: "list", lines, wrap, follow: this.state.follow && !this.state.paused, search: filters.search.trim(),
      target: this.state.target, onFollow: this.onFollow, onTop: this.onTop, onBottom: this.onBottom,
      onLine: this.onLine,
    });
  }

  toolbar() {
    const { filters, sources, models, counts } = this.state;
    const names = new Map(models.map((/** @type {any} */ model) => [model.id, model.name]));
    const known = [...new Set([...sources, filters.source].filter(Boolean))].sort();
    return h("div", { key: "toolbar", className: "toolbar logs-toolbar", role: "search", "aria-label": "Logs" },
      h("div", { className: "input-with-icon logs-search" }, icon("search"),
        h("label", { className: "visually-hidden", htmlFor: "logs-search" }, "Search messages"),
        h("input", {
          id: "logs-search", className: "input", type: "search", placeholder: "Search messages", maxlength: 256,
          autocomplete: "off", value: filters.search, dataset: { role: "log-search" },
        })),
      h(FilterBox, { key: "filters", count: [filters.level, filters.source].filter(Boolean).length },
        h("select", {
          className: `select${filters.level ? " is-on" : ""}`, value: filters.level, dataset: { filter: "level" },
          "aria-label": "Level",
        }, LEVELS.map(([value, label]) =>
          h("option", { key: value, value }, withCount(label, counts && fromLevel(counts, value))))),
        h("select", {
          className: `select logs-source-filter${filters.source ? " is-on" : ""}`, value: filters.source,
          dataset: { filter: "source" }, "aria-label": "Source",
        },
          h("option", { key: "", value: "" }, "Any source"), known.map((source) =>
            h("option", { key: source, value: source },
              withCount(names.get(source) ?? source, counts && (counts.sources[source] ?? 0)))))),
      (filters.from || filters.to || filters.line) && h("button", {
        key: "span", type: "button", className: "button button-small logs-span", dataset: { action: "clear-span" },
        title: "Show every time",
      }, filters.line ? "Around one line" : spanWords(filters), icon("close", { size: 14 })));
  }
}

/**
 * Of what `logs:list` counts, that which the filters leave: over time, and by level and by source, each of these
 * without regard to its own filter.
 * @param {{from: number | null, bucket: number, counts: [number, string, string, number, number][]}} answer
 * @param {{level?: string, source?: string}} filters
 */
export function countsOf({ from, bucket, counts }, { level = "", source = "" }) {
  /** @type {Record<string, number>} */ const levels = {};
  /** @type {Record<string, number>} */ const sources = {};
  /** @type {Map<string, import("../components/log-histogram.js").Bucket>} */ const buckets = new Map();
  for (const [at, own, name, count, id] of counts) {
    const fits = RANKS.indexOf(own) >= RANKS.indexOf(level);
    if (!source || source === name) levels[own] = (levels[own] ?? 0) + count;
    if (fits) sources[name] = (sources[name] ?? 0) + count;
    if (!fits || (source && source !== name)) continue;
    const known = buckets.get(`${at} ${own}`);
    buckets.set(`${at} ${own}`, [at, own, count + (known?.[2] ?? 0), Math.min(id, known?.[3] ?? id)]);
  }
  return { from, bucket, levels, sources, buckets: [...buckets.values()] };
}

/** @param {URLSearchParams | undefined} query @returns {Filters} */
function filtersOf(query) {
  const filters = { ...NO_FILTERS };
  for (const name of /** @type {(keyof Filters)[]} */ (Object.keys(filters))) filters[name] = query?.get(name) ?? "";
  if (!RANKS.includes(filters.level)) filters.level = "";
  for (const name of /** @type {(keyof Filters)[]} */ (["from", "to", "line"])) {
    if (!/^\d{1,15}$/.test(filters[name])) filters[name] = "";
  }
  return filters;
}

/** What stands behind the page's path. @param {Filters} filters */
function addressOf(filters) {
  const given = Object.entries(filters).map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

/** How many lines are of `level` or above. @param {any} counts @param {string} level */
function fromLevel(counts, level) {
  return RANKS.slice(Math.max(0, RANKS.indexOf(level))).reduce((sum, name) => sum + (counts.levels[name] ?? 0), 0);
}

/** @param {string} label @param {number | null} count */
function withCount(label, count) {
  return count === null ? label : `${label} (${number(count)})`;
}

/** @param {Filters} filters */
function spanWords({ from, to }) {
  if (from && to) return `${dateTime(Number(from))} to ${dateTime(Number(to))}`;
  return from ? `From ${dateTime(Number(from))}` : `Until ${dateTime(Number(to))}`;
}

/** @returns {boolean} */
function remembered() {
  try {
    return localStorage.getItem(WRAP_KEY) !== "false";
  } catch {
    return true;
  }
}
