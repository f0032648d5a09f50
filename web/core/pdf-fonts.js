/**
 * Which characters the bytes of a PDF file's texts are, by font: what the font tells itself, else its encoding.
 *
 * @typedef {import("./pdf-text.js").Font} Font @typedef {import("./pdf-text.js").Objects} Objects
 */

import { Lexer } from "./pdf-text.js";

const USUAL_WIDTH = 0.5; // of the font's size, where a font does not tell
const MAX_RANGE = 65536; // codes that one line of a table may name

const GLYPHS = /** @type {{[name: string]: string}} */ ({
  space: " ", exclam: "!", quotedbl: '"', numbersign: "#", dollar: "$", percent: "%", ampersand: "&", quotesingle: "'",
  parenleft: "(", parenright: ")", asterisk: "*", plus: "+", comma: ",", hyphen: "-", minus: "−", period: ".",
  slash: "/", zero: "0", one: "1", two: "2", three: "3", four: "4", five: "5", six: "6", seven: "7", eight: "8",
  nine: "9", colon: ":", semicolon: ";", less: "<", equal: "=", greater: ">", question: "?", at: "@", bracketleft: "[",
  backslash: "\\", bracketright: "]", asciicircum: "^", underscore: "_", grave: "`", braceleft: "{", bar: "|",
  braceright: "}", asciitilde: "~", quoteleft: "‘", quoteright: "’", quotedblleft: "“", quotedblright: "”",
  quotesinglbase: "‚", quotedblbase: "„", guillemotleft: "«", guillemotright: "»", endash: "–", emdash: "—",
  bullet: "•", ellipsis: "…", dagger: "†", daggerdbl: "‡", section: "§", paragraph: "¶", copyright: "©",
  registered: "®", trademark: "™", degree: "°", plusminus: "±", multiply: "×", divide: "÷", periodcentered: "·",
  Euro: "€", sterling: "£", yen: "¥", cent: "¢", germandbls: "ß", ae: "æ", AE: "Æ", oe: "œ", OE: "Œ", oslash: "ø",
  Oslash: "Ø", lslash: "ł", Lslash: "Ł", dotlessi: "ı", eth: "ð", Eth: "Ð", thorn: "þ", Thorn: "Þ", mu: "µ",
  ff: "ff", fi: "fi", fl: "fl", ffi: "ffi", ffl: "ffl", nbspace: " ", arrowright: "→", arrowleft: "←", infinity: "∞",
  lessequal: "≤", greaterequal: "≥", notequal: "≠", approxequal: "≈", alpha: "α", beta: "β", gamma: "γ", delta: "δ",
  epsilon: "ε", lambda: "λ", pi: "π", sigma: "σ", theta: "θ", omega: "ω", phi: "φ", rho: "ρ", tau: "τ", summation: "∑",
});
const ACCENTS = /** @type {{[name: string]: string}} */ ({
  acute: "\u0301", grave: "\u0300", circumflex: "\u0302", dieresis: "\u0308", tilde: "\u0303", ring: "\u030a",
  caron: "\u030c", cedilla: "\u0327", ogonek: "\u0328", macron: "\u0304", breve: "\u0306", dotaccent: "\u0307",
  hungarumlaut: "\u030b", commaaccent: "\u0326",
});
const ACCENTED = new RegExp(`^([A-Za-z])(${Object.keys(ACCENTS).join("|")})$`);
const CODED = /^(?:uni|u)([0-9A-F]{4,6})/;

/** The character that a glyph's name stands for; "" where it is not known. @param {string} name @returns {string} */
export function glyphText(name) {
  const plain = name.replace(/(?<=.)\..*$/, ""); // a variant, such as "a.sc"
  if (plain.length === 1) return plain;
  const accented = ACCENTED.exec(plain);
  if (accented) return (accented[1] + ACCENTS[accented[2]]).normalize("NFC");
  const coded = CODED.exec(plain);
  const code = coded ? parseInt(coded[1].slice(0, plain.startsWith("uni") ? 4 : 6), 16) : NaN;
  return GLYPHS[plain] ?? (code <= 0x10ffff ? String.fromCodePoint(code) : "");
}

/** @param {string} bytes of UTF-16, the higher byte first @returns {string} */
function wide(bytes) {
  return new TextDecoder("utf-16be").decode(Uint8Array.from(bytes, (letter) => letter.charCodeAt(0)));
}

/** @param {string} bytes @returns {number} */
function codeOf(bytes) {
  return [...bytes].reduce((code, letter) => code * 256 + letter.charCodeAt(0), 0);
}

/**
 * A font's own table: what the codes mean, and how many bytes one has.
 * @param {string} content @returns {{texts: Map<number, string>, bytes: number}}
 */
export function readTable(content) {
  const texts = new Map();
  const lexer = new Lexer(content);
  let bytes = 0;
  let items = /** @type {any[]} */ ([]);
  for (let item = lexer.next(); item !== undefined; item = lexer.next()) {
    const operator = item?.operator;
    if (operator === undefined) items.push(item);
    else {
      if (operator === "endcodespacerange") bytes = Math.max(bytes, ...items.map((text) => text?.bytes?.length ?? 0));
      if (operator === "endbfchar") addCharacters(texts, items);
      if (operator === "endbfrange") addRanges(texts, items);
      items = [];
    }
  }
  return { texts, bytes };
}

