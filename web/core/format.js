/** Numbers, sizes and times as people read them. Unknown (null, undefined, NaN) is "–". */

const NONE = "–";
const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const TOKEN_UNITS = ["", "K", "M", "B", "T"];

/** @typedef {number | null | undefined} Maybe */

let clockAhead = 0; // ms that the server's clock is ahead of this browser's

/** Keep to the server's clock from now on. @param {number} timestamp its time just now, Unix ms */
export function setClock(timestamp) {
  clockAhead = timestamp - Date.now();
}

/** The time by the server's clock, to which all of its times belong, in Unix ms. */
export const now = () => Date.now() + clockAhead;

/** @param {Maybe} value @returns {value is number} */
function known(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** Tells wall-clock times in the server's time zone. @type {Intl.DateTimeFormat | null} null: in the browser's */
let zone = null;
/** The quarter of an hour, in which no clock changes, that was asked for last, and its offset. */
let recent = { quarter: NaN, offset: 0 };
const QUARTER_MS = 900_000;
const LAST_MS = 8.64e15 - 86_400_000; // beyond which there are no dates

/** Show all times in this zone from now on. @param {string | null | undefined} name by IANA */
export function setTimeZone(name) {
  recent = { quarter: NaN, offset: 0 };
  try {
    zone = name ? new Intl.DateTimeFormat("en-US", {
      timeZone: name, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric",
      minute: "numeric", second: "numeric",
    }) : null;
  } catch {
    zone = null; // a browser that does not know it
  }
}

/** By how many ms the server's clocks are ahead of UTC. @param {number} time Unix ms */
export function zoneOffset(time) {
  if (!zone || !(Math.abs(time) < LAST_MS)) return -new Date(time).getTimezoneOffset() * 60_000;
  const quarter = Math.floor(time / QUARTER_MS);
  if (quarter !== recent.quarter) {
    const start = quarter * QUARTER_MS;
    const part = Object.fromEntries(zone.formatToParts(start).map(({ type, value }) => [type, Number(value)]));
    const there = Date.UTC(part.year, part.month - 1, part.day, part.hour, part.minute, part.second);
    recent = { quarter, offset: there - start };
  }
  return recent.offset;
}

/** A Date whose UTC fields are what the server's clocks show then. @param {number} time Unix ms */
export function wall(time) {
  return new Date(time + zoneOffset(time));
}

/** The server's time zone where it is not the browser's, else "". */
export function foreignZone() {
  const at = now();
  return zone && zoneOffset(at) !== -new Date(at).getTimezoneOffset() * 60_000
    ? zone.resolvedOptions().timeZone : "";
}

/** Three significant digits at most, without needless zeros. @param {number} value */
function short(value) {
  const digits = Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2;
  return String(Number(value.toFixed(digits)));
}

/** @param {number} value @param {number} base @param {string[]} units */
function scaled(value, base, units) {
  let at = 0;
  while (Math.abs(value) >= 999.5 && at < units.length - 1) {
    value /= base;
    at += 1;
  }
  return { text: short(value), unit: units[at] };
}

/** A size: `1.5 GiB`. @param {Maybe} value bytes */
export function bytes(value) {
  if (!known(value)) return NONE;
  const { text, unit } = scaled(value, 1024, BYTE_UNITS);
  return `${text} ${unit}`;
}

/** A speed: `1.5 MiB/s`. @param {Maybe} value bytes per second */
export function rate(value) {
  return known(value) ? `${bytes(value)}/s` : NONE;
}

/** A speed: `61.4 tokens/s`. @param {Maybe} value */
export function tokenRate(value) {
  return known(value) ? `${number(value, Math.abs(value) < 100 ? 1 : 0)} tokens/s` : NONE;
}

/** A number with thousands marked: `12,345.7`. @param {Maybe} value @param {number} [digits] after the point */
export function number(value, digits = 1) {
  return known(value) ? value.toLocaleString("en-US", { maximumFractionDigits: digits }) : NONE;
}

/** A number with all its digits after the point, for columns: `66.0`. @param {Maybe} value @param {number} [digits] */
export function fixed(value, digits = 1) {
  return known(value)
    ? value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    : NONE;
}

/** @param {Maybe} value 0 to 100 */
export function percent(value) {
  if (!known(value)) return NONE;
  return `${value >= 9.95 || value === 0 ? Math.round(value) : value.toFixed(1)}%`;
}

/** A count of tokens or parameters: `4,096`, `128K`, `1.24B`; contexts count in 1,024. @param {Maybe} value */
export function tokens(value) {
  if (!known(value)) return NONE;
  if (Math.abs(value) < 10_000) return number(value, 0);
  const { text, unit } = scaled(value, value % 1024 ? 1000 : 1024, TOKEN_UNITS);
  return `${text}${unit}`;
}

/** Energy: `850 J`, `12 Wh`, `1.5 kWh`. @param {Maybe} value joules */
export function energy(value) {
  if (!known(value)) return NONE;
  if (value < 3600) return `${short(value)} J`;
  const { text, unit } = scaled(value / 3600, 1000, ["Wh", "kWh", "MWh"]);
  return `${text} ${unit}`;
}

/** A stretch of time: `350 ms`, `4.2 s`, `3 min 20 s`, `2 d 4 h`. @param {Maybe} value seconds */
export function duration(value) {
  if (!known(value)) return NONE;
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (value < 59.5) return `${short(value < 10 ? Math.round(value * 10) / 10 : Math.round(value))} s`;
  const whole = Math.round(value);
  const parts = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([amount]) => amount);
  return parts.slice(first, first + 2).filter(([amount]) => amount).map(([amount, unit]) =>
    `${amount} ${unit}`).join(" ");
}

