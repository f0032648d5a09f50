/**
 * Metrics over a stretch of time: what `metrics:history` answered, carried on with live samples.
 *
 * @typedef {{avg: (number | null)[], max: (number | null)[]}} Column
 * @typedef {{bucket: number, timestamps: number[], series: Record<string, Column>}} Answer of `metrics:history`; times
 *   in ms
 */

const GAP_BUCKETS = 2.5; // a longer silence shows as a gap

/**
 * One sample's values by series name, as the history names them.
 * @param {any} metrics
 * @returns {Record<string, number | null>}
 */
function seriesOf(metrics) {
  const { gpus, engine, process, ...plain } = metrics;
  const load = Array.isArray(plain.load_average) ? plain.load_average[0] : plain.load_average;
  /** @type {Record<string, any>} */
  const values = {
    ...plain, ...engine, load_average: load, process_cpu: process?.cpu, process_memory: process?.memory,
  };
  for (const { index, ...fields } of gpus ?? []) {
    for (const [name, value] of Object.entries(fields)) values[`gpu${index}_${name}`] = value;
  }
  return Object.fromEntries(
    Object.entries(values).map(([name, value]) => [name, typeof value === "number" ? value : null])
  );
}

/** The last `span` ms of every series. */
export class History {
  /**
   * @param {Answer} answer
   * @param {number} span ms that are kept
   * @param {number} interval ms between samples
   */
  constructor(answer, span, interval) {
    this.span = span;
    this.interval = interval;
    this.bucket = Math.max(answer.bucket, 1);
    this.timestamps = [...answer.timestamps];
    /** @type {Map<string, Column>} */
    this.columns = new Map();
    for (const [name, { avg, max }] of Object.entries(answer.series)) {
      this.columns.set(name, { avg: [...avg], max: [...max] });
    }
    this.samples = 0; // in the last bucket, once live samples have joined it
    /** @type {Record<string, number | null>} */
    this.newest = {};
  }

  /** Takes `metrics` for what is the case now, which the last bucket is only an average of. @param {any} metrics */
  note(metrics) {
    this.newest = seriesOf(metrics);
  }

  /** The newest value of `name`. @param {string} name */
  now(name) {
    const value = this.newest[name];
    return value === undefined ? this.column(name).avg.at(-1) : value;
  }

  /** Whether `name` has any value in this stretch. @param {string} name */
  has(name) {
    return this.columns.get(name)?.avg.some((value) => value !== null) ?? false;
  }

  /** @param {string} name @returns {Column} nulls where nothing is known */
  column(name) {
    return this.columns.get(name) ?? { avg: this.timestamps.map(() => null), max: this.timestamps.map(() => null) };
  }

  /** How many moments are known. */
  get length() {
    return this.timestamps.length;
  }

  /** Adds one live sample. @param {any} metrics @param {number} timestamp Unix ms */
  append(metrics, timestamp) {
    const start = timestamp - (timestamp % this.bucket);
    const early = this.timestamps[0] - start; // by more than this, the clock was set back
    if (early > 0 && early <= Math.max(this.bucket, this.interval) * GAP_BUCKETS) return;
    this.cut(start);
    const last = this.timestamps[this.timestamps.length - 1] ?? 0;
    this.note(metrics);
    const values = this.newest;
    for (const name of Object.keys(values)) if (!this.columns.has(name)) this.columns.set(name, this.column(name));
    if (start === last) this.fold(values, timestamp);
    else this.push(values, start, last);
    this.trim(timestamp - this.span);
  }

  /** Joins `values` to the last bucket. @param {Record<string, number | null>} values @param {number} timestamp */
  fold(values, timestamp) {
    const at = this.timestamps.length - 1;
    this.samples ||= Math.max(1, Math.floor((timestamp - this.timestamps[at]) / this.interval));
    for (const [name, { avg, max }] of this.columns) {
      const value = values[name] ?? null;
      if (value === null) continue;
      const old = avg[at];
      avg[at] = old === null ? value : old + (value - old) / (this.samples + 1);
      max[at] = Math.max(max[at] ?? value, value);
    }
    this.samples += 1;
  }

  /** @param {Record<string, number | null>} values @param {number} start @param {number} last */
  push(values, start, last) {
    const silence = Math.max(this.bucket, this.interval) * GAP_BUCKETS;
    if (last && start - last > silence) this.pushRow(last + this.bucket, () => null);
    this.pushRow(start, (name) => values[name] ?? null);
    this.samples = 1;
  }

  /** @param {number} timestamp @param {(name: string) => number | null} valueOf */
  pushRow(timestamp, valueOf) {
    this.timestamps.push(timestamp);
    for (const [name, { avg, max }] of this.columns) {
      avg.push(valueOf(name));
      max.push(valueOf(name));
    }
  }

  /** Forgets what is later than `time`: the clock was set back. @param {number} time Unix ms */
  cut(time) {
    const kept = this.timestamps.findLastIndex((timestamp) => timestamp <= time) + 1;
    if (kept === this.length) return;
    this.timestamps.length = kept;
    for (const { avg, max } of this.columns.values()) avg.length = max.length = kept;
    this.samples = 0;
  }

  /** Forgets what is older than `from`. @param {number} from Unix ms */
  trim(from) {
    const first = this.timestamps.findIndex((timestamp) => timestamp >= from);
    if (first <= 0) return;
    this.timestamps.splice(0, first);
    for (const { avg, max } of this.columns.values()) {
      avg.splice(0, first);
      max.splice(0, first);
    }
  }
}