/** @param {Map<number, string>} texts @param {any[]} items a code, what it means, and so on */
function addCharacters(texts, items) {
  for (let at = 0; at + 1 < items.length; at += 2) {
    const [code, text] = [items[at]?.bytes, items[at + 1]?.bytes];
    if (code !== undefined && text !== undefined) texts.set(codeOf(code), wide(text));
  }
}

/** @param {Map<number, string>} texts @param {any[]} items first code, last code, what they mean, and so on */
function addRanges(texts, items) {
  for (let at = 0; at + 2 < items.length; at += 3) {
    const [first, last] = [codeOf(items[at]?.bytes ?? ""), codeOf(items[at + 1]?.bytes ?? "")];
    const meaning = items[at + 2];
    for (let code = first; code <= last && code - first < MAX_RANGE; code += 1) {
      if (Array.isArray(meaning)) texts.set(code, wide(meaning[code - first]?.bytes ?? ""));
      else if (meaning?.bytes) {
        const head = meaning.bytes.slice(0, -2);
        const unit = codeOf(meaning.bytes.slice(-2)) + code - first;
        texts.set(code, wide(head + String.fromCharCode((unit >> 8) & 255, unit & 255)));
      }
    }
  }
}

/** What a font of one byte per glyph shows without a table. @param {Objects} objects @param {any} font */
function encodingOf(objects, font) {
  const encoding = objects.entry(font, "/Encoding");
  const base = typeof encoding === "string" ? encoding : objects.entry(encoding, "/BaseEncoding");
  const decoder = new TextDecoder(base === "/MacRomanEncoding" ? "macintosh" : "windows-1252");
  const texts = new Map();
  for (let code = 32; code < 256; code += 1) texts.set(code, decoder.decode(Uint8Array.of(code)));
  const differences = typeof encoding === "string" ? null : objects.entry(encoding, "/Differences");
  let code = 0;
  for (const item of Array.isArray(differences) ? differences : []) {
    const value = objects.get(item);
    if (typeof value === "number") code = value;
    else if (typeof value === "string") {
      texts.set(code, glyphText(value.slice(1)));
      code += 1;
    }
  }
  return texts;
}

/** How wide the glyphs of a font are, in units of its size. @param {Objects} objects @param {any} font */
function widthsOf(objects, font) {
  const widths = new Map();
  const first = Number(objects.entry(font, "/FirstChar")) || 0;
  const list = objects.entry(font, "/Widths");
  const scale = objects.entry(font, "/Subtype") === "/Type3" ? objects.entry(font, "/FontMatrix")?.[0] : 0.001;
  (Array.isArray(list) ? list : []).forEach((width, index) => widths.set(first + index, objects.get(width) * scale));
  return widths;
}

/** The same of a font of many glyphs. @param {Objects} objects @param {any} descendant */
function wideWidthsOf(objects, descendant) {
  const widths = new Map();
  const list = objects.entry(descendant, "/W");
  const items = (Array.isArray(list) ? list : []).map((item) => objects.get(item));
  for (let at = 0; at + 1 < items.length;) {
    const [first, next] = [items[at], items[at + 1]];
    if (Array.isArray(next)) {
      next.forEach((width, index) => widths.set(first + index, objects.get(width) / 1000));
      at += 2;
    } else {
      const width = items[at + 2] / 1000;
      for (let code = first; code <= next && code - first < MAX_RANGE; code += 1) widths.set(code, width);
      at += 3;
    }
  }
  return widths;
}

/**
 * @param {Objects} objects @param {any} font its dictionary, or what is there in its place
 * @returns {Promise<Font>}
 */
export async function fontOf(objects, font) {
  const composite = objects.entry(font, "/Subtype") === "/Type0";
  const descendants = objects.entry(font, "/DescendantFonts");
  const descendant = Array.isArray(descendants) ? descendants[0] : null;
  const table = readTable(await objects.content(objects.entry(font, "/ToUnicode")));
  const texts = composite ? table.texts : new Map([...encodingOf(objects, font), ...table.texts]);
  const widths = composite ? wideWidthsOf(objects, descendant) : widthsOf(objects, font);
  const told = composite ? (objects.entry(descendant, "/DW") ?? 1000) / 1000
    : objects.entry(objects.entry(font, "/FontDescriptor"), "/MissingWidth") / 1000;
  const length = composite ? table.bytes || 2 : 1;
  return {
    decode(bytes) {
      const glyphs = [];
      for (let at = 0; at < bytes.length; at += length) {
        const code = codeOf(bytes.slice(at, at + length));
        const width = widths.get(code) ?? (told || USUAL_WIDTH);
        glyphs.push({ text: (texts.get(code) ?? "").replace(/[\0-\x1f\ufffd]/g, ""), width });
      }
      return glyphs;
    },
  };
}
