/**
 * A safe subset of Markdown as plain data: no DOM, no HTML, linear time, and cheap to extend while text streams in.
 *
 * @typedef {{type: "text", text: string} | {type: "code", text: string} | {type: "break"}
 *   | {type: "strong" | "em" | "del", children: Inline[]}
 *   | {type: "link", href: string, children: Inline[]}} Inline
 * @typedef {{done: boolean | null, blocks: Block[]}} Item `done` is null unless the item is a task
 * @typedef {{type: "paragraph", children: Inline[]}
 *   | {type: "heading", level: number, children: Inline[]}
 *   | {type: "code", language: string, text: string}
 *   | {type: "list", ordered: boolean, start: number, items: Item[]}
 *   | {type: "quote", blocks: Block[]}
 *   | {type: "table", align: string[], head: Inline[][], rows: Inline[][][]}
 *   | {type: "rule"}} Block
 * @typedef {{start: number, source: string, block: Block}} Piece a top-level block and the text it came from
 * @typedef {{text: string, pieces: Piece[]}} Document
 */

const MAX_DEPTH = 8; // levels of lists, quotes and emphasis; deeper text stays as it is written
const MAX_COLUMNS = 64; // of a table; a wider one is no table that a person could read

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)(.*)|)$/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const TASK = /^\[([ xX])\][ \t]+/;

/** @type {Document} */
export const EMPTY_DOCUMENT = { text: "", pieces: [] };

/**
 * The document of `text`, reusing what `previous` knows when `text` continues it.
 * Only the last two blocks can change when text is appended: the last line may turn out to continue the block before.
 * @param {string} text
 * @param {Document} [previous]
 * @returns {Document}
 */
export function parseMarkdown(text, previous = EMPTY_DOCUMENT) {
  if (text === previous.text) return previous;
  const kept = text.startsWith(previous.text) ? previous.pieces.slice(0, -2) : [];
  const from = previous.pieces[kept.length]?.start ?? 0;
  const start = kept.length ? from : 0;
  return { text, pieces: [...kept, ...pieces(text, start)] };
}

/**
 * @param {string} text
 * @param {number} start
 * @returns {Piece[]}
 */
function pieces(text, start) {
  const lines = text.slice(start).replaceAll("\t", "    ").split("\n");
  const lengths = text.slice(start).split("\n").map((line) => line.length + 1);
  /** @type {Piece[]} */
  const result = [];
  let at = 0;
  let offset = start;
  while (at < lines.length) {
    const { block, end } = readBlock(lines, at, 0);
    let size = 0;
    for (let line = at; line < end; line++) size += lengths[line];
    if (block) result.push({ start: offset, source: text.slice(offset, offset + size), block });
    offset += size;
    at = end;
  }
  return result;
}

/**
 * @param {string[]} lines
 * @param {number} depth
 * @returns {Block[]}
 */
function readBlocks(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    const { block, end } = readBlock(lines, at, depth);
    if (block) blocks.push(block);
    at = end;
  }
  return blocks;
}

/**
 * The block that begins at line `at` (null for a blank line) and the line after it.
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {{block: Block | null, end: number}}
 */
function readBlock(lines, at, depth) {
  const line = lines[at];
  if (!line.trim()) return { block: null, end: at + 1 };
  const fence = FENCE.exec(line);
  if (fence) return readCode(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    return {
      block: { type: "heading", level: heading[1].length, children: parseInline(heading[2] ?? "") }, end: at + 1,
    };
  }
  if (RULE.test(line)) return { block: { type: "rule" }, end: at + 1 };
  if (depth < MAX_DEPTH && QUOTE.test(line)) return readQuote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return readList(lines, at, depth);
  if (isTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at, depth);
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {RegExpExecArray} fence
 * @returns {{block: Block, end: number}}
 */
function readCode(lines, at, fence) {
  const indent = /** @type {RegExpExecArray} */ (/^ */.exec(lines[at]))[0].length;
  const mark = fence[1];
  let end = at + 1;
  while (end < lines.length && !closes(lines[end], mark)) end++;
  const body = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, line.search(/[^ ]|$/))));
  const language = fence[2].trim().split(/[\s{]/)[0].slice(0, 32);
  return { block: { type: "code", language, text: body.join("\n") }, end: end + 1 };
}

/**
 * Whether `line` closes the code fence `mark`.
 * @param {string} line
 * @param {string} mark
 */
