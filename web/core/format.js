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
  return known(value) ? new Date(value).toLocaleTimeString(undefined, { timeStyle: "medium" }) : NONE;
}

/** What is said of a time that only a clock that was wrong can have noted. */
export const AHEAD = " (the clock was ahead)";

/**
 * When a row was written: the time of day, with the date where it was another day.
 * @param {{timestamp: number, future?: boolean}} row `future`: the server's clock was ahead then
 */
export function rowTime({ timestamp, future }) {
  const today = new Date(timestamp).toDateString() === new Date(now()).toDateString();
  return `${today ? clock(timestamp) : dateTime(timestamp)}${future ? AHEAD : ""}`;
}

/** Date and time, local and in the browser's form. @param {Maybe} value Unix ms */
export function dateTime(value) {
  return known(value)
    ? new Date(value).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" })
    : NONE;
}

/** The day, in the browser's form. @param {Maybe} value Unix ms */
export function day(value) {
  return known(value) ? new Date(value).toLocaleDateString(undefined, { dateStyle: "medium" }) : NONE;
}

/** `1 model`, `3 models`. @param {number} count @param {string} one @param {string} [many] */
export function plural(count, one, many = `${one}s`) {
  return `${number(count, 0)} ${count === 1 ? one : many}`;
}
