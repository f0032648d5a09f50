import { Component, h } from "../core/component.js";
import { bytes, number, plural, relativeTime, tokenRate } from "../core/format.js";
import { fitBadge, marginOf, needOf } from "./fit-badge.js";
import { icon } from "./icon.js";
import { modelAction } from "./model-action.js";
import { modelStatus } from "./model-status.js";
import { lastSpeed, lastUse, memoryOf, sharedNames } from "./query-models.js";

/** @typedef {Record<string, any>} Model */
/** @typedef {import("./query-models.js").Group} Group */

/** Height of a row in px by layout; rows are placed by it, so pages.css sets the same. */
const ROW_HEIGHTS = { wide: 64, medium: 72, narrow: 122 };
/** From these widths in px on the list shows all columns, the most important ones, or name and status side by side. */
const FULL_FROM = 1110;
const WIDE_FROM = 860;
const MEDIUM_FROM = 520;
/** Rows drawn beyond each edge of the window, so that scrolling and Tab find them ready. */
const OVERSCAN = 8;

/** @type {Array<[string, string]>} sort key and heading of the columns between name and status */
const COLUMNS = [
  ["quantization", "Quantization"], ["size", "File size"], ["memory", "Memory"], ["used", "Last used"],
  ["context", "Context"], ["speed", "Speed"],
];
const SHOWN_TAGS = 3;
const WIDE_COLUMNS = 4; // of these where there is less room

/**
 * The models as rows, of which only those in sight exist.
 *
 * Props: `models` (filtered, sorted and grouped), `selected` (id), `chosen` (Set of ids), `sort`, `descending`, `busy`
 * (Set of ids), `devices`, `uses`. Clicks bubble to the page as `[data-action]` with `data-id`, and as `[data-choose]`.
 */
export class ModelList extends Component {
  getInitialState() {
    return { first: 0, last: 30, layout: "wide", columns: WIDE_COLUMNS, focused: "" };
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
    const columns = box.width >= FULL_FROM ? COLUMNS.length : WIDE_COLUMNS;
    const height = ROW_HEIGHTS[layout];
    const first = Math.max(0, Math.floor(-box.top / height) - OVERSCAN);
    const last = Math.max(first, Math.ceil((window.innerHeight - box.top) / height) + OVERSCAN);
    const now = { first, last, layout, columns };
    if (Object.entries(now).some(([name, value]) => this.state[name] !== value)) this.setState(now);
  }

  /** @param {Event} _event @param {HTMLElement} element */
  handleFocus(_event, element) {
    this.state.focused = element.dataset.id ?? "";
  }

