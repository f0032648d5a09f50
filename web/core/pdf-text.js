/**
 * The text of a PDF file, page by page, as far as its fonts tell which characters their glyphs are.
 *
 * Names are texts that begin with "/", dictionaries are Maps, and bytes are texts of one character for each (0 to 255).
 *
 * @typedef {number[]} Matrix [a, b, c, d, e, f]
 * @typedef {{bytes: string}} Text @typedef {{ref: number}} Reference @typedef {{operator: string}} Operator
 * @typedef {Map<string, any>} Dictionary @typedef {{dictionary: Dictionary, raw: string}} Stream
 * @typedef {{decode: (bytes: string) => {text: string, width: number}[]}} Font width: in units of the font's size
 */

import { fontOf } from "./pdf-fonts.js";

const MAX_DEPTH = 60; // of what lies within each other: arrays, dictionaries, pages, forms
const MAX_DECODED = 64 * 1024 * 1024; // bytes of all streams of a file together
const READ_BYTES = 512 * 1024; // in one go
const TURN_MS = 20; // after that the page gets its turn
const SPACE = 0.15; // of the font's size: from then on a gap is a space
const NEW_LINE = 0.4; // of the font's size: so much higher or lower is another line

const BLANKS = /(?:[\0\t\n\f\r ]+|%[^\r\n]*)*/y;
const NAME = /\/[^\0\t\n\f\r ()<>[\]{}/%]*/y;
const NUMBER = /[+-]*(?:\d+\.?\d*|\.\d+)/y;
const REFERENCE = /(\d+)[\0\t\n\f\r ]+\d+[\0\t\n\f\r ]+R(?![^\0\t\n\f\r ()<>[\]{}/%])/y;
const WORD = /[^\0\t\n\f\r ()<>[\]{}/%]+/y;
const HEX = /<([0-9A-Fa-f\0\t\n\f\r ]*)>/y;
const ESCAPES = /** @type {{[letter: string]: string}} */ ({ n: "\n", r: "\r", t: "\t", b: "\b", f: "\f" });

/** Reads one value after the other of a text. */
export class Lexer {
  /** @param {string} text @param {number} [at] */
  constructor(text, at = 0) {
    this.text = text;
    this.at = at;
  }

  /** @param {RegExp} pattern a sticky one @returns {RegExpExecArray | null} */
  take(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found;
  }

