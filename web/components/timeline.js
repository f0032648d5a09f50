import { Component, h } from "../core/component.js";
import { dateTime, duration, modelName, now, rowTime } from "../core/format.js";
import { settingName } from "../core/setting-name.js";
import { icon } from "./icon.js";
import { reasonWords, sentence } from "./model-status.js";
import { emptyState, errorState, loadingState } from "./states.js";

/** @typedef {{[name: string]: any, id: number, timestamp: number, kind: string, model: string | null}} Event */

const KEPT = 500;
const SHOWN_FIRST = 12;

/** @type {Record<string, [string, string]>} label and kind of badge */
const KINDS = {
  started: ["Started", "success"],
  stopped: ["Stopped", "neutral"],
  configuration: ["Changed", "neutral"],
  key: ["Access", "neutral"],
  backup: ["Backup", "neutral"],
  build: ["Build", "info"],
  download: ["Download", "info"],
  memory: ["Memory", "warning"],
  gpu: ["GPU", "warning"],
  alert: ["Alert", "danger"],
  schedule: ["Schedule", "info"],
  cut: ["Less context", "warning"],
  spilled: ["Spilled", "warning"],
  unused: ["GPU not used", "warning"],
  waiting: ["Waits", "warning"],
  unwanted: ["Waits no more", "neutral"],
  loading: ["Loading", "info"],
  restart: ["Restart", "warning"],
  loaded: ["Loaded", "success"],
  unloaded: ["Unloaded", "neutral"],
  failed: ["Failed", "danger"],
  crashed: ["Crashed", "danger"],
  refused: ["Refused", "danger"],
};

const MOST_EVENTS = 2000; // of each sort that are asked for

/** Kinds whose words begin with a name of somebody's choice. */
const NAMED = ["started", "stopped", "key", "backup", "build", "download", "configuration", "upstream"];

/** Kinds that only lead to the next one, or take it back: a chart has no mark of them. */
const LEADING = ["waiting", "unwanted", "loading"];

/** What an alert tells of that is an event by itself: the bell has the alert, and the feed the event. */
const EVENTS_THEMSELVES = ["crashed", "failed", "backup", "build", "download"];

/**
 * What happened, in plain words after its label.
 * @param {Event} event
 */
function eventWords({ kind, model, reason, details }) {
  const words = reasonWords(reason);
  if (["loading", "restart", "loaded"].includes(kind)) {
    const { seconds, after } = details ?? {};
    return [
      sentence(words.replace(/^request of /, "requested by ")),
      typeof seconds === "number" ? `took ${duration(seconds)}` : "",
      after && after !== "crashed" ? `previously unloaded: ${reasonWords(after)}` : "", // a restart is told
    ].filter(Boolean).join(" · ");
  }
  if (kind === "configuration" && model && typeof details?.pinned === "boolean") {
    return details.pinned ? "Pinned in memory" : "No longer pinned";
  }
  if (kind === "configuration" && reason) return reason.split(", ").map(settingName).join(", ");
  return (model || !NAMED.includes(kind) ? sentence(words) : words) || "–";
}

/** A kind of event as people call it, and its kind of badge. @param {string} kind @returns {[string, string]} */
function eventLabel(kind) {
  return KINDS[kind] ?? [sentence(kind), "neutral"];
}

/**
 * Events as the marks of a chart, the oldest first; without those that are LEADING.
 * @param {any} state @param {Event[]} events
 */
export function eventMarks(state, events) {
  return events.filter(({ kind, future }) => !LEADING.includes(kind) && !future).map((event) => {
    const [label, look] = eventLabel(event.kind);
    const name = event.model && modelName(state.get("models"), event.model);
    return { timestamp: event.timestamp, look, text: `${name ? `${name}: ` : ""}${label}. ${eventWords(event)}` };
  }).reverse();
}

/**
 * What happened in a range, of each sort the newest; `lives` also has what is known of the models before and after.
 * @param {any} state @param {{from: number, to: number}} range Unix ms
 */
export async function eventsOf(state, range) {
  const parts = await Promise.all([{ lives: true }, { rare: true }, { kind: "refused" }, {}].map((part) =>
    state.request("timeline:list", { ...range, ...part, limit: MOST_EVENTS })));
  return { events: newestFirst(parts.flatMap(({ events }) => events)), lives: parts[0] };
}

/**
 * What happened, the newest first and what has `future` last, each once.
 * @param {Event[]} events @returns {Event[]}
 */
