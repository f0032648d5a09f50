/**
 * Markdown as elements. While text streams in, only the blocks that changed are patched.
 *
 * @typedef {import("../core/markdown-parser.js").Inline} Inline
 * @typedef {import("../core/markdown-parser.js").Block} Block
 * @typedef {import("../core/component.js").VNode} VNode
 */

import { Component, h } from "../core/component.js";
import { EMPTY_DOCUMENT, parseMarkdown } from "../core/markdown-parser.js";
import { CopyButton } from "./copy-button.js";

const LANGUAGE_NAMES = /** @type {Record<string, string>} */ ({
  js: "JavaScript", javascript: "JavaScript", jsx: "JSX", ts: "TypeScript", typescript: "TypeScript", tsx: "TSX",
  py: "Python", python: "Python", sh: "Shell", bash: "Shell", shell: "Shell", c: "C", cpp: "C++", cs: "C#",
  csharp: "C#", go: "Go", java: "Java", kotlin: "Kotlin", swift: "Swift", rs: "Rust", rust: "Rust", rb: "Ruby",
  ruby: "Ruby", php: "PHP", md: "Markdown", markdown: "Markdown", yml: "YAML", yaml: "YAML", json: "JSON", html: "HTML",
  css: "CSS", sql: "SQL", xml: "XML", ini: "INI", toml: "TOML",
});

/** Shows `props.text`. */
export class Markdown extends Component {
  /** @param {any} props */
  constructor(props) {
    super(props);
    this.document = EMPTY_DOCUMENT;
    /** @type {{source: string, node: VNode}[]} */
    this.shown = [];
  }

  render() {
    this.document = parseMarkdown(this.props.text, this.document);
    this.shown = this.document.pieces.map(({ source, block }, at) => {
      const known = this.shown[at];
      return known?.source === source ? known : { source, node: blockNode(block, at) };
    });
    return h("div", { className: "markdown" }, this.shown.map(({ node }) => node));
  }
}

/** @param {Block} block @param {number} [at] its place among the top-level blocks @returns {VNode} */
function blockNode(block, at) {
  const key = at === undefined ? null : `${at}-${block.type}`;
  switch (block.type) {
    case "paragraph": return h("p", { key }, inlineNodes(block.children));
    case "heading": return h(`h${Math.min(block.level + 2, 6)}`, { key }, inlineNodes(block.children));
    case "code": return codeNode(block, key);
    case "list": return listNode(block, key);
    case "quote": return h("blockquote", { key }, block.blocks.map((child) => blockNode(child)));
    case "table": return tableNode(block, key);
    default: return h("hr", { key });
  }
}

/** @param {Extract<Block, {type: "code"}>} block @param {string | null} key */
function codeNode({ language, text }, key) {
  return h("figure", { key, className: "markdown-code" },
    h("figcaption", null,
      h("span", null, LANGUAGE_NAMES[language.toLowerCase()] ?? (language || "Text")),
      h(CopyButton, { text, label: "Copy code" })),
    h("pre", { tabindex: "0", role: "group", "aria-label": "Code" }, h("code", null, text)));
}

/** @param {Extract<Block, {type: "list"}>} block @param {string | null} key */
function listNode({ ordered, start, items }, key) {
  const first = ordered && start !== 1 ? start : null;
  return h(ordered ? "ol" : "ul", { key, start: first }, items.map(({ done, blocks }) => {
    const [first, ...rest] = blocks;
    const inline = first?.type === "paragraph" ? inlineNodes(first.children) : first ? [blockNode(first)] : [];
    const box = done === null ? null
      : h("input", { type: "checkbox", checked: done, disabled: true, "aria-label": done ? "done" : "to do" });
    return h("li", { className: done === null ? null : "markdown-task" },
      box,
      inline,
      rest.map((child) => blockNode(child)));
  }));
}

/** @param {Extract<Block, {type: "table"}>} block @param {string | null} key */
function tableNode({ align, head, rows }, key) {
  /** @type {(tag: string, cells: Inline[][]) => VNode} */
  const row = (tag, cells) => h("tr", null, cells.map((cell, at) => (
    h(tag, { className: align[at] === "left" ? null : `markdown-${align[at]}`, scope: tag === "th" ? "col" : null },
      inlineNodes(cell)))));
  return h("div", { key, className: "markdown-table", tabindex: "0", role: "group", "aria-label": "Table" },
    h("table", null, h("thead", null, row("th", head)), h("tbody", null, rows.map((cells) => row("td", cells)))));
}

/** @param {Inline[]} parts @returns {(VNode | string)[]} */
function inlineNodes(parts) {
  return parts.map((part) => {
    switch (part.type) {
      case "text": return part.text;
      case "code": return h("code", null, part.text);
      case "break": return h("br");
      case "link":
        return h("a", { href: part.href, target: "_blank", rel: "noopener noreferrer nofollow" },
          inlineNodes(part.children));
      default: return h(part.type, null, inlineNodes(part.children));
    }
  });
}