  /** The next value or operator; undefined at the end. @param {number} [depth] @returns {any} */
  next(depth = 0) {
    if (depth > MAX_DEPTH) throw new RangeError("Too deep");
    this.take(BLANKS);
    const { text, at } = this;
    if (at >= text.length) return undefined;
    if (text.startsWith("<<", at)) return this.dictionary(depth);
    if (text[at] === "[") return this.list(depth);
    if (text[at] === "(") return this.literal();
    const hex = this.take(HEX);
    if (hex) return { bytes: fromHex(hex[1]) };
    const name = this.take(NAME);
    if (name) return name[0].replace(/#([0-9A-Fa-f]{2})/g, (_, code) => String.fromCharCode(parseInt(code, 16)));
    const reference = this.take(REFERENCE);
    if (reference) return { ref: Number(reference[1]) };
    const number = this.take(NUMBER);
    if (number) return Number(number[0].replace(/^[+-]*(?=[+-])/, "")) || 0;
    const word = this.take(WORD);
    if (!word) this.at += 1; // what closes something that was never opened
    return { operator: word ? word[0] : text[at] };
  }

  /** @param {number} depth @returns {any[]} */
  list(depth) {
    this.at += 1;
    const items = [];
    for (;;) {
      const item = this.next(depth + 1);
      if (item === undefined || item?.operator === "]") return items;
      items.push(item);
    }
  }

  /** @param {number} depth @returns {Dictionary} */
  dictionary(depth) {
    this.at += 2;
    const entries = new Map();
    for (;;) {
      const key = this.next(depth + 1);
      if (typeof key !== "string") { // ">>" comes as two operators
        if (key?.operator === ">" && this.text[this.at] === ">") this.at += 1;
        return entries;
      }
      entries.set(key, this.next(depth + 1));
    }
  }

  /** @returns {Text} */
  literal() {
    let bytes = "";
    for (let open = 1, at = this.at + 1; ; at += 1) {
      const letter = this.text[at];
      if (letter === "(") open += 1;
      if (letter === ")") open -= 1;
      if (letter === undefined || open === 0) {
        this.at = at + 1;
        return { bytes };
      }
      if (letter === "\\") {
        const octal = /^[0-7]{1,3}/.exec(this.text.slice(at + 1, at + 4));
        const escaped = this.text[at + 1] ?? "";
        if (octal) bytes += String.fromCharCode(parseInt(octal[0], 8) & 255);
        else if (!/[\r\n]/.test(escaped)) bytes += ESCAPES[escaped] ?? escaped;
        at += octal ? octal[0].length : this.text.startsWith("\r\n", at + 1) ? 2 : 1;
      } else bytes += letter;
    }
  }
}

/** @param {string} digits @returns {string} */
function fromHex(digits) {
  const pairs = digits.replace(/[^0-9A-Fa-f]/g, "").match(/..?/g) ?? [];
  return pairs.map((pair) => String.fromCharCode(parseInt(pair.padEnd(2, "0"), 16))).join("");
}

/** Bytes as a text of one character for each. @param {Uint8Array} bytes @returns {string} */
function toText(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode.apply(null, /** @type {any} */ (bytes.subarray(at, at + 8192)));
  }
  return text;
}

/** The objects of a file, found by looking at all of it, as files with broken tables of contents are common. */
export class Objects {
  constructor() {
    this.text = "";
    /** @type {Map<number, any>} */
    this.values = new Map();
    this.decoded = 0; // bytes
    this.turn = performance.now();
  }

  /** @param {ArrayBuffer} buffer */
  async read(buffer) {
    for (let at = 0; at < buffer.byteLength; at += READ_BYTES) {
      this.text += toText(new Uint8Array(buffer.slice(at, at + READ_BYTES)));
      await this.rest();
    }
    if (/\/Encrypt[\0\t\n\f\r ]+\d/.test(this.text)) throw new Error("is encrypted. Save it without a password.");
    const start = /(\d{1,10})[\0\t\n\f\r ]+\d{1,5}[\0\t\n\f\r ]+obj(?![a-z])/g;
    for (let found = start.exec(this.text); found; found = start.exec(this.text)) {
      const lexer = new Lexer(this.text, start.lastIndex);
      const value = lexer.next();
      const stream = value instanceof Map ? this.stream(lexer, value) : null;
      this.values.set(Number(found[1]), stream ?? value);
      start.lastIndex = Math.max(lexer.at, start.lastIndex);
      if (value instanceof Map && value.get("/Type") === "/ObjStm" && stream) await this.unpack(stream);
      await this.rest();
    }
  }

  /** What lies behind a dictionary, if that is a stream. @param {Lexer} lexer @param {Dictionary} dictionary */
  stream(lexer, dictionary) {
    if (!lexer.take(/[\0\t\n\f\r ]*stream(?:\r\n|\n|\r)?/y)) return null;
    const length = dictionary.get("/Length");
    const told = typeof length === "number" && /^[\r\n ]*endstream/.test(
      this.text.slice(lexer.at + length, lexer.at + length + 20)) ? lexer.at + length : -1;
    const end = told >= 0 ? told : this.text.indexOf("endstream", lexer.at);
    const raw = this.text.slice(lexer.at, end < 0 ? undefined : end);
    lexer.at += raw.length;
    return { dictionary, raw: told >= 0 ? raw : raw.replace(/\r?\n?$/, "") };
  }

