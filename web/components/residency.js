/** Who is in memory, and who waits to get there. */

import { h } from "../core/component.js";
import { bytes, duration, number, plural, tokenRate, tokens } from "../core/format.js";
import { icon } from "./icon.js";
import { IN_MEMORY, loadingStage, nextWords, sentence, statusLabel } from "./model-status.js";
import { Panel, cardHeader, skeleton } from "./panel.js";
import { progressBar } from "./progress.js";
import { emptyState } from "./states.js";
import { toast } from "./toast.js";

/** @typedef {{[name: string]: any}} Json */

const MENU_LENGTH = 12;
const TICK_MS = 5000; // "unloads in 4 min" comes nearer
const QUEUE_TICK_MS = 1000;

/**
 * Since when nobody has used a model, in Unix ms; null while it answers or where that is not known.
 * @param {Json} model @param {Json[]} [requests] the last finished ones
 */
export function idleSince(model, requests = []) {
  if (model.runtime?.requests) return null;
  const ends = requests.filter((request) => request.model === model.id)
    .map(({ timestamp, duration: took }) => timestamp + (took ?? 0));
  const latest = Math.max(0, model.last_used_at ?? 0, model.runtime?.loaded_at ?? 0, ...ends);
  return latest || null;
}

/** The models in memory, live, and a short way to load another. */
export class ModelsInMemory extends Panel {
  static keys = ["models", "engine", "connection", "requests"];

  init() {
    this.state = { open: false };
  }

  render() {
    const shown = this.models.filter(({ status }) => IN_MEMORY.includes(status));
    return h("section", { className: "card", "aria-label": "Models in memory" },
      cardHeader("models", "In memory", this.renderMenu()),
      !this.get("models") ? h("div", { className: "card-body" }, skeleton(4))
        : shown.length ? h("ul", { className: "list" }, shown.map((model) => this.renderModel(model)))
          : this.renderEmpty());
  }

  renderEmpty() {
    if (!this.models.length) {
      return emptyState({
        title: "No models yet", iconName: "models",
        body: "llamadash looks through your model folders for GGUF files and can download some for you.",
        action: h("a", { className: "button button-primary", href: "/models" }, "Go to Models"),
      });
    }
    const status = this.get("engine")?.status;
    if (status && status !== "running") {
      return emptyState({ title: "The engine is stopped", iconName: "bolt", body: "Start it to load models." });
    }
    const favorites = this.models.filter(({ favorite, missing }) => favorite && !missing).slice(0, 4);
    return emptyState({
      title: "No model is loaded", iconName: "models", body: "Load one, or it loads on first request.",
      action: favorites.length ? favorites.map((model) => this.renderLoad(model))
        : h("a", { className: "button", href: "/models" }, "Choose a model"),
    });
  }

  /** @param {Json} model */
  renderLoad({ id, name }) {
    return h("button", {
      key: id, type: "button", className: "button load-button", disabled: this.get("connection") !== "connected",
      dataset: { load: id },
    }, icon("play", { size: 14 }), h("span", { className: "truncate" }, name));
  }

  renderMenu() {
    const free = this.models.filter(({ status }) => status === "unloaded" || status === "failed");
    if (!free.length || this.get("engine")?.status !== "running") return null;
    const list = free.sort((a, b) => Number(b.favorite) - Number(a.favorite) || a.name.localeCompare(b.name));
    return h("div", { className: "menu" },
      h("button", {
        type: "button", className: "button button-small", "aria-expanded": this.state.open, dataset: { action: "menu" },
      }, icon("plus", { size: 14 }), "Load a model"),
      this.state.open ? h("ul", { className: "menu-list" },
        list.slice(0, MENU_LENGTH).map((model) => this.renderMenuItem(model)),
        h("li", { key: "all", className: "menu-foot" },
          h("a", { className: "menu-item", href: "/models" }, "All models"))) : null);
  }

  /** @param {Json} model */
  renderMenuItem({ id, name, favorite, file_size: size }) {
    return h("li", { key: id }, h("button", { type: "button", className: "menu-item", dataset: { load: id } },
      favorite ? icon("star-filled", { size: 14, className: "menu-star" }) : h("span", { className: "menu-gap" }),
      h("span", { className: "truncate" }, name),
      h("span", { className: "muted nowrap" }, bytes(size))));
  }