/** How long ago: `just now`, `12 s ago`, `3 h ago`, or the date. @param {Maybe} value Unix ms @param {number} [at] */
export function relativeTime(value, at = now()) {
  if (!known(value)) return NONE;
  const seconds = Math.round((at - value) / 1000);
  if (seconds < -86400) return `${dateTime(value)}${AHEAD}`;
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  if (seconds < 30 * 86400) return `${Math.floor(seconds / 86400)} d ago`;
  return day(value);
}

/**
 * How long until something: `in 40 s`, `in 4 min`, `in 2 h`, rounded up, or `any moment now`.
 * @param {Maybe} value Unix ms @param {number} [at]
 */
export function until(value, at = now()) {
  if (!known(value)) return NONE;
  const seconds = Math.ceil((value - at) / 1000);
  if (seconds <= 0) return "any moment now";
  if (seconds < 60) return `in ${seconds} s`;
  if (seconds < 3600) return `in ${Math.ceil(seconds / 60)} min`;
  return `in ${Math.ceil(seconds / 3600)} h`;
}

/** The time of day, in the browser's form. @param {Maybe} value Unix ms */
export function clock(value) {
  return known(value) ? wall(value).toLocaleTimeString(undefined, { timeStyle: "medium", timeZone: "UTC" }) : NONE;
}

const JUMP_MS = 60_000; // by which the server's clock may be set without being doubted

/** A time; 0 where there is none, or only a clock that was ahead can have noted it. @param {Maybe} value Unix ms */
export function past(value) {
  return known(value) && value <= now() + JUMP_MS ? value : 0;
}

/** What is said of a time that only a clock that was wrong can have noted. */
export const AHEAD = " (the clock was ahead)";

/**
 * When a row was written: the time of day, with the date where it was another day.
 * @param {{timestamp: number, future?: boolean}} row `future`: the server's clock was ahead then
 */
export function rowTime({ timestamp, future }) {
  const today = day(timestamp) === day(now());
  return `${today ? clock(timestamp) : dateTime(timestamp)}${future ? AHEAD : ""}`;
}

/** Date and time by the server's clock, in the browser's form. @param {Maybe} value Unix ms */
export function dateTime(value) {
  return known(value)
    ? wall(value).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium", timeZone: "UTC" })
    : NONE;
}

/** The day, in the browser's form. @param {Maybe} value Unix ms */
export function day(value) {
  return known(value) ? wall(value).toLocaleDateString(undefined, { dateStyle: "medium", timeZone: "UTC" }) : NONE;
}

/**
 * What people call a model: its name, or its id where another one has that name, too, or it is not listed.
 * @param {{id: string, name: string}[] | null | undefined} models @param {string} id
 */
export function modelName(models, id) {
  const name = models?.find((model) => model.id === id)?.name;
  return name && !models?.some((model) => model.name === name && model.id !== id) ? name : id;
}

/** What tells models of one name apart. @param {{[name: string]: any}} model */
export function kindWords({ id, name, size_label: label, quantization, file_size: size, path }) {
  const folder = (path ?? "").split(/[\\/]/).slice(-2, -1)[0];
  return [label, quantization, size && bytes(size), folder, id === name ? "" : id].filter(Boolean).join(" · ");
}

/** `1 model`, `3 models`. @param {number} count @param {string} one @param {string} [many] */
export function plural(count, one, many = `${one}s`) {
  return `${number(count, 0)} ${count === 1 ? one : many}`;
}

/** A text that begins with a capital, as sentences do; a name keeps its own spelling. @param {string} text */
export function sentence(text) {
  const plain = /^[a-z]+([\s,:;'’…]|\.?$)/.test(text) && !text.startsWith("llama");
  return plain ? text.charAt(0).toUpperCase() + text.slice(1) : text;
}
