/**
 * Where the time of a request went.
 *
 * @typedef {{[name: string]: any}} Json
 * @typedef {{name: string, label: string, ms: number}} Part
 */

import { h } from "../core/component.js";
import { duration, energy, number, percent, tokenRate, tokens } from "../core/format.js";
import { reasonWords, sentence } from "./model-status.js";

const SMALL_PART = 0.02; // of the whole: what only lies between the others
const LOADS = "until it is loaded";

/** @type {Record<string, string>} why a model had left memory, after its name */
const LEFT = {
  idle: "was unloaded when idle", "by hand": "was unloaded manually", stopped: "was stopped", crashed: "had crashed",
  "failed to load": "had failed to load", "configuration changed": "was unloaded for its new configuration",
};

/** @type {Record<string, (at: string) => string>} why no more of a prompt came from the cache */
const MISSES = {
  new: () => "It was the first in its slot.",
  taken: () => "No slot had its beginning: the conversation is new, or another one took its slot.",
  changed: (at) => `The prompt changed at token ${at}.`,
  longer: (at) => `What follows token ${at} is new.`,
  lost: (at) => `A slot had ${at} of its tokens, but their context checkpoint was lost or the cache was not wanted.`,
};

/** @param {number | null | undefined} ms */
const time = (ms) => duration(typeof ms === "number" ? ms / 1000 : null);

/** @param {number | null} count @param {number | null} speed tokens/s @returns {number | null} ms */
const needed = (count, speed) => (speed && count !== null && count !== undefined ? (1000 * count) / speed : null);

/**
 * The parts of a request's time, which add up to its duration.
 * @param {Json} row @returns {Part[]} those that took time
 */
export function partsOf(row) {
  const { duration: whole, first_token: first, prompt_tokens: all, cached_tokens: cached } = row;
  if (typeof whole !== "number") return [];
  const waited = Math.min(row.waited ?? 0, whole);
  const loading = Math.min(row.loading ?? 0, whole - waited);
  const run = whole - waited - loading;
  let prompt = needed(all === null || all === undefined ? null : all - (cached ?? 0), row.prompt_per_second);
  let answer = needed(row.generated_tokens, row.generated_per_second);
  if (typeof first === "number") {
    const begun = Math.min(first, run);
    prompt = Math.min(prompt ?? begun, begun);
    answer = run - begun;
  } else {
    const scale = Math.min(1, run / Math.max((prompt ?? 0) + (answer ?? 0), 1e-9)); // the engine's own clock
    prompt = (prompt ?? 0) * scale;
    answer = answer === null ? run - prompt : answer * scale;
  }
  let rest = run - prompt - answer;
  if (rest < SMALL_PART * whole) [answer, rest] = [answer + rest, 0];
  const parts = [
    { name: "waited", label: "Waiting", ms: waited }, { name: "loading", label: "Loading", ms: loading },
    { name: "slot", label: "In the engine's queue", ms: rest }, { name: "prompt", label: "Prompt", ms: prompt },
    { name: "answer", label: "Answer", ms: answer },
  ];
  return parts.filter(({ ms }) => ms > 0.05);
}

/** The part of its prompt that came from the cache. @param {Json} row @returns {number | null} 0 to 100 */
function cachedPart({ prompt_tokens: all, cached_tokens: cached }) {
  return all && typeof cached === "number" ? (100 * cached) / all : null;
}

/** Why its model had to be loaded. @param {Json} row @param {string} name */
function loadWords({ details }, name) {
  const after = details?.after;
  if (!after) return "";
  return ` after ${name} ${LEFT[after] ?? (after.startsWith("evicted") ? `was ${after}` : `was unloaded (${after})`)}`;
}

/**
 * Where the time went in one sentence: `11.2 s: 8.3 s loading after Qwen3 was evicted for Gemma, 0.3 s answer`.
 * @param {Json} row @param {string} [name] the model's
 */
export function anatomySentence(row, name = row.model) {
  const share = cachedPart(row);
  const [first] = reasonsOf(row);
  /** @type {Record<string, string>} */
  const words = {
    waited: ` waiting${first ? ` ${first[0]}` : ""}`, loading: ` loading${loadWords(row, name)}`,
    slot: " in the engine's queue", prompt: ` prompt${share === null ? "" : ` (${percent(share)} cached)`}`,
    answer: " answer",
  };
  const told = partsOf(row).filter(({ ms }) => ms >= 0.01 * row.duration);
  return `${time(row.duration)}: ${told.map(({ name: part, ms }) => `${time(ms)}${words[part]}`).join(", ")}`;
}

