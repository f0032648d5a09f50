import { Component, h } from "../core/component.js";
import { dateTime, rowTime } from "../core/format.js";
import { icon } from "./icon.js";
import { reasonWords, sentence } from "./model-status.js";
import { emptyState, errorState, loadingState } from "./states.js";

/** @typedef {{[name: string]: any, id: number, timestamp: number, kind: string, model: string | null}} Event */

const KEPT = 500;
const SHOWN_FIRST = 12;

/** @type {Record<string, [string, string]>} label and kind of badge */
const KINDS = {
  waiting: ["Waits", "warning"],
  loading: ["Loading", "info"],
  loaded: ["Loaded", "success"],
  unloaded: ["Unloaded", "neutral"],
  failed: ["Failed", "danger"],
  crashed: ["Crashed", "danger"],
  refused: ["Refused", "danger"],
};

/**
 * What happened, the newest first and what has `future` last, each once.
 * @param {Event[]} events @returns {Event[]}
 */
export function newestFirst(events) {
  const byId = new Map(events.map((event) => [event.id, event]));
  return [...byId.values()].sort((a, b) =>
    Number(a.future ?? false) - Number(b.future ?? false) || b.timestamp - a.timestamp || b.id - a.id);
}

/** Loads, unloads and waits with their reasons. Props: `state`, `span` (ms), `model?` (only what concerns it). */
export class Timeline extends Component {
  static loadedBy = ["span", "model"];

  /** @param {any} props */
  constructor(props) {
    super(props);
    this.turn = 0;
    /** @type {any} */
    this.state = { events: null, error: null, all: false };
  }

  didMount() {
    const { state } = this.props;
    void this.load();
    return [
      state.on("timeline:added", (/** @type {any} */ { events }) => this.add(events)),
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
    const { state, span, model } = this.props;
    try {
      const to = Date.now();
      const { events } = await state.request("timeline:list", { from: to - span, to, ...(model ? { model } : {}) });
      if (turn === this.turn) this.setState({ events: newestFirst(events).slice(0, KEPT), error: null });
    } catch (problem) {
      if (turn === this.turn) this.setState({ error: /** @type {Error} */ (problem).message });
    }
  }

  /** @param {Event[]} events */
  add(events) {
    const { model } = this.props;
    const own = events.filter((event) => !model || event.model === model);
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
    const shown = all ? events : events.slice(0, SHOWN_FIRST);
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
      body: "Loads, unloads and waits appear here with their reasons.",
    });
  }

  /** @param {Event} event */
  renderEvent({ id, timestamp, future, kind, model, reason }) {
    const [label, look] = KINDS[kind] ?? [sentence(kind), "neutral"];
    const models = this.props.state.get("models") ?? [];
    const name = models.find((/** @type {any} */ item) => item.id === model)?.name ?? model;
    return h("li", { key: id, className: "list-item timeline-item" },
      h("span", { className: `badge badge-${look} timeline-kind` }, label),
      h("span", { className: "timeline-words" },
        this.props.model || !model ? null : h("strong", { key: "model", className: "truncate" }, name),
        h("span", { className: "muted" }, sentence(reasonWords(reason)) || "–")),
      h("time", { className: "nowrap muted", title: dateTime(timestamp) }, rowTime({ timestamp, future })));
  }
}

/** The timeline as a card of its own. @param {{state: any, span: number}} props */
export function timelineCard(props) {
  return h("section", { key: "timeline", className: "card", "aria-label": "What happened" },
    h("header", { className: "card-header" }, h("h2", { className: "card-title" }, icon("clock"), "What happened")),
    h(Timeline, props));
}