  /** Arrow keys move between rows. @param {Event} event @param {HTMLElement} element */
  handleKey(event, element) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[/** @type {KeyboardEvent} */ (event).key];
    const target = /** @type {HTMLElement} */ (event.target);
    if (!step || !target.matches(".model-link")) return;
    const next = step > 0 ? element.nextElementSibling : element.previousElementSibling;
    const link = /** @type {HTMLElement|null|undefined} */ (next?.querySelector(".model-link"));
    if (!link) return;
    event.preventDefault();
    link.focus();
    link.scrollIntoView({ block: "nearest" });
  }

  render() {
    const models = /** @type {Model[]} */ (this.props.models);
    const { layout, first, last, focused, columns } = this.state;
    this.shared = sharedNames(models.filter((model) => !model.group));
    const height = ROW_HEIGHTS[/** @type {keyof typeof ROW_HEIGHTS} */ (layout)];
    /** @type {import("../core/component.js").VNode[]} */ const rows = [];
    models.forEach((model, index) => {
      if ((index < first || index > last) && model.id !== focused) return;
      const place = { "aria-setsize": String(models.length), "aria-posinset": String(index + 1) };
      const style = { transform: `translateY(${index * height}px)` };
      rows.push(model.group ? this.group(/** @type {any} */ (model), { ...place, style })
        : this.row(model, { ...place, style }));
    });
    return h("div", { className: `model-list is-${layout}${columns > WIDE_COLUMNS ? " is-full" : ""}` },
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
    const models = /** @type {Model[]} */ (this.props.models);
    const ids = models.flatMap((model) => model.group ? model.members : [model]).map(({ id }) => id);
    return h("div", { key: "heading", className: "model-heading" },
      this.box(ids, "Select all"), h("span", null), button("name", "Name"),
      COLUMNS.slice(0, this.state.columns).map(([sort, label]) => button(sort, label)),
      button("status", "Status"), h("span", null));
  }

  /** A box that chooses models. @param {string[]} ids @param {string} label */
  box(ids, label) {
    const { chosen } = this.props;
    const count = ids.filter((id) => chosen.has(id)).length;
    return h("label", { key: "box", className: "model-box" }, h("input", {
      type: "checkbox", checked: count > 0 && count === ids.length, indeterminate: count > 0 && count < ids.length,
      dataset: { choose: ids.join(" ") }, "aria-label": label,
    }));
  }

  /** The heading of the quantizations of one model. @param {Group & Model} group @param {any} place */
  group({ id, group, name, members, open }, place) {
    const sizes = members.map((member) => member.file_size ?? 0).sort((a, b) => a - b);
    const kinds = [...new Set(members.map(({ quantization }) => quantization).filter(Boolean))];
    const facts = [
      plural(members.length, kinds.length > 1 ? "quantization" : "file"),
      bytes(sizes[0]) === bytes(sizes.at(-1)) ? bytes(sizes[0]) : `${bytes(sizes[0])} to ${bytes(sizes.at(-1))}`,
      kinds.join(", "),
    ];
    return h("li", { key: id, className: "model-row model-group", dataset: { id }, ...place },
      this.box(members.map((member) => member.id), `Select all of ${name}`),
      icon(open ? "chevron-down" : "chevron-right"),
      h("div", { key: "name", className: "model-name" },
        h("button", {
          type: "button", className: "model-link", "aria-expanded": open, dataset: { action: "group", group },
        }, name),
        h("span", { className: "model-subline muted" }, h("span", { className: "model-facts" },
          facts.filter(Boolean).join(" · ")))));
  }

  /** @param {Model} model @param {any} place */
  row(model, place) {
    const selected = model.id === this.props.selected;
    const { chosen, uses } = this.props;
    const look = `${selected ? " is-selected" : ""}${chosen.has(model.id) ? " is-chosen" : ""}`;
    return h("li", {
      key: model.id, className: `model-row${look}${model.grouped ? " is-grouped" : ""}`, dataset: { id: model.id },
      ...place,
    },
      this.box([model.id], `Select ${model.name}`),
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
        h("span", { key: "quantization", className: "model-cell" },
          model.quantization ? h("span", { className: "badge badge-neutral" }, model.quantization) : "–"),
        h("span", { key: "size", className: "model-cell" }, bytes(model.file_size)),
        h("span", { key: "memory", className: "model-cell" }, bytes(memoryOf(model))),
        h("span", { key: "used", className: "model-cell" }, relativeTime(lastUse(model, uses))),
        h("span", { key: "context", className: "model-cell" }, context(model.context_length)),
        h("span", { key: "speed", className: "model-cell" }, tokenRate(lastSpeed(model, uses))),
      ].slice(0, this.state.columns),
      h("div", { key: "status", className: "model-row-status" }, modelStatus(model)),
      h("div", { key: "action", className: "model-row-action" },
        modelAction(model, { busy: this.props.busy?.has(model.id) })));
  }

  /** @param {Model} model */
  subline(model) {
    const used = lastUse(model, this.props.uses);
    const place = this.shared.has(model.name) && `${model.id} · ${folderOf(model.path)}`; // beside its size and kind
    const facts = this.state.layout === "wide"
      ? [place, model.architecture, model.size_label, model.shards?.length > 1 && `${model.shards.length} parts`]
      : [
        place, model.architecture, model.size_label, model.quantization, bytes(model.file_size),
        used && `used ${relativeTime(used)}`, model.context_length && `${context(model.context_length)} context`,
      ];
    const modalities = /** @type {string[]} */ (model.modalities ?? []).filter((name) => name !== "text");
    return h("span", { className: "model-subline muted" },
      h("span", { className: "model-facts", title: place ? model.path : null },
        facts.filter(Boolean).join(" · ") || "Unknown architecture"),
      model.pinned && h("span", { key: "pinned", className: "badge" }, "Pinned"),
      model.hub?.newer && h("span", { key: "newer", className: "badge badge-info" }, "Newer file"),
      (model.tags ?? []).slice(0, SHOWN_TAGS).map((/** @type {string} */ tag) =>
        h("span", { key: `tag:${tag}`, className: "badge model-tag" }, tag)),
      modalities.map((name) => h("span", { key: name, className: "badge badge-info" }, name)),
      model.status === "unloaded" && fitBadge(needOf(model), this.props.devices, {
        quiet: true, margin: marginOf(model),
      }));
  }
}

/** @param {number|null} tokens @returns {string} 32768 → "32K" */
function context(tokens) {
  if (!tokens) return "–";
  return tokens >= 1024 && tokens % 1024 === 0 ? `${number(tokens / 1024)}K` : number(tokens);
}

/** The folders in which a file is, the last two of them. @param {string} path */
function folderOf(path) {
  return path.split(/[\\/]/).slice(-3, -1).join("/");
}