export function newestFirst(events) {
  const told = events.filter(({ kind, details }) => kind !== "alert" || !EVENTS_THEMSELVES.includes(details?.kind));
  const byId = new Map(told.map((event) => [event.id, event]));
  return [...byId.values()].sort((a, b) =>
    Number(a.future ?? false) - Number(b.future ?? false) || b.timestamp - a.timestamp || b.id - a.id);
}

/**
 * What happened, with its reasons. Props: `state`, `span` (ms), `until?` (Unix ms: its end), `model?` (only what
 * concerns it), `first?` (how many are shown at first).
 */
export class Timeline extends Component {
  static loadedBy = ["span", "until", "model"];

  /** @param {any} props */
  constructor(props) {
    super(props);
    this.turn = 0;
    this.named = Boolean(props.state.get("models"));
    /** @type {any} */
    this.state = { events: null, error: null, all: false };
  }

  didMount() {
    const { state } = this.props;
    void this.load();
    return [
      state.on("timeline:added", (/** @type {any} */ { events }) => this.add(events)),
      state.subscribe("models", (/** @type {any} */ models) => {
        if (models && !this.named) this.setState({});
        this.named = Boolean(models);
      }),
      state.subscribe("info", (/** @type {any} */ info) => {
        if (!info?.recovered || this.state.error) void this.load();
      }),
    ];
  }

  getEventMap() {
    return {
      "click [data-action=\"timeline-all\"]": () => this.setState({ all: true }),
      "click [data-action=\"timeline-retry\"]": () => this.load(),
    };
  }

  async load() {
    const turn = ++this.turn;
    const { state, span, until, model } = this.props;
    try {
      const to = until ?? now();
      const { events } = await state.request("timeline:list", { from: to - span, to, ...(model ? { model } : {}) });
      if (turn === this.turn) this.setState({ events: newestFirst(events).slice(0, KEPT), error: null });
    } catch (problem) {
      if (turn === this.turn) this.setState({ error: /** @type {Error} */ (problem).message });
    }
  }

  /** @param {Event[]} events */
  add(events) {
    const { model, until = Infinity } = this.props;
    const own = events.filter((event) => (!model || event.model === model) && event.timestamp <= until);
    if (!own.length || !this.state.events) return;
    this.setState({ events: newestFirst([...own, ...this.state.events]).slice(0, KEPT) });
  }

  render() {
    const { events, error, all } = this.state;
    if (error) {
      return errorState({
        title: "The events could not be read", body: error,
        action: h("button", { type: "button", className: "button", dataset: { action: "timeline-retry" } },
          "Try again"),
      });
    }
    if (!events) return loadingState("Reading the events…");
    if (!events.length) return this.renderNone();
    const shown = all ? events : events.slice(0, this.props.first ?? SHOWN_FIRST);
    return h("div", { className: "timeline" },
      h("ol", { className: "list timeline-list" }, shown.map((/** @type {Event} */ event) => this.renderEvent(event))),
      shown.length < events.length ? h("div", { className: "timeline-more" },
        h("button", { type: "button", className: "button button-small", dataset: { action: "timeline-all" } },
          `Show all ${events.length}`)) : null);
  }

  renderNone() {
    if (this.props.model) return h("p", { className: "muted" }, "Nothing yet: loads and unloads appear here.");
    return emptyState({
      iconName: "clock", title: "Nothing happened in this time range",
      body: "Loads, unloads, waits, changes and backups appear here with their reasons.",
    });
  }

  /** @param {Event} event */
  renderEvent(event) {
    const { id, timestamp, future, kind, model } = event;
    const [label, look] = eventLabel(kind);
    return h("li", { key: id, className: "list-item timeline-item" },
      h("span", { className: `badge badge-${look} timeline-kind` }, label),
      h("span", { className: "timeline-words" },
        this.props.model || !model ? null : h("strong", { key: "model", className: "truncate" },
          event.model && modelName(this.props.state.get("models"), event.model)),
        h("span", { className: "muted" }, eventWords(event))),
      h("time", { className: "nowrap muted", title: dateTime(timestamp) }, rowTime({ timestamp, future })));
  }
}

/** The timeline as a card of its own. @param {{state: any, span: number, until?: number, first?: number}} props */
export function timelineCard(props) {
  return h("section", { key: "timeline", className: "card", "aria-label": "What happened" },
    h("header", { className: "card-header" }, h("h2", { className: "card-title" }, icon("clock"), "What happened")),
    h(Timeline, props));
}
