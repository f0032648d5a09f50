/** Tables as other programs read them. */

const FORMULA = /^[=+\-@\t\r]/; // what a spreadsheet would run instead of showing it

/**
 * One cell, quoted where it must be; text that a spreadsheet would take for a formula begins with an apostrophe.
 * @param {unknown} value null and undefined are empty
 */
export function csvCell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" && FORMULA.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll("\"", "\"\"")}"` : text;
}

/** A table with a line of headings (RFC 4180). @param {string[]} headings @param {unknown[][]} rows */
export function csv(headings, rows) {
  return [headings, ...rows].map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");
}