  /** Take the objects out of a stream of objects. @param {Stream} stream */
  async unpack(stream) {
    const text = await this.content(stream);
    const lexer = new Lexer(text);
    const first = Number(this.get(stream.dictionary.get("/First"))) || 0;
    for (let left = Number(this.get(stream.dictionary.get("/N"))) || 0; left > 0; left -= 1) {
      const [number, offset] = [lexer.next(), lexer.next()];
      if (typeof number !== "number" || typeof offset !== "number") return;
      this.values.set(number, new Lexer(text, first + offset).next());
    }
  }

  /** What a value is, or refers to. @param {any} value @returns {any} */
  get(value) {
    let found = value;
    for (let hops = 0; hops < MAX_DEPTH && typeof found?.ref === "number"; hops += 1) {
      found = this.values.get(found.ref);
    }
    return found;
  }

  /** An entry of a dictionary, or of a stream's. @param {any} of @param {string} key @returns {any} */
  entry(of, key) {
    const value = this.get(of);
    return this.get((value?.dictionary ?? value)?.get?.(key));
  }

  /** What is in a stream; as much as can be read. @param {any} value @returns {Promise<string>} */
  async content(value) {
    const stream = this.get(value);
    if (typeof stream?.raw !== "string") return "";
    let text = stream.raw;
    const filters = this.entry(stream, "/Filter");
    for (const filter of Array.isArray(filters) ? filters : filters ? [filters] : []) {
      const name = this.get(filter);
      if (name === "/FlateDecode" || name === "/Fl") text = await this.inflated(text);
      else if (name === "/ASCIIHexDecode" || name === "/AHx") text = fromHex(text);
      else if (name === "/ASCII85Decode" || name === "/A85") text = fromBase85(text);
      else return ""; // pictures, and what nobody has used for twenty years
    }
    return text;
  }

  /** @param {string} text @returns {Promise<string>} */
  async inflated(text) {
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
    const parts = [];
    try {
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        this.decoded += part.value.length;
        if (this.decoded > MAX_DECODED) throw new RangeError("Too large");
        parts.push(toText(part.value));
        await this.rest();
      }
    } catch (problem) {
      if (problem instanceof RangeError) throw problem; // else it is damaged, and what came before that is kept
    }
    return parts.join("");
  }

  /** Give the page its turn, if this one was long. */
  async rest() {
    if (performance.now() - this.turn < TURN_MS) return;
    await new Promise((resolve) => setTimeout(resolve));
    this.turn = performance.now();
  }

  /** The pages in their order, each with what it has from above. @returns {Dictionary[]} */
  pages() {
    const all = [...this.values.values()].filter((value) => value instanceof Map);
    const root = all.filter((value) => value.get("/Type") === "/Catalog").pop();
    const found = /** @type {Dictionary[]} */ ([]);
    const seen = new Set();
    const walk = (/** @type {any} */ node, /** @type {any} */ resources, /** @type {number} */ depth) => {
      const page = this.get(node);
      if (!(page instanceof Map) || seen.has(page) || depth > MAX_DEPTH) return;
      seen.add(page);
      const own = page.get("/Resources") ?? resources;
      const kids = this.entry(page, "/Kids");
      if (Array.isArray(kids)) for (const kid of kids) walk(kid, own, depth + 1);
      else found.push(new Map([...page, ["/Resources", own]]));
    };
    walk(root?.get("/Pages"), null, 0);
    return found.length > 0 ? found : all.filter((value) => value.get("/Type") === "/Page");
  }
}

/** @param {string} text @returns {string} */
function fromBase85(text) {
  const digits = text.replace(/^<~|~>[^]*$|[\0\t\n\f\r ]/g, "").replace(/z/g, "!!!!!");
  let bytes = "";
  for (let at = 0; at < digits.length; at += 5) {
    const group = digits.slice(at, at + 5);
    const value = [...group.padEnd(5, "u")].reduce((sum, digit) => sum * 85 + digit.charCodeAt(0) - 33, 0);
    bytes += [24, 16, 8, 0].slice(0, group.length - 1)
      .map((shift) => String.fromCharCode(Math.floor(value / 2 ** shift) & 255)).join("");
  }
  return bytes;
}