  /** @param {Json} model */
  renderModel(model) {
    const { id, name, status, quantization, size_label: label, runtime, pinned, preferred } = model;
    const [words, kind] = statusLabel(status);
    const busy = status !== "loaded";
    const context = runtime?.n_ctx ? `${tokens(runtime.n_ctx)} context` : "";
    return h("li", { key: id, className: "list-item resident" },
      h("div", { className: "resident-head" },
        h("a", { className: "resident-link truncate", href: `/models/${encodeURIComponent(id)}`, title: name }, name),
        h("span", { className: `badge badge-${kind}` }, h("span", { className: busy ? "dot dot-busy" : "dot" }), words),
        pinned && h("span", { key: "pinned", className: "badge" }, "Pinned"),
        preferred && h("span", { key: "preferred", className: "badge" }, "Preferred")),
      h("p", { className: "resident-kind muted" }, [label, quantization, context].filter(Boolean).join(" · ")),
      status === "loading" ? this.renderProgress(model) : this.renderFigures(model),
      this.renderNotes(model),
      this.renderActions(model));
  }

  /** @param {Json} model */
  renderProgress(model) {
    const { text, part } = loadingStage(model);
    const why = model.reason ? `${text} · ${model.reason}` : text;
    return h("div", { key: "progress", className: "resident-body resident-progress" },
      progressBar({ value: part, label: `Loading ${model.name}` }),
      h("span", { className: "muted" }, why));
  }

  /** @param {Json} model */
  renderFigures(model) {
    const { runtime = {}, context_length: length } = model;
    const { requests = 0, waiting = 0, tokens_per_second: speed, memory, n_ctx: context } = runtime;
    const since = idleSince(model, this.get("requests") ?? []);
    const cut = context && length ? `Context: ${number(context)} of ${number(length)} trained tokens` : "";
    return h("dl", { key: "figures", className: "resident-body resident-figures" },
      figure("Memory", bytes(memory), cut),
      figure("In flight", waiting ? `${number(requests, 0)} + ${number(waiting, 0)} waiting` : number(requests, 0)),
      figure("Speed while answering", tokenRate(speed)),
      figure("Idle", since ? duration(Math.max(0, Math.round((Date.now() - since) / 1000))) : "–"));
  }

  /** What happens to it next, and what there is to know. @param {Json} model */
  renderNotes({ next, runtime }) {
    const { devices = [], shared_with: shared = [], warning, left_out: left = [] } = runtime ?? {};
    const places = devices.map((/** @type {Json} */ { name, used }) => `${bytes(used)} on ${name}`).join(", ");
    const names = shared.map((/** @type {string} */ id) => this.nameOf(id)).join(", ");
    const notes = [
      next && ["clock", nextWords(next)],
      places && ["memory", places],
      shared.length > 0 && ["models", `Same process as ${names}`],
      warning && ["warning", warning],
      left.length > 0 && ["warning", `Not known to its build, left out: ${left.join(", ")}`],
    ].filter(Boolean);
    return h("ul", { key: "notes", className: "resident-notes", hidden: !notes.length }, notes.map(([name, text]) =>
      h("li", { key: text, className: name === "warning" ? "text-warning" : "muted" },
        icon(name, { size: 14 }), h("span", null, text))));
  }

  /** @param {Json} model */
  renderActions({ id, name, status, pinned, preferred }) {
    /** @param {string} field @param {string} symbol @param {boolean} on @param {string} title */
    const toggle = (field, symbol, on, title) => h("button", {
      key: field, type: "button", className: `button button-ghost button-icon${on ? " is-on" : ""}`, title,
      "aria-label": `${field === "pinned" ? "Pin" : "Prefer"} ${name}`, "aria-pressed": Boolean(on),
      dataset: { toggle: field, id },
    }, icon(symbol));
    return h("div", { key: "actions", className: "resident-actions" },
      status === "loaded" && h("a", {
        key: "chat", className: "button button-ghost button-icon", href: `/chat?model=${encodeURIComponent(id)}`,
        "aria-label": `Chat with ${name}`, title: "Chat",
      }, icon("chat")),
      toggle("pinned", "pin", pinned, "Pin: always in memory, loaded at start"),
      toggle("preferred", "returns", preferred, "Prefer: returns automatically after making room"),
      status !== "stopping" && h("button", {
        key: "unload", type: "button", className: "button button-small", dataset: { unload: id },
        "aria-label": `${status === "loading" ? "Cancel" : "Unload"} ${name}`,
      }, status === "loading" ? "Cancel" : "Unload"));
  }

