import { past } from "../core/format.js";

/** @typedef {Record<string, any>} Model */
/**
 * @typedef {{search: string, status: string, architecture: string, quantization: string, tags: string, favorites:
 *   boolean, sort: string, descending: boolean}} Query
 */
/** @typedef {Array<{value: string, count: number}>} Facet */
/** @typedef {{used: Map<string, number>, speed: Map<string, number>}} Uses last use (ms) and speed by model id, live */
/** @typedef {{group: string, name: string, members: Model[], open: boolean}} Group quantizations of one model */

const FACETS = /** @type {const} */ (["status", "architecture", "quantization", "tags"]);

/** Which models are in memory or on their way there come first, broken ones last. */
const STATUS_ORDER = ["loaded", "loading", "waiting", "stopping", "unloaded", "failed", "missing"];

/** A quantization in a file's name, and what is between it and the rest. */
const QUANTIZATION = new RegExp(
  "[-._ ]*(?<![A-Za-z0-9])(?:UD[-_])?(?:I?Q[1-8](?:_(?:[01]|K|NL|XXS|XS|S|M))?(?:_(?:XXL|XL|XS|L|M|S|P|NL))?"
  + "(?:_[48]_[48])?|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)(?![A-Za-z0-9])", "gi");
const SHARD = /-\d{5}-of-\d{5}$/;

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/**
 * Filter and sort models, and count what each filter would leave.
 *
 * A facet's counts respect every filter but its own, so choosing another value there shows what it says.
 * Pinned models and those in memory come first in any order.
 * @param {Model[]} models @param {Query} query @param {Uses} uses
 * @returns {{rows: Model[], facets: Record<typeof FACETS[number], Facet>}}
 */
export function queryModels(models, query, uses) {
  const words = query.search.toLowerCase().split(/\s+/).filter(Boolean);
  const searched = models.filter((model) => (!query.favorites || model.favorite) && matches(model, words));
  const facets = Object.fromEntries(FACETS.map((name) =>
    [name, counts(searched.filter((model) => passes(model, query, name)), name)]));
  const rows = searched.filter((model) => passes(model, query)).sort(order(query, uses));
  rows.sort((a, b) => Number(onTop(b)) - Number(onTop(a)));
  return { rows, facets: /** @type {Record<typeof FACETS[number], Facet>} */ (facets) };
}

/** Whether a model is pinned, in memory or on its way there. @param {Model} model */
export const onTop = ({ pinned, status }) => Boolean(pinned) || STATUS_ORDER.slice(0, 4).includes(status);

/**
 * What a model is called whatever its quantization: its file's name, or its repository's where that says nothing.
 * @param {Model} model
 */
export function baseName({ path, name }) {
  const [file, ...folders] = String(path ?? name).split(/[\\/]/).reverse();
  const base = file.replace(/\.gguf$/i, "").replace(SHARD, "").replace(QUANTIZATION, "");
  if (!/^(model|ggml-model)?$/i.test(base)) return base;
  const place = folders.find((folder) =>
    folder.replace(QUANTIZATION, "") && !/^(snapshots|[0-9a-f]{40})$/.test(folder));
  return (place ?? name).replace(/^models--.*--/, "").replace(/[-._]gguf$/i, "");
}

/**
 * The rows with the quantizations of one model under one heading; those on top stay by themselves.
 * @param {Model[]} rows @param {Set<string>} open the groups that are open @param {boolean} all whether all are
 * @param {string} [selected] the id of a model that is to be seen
 * @returns {Array<Model | Group>}
 */
