import { Component, h } from "../core/component.js";
import { icon } from "./icon.js";

const SAID_MS = 1_500;

/**
 * Put `text` on the clipboard, also where the page was not opened over HTTPS.
 * @param {string} text @returns {Promise<boolean>}
 */
async function copyText(text) {
  try {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
      return true;
    }
  } catch {
    // not allowed: the old way below still may be
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  const place = document.querySelector("dialog[open]") ?? document.body;
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  place.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

/** Offer `text` as a file to save. @param {string} name @param {string} text @param {string} [type] */
export function saveText(name, text, type = "text/plain") {
  saveBlob(name, new Blob([text], { type }));
}

/** Offer a file to save. @param {string} name @param {Blob} blob */
export function saveBlob(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * Copies `text` (a string, or a function that gives one). Props: `text`, `label?` (words for assistive technology),
 * `caption?` (words on the button).
 */
export class CopyButton extends Component {
  render() {
    const { label = "Copy", caption } = this.props;
    const { copied } = this.state;
    return h("button", {
      type: "button", className: caption ? "button button-small" : "button button-ghost button-icon",
      "aria-label": copied ? "Copied" : label, title: copied ? "Copied" : label,
    },
      icon(copied ? "check" : "copy", { size: 16 }), caption ? h("span", null, copied ? "Copied" : caption) : null);
  }

  getEventMap() {
    return { click: "handleClick" };
  }

  async handleClick() {
    const { text } = this.props;
    const copied = await copyText(typeof text === "function" ? text() : text);
    this.setState({ copied });
    clearTimeout(this.state.timer);
    this.setState({ timer: setTimeout(() => this.setState({ copied: false }), SAID_MS) });
  }
}