  getEventMap() {
    return {
      "click [data-action=\"menu\"]": () => this.setState({ open: !this.state.open }),
      "click [data-load]": "handleLoad",
      "pointerover [data-load]": "handleAim",
      "focusin [data-load]": "handleAim",
      "pointerout [data-load]": () => this.props.state.set("newcomer", null),
      "click [data-unload]": "handleUnload",
      "click [data-toggle]": "handleToggle",
      keydown: "handleKey",
    };
  }

  /** Show where a model would go before it is loaded. @param {Event} _event @param {HTMLElement} button */
  async handleAim(_event, button) {
    const { state } = this.props;
    const id = button.dataset.load ?? "";
    if (state.get("newcomer")?.id === id) return;
    state.set("newcomer", { id, name: this.nameOf(id), devices: [] });
    const { devices } = await state.request("models:estimate", { id });
    if (state.get("newcomer")?.id === id) state.set("newcomer", { id, name: this.nameOf(id), devices });
  }

  /** @param {Event} _event @param {HTMLElement} button */
  async handleLoad(_event, button) {
    this.setState({ open: false });
    this.props.state.set("newcomer", null);
    const { model } = await this.props.state.request("models:load", { id: button.dataset.load });
    toast(`Loading ${model.name}`);
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleUnload(_event, button) {
    return this.props.state.request("models:unload", { id: button.dataset.unload });
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleToggle(_event, button) {
    const { id, toggle: field = "" } = button.dataset;
    const model = this.models.find((one) => one.id === id);
    if (!model) return undefined;
    const changes = { [field]: !model[field] };
    return this.props.state.request("models:update", { id, revision: model.revision, changes });
  }

  /** @param {KeyboardEvent} event */
  handleKey(event) {
    if (event.key !== "Escape" || !this.state.open) return;
    this.setState({ open: false });
    this.element.querySelector("[data-action=\"menu\"]").focus();
  }

  didMount() {
    /** @param {Event} event */
    const away = (event) => {
      const inside = /** @type {Element} */ (event.target).closest(".menu");
      if (this.state.open && !inside) this.setState({ open: false });
    };
    document.addEventListener("pointerdown", away);
    const clock = setInterval(() => this.setState({}), TICK_MS);
    return [
      ...super.didMount(),
      () => document.removeEventListener("pointerdown", away),
      () => clearInterval(clock),
    ];
  }
}

/** @param {string} label @param {string} value @param {string} [title] */
function figure(label, value, title) {
  return h("div", { key: label, className: "figure", title: title || null },
    h("dt", { className: "figure-label" }, label), h("dd", { className: "figure-value" }, value));
}

/** Who waits for which model, since when and why; nothing where nobody waits. */
export class Queue extends Panel {
  static keys = ["queue", "models"];

  render() {
    const waiting = this.get("queue") ?? [];
    return h("section", { className: "card", hidden: !waiting.length, "aria-label": "Waiting requests" },
      cardHeader("clock", "Waiting",
        h("span", { className: "badge badge-warning" }, plural(waiting.length, "request"))),
      h("ul", { className: "list" }, waiting.map((/** @type {Json} */ item) => this.renderItem(item))));
  }

  /** @param {Json} item */
  renderItem({ id, model, client, since, reason }) {
    const seconds = Math.max(0, Math.round((Date.now() - since) / 1000));
    const name = this.nameOf(model);
    return h("li", { key: id, className: "list-item queue-item" },
      h("div", { className: "queue-words" },
        h("span", null, h("strong", null, client ?? "Somebody"), " waits for ",
          h("a", { className: "resident-link", href: `/models/${encodeURIComponent(model)}` }, name)),
        h("span", { className: "muted queue-reason" }, sentence(reason ?? ""))),
      h("span", { className: "nowrap muted" }, seconds ? duration(seconds) : "just now"),
      h("button", {
        type: "button", className: "button button-ghost button-icon", dataset: { cancel: id },
        "aria-label": `Cancel the request of ${client ?? "somebody"} to ${name}`, title: "Cancel",
      }, icon("close")));
  }

  getEventMap() {
    return { "click [data-cancel]": "handleCancel" };
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleCancel(_event, button) {
    return this.props.state.request("requests:cancel", { id: Number(button.dataset.cancel) });
  }

  didMount() {
    const clock = setInterval(() => this.get("queue")?.length && this.setState({}), QUEUE_TICK_MS);
    return [...super.didMount(), () => clearInterval(clock)];
  }
}
