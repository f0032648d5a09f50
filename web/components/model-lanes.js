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
 * @param {{since?: number, around?: Event[]}} known from when on `events` has all, and what was before and came after
 * @returns {Lane[]}
 */
export function lanesOf(events, models, from, to, { since = from, around = [] } = {}) {
  const ordered = [...around, ...events].filter(({ future }) => !future)
    .sort((a, b) => a.timestamp - b.timestamp || (a.id ?? 0) - (b.id ?? 0));
  const told = ordered.flatMap(({ model, details }) => [...(model ? [model] : []), ...(details?.shared ?? [])]);
  const there = models.filter((model) => model.status === "loaded" || model.pinned).map(({ id }) => id);
  const start = Math.max(from, since);
  return [...new Set([...told, ...there])].sort().map((id) => {
    const model = models.find((item) => item.id === id);
    const lives = eventsOf(ordered, id).map(({ timestamp, kind, model: own }) => (
      { timestamp, next: NEXT[kind], before: BEFORE[kind] ?? null, own }));
    const pins = ordered.filter((event) => event.model === id && typeof event.details?.pinned === "boolean").map(
      ({ timestamp, details: { pinned } }) => (
        { timestamp, next: pinned ? "pinned" : null, before: pinned ? null : "pinned", own: id }));
    return {
      id, spans: spansOf(lives, model?.status === "loaded" ? "loaded" : null, start, to),
      pinned: spansOf(pins, model?.pinned ? "pinned" : null, start, to),
    };
  }).filter(({ spans, pinned }) => spans.length || pinned.length);
}

/**
 * The events of a model's process, of one that it shares with others while it does, and of llamadash itself.
 * @param {Event[]} ordered @param {string} id
 */
function eventsOf(ordered, id) {
  /** @type {string | null} */
  let host = id;
  return ordered.filter(({ kind, model, details }) => {
    if (model === id || details?.shared?.includes(id)) host = model;
    else if (kind === "loading" && model === host) host = id; // it is loaded anew, for itself
    return kind in NEXT && (!model || model === host || model === id);
  });
}

/**
 * @typedef {{timestamp: number, next: string | null, before: string | null, own: string | null}} Change
 * @param {Change[]} changes when it becomes what, and what it was before, in order; also from outside
 * @param {string | null} present what it is now
 * @param {number} from @param {number} to @returns {Span[]}
 */
function spansOf(changes, present, from, to) {
  const last = changes.filter(({ timestamp }) => timestamp < from).at(-1);
  const first = changes.find(({ timestamp, own }) => timestamp >= from && own);
  const spans = [];
  let [since, kind] = [from, last ? last.next : first ? first.before : present];
  const inside = changes.filter(({ timestamp }) => timestamp >= from && timestamp < to);
  for (const { timestamp, next } of [...inside, { timestamp: to, next: null }]) {
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
 * @param {{since?: number, around?: Event[]}} known see lanesOf
 */
export function modelLanes(state, events, from, to, known) {
  const models = state.get("models") ?? [];
  const lanes = lanesOf(events, models, from, to, known);
  if (!lanes.length) return null;
  const part = (/** @type {number} */ time) => `${((100 * (time - from)) / (to - from)).toFixed(3)}%`;
  const bar = (/** @type {Span} */ span) => h("span", {
    key: `${span.kind}${span.from}`, className: `lane-span lane-${span.kind}`,
    title: `${WORDS[span.kind]} from ${dateTime(span.from)} to ${dateTime(span.to)} (${
      duration((span.to - span.from) / 1000)})`,
    style: { left: part(span.from), width: part(from + span.to - span.from) },
  });
  return h("article", { key: "lanes", className: "card lanes" },
    h("h2", { className: "card-title" }, icon("models"), "Models over time"),
    h("ul", { className: "lanes-legend muted", "aria-hidden": "true" }, Object.entries(WORDS).map(([kind, words]) =>
      h("li", { key: kind }, h("span", { className: `lane-key lane-${kind}` }), words))),
    (known.since ?? from) > from ? h("p", { key: "cut", className: "muted" },
      `More happened than is shown: before ${dateTime(known.since)} nothing is drawn.`) : null,
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
