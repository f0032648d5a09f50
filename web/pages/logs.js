import { Component, h } from "../core/component.js";
import { dateTime, number } from "../core/format.js";
import { saveText } from "../components/copy-button.js";
import { confirmDialog } from "../components/dialog.js";
import { icon } from "../components/icon.js";
import { LogList } from "../components/log-list.js";
import { emptyState, errorState, loadingState } from "../components/states.js";
import { toast } from "../components/toast.js";

/** @typedef {import("../components/log-list.js").Line} Line */
/** @typedef {{id: number, timestamp: number, level: string, source: string, message: string}} Entry */
/** @typedef {Entry & Line} LogLine */
/** @typedef {{level: string, source: string, search: string}} Filters */

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

/** @type {Array<[string, string]>} */
const LEVELS = [["", "Any level"], ["error", "Errors"], ["warning", "Warnings"], ["info", "Info"], ["debug", "Debug"]];

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
      filters: { level: "", source: this.props.query?.get("source") ?? "", search: "" },
      follow: true,
      paused: false,
      waiting: 0,
      hasMore: false,
      older: false,
      wrap: remembered(),
      loaded: false, error: "", sources: new Set(["llamadash", "engine"]), models: this.props.state.get("models") ?? [],
    };
    this.onFollow = (/** @type {boolean} */ follow) => this.setFollow(follow);
    this.onTop = () => this.loadOlder();
  }

  getEventMap() {
    return {
      "change [data-filter]": "handleFilter",
      "input [data-role=\"log-search\"]": "handleSearch",
      "click [data-action=\"pause\"]": "handlePause",
      "click [data-action=\"newest\"]": "handleNewest",
      "click [data-action=\"wrap\"]": "handleWrap",
      "click [data-action=\"export\"]": "handleExport",
      "click [data-action=\"clear\"]": "handleClear",
      "click [data-action=\"clear-filters\"]": "handleClearFilters",
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
    ];
  }

  /** A link to one source shows it, also from here. @param {any} props */
  receive(props) {
    const [before, source] = [this.props, props].map(({ query }) => query?.get("source") ?? "");
    super.receive(props);
    if (before || source) this.filter({ source });
  }

  /** Names for the source filter; only a change of the list itself matters here. @param {any[]} models */
  followModels(models) {
    if (models?.length !== this.state.models.length) this.setState({ models });
  }

  /** @returns {Record<string, any>} what the server is asked for */
  request() {
    const { level, source, search } = /** @type {Filters} */ (this.state.filters);
    return {
      ...(level ? { level } : {}), ...(source ? { source } : {}), ...(search.trim() ? { search: search.trim() } : {}),
      limit: PAGE,
    };
  }

  /** Start again from the newest lines that match. */
  async reload() {
    const turn = ++this.turn;
    try {
      const { logs, hasMore } = await this.props.state.request("logs:list", this.request());
      if (turn !== this.turn) return;
      const entries = [...logs].reverse();
      this.lastId = entries.at(-1)?.id ?? 0;
      this.show(entries.map((/** @type {Entry} */ entry, /** @type {number} */ index) => ({ ...entry, seq: index })), {
        hasMore, waiting: 0, paused: false, follow: true, loaded: true, error: "",
      });
      this.learnSources(entries);
    } catch (error) {
      if (turn === this.turn) this.setState({ error: /** @type {Error} */ (error).message });
    }
  }

  /** @param {LogLine[]} lines @param {Record<string, any>} [more] */
  show(lines, more = {}) {
    this.lines = lines;
    this.setState({ lines, ...more });
  }

  empty() {
    this.turn += 1;
    this.show([], { hasMore: false, waiting: 0, loaded: true });
  }

  /** Take in live lines. @param {{entries: Entry[], dropped: number}} batch */
  take({ entries, dropped }) {
    if (!this.state.loaded) return;
    this.learnSources(entries);
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
          id: 0, timestamp: entries[0]?.timestamp ?? Date.now(), level: "warning", source: "llamadash",
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
  matches({ level, source, message }) {
    const filters = /** @type {Filters} */ (this.state.filters);
    return (!filters.level || level === filters.level) && (!filters.source || source === filters.source)
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
      const { logs, hasMore } = await this.props.state.request("logs:list", { ...this.request(), before: before.id });
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
    this.state.filters = { ...this.state.filters, search: element.value };
    this.setState({});
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.reload(), SEARCH_DELAY);
  }

  /** @param {Partial<Filters>} changes */
  filter(changes) {
    this.state.filters = { ...this.state.filters, ...changes };
    this.setState({});
    clearTimeout(this.timer);
    this.reload();
  }

  handleClearFilters() {
    this.filter({ level: "", source: "", search: "" });
  }

  handlePause() {
    if (this.state.paused) return this.handleNewest();
    return this.setState({ paused: true, follow: false, waiting: 0 });
  }

  /** Go on live: what came in meanwhile is fetched, or just scrolled to. */
  handleNewest() {
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
          ...this.request(), ...(before ? { before } : {}),
        });
        entries.push(...logs);
        before = logs.at(-1)?.id ?? 0;
        more = hasMore && logs.length > 0;
        if (more) await new Promise((resolve) => setTimeout(resolve, 30)); // Stays below the server's rate limit.
      }
      const text = entries.reverse().map((entry) =>
        [new Date(entry.timestamp).toISOString(), entry.level.toUpperCase().padEnd(7), entry.source, entry.message]
          .join(" ")).join("\n");
      saveText(`llamadash-${dateTime(Date.now()).replace(/[ :]/g, "-")}.log`, `${text}\n`);
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
            key: "export", type: "button", className: "button button-ghost", disabled: Boolean(exporting),
            dataset: { action: "export" },
          }, icon("download"), exporting ? "Exporting…" : "Export"),
          h("button", { key: "clear", type: "button", className: "button button-ghost", dataset: { action: "clear" } },
            icon("trash"),
            "Clear"))),
      this.toolbar(),
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
      const filtered = Boolean(filters.level || filters.source || filters.search.trim());
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
      key: "list", lines, wrap, follow: this.state.follow && !this.state.paused, onFollow: this.onFollow,
      onTop: this.onTop,
    });
  }

  toolbar() {
    const { filters, sources, models } = this.state;
    const names = new Map(models.map((/** @type {any} */ model) => [model.id, model.name]));
    const known = [...new Set([...sources, filters.source].filter(Boolean))].sort();
    return h("div", { key: "toolbar", className: "toolbar logs-toolbar", role: "search", "aria-label": "Logs" },
      h("div", { className: "input-with-icon logs-search" }, icon("search"),
        h("label", { className: "visually-hidden", htmlFor: "logs-search" }, "Search messages"),
        h("input", {
          id: "logs-search", className: "input", type: "search", placeholder: "Search messages", maxlength: 256,
          autocomplete: "off", value: filters.search, dataset: { role: "log-search" },
        })),
      h("select", {
        className: `select${filters.level ? " is-on" : ""}`, value: filters.level, dataset: { filter: "level" },
        "aria-label": "Level",
      }, LEVELS.map(([value, label]) => h("option", { key: value, value }, label))),
      h("select", {
        className: `select logs-source-filter${filters.source ? " is-on" : ""}`, value: filters.source,
        dataset: { filter: "source" }, "aria-label": "Source",
      },
        h("option", { key: "", value: "" }, "Any source"), known.map((source) =>
          h("option", { key: source, value: source }, names.get(source) ?? source))));
  }
}

/** @returns {boolean} */
function remembered() {
  try {
    return localStorage.getItem(WRAP_KEY) !== "false";
  } catch {
    return true;
  }
}