function closes(line, mark) {
  const text = line.trim();
  return text.length >= mark.length && text === mark[0].repeat(text.length);
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {{block: Block, end: number}}
 */
function readQuote(lines, at, depth) {
  const body = [];
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) body.push(lines[end++].replace(QUOTE, ""));
  return { block: { type: "quote", blocks: readBlocks(body, depth + 1) }, end };
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {{block: Block, end: number}}
 */
function readList(lines, at, depth) {
  const first = /** @type {RegExpExecArray} */ (ITEM.exec(lines[at]));
  const base = first[1].length;
  const ordered = /\d/.test(first[2]);
  /** @type {Item[]} */
  const items = [];
  let end = at;
  while (end < lines.length) {
    const mark = ITEM.exec(lines[end]);
    if (!mark || RULE.test(lines[end]) || /\d/.test(mark[2]) !== ordered || Math.abs(mark[1].length - base) > 1) break;
    const width = mark[1].length + mark[2].length + Math.min(mark[3]?.length ?? 1, 4);
    const body = [mark[4] ?? ""];
    end = readItem(lines, end + 1, { base, width }, body);
    items.push(item(body, depth));
    const next = nextFilled(lines, end);
    if (next < lines.length && ITEM.test(lines[next])) end = next;
  }
  return { block: { type: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, items }, end };
}

/**
 * Collects the lines of one list item into `body`; returns the line after it.
 * @param {string[]} lines
 * @param {number} at
 * @param {{base: number, width: number}} indent of the list's marks and of the item's text
 * @param {string[]} body
 */
function readItem(lines, at, indent, body) {
  let fence = FENCE.exec(body[0])?.[1] ?? "";
  while (at < lines.length) {
    const next = fence ? at : nextFilled(lines, at);
    const line = lines[next] ?? "";
    const spaces = line.search(/[^ ]|$/);
    const inside = spaces >= indent.base + 2;
    if (next === lines.length || (!inside && (next > at || startsBlock(line))) && !fence) break;
    for (; at < next; at++) body.push("");
    const text = line.slice(Math.min(spaces, inside ? indent.width : spaces));
    const mark = FENCE.exec(text)?.[1];
    if (fence ? closes(text, fence) : mark) fence = fence ? "" : mark ?? "";
    body.push(text);
    at++;
  }
  return at;
}

/**
 * @param {string[]} body
 * @param {number} depth
 * @returns {Item}
 */
function item(body, depth) {
  const task = TASK.exec(body[0]);
  if (task) body[0] = body[0].slice(task[0].length);
  return { done: task ? task[1] !== " " : null, blocks: readBlocks(body, depth + 1) };
}

/**
 * @param {string[]} lines
 * @param {number} at
 */
function nextFilled(lines, at) {
  while (at < lines.length && !lines[at].trim()) at++;
  return at;
}

/**
 * Whether `line` ends a paragraph before it.
 * @param {string} line
 */
function startsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}

/**
 * @param {string[]} lines
 * @param {number} at
 */
