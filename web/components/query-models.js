/** @typedef {Record<string, any>} Model */
/**
 * @typedef {{search: string, status: string, architecture: string, quantization: string, favorites: boolean, sort:
 *   string, descending: boolean}} Query
 */
/** @typedef {Array<{value: string, count: number}>} Facet */

const FACETS = /** @type {const} */ (["status", "architecture", "quantization"]);

/** Which models are in memory or on their way there come first, broken ones last. */
const STATUS_ORDER = ["loaded", "loading", "waiting", "stopping", "unloaded", "failed", "missing"];

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/**
 * Filter and sort models, and count what each filter would leave.
 *
 * A facet's counts respect every filter but its own, so choosing another value there shows what it says.
 * @param {Model[]} models @param {Query} query @param {Map<string, number>} usedAt last use in ms by model id
 * @returns {{rows: Model[], facets: Record<typeof FACETS[number], Facet>}}
 */
export function queryModels(models, query, usedAt) {
  const words = query.search.toLowerCase().split(/\s+/).filter(Boolean);
  const searched = models.filter((model) => (!query.favorites || model.favorite) && matches(model, words));
  const facets = Object.fromEntries(FACETS.map((name) =>
    [name, counts(searched.filter((model) => passes(model, query, name)), name)]));
  const rows = searched.filter((model) => passes(model, query)).sort(order(query, usedAt));
  return { rows, facets: /** @type {Record<typeof FACETS[number], Facet>} */ (facets) };
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
  return FACETS.every((name) => name === except || !query[name] || (model[name] ?? "unknown") === query[name]);
}

/** The names that several models have, who are then told apart by their ids. @param {Model[]} models */
export function sharedNames(models) {
  const seen = new Set();
  return new Set(models.map(({ name }) => name).filter((name) => seen.has(name) || !seen.add(name)));
}

/** @param {Model[]} models @param {string} name @returns {Facet} */
function counts(models, name) {
  /** @type {Map<string, number>} */ const found = new Map();
  for (const model of models) {
    const value = model[name] ?? "unknown";
    found.set(value, (found.get(value) ?? 0) + 1);
  }
  const values = [...found].map(([value, count]) => ({ value, count }));
  return values.sort((a, b) => name === "status"
    ? STATUS_ORDER.indexOf(a.value) - STATUS_ORDER.indexOf(b.value)
    : collator.compare(a.value, b.value));
}

/** @param {Query} query @param {Map<string, number>} usedAt @returns {(a: Model, b: Model) => number} */
function order(query, usedAt) {
  const sign = query.descending ? -1 : 1;
  /** @param {(model: Model) => number} measure */
  const by = (measure) => (/** @type {Model} */ a, /** @type {Model} */ b) =>
    sign * (measure(a) - measure(b)) || collator.compare(a.name, b.name);
  switch (query.sort) {
    case "size": return by((model) => model.file_size ?? -1);
    case "parameters": return by((model) => model.parameter_count ?? -1);
    case "context": return by((model) => model.context_length ?? -1);
    case "used": return by((model) => Math.max(usedAt.get(model.id) ?? -1, model.last_used_at ?? -1));
    case "added": return by((model) => model.created_at ?? -1);
    case "status": return by((model) => STATUS_ORDER.indexOf(model.status));
    case "quantization": return (a, b) => sign * collator.compare(a.quantization ?? "", b.quantization ?? "")
      || collator.compare(a.name, b.name);
    default: return (a, b) => sign * collator.compare(a.name, b.name);
  }
}