/** @param {Matrix} one @param {Matrix} two @returns {Matrix} */
function times([a, b, c, d, e, f], [g, h, i, j, k, l]) {
  return [a * g + b * i, a * h + b * j, c * g + d * i, c * h + d * j, e * g + f * i + k, e * h + f * j + l];
}

/** Puts what is shown where in a row: glyphs to words, words to lines. */
class Lines {
  constructor() {
    this.text = "";
    this.end = /** @type {number[] | null} */ (null); // where the last glyph ends
  }

  /** @param {string} text @param {Matrix} from @param {Matrix} to @param {number} size */
  add(text, from, to, size) {
    const [x, y] = [from[4], from[5]];
    const height = size * Math.hypot(from[2], from[3]) || 1;
    if (this.end && Math.abs(y - this.end[1]) > NEW_LINE * height) this.break(Math.abs(y - this.end[1]) > 1.9 * height);
    else if (this.end && Math.abs(x - this.end[0]) > SPACE * height && !/\s$/.test(this.text)) this.text += " ";
    this.text += text;
    this.end = [to[4], to[5]];
  }

  /** @param {boolean} paragraph */
  break(paragraph) {
    this.text = this.text.trimEnd() + (paragraph ? "\n\n" : "\n");
    this.end = null;
  }
}

/** Reads what a page, or a form on it, shows. */
class Shower {
  /** @param {Objects} objects @param {Lines} lines */
  constructor(objects, lines) {
    this.objects = objects;
    this.lines = lines;
    /** @type {Map<any, Font>} */
    this.fonts = new Map();
  }

  /** @param {string} content @param {any} resources @param {Matrix} place @param {number} depth */
  async show(content, resources, place, depth) {
    const state = { place, line: /** @type {Matrix} */ ([1, 0, 0, 1, 0, 0]), at: /** @type {Matrix} */ ([]), size: 1,
      font: /** @type {Font | null} */ (null), leading: 0, letter: 0, word: 0, scale: 1, rise: 0 };
    const saved = /** @type {(typeof state)[]} */ ([]);
    const lexer = new Lexer(content);
    let operands = /** @type {any[]} */ ([]);
    for (let item = lexer.next(); item !== undefined; item = lexer.next()) {
      if (typeof item?.operator !== "string") {
        operands.push(item);
        continue;
      }
      if (item.operator === "q") saved.push({ ...state });
      else if (item.operator === "Q") Object.assign(state, saved.pop());
      else if (item.operator === "BI") skipImage(lexer);
      else if (item.operator === "Tf") {
        [, state.size] = operands;
        state.font = await this.font(resources, operands[0]);
      } else if (item.operator === "Do") await this.form(resources, operands[0], state.place, depth);
      else this.operate(item.operator, operands, state);
      operands = [];
      await this.objects.rest();
    }
  }

  /** @param {string} operator @param {any[]} operands @param {any} state */
  operate(operator, operands, state) {
    const [first, second] = operands;
    const move = (/** @type {number} */ x, /** @type {number} */ y) => {
      state.line = state.at = times([1, 0, 0, 1, x, y], state.line);
    };
    if (operator === "cm" && operands.length === 6) state.place = times(operands, state.place);
    else if (operator === "BT") state.line = state.at = [1, 0, 0, 1, 0, 0];
    else if (operator === "Tm" && operands.length === 6) state.line = state.at = operands;
    else if (operator === "Td") move(first, second);
    else if (operator === "TD") [state.leading] = [-second, move(first, second)];
    else if (operator === "T*") move(0, -state.leading);
    else if (operator === "TL") state.leading = first;
    else if (operator === "Tc") state.letter = first;
    else if (operator === "Tw") state.word = first;
    else if (operator === "Tz") state.scale = first / 100;
    else if (operator === "Ts") state.rise = first;
    else if (operator === "Tj") this.glyphs([first], state);
    else if (operator === "TJ" && Array.isArray(first)) this.glyphs(first, state);
    else if (operator === "'" || operator === '"') {
      if (operator === '"') [state.word, state.letter] = operands;
      move(0, -state.leading);
      this.glyphs([operands[operands.length - 1]], state);
    }
  }

