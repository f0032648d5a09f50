import { Component, h } from "../core/component.js";
import { bytes, number } from "../core/format.js";
import { fitBadge, needOf } from "./fit-badge.js";
import { icon } from "./icon.js";
import { modelAction } from "./model-action.js";
import { modelStatus } from "./model-status.js";
import { sharedNames } from "./query-models.js";

/** @typedef {Record<string, any>} Model */

/** Height of a row in px by layout; rows are placed by it, so pages.css sets the same. */
const ROW_HEIGHTS = { wide: 64, medium: 72, narrow: 122 };
/** From these widths in px on the list shows columns, or name and status side by side. */
const WIDE_FROM = 860;
const MEDIUM_FROM = 520;
/** Rows drawn beyond each edge of the window, so that scrolling and Tab find them ready. */
const OVERSCAN = 8;

/** @type {Array<[string, string]>} sort key and heading of the columns between name and status */
const COLUMNS = [
  ["parameters", "Parameters"], ["quantization", "Quantization"], ["size", "File size"], ["context", "Context"],
];

/**
 * The models as rows, of which only those in sight exist.
 *
 * Props: `models` (filtered and sorted), `selected` (id), `sort`, `descending`, `busy` (Set of ids), `devices`.
 * Clicks bubble to the page as `[data-action]` with `data-id`.
 */
export class ModelList extends Component {
  getInitialState() {
    return { first: 0, last: 30, layout: "wide", focused: "" };
  }

  init() {
    /** The names that do not tell models apart. @type {Set<string>} */ this.shared = new Set();
  }

  getEventMap() {
    return { "keydown .model-row": "handleKey", "focusin .model-row": "handleFocus" };
  }

  didMount() {
    const measure = () => this.measure();
    const observer = new ResizeObserver(measure);
    observer.observe(this.element);
    document.addEventListener("scroll", measure, { capture: true, passive: true });
    window.addEventListener("resize", measure);
    this.measure();
    return [
      () => observer.disconnect(),
      () => document.removeEventListener("scroll", measure, { capture: true }),
      () => window.removeEventListener("resize", measure),
    ];
  }

  didUpdate() {
    this.measure();
  }

  /** Work out which rows are in sight; draws again only when that changed. */
  measure() {
    const list = /** @type {HTMLElement|null} */ (this.element.querySelector(".model-rows"));
    if (!list) return;
    const box = list.getBoundingClientRect();
    if (!box.width) return;
    const layout = box.width >= WIDE_FROM ? "wide" : box.width >= MEDIUM_FROM ? "medium" : "narrow";
    const height = ROW_HEIGHTS[layout];
    const first = Math.max(0, Math.floor(-box.top / height) - OVERSCAN);
    const last = Math.max(first, Math.ceil((window.innerHeight - box.top) / height) + OVERSCAN);
    if (first !== this.state.first || last !== this.state.last || layout !== this.state.layout) {
      this.setState({ first, last, layout });
    }
  }

  /** @param {Event} _event @param {HTMLElement} element */
  handleFocus(_event, element) {
    this.state.focused = element.dataset.id ?? "";
  }