export function groupModels(rows, open, all, selected) {
  /** @type {Map<string, Model[]>} */ const groups = new Map();
  const keys = rows.map((model) => onTop(model) ? "" : `${baseName(model)}|${model.architecture}`.toLowerCase());
  rows.forEach((model, at) => {
    if (groups.has(keys[at])) groups.get(keys[at])?.push(model);
    else if (keys[at]) groups.set(keys[at], [model]);
  });
  return rows.flatMap((model, at) => {
    const members = groups.get(keys[at]);
    if (!members || new Set(members.map(({ path }) => path)).size < 2) return [model];
    if (members[0] !== model) return [];
    const shown = all || open.has(keys[at]) || members.some(({ id }) => id === selected);
    const heading = { group: keys[at], id: `group:${keys[at]}`, name: baseName(model), members, open: shown };
    return shown ? [heading, ...members.map((member) => ({ ...member, grouped: true }))] : [heading];
  });
}

/** @param {Model} model @param {string[]} words */
function matches(model, words) {
  if (!words.length) return true;
  const text = [
    model.name, model.id, model.architecture, model.quantization, model.size_label, model.path,
    ...(model.aliases ?? []), ...(model.tags ?? []),
  ].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

/** @param {Model} model @param {Query} query @param {string} [except] */
function passes(model, query, except) {
  return FACETS.every((name) => name === except || !query[name] || valuesOf(model, name).includes(query[name]));
}

/** @param {Model} model @param {string} name @returns {string[]} */
function valuesOf(model, name) {
  return name === "tags" ? model.tags ?? [] : [model[name] ?? "unknown"];
}

/** The names that several models have, which do not tell them apart. @param {Model[]} models */
export function sharedNames(models) {
  const seen = new Set();
  return new Set(models.map(({ name }) => name).filter((name) => seen.has(name) || !seen.add(name)));
}

/** @param {Model[]} models @param {string} name @returns {Facet} */
function counts(models, name) {
  /** @type {Map<string, number>} */ const found = new Map();
  for (const model of models) {
    for (const value of valuesOf(model, name)) found.set(value, (found.get(value) ?? 0) + 1);
  }
  const values = [...found].map(([value, count]) => ({ value, count }));
  return values.sort((a, b) => name === "status"
    ? STATUS_ORDER.indexOf(a.value) - STATUS_ORDER.indexOf(b.value)
    : collator.compare(a.value, b.value));
}

/** When a model was used last, by any client, in Unix ms. @param {Model} model @param {Uses} uses */
export function lastUse(model, uses) {
  return Math.max(past(uses.used.get(model.id)), past(model.last_used_at)) || null;
}

/** How fast it answered last, in tokens a second. @param {Model} model @param {Uses} uses */
export function lastSpeed(model, uses) {
  return model.runtime?.tokens_per_second ?? uses.speed.get(model.id) ?? model.last_speed ?? null;
}

/** What it takes of memory: now, or when it was last there. @param {Model} model */
export function memoryOf(model) {
  return model.runtime?.memory ?? model.memory_correction?.taken ?? null;
}

/** @param {Query} query @param {Uses} uses @returns {(a: Model, b: Model) => number} */
function order(query, uses) {
  const sign = query.descending ? -1 : 1;
  /** @param {(model: Model) => number} measure */
  const by = (measure) => (/** @type {Model} */ a, /** @type {Model} */ b) =>
    sign * (measure(a) - measure(b)) || collator.compare(a.name, b.name);
  switch (query.sort) {
    case "size": return by((model) => model.file_size ?? -1);
    case "parameters": return by((model) => model.parameter_count ?? -1);
    case "context": return by((model) => model.context_length ?? -1);
    case "used": return by((model) => lastUse(model, uses) ?? -1);
    case "speed": return by((model) => lastSpeed(model, uses) ?? -1);
    case "memory": return by((model) => memoryOf(model) ?? -1);
    case "added": return by((model) => model.created_at ?? -1);
    case "status": return by((model) => STATUS_ORDER.indexOf(model.status));
    case "quantization": return (a, b) => sign * collator.compare(a.quantization ?? "", b.quantization ?? "")
      || collator.compare(a.name, b.name);
    default: return (a, b) => sign * collator.compare(a.name, b.name);
  }
}