  /** @param {any[]} items texts, and numbers that move what follows @param {any} state */
  glyphs(items, state) {
    for (const item of items) {
      if (typeof item === "number") {
        state.at = times([1, 0, 0, 1, (-item / 1000) * state.size * state.scale, 0], state.at);
      }
      const glyphs = typeof item?.bytes === "string" && state.font ? state.font.decode(item.bytes) : [];
      for (const { text, width } of glyphs) {
        const from = times(state.at, state.place);
        const advance = (width * state.size + state.letter + (text === " " ? state.word : 0)) * state.scale;
        state.at = times([1, 0, 0, 1, advance, 0], state.at);
        if (text) this.lines.add(text, from, times(state.at, state.place), Math.abs(state.size));
      }
    }
  }

  /** @param {any} resources @param {any} name @returns {Promise<Font>} */
  async font(resources, name) {
    const dictionary = this.objects.entry(this.objects.entry(resources, "/Font"), name);
    const known = this.fonts.get(dictionary);
    if (known) return known;
    const font = await fontOf(this.objects, dictionary);
    this.fonts.set(dictionary, font);
    return font;
  }

  /** @param {any} resources @param {any} name @param {Matrix} place @param {number} depth */
  async form(resources, name, place, depth) {
    const form = this.objects.entry(this.objects.entry(resources, "/XObject"), name);
    if (this.objects.entry(form, "/Subtype") !== "/Form" || depth > 8) return;
    const matrix = this.objects.entry(form, "/Matrix");
    const content = await this.objects.content(form);
    await this.show(content, this.objects.entry(form, "/Resources") ?? resources,
      Array.isArray(matrix) && matrix.length === 6 ? times(/** @type {Matrix} */ (matrix), place) : place, depth + 1);
  }
}

/** Pass over a picture that lies within what a page shows. @param {Lexer} lexer */
function skipImage(lexer) {
  const end = /[\0\t\n\f\r ]EI(?![^\0\t\n\f\r ])/g;
  end.lastIndex = lexer.at;
  lexer.at = end.exec(lexer.text) ? end.lastIndex : lexer.text.length;
}

/**
 * The text of a PDF file. An Error says why there is none: the rest of a sentence that begins with the file's name.
 * @param {ArrayBuffer} buffer @param {number} most bytes that it may have
 * @returns {Promise<string>}
 */
export async function pdfText(buffer, most) {
  const objects = new Objects();
  const lines = new Lines();
  try {
    await objects.read(buffer);
    const shower = new Shower(objects, lines);
    for (const page of objects.pages()) {
      const contents = objects.entry(page, "/Contents");
      const parts = [];
      for (const part of Array.isArray(contents) ? contents : [contents]) parts.push(await objects.content(part));
      await shower.show(parts.join("\n"), page.get("/Resources"), [1, 0, 0, 1, 0, 0], 0);
      if (lines.text) lines.break(true);
      if (lines.text.length > most) break;
    }
  } catch (problem) {
    if (!(problem instanceof RangeError)) throw problem;
    throw new Error("is larger inside than this page reads. Copy its text and paste it here.");
  }
  const text = lines.text.trim();
  if (!text) throw new Error("has no text, perhaps because its pages are pictures. Send them as images.");
  if (new TextEncoder().encode(text).length > most) {
    throw new Error(`has more text than ${most / 1024} KB. Copy what matters and paste it here.`);
  }
  return text;
}