  /** Arrow keys move between rows. @param {Event} event @param {HTMLElement} element */
  handleKey(event, element) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[/** @type {KeyboardEvent} */ (event).key];
    if (!step || !(event.target instanceof HTMLAnchorElement)) return;
    const next = step > 0 ? element.nextElementSibling : element.previousElementSibling;
    const link = next?.querySelector("a");
    if (!link) return;
    event.preventDefault();
    link.focus();
    link.scrollIntoView({ block: "nearest" });
  }

  render() {
    const models = /** @type {Model[]} */ (this.props.models);
    const { layout, first, last, focused } = this.state;
    this.shared = sharedNames(models);
    const height = ROW_HEIGHTS[/** @type {keyof typeof ROW_HEIGHTS} */ (layout)];
    /** @type {import("../core/component.js").VNode[]} */ const rows = [];
    models.forEach((model, index) => {
      if ((index >= first && index <= last) || model.id === focused) rows.push(this.row(model, index, height));
    });
    return h("div", { className: `model-list is-${layout}` },
      layout === "wide" && this.heading(),
      h("ul", {
        key: "rows", className: "model-rows", "aria-label": "Models", style: { height: `${models.length * height}px` },
      }, rows));
  }

  heading() {
    const button = (/** @type {string} */ sort, /** @type {string} */ label) => {
      const active = this.props.sort === sort;
      return h("button", {
        key: sort,
        type: "button",
        className: `model-sort${active ? " is-active" : ""}`,
        dataset: { action: "sort", sort },
        "aria-pressed": String(active),
        "aria-label": active
          ? `${label}, sorted ${this.props.descending ? "descending" : "ascending"}`
          : `Sort by ${label.toLowerCase()}`,
      }, label, active && h("span", { className: "model-sort-arrow", "aria-hidden": "true" }, this.props.descending
        ? "↓"
        : "↑"));
    };
    return h("div", { key: "heading", className: "model-heading" },
      h("span", null), button("name", "Name"), COLUMNS.map(([sort, label]) =>
        button(sort, label)), button("status", "Status"), h("span", null));
  }

  /** @param {Model} model @param {number} index @param {number} height */
  row(model, index, height) {
    const selected = model.id === this.props.selected;
    return h("li", {
      key: model.id, className: `model-row${selected ? " is-selected" : ""}`, dataset: { id: model.id },
      "aria-setsize": String(this.props.models.length),
      "aria-posinset": String(index + 1),
      style: { transform: `translateY(${index * height}px)` },
    },
      h("button", {
        key: "star", type: "button", className: `button-icon model-star${model.favorite ? " is-on" : ""}`,
        dataset: { action: "favorite", id: model.id }, "aria-pressed": String(Boolean(model.favorite)),
        "aria-label": `Favourite ${model.name}`, title: model.favorite ? "Remove from favourites" : "Add to favourites",
      }, icon(model.favorite ? "star-filled" : "star")),
      h("div", { key: "name", className: "model-name" },
        h("a", {
          className: "model-link", href: `/models/${model.id}`, "aria-current": selected ? "true" : undefined,
          title: model.name,
        }, model.name),
        this.subline(model)),
      this.state.layout === "wide" && [
        h("span", { key: "parameters", className: "model-cell" }, model.size_label ?? "–"),
        h("span", { key: "quantization", className: "model-cell" },
          model.quantization ? h("span", { className: "badge badge-neutral" }, model.quantization) : "–"),
        h("span", { key: "size", className: "model-cell" }, bytes(model.file_size)),
        h("span", { key: "context", className: "model-cell" }, context(model.context_length)),
      ],
      h("div", { key: "status", className: "model-row-status" }, modelStatus(model)),
      h("div", { key: "action", className: "model-row-action" },
        modelAction(model, { busy: this.props.busy?.has(model.id) })));
  }

  /** @param {Model} model */
  subline(model) {
    const id = this.shared.has(model.name) && model.id;
    const facts = this.state.layout === "wide"
      ? [id, model.architecture, model.shards?.length > 1 && `${model.shards.length} parts`]
      : [
        id, model.architecture, model.size_label, model.quantization, bytes(model.file_size),
        model.context_length && `${context(model.context_length)} context`,
      ];
    const modalities = /** @type {string[]} */ (model.modalities ?? []).filter((name) => name !== "text");
    return h("span", { className: "model-subline muted" },
      h("span", { className: "model-facts" }, facts.filter(Boolean).join(" · ") || "Unknown architecture"),
      modalities.map((name) => h("span", { key: name, className: "badge badge-info" }, name)),
      model.status === "unloaded" && fitBadge(needOf(model), this.props.devices, { quiet: true }));
  }
}

/** @param {number|null} tokens @returns {string} 32768 → "32K" */
function context(tokens) {
  if (!tokens) return "–";
  return tokens >= 1024 && tokens % 1024 === 0 ? `${number(tokens / 1024)}K` : number(tokens);
}