/** What it waited for, the longest first. @param {Json} row @returns {[string, number][]} */
function reasonsOf({ details }) {
  const waits = (details?.waits ?? []).filter((/** @type {[string, number]} */ [reason]) => reason !== LOADS);
  return waits.sort((/** @type {[string, number]} */ a, /** @type {[string, number]} */ b) => b[1] - a[1]);
}

/**
 * What else is known of each part.
 * @param {Json} row @param {string} name the model's @returns {Record<string, string>}
 */
function remarks(row, name) {
  const { details, drafted, accepted, prompt_tokens: all, generated_tokens: made } = row;
  const share = cachedPart(row);
  const { kind, token } = details?.cache ?? {};
  const { beside } = details ?? {};
  const others = typeof beside !== "number" ? ""
    : beside < 0.05 ? "alone" : `beside ${number(beside)} ${beside === 1 ? "other" : "others"} on average`;
  return {
    waited: reasonsOf(row).map(([reason, ms], _at, every) => (
      `${reasonWords(reason)}${every.length > 1 ? ` (${time(ms)})` : ""}`)).join(", "),
    loading: details?.after ? sentence(loadWords(row, name).trim()) : "It was not in memory.",
    slot: "For a free slot, or for its turn beside others.",
    prompt: [
      typeof all === "number" ? `${tokens(all)} tokens` : "", row.prompt_per_second && tokenRate(row.prompt_per_second),
      share === null ? "" : `${percent(share)} from the cache`,
    ].filter(Boolean).join(", ") + (MISSES[kind] ? `. ${MISSES[kind](tokens(token))}` : ""),
    answer: [
      typeof made === "number" ? `${tokens(made)} tokens` : "",
      row.generated_per_second && tokenRate(row.generated_per_second), others,
      drafted ? `${tokens(accepted ?? 0)} of ${tokens(drafted)} drafts accepted` : "",
    ].filter(Boolean).join(", "),
  };
}

/** Before and after a request, as its lines may come a little later (ms). */
const LOG_MARGIN = 500;

/** Where a request's time went: a sentence, a bar and its parts. @param {Json} row @param {string} name the model's */
export function requestAnatomy(row, name) {
  const parts = partsOf(row);
  const more = remarks(row, name);
  return h("div", { className: "anatomy" },
    h("p", { key: "sentence", className: "anatomy-sentence" }, anatomySentence(row, name)),
    row.error ? h("p", { key: "error", className: "text-danger" }, row.error) : null,
    h("div", { key: "bar", className: "anatomy-bar", "aria-hidden": "true" }, parts.map(({ name: part, ms }) => (
      h("span", { key: part, className: `anatomy-${part}`, style: { "flex-grow": String(ms) } })))),
    h("dl", { key: "parts", className: "anatomy-parts" },
      parts.map(({ name: part, label, ms }) => h("div", { key: part },
        h("dt", null, h("span", { className: `anatomy-key anatomy-${part}`, "aria-hidden": "true" }), label),
        h("dd", null, h("strong", null, time(ms)), more[part] ? h("span", { className: "muted" }, more[part]) : null))),
      typeof row.first_token === "number" ? h("div", { key: "first" },
        h("dt", null, "First token"),
        h("dd", null, h("strong", null, time((row.waited ?? 0) + (row.loading ?? 0) + row.first_token)),
          h("span", { className: "muted" }, "after it came"))) : null,
      h("div", { key: "total" },
        h("dt", null, "Total"),
        h("dd", null, h("strong", null, time(row.duration)),
          h("span", { className: "muted" }, typeof row.energy === "number"
            ? energy(row.energy) : "Energy unknown")))),
    h("p", { key: "log", className: "row" },
      h("a", { className: "card-link", href: logAddress(row) }, "What the engine logged meanwhile"),
      h("a", { className: "card-link", href: logAddress(row, "llamadash") }, "What llamadash logged")));
}

/**
 * The lines of what answered a request, or of another source, while it was under way.
 * @param {Json} row @param {string} [source]
 */
export function logAddress({ model, timestamp, duration, details }, source = details?.process ?? model) {
  const [from, to] = [timestamp - LOG_MARGIN, timestamp + Math.ceil(duration ?? 0) + LOG_MARGIN];
  return `/logs?${new URLSearchParams({ source, from: String(from), to: String(to) })}`;
}
