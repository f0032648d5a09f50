/**
 * When each model was in memory, was loading, was waited for and was pinned: a lane for each over one time range.
 *
 * @typedef {{[name: string]: any, timestamp: number, kind: string, model: string | null}} Event
 * @typedef {{kind: string, from: number, to: number}} Span
 * @typedef {{id: string, spans: Span[], pinned: Span[]}} Lane
 */

import { h } from "../core/component.js";
import { clock, dateTime, duration, modelName } from "../core/format.js";
import { icon } from "./icon.js";

/** @type {Record<string, string | null>} what a model is from this kind of event on, and what it was before */
const NEXT = {
  waiting: "waiting", unwanted: null, loading: "loading", loaded: "loaded", unloaded: null, failed: null, crashed: null,
  started: null, stopped: null,
};
/** @type {Record<string, string | null>} */
const BEFORE = { unwanted: "waiting", loaded: "loading", failed: "loading", unloaded: "loaded", crashed: "loaded" };

/** @type {Record<string, string>} */
const WORDS = { waiting: "Waiting", loading: "Loading", loaded: "In memory", pinned: "Pinned" };

/**
 * The lanes of the models that had something to do with memory between two times.
 * @param {Event[]} events in any order @param {any[]} models as they are now @param {number} from @param {number} to
 * @returns {Lane[]}
 */
export function lanesOf(events, models, from, to) {
  const ordered = [...events].filter(({ timestamp, future }) => !future && timestamp >= from && timestamp <= to)
    .sort((a, b) => a.timestamp - b.timestamp || (a.id ?? 0) - (b.id ?? 0));
  const told = ordered.filter(({ kind, model }) => model && kind in NEXT).map(({ model }) => String(model));
  const there = models.filter((model) => model.status === "loaded" || model.pinned).map(({ id }) => id);
  return [...new Set([...told, ...there])].sort().map((id) => {
    const model = models.find((item) => item.id === id);
    const own = ordered.filter((event) => (event.model === id || !event.model) && event.kind in NEXT);
    const first = own.find((event) => event.model === id);
    const begin = first ? BEFORE[first.kind] ?? null : model?.status === "loaded" ? "loaded" : null;
    const changes = ordered.filter((event) => event.model === id && typeof event.details?.pinned === "boolean");
    return {
      id, spans: spansOf(own.map(({ kind, timestamp }) => [timestamp, NEXT[kind]]), begin, from, to),
      pinned: spansOf(changes.map(({ details, timestamp }) => [timestamp, details.pinned ? "pinned" : null]),
        (changes.length ? !changes[0].details.pinned : model?.pinned) ? "pinned" : null, from, to),
    };
  }).filter(({ spans, pinned }) => spans.length || pinned.length);
}

/**
 * @param {[number, string | null][]} changes when it becomes what @param {string | null} kind what it is at first
 * @param {number} from @param {number} to @returns {Span[]}
 */
function spansOf(changes, kind, from, to) {
  const spans = [];
  let since = from;
  for (const [timestamp, next] of [...changes, /** @type {[number, string | null]} */ ([to, null])]) {
    if (kind && timestamp > since) spans.push({ kind, from: since, to: timestamp });
    [since, kind] = [timestamp, next];
  }
  return spans;
}

/** @param {Lane} lane @param {string} name */
function laneSentence({ spans, pinned }, name) {
  const total = (/** @type {string} */ kind) => spans.filter((span) => span.kind === kind).reduce(
    (/** @type {number} */ sum, span) => sum + span.to - span.from, 0);
  const parts = ["loaded", "loading", "waiting"].filter((kind) => total(kind)).map((kind) =>
    `${WORDS[kind].toLowerCase()} ${duration(total(kind) / 1000)}`);
  return `${name}: ${[...parts, ...(pinned.length ? ["pinned"] : [])].join(", ")}`;
}

/**
 * The lanes as a card. @param {any} state @param {Event[]} events @param {number} from @param {number} to Unix ms
 */
export function modelLanes(state, events, from, to) {
  const models = state.get("models") ?? [];
  const lanes = lanesOf(events, models, from, to);
  if (!lanes.length) return null;
  const part = (/** @type {number} */ time) => `${((100 * (time - from)) / (to - from)).toFixed(3)}%`;
  const bar = (/** @type {Span} */ span) => h("span", {
    key: `${span.kind}${span.from}`, className: `lane-span lane-${span.kind}`,
    title: `${WORDS[span.kind]} from ${dateTime(span.from)} to ${dateTime(span.to)} (${
      duration((span.to - span.from) / 1000)})`,
    style: { left: part(span.from), width: part(from + span.to - span.from) },
  });
  return h("article", { key: "lanes", className: "card lanes" },
    h("h3", { className: "card-title" }, icon("models"), "Models over time"),
    h("ul", { className: "lanes-legend muted", "aria-hidden": "true" }, Object.entries(WORDS).map(([kind, words]) =>
      h("li", { key: kind }, h("span", { className: `lane-key lane-${kind}` }), words))),
    lanes.map((lane) => {
      const name = modelName(models, lane.id);
      return h("div", { key: lane.id, className: "lane" },
        h("span", { className: "lane-name truncate", title: name }, name),
        h("div", { className: "lane-track", role: "img", "aria-label": laneSentence(lane, name) },
          lane.spans.map(bar), lane.pinned.map(bar)));
    }),
    h("div", { className: "lane-times muted" },
      [from, (from + to) / 2, to].map((time, at) => h("span", { key: at }, to - from > 86_400_000
        ? dateTime(time) : clock(time)))));
}