function isTable(lines, at) {
  const divider = lines[at + 1];
  return divider !== undefined && lines[at].includes("|") && DIVIDER.test(divider) && divider.includes("-")
    && cells(lines[at]).length === cells(divider).length && cells(divider).length <= MAX_COLUMNS;
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @returns {{block: Block, end: number}}
 */
function readTable(lines, at) {
  const head = cells(lines[at]).map((cell) => parseInline(cell));
  const align = cells(lines[at + 1]).map((cell) => (
    cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].trim() && lines[end].includes("|"); end++) {
    const row = cells(lines[end]);
    rows.push(head.map((_, column) => parseInline(row[column] ?? "")));
  }
  return { block: { type: "table", align, head, rows }, end };
}

/**
 * The cells of a table row, cut at each | that is neither escaped nor inside code.
 * @param {string} line
 */
function cells(line) {
  const found = line.trim().replace(/^\|/, "").match(/(?:\\.|`[^`]*`|[^|\\`]|[\\`])+|\|/g) ?? [];
  const result = [""];
  for (const part of found) {
    if (part === "|") result.push("");
    else result[result.length - 1] = part.replaceAll("\\|", "|").trim();
  }
  if (result.length > 1 && !result[result.length - 1]) result.pop();
  return result;
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {{block: Block, end: number}}
 */
function readParagraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !isTable(lines, end)
    && (depth >= MAX_DEPTH || !startsBlock(lines[end]))) end++;
  const text = lines.slice(at, end).map((line) => line.trimStart()).join("\n");
  return { block: { type: "paragraph", children: parseInline(text.trimEnd()) }, end };
}

const SPECIAL = /[\\`*_~[!<&\n]|https?:\/\//g;
const LINK = new RegExp([
  /!?\[((?:\\.|[^[\]\\]){0,1000})\]/, // its words
  /\(\s*<?((?:[^\s()<>]|\([^\s()<>]*\)){0,2000})>?/, // its address
  /(?:\s+["'(][^"')]{0,500}["')])?\s*\)/, // its title
].map(({ source }) => source).join(""), "y");
const ANGLE_LINK = /<(https?:\/\/[^\s<>]{1,2000})>/y;
const BARE_LINK = /https?:\/\/[^\s<>"'`|]{1,2000}/y;
const LINE_BREAK_TAG = /<br\s*\/?>/iy;
const ENTITY = /&(amp|lt|gt|quot|nbsp|#39|#x27);/y;
/** @type {Record<string, string>} */
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: "\"", nbsp: "\u00a0", "#39": "'", "#x27": "'" };
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;

/**
 * The inline parts of `text`.
 * @param {string} text
 * @param {number} [depth]
 * @returns {Inline[]}
 */
function parseInline(text, depth = 0) {
  /** @type {Inline[]} */
  const parts = [];
  /** @type {Set<string>} marks that are known not to be closed further on: keeps hostile text linear */
  const unclosed = new Set();
  const add = (/** @type {string} */ plain) => {
    const last = parts[parts.length - 1];
    if (last?.type === "text") last.text += plain;
    else if (plain) parts.push({ type: "text", text: plain });
  };
  for (let at = 0; at < text.length;) {
    SPECIAL.lastIndex = at;
    const mark = SPECIAL.exec(text);
    add(text.slice(at, mark?.index ?? text.length));
    if (!mark) break;
    at = mark.index;
    const found = readInline(text, at, depth, unclosed);
    if (typeof found.part === "string") add(found.part);
    else parts.push(found.part);
    at = found.end;
  }
  return parts;
}

/**
 * What begins at the special character `at`: a part, or plain text where it means nothing special.
 * @param {string} text
 * @param {number} at
 * @param {number} depth
 * @param {Set<string>} unclosed
 * @returns {{part: Inline | string, end: number}}
 */
function readInline(text, at, depth, unclosed) {
  const character = text[at];
  if (character === "\n") return { part: { type: "break" }, end: at + 1 };
  if (character === "\\" && PUNCTUATION.test(text[at + 1] ?? "")) return { part: text[at + 1], end: at + 2 };
  if (character === "\\" && text[at + 1] === "\n") return { part: { type: "break" }, end: at + 2 };
  const read = READERS[character];
  const found = depth < MAX_DEPTH && read ? read(text, at, depth, unclosed) : null;
  return found ?? { part: runAt(text, at), end: at + runAt(text, at).length };
}

/** @typedef {{part: Inline | string, end: number} | null} Found */

/** @type {Record<string, (text: string, at: number, depth: number, unclosed: Set<string>) => Found>} */
const READERS = {
  "`": readCodeSpan, "*": readEmphasis, "_": readEmphasis, "~": readEmphasis,
  "[": readLink, "!": readLink, "<": readAngle, "&": readEntity, "h": readBareLink,
};

/**
 * The run of one character at `at`.
 * @param {string} text
 * @param {number} at
 */
function runAt(text, at) {
  let end = at + 1;
  while (text[end] === text[at] && "`*_~".includes(text[at])) end++;
  return text.slice(at, end);
}

/** @type {(text: string, at: number, depth: number, unclosed: Set<string>) => Found} */
function readCodeSpan(text, at, _depth, unclosed) {
  const mark = runAt(text, at);
  const close = unclosed.has(mark) ? -1 : closingTicks(text, at + mark.length, mark);
  if (close < 0) {
    unclosed.add(mark);
    return null;
  }
  const inner = text.slice(at + mark.length, close).replaceAll("\n", " ");
  const padded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim();
  return { part: { type: "code", text: padded ? inner.slice(1, -1) : inner }, end: close + mark.length };
}

/**
 * Where a run of exactly `mark` begins at or after `from`, or -1.
 * @param {string} text
 * @param {number} from
 * @param {string} mark
 */
function closingTicks(text, from, mark) {
  for (let at = text.indexOf(mark, from); at >= 0; at = text.indexOf(mark, at)) {
    const run = runAt(text, at).length;
    if (run === mark.length) return at;
    at += run;
  }
  return -1;
}

/** @type {Record<string, ("strong" | "em" | "del")[]>} */
const EMPHASIS = {
  "*": ["em"],
  "**": ["strong"],
  "***": ["strong", "em"],
  "_": ["em"],
  "__": ["strong"],
  "___": ["strong", "em"],
  "~~": ["del"],
};

/** @type {(text: string, at: number, depth: number, unclosed: Set<string>) => Found} */
function readEmphasis(text, at, depth, unclosed) {
  const mark = runAt(text, at);
  const kinds = EMPHASIS[mark];
  const from = at + mark.length;
  const opens = kinds && /\S/.test(text[from] ?? "") && !(mark[0] === "_" && WORD.test(text[at - 1] ?? ""));
  if (!opens || unclosed.has(mark)) return null;
  const close = closingEmphasis(text, from, mark);
  if (close < 0) {
    unclosed.add(mark);
    return null;
  }
  let children = parseInline(text.slice(from, close), depth + 1);
  for (const type of kinds) children = [{ type, children }];
  return { part: children[0], end: close + mark.length };
}

/**
 * Where `mark` closes at or after `from`, or -1.
 * @param {string} text
 * @param {number} from
 * @param {string} mark
 */
function closingEmphasis(text, from, mark) {
  /** @type {Set<string>} */
  const openTicks = new Set();
  for (let at = from; at < text.length;) {
    const character = text[at];
    if (character === "\\") at += 2;
    else if (character === "`") at = readCodeSpan(text, at, 0, openTicks)?.end ?? at + runAt(text, at).length;
    else if (character === mark[0]) {
      const run = runAt(text, at).length;
      const fits = run === mark.length || (run === 3 && mark.length < 3);
      const close = at + run - mark.length;
      const after = text[at + run] ?? "";
      if (fits && at > from && /\S/.test(text[at - 1]) && !(mark[0] === "_" && WORD.test(after))) return close;
      at += run;
    } else at++;
  }
  return -1;
}

/** @type {(text: string, at: number, depth: number, unclosed: Set<string>) => Found} */
function readLink(text, at, depth) {
  LINK.lastIndex = at;
  const match = LINK.exec(text);
  if (!match) return null;
  const label = match[1] || match[2];
  const children = parseInline(label, depth + 1).filter((part) => part.type !== "link");
  const shown = children.length ? children : [/** @type {Inline} */ ({ type: "text", text: label })];
  return { part: linkTo(match[2], shown, match[0]), end: at + match[0].length };
}

/**
 * A link, or the text as written where the address is not http(s).
 * @param {string} href
 * @param {Inline[]} children
 * @param {string} written
 * @returns {Inline | string}
 */
function linkTo(href, children, written) {
  return /^https?:\/\/[^\s]+$/i.test(href) ? { type: "link", href, children } : written;
}

/** @type {(text: string, at: number, depth: number, unclosed: Set<string>) => Found} */
function readAngle(text, at) {
  LINE_BREAK_TAG.lastIndex = at;
  const tag = LINE_BREAK_TAG.exec(text);
  if (tag) return { part: { type: "break" }, end: at + tag[0].length };
  ANGLE_LINK.lastIndex = at;
  const match = ANGLE_LINK.exec(text);
  if (!match) return null;
  return { part: linkTo(match[1], [{ type: "text", text: match[1] }], match[0]), end: at + match[0].length };
}

/** @type {(text: string, at: number, depth: number, unclosed: Set<string>) => Found} */
function readBareLink(text, at) {
  BARE_LINK.lastIndex = at;
  const match = BARE_LINK.exec(text);
  if (!match) return null;
  let href = match[0].replace(/[.,;:!?*_~\]]+$/, "");
  if (href.endsWith(")") && !href.includes("(")) href = href.slice(0, -1);
  return { part: linkTo(href, [{ type: "text", text: href }], href), end: at + href.length };
}

/** @type {(text: string, at: number, depth: number, unclosed: Set<string>) => Found} */
function readEntity(text, at) {
  ENTITY.lastIndex = at;
  const match = ENTITY.exec(text);
  return match ? { part: ENTITIES[match[1]], end: at + match[0].length } : null;
}
