/** Who is in memory, and who waits to get there. */

import { h } from "../core/component.js";
import { bytes, duration, kindWords, now, number, past, plural, tokenRate, tokens } from "../core/format.js";
import { Sparkline } from "./chart.js";
import { deviceColor } from "./device-memory.js";
import { icon } from "./icon.js";
import { IN_MEMORY, loadingStage, nextWords, sentence, statusLabel } from "./model-status.js";
import { Panel, cardHeader, skeleton } from "./panel.js";
import { meter, progressBar } from "./progress.js";
import { emptyState } from "./states.js";
import { toast } from "./toast.js";

/** @typedef {{[name: string]: any}} Json */

const TICK_MS = 5000; // "unloads in 4 min" comes nearer
const QUEUE_TICK_MS = 1000;
const OWN_REQUESTS = 30; // of each model

/**
 * Since when nobody has used a model, in Unix ms; null while it answers or where that is not known.
 * @param {Json} model @param {Json[]} [requests] the last finished ones
 */
export function idleSince(model, requests = []) {
  if (model.runtime?.requests) return null;
  const ends = requests.filter((request) => request.model === model.id)
    .map(({ timestamp, duration: took }) => timestamp + (took ?? 0));
  return Math.max(...[model.last_used_at, model.runtime?.loaded_at, ...ends].map(past)) || null;
}

/**
 * How many tokens of its context a model uses: those of its requests under way, else those that its last answer left.
 * A prompt whose length is not told yet counts as long as the last one that is known.
 * @param {Json} model @param {Json[]} active @param {Json[]} requests the last finished ones, the newest first
 */
export function contextInUse({ id }, active, requests) {
  const own = (/** @type {Json[]} */ list) => list.filter(({ model }) => model === id);
  const last = own(requests).find(({ prompt_tokens: prompt }) => typeof prompt === "number");
  const size = (/** @type {Json} */ { prompt_tokens: prompt, generated_tokens: generated }) => (
    (prompt ?? last?.prompt_tokens ?? 0) + (generated ?? 0));
  const running = own(active).filter(({ prompt_tokens: prompt, generated_tokens: generated }) => prompt || generated);
  return running.length ? Math.max(...running.map(size)) : last ? size(last) : null;
}

/** The models in memory, live, and a short way to load another. */
export class ModelsInMemory extends Panel {
  static keys = ["models", "engine", "connection", "active"];

  /** @param {any} props */
  constructor(props) {
    super(props);
    /** @type {Map<string, Json[]>} the last requests of each model in memory, the newest first */
    this.finished = new Map();
  }

  get shown() {
    return this.models.filter(({ status }) => IN_MEMORY.includes(status));
  }

  render() {
    const { shown } = this;
    return h("section", { className: "card in-memory", "aria-label": "Models in memory" },
      cardHeader("models", "In memory", this.renderPicker()),
      !this.get("models") ? h("div", { className: "card-body" }, skeleton(4))
        : shown.length ? h("ul", { className: "list" }, shown.map((model) => this.renderModel(model, shown)))
          : this.renderEmpty());
  }

  renderEmpty() {
    if (!this.models.length) {
      return emptyState({
        title: "No models yet", iconName: "models", body: "Your model folders hold no GGUF files.",
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
      action: favorites.length ? favorites.map((model) => this.renderLoad(model)) : null,
    });
  }

  /** @param {Json} model */
  renderLoad({ id, name }) {
    return h("button", {
      key: id, type: "button", className: "button button-small load-button",
      disabled: this.get("connection") !== "connected", dataset: { load: id },
    }, icon("play", { size: 14 }), h("span", { className: "truncate" }, name));
  }

  get loadable() {
    return this.models.filter(({ status }) => status === "unloaded" || status === "failed");
  }

  renderPicker() {
    if (!this.loadable.length || this.get("engine")?.status !== "running") return null;
    return h("button", {
      type: "button", className: "button button-small", "aria-haspopup": "dialog", dataset: { action: "pick" },
    }, icon("plus", { size: 14 }), "Load a model");
  }

  /** @param {Json} model @param {Json[]} shown all that are in memory, in the order of their colours */
  renderModel(model, shown) {
    const { id, name, status, quantization, size_label: label } = model;
    const same = this.models.some((other) => other.name === name && other.id !== id);
    const [words, kind] = statusLabel(status);
    return h("li", { key: id, className: "list-item resident" },
      h("div", { className: "resident-head" },
        h("span", {
          className: "device-key", "aria-hidden": "true",
          style: { background: `var(--series-${deviceColor(shown.indexOf(model))})` },
        }),
        h("a", { className: "resident-link truncate", href: `/models/${encodeURIComponent(id)}`, title: name }, name),
        status !== "loaded" && h("span", { key: "status", className: `badge badge-${kind}` },
          h("span", { className: "dot dot-busy" }), words),
        h("span", { className: "resident-kind muted" },
          same ? kindWords(model) : [label, quantization].filter(Boolean).join(" · "))),
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
    const { id, runtime = {} } = model;
    const { requests = 0, waiting = 0, slots, tokens_per_second: speed, devices = [], memory } = runtime;
    const finished = this.finished.get(id) ?? [];
    const since = idleSince(model, finished);
    const speeds = finished.map((one) => one.generated_per_second).filter(Boolean).reverse();
    const places = devices.map((/** @type {Json} */ { name, used }) => (
      devices.length > 1 ? `${bytes(used)} on ${name}` : name));
    return h("dl", { key: "figures", className: "resident-body resident-figures" },
      h("div", { className: "figure figure-speed" },
        h("dt", { className: "figure-label" }, "Speed while answering"),
        h("dd", { className: "figure-value" }, tokenRate(speed ?? speeds.at(-1))),
        speeds.length > 1 && h("dd", { key: "trend" }, h(Sparkline, {
          values: requests && speed ? [...speeds, speed] : speeds, height: 20,
          label: `Speed of the last ${plural(speeds.length, "answer")} of ${model.name}`,
        }))),
      figure("Requests in flight", slots ? `${number(requests, 0)} of ${plural(slots, "slot")}` : number(requests, 0),
        waiting ? `${number(waiting, 0)} waiting` : ""),
      this.renderContext(model, finished),
      figure("Memory", bytes(memory), places),
      figure(requests ? "Answering" : "Idle",
        requests || !since ? "–" : duration(Math.max(0, Math.round((now() - since) / 1000))), nextWords(model.next)));
  }

  /** @param {Json} model @param {Json[]} finished */
  renderContext(model, finished) {
    const size = model.runtime?.n_ctx;
    const used = contextInUse(model, this.get("active") ?? [], finished);
    const trained = model.context_length && size ? `${number(model.context_length)} trained tokens` : "";
    return h("div", { key: "context", className: "figure", title: trained || null },
      h("dt", { className: "figure-label" }, "Context in use"),
      h("dd", { className: "figure-value" }, size ? `${tokens(used)} of ${tokens(size)}` : "–"),
      size && used !== null && h("dd", { key: "bar" }, meter({
        value: Math.min(100, (100 * used) / size), label: `Context of ${model.name}`,
      })));
  }

  /** What there is to know beside its figures. @param {Json} model */
  renderNotes({ runtime }) {
    const { shared_with: shared = [], warning, left_out: left = [] } = runtime ?? {};
    const names = shared.map((/** @type {string} */ id) => this.nameOf(id)).join(", ");
    const notes = [
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
      toggle("pinned", "pin", pinned, "Pin: always in memory, loaded at start"),
      toggle("preferred", "returns", preferred, "Prefer: returns automatically after making room"),
      status === "loaded" && h("a", {
        key: "chat", className: "button button-small", href: `/chat?model=${encodeURIComponent(id)}`,
        "aria-label": `Chat with ${name}`,
      }, icon("chat", { size: 14 }), "Chat"),
      status !== "stopping" && h("button", {
        key: "unload", type: "button", className: "button button-small", dataset: { unload: id },
        "aria-label": `${status === "loading" ? "Cancel" : "Unload"} ${name}`,
      }, status === "loading" ? "Cancel" : "Unload"));
  }

  getEventMap() {
    return {
      "click [data-action=\"pick\"]": "handlePick",
      "click [data-load]": (/** @type {Event} */ _event, /** @type {HTMLElement} */ button) => (
        this.loadModel(button.dataset.load ?? "")),
      "click [data-unload]": "handleUnload",
      "click [data-toggle]": "handleToggle",
    };
  }

  async handlePick() {
    const { pickModel } = await import("./palette.js");
    const { state } = this.props;
    const id = await pickModel({
      state, title: "Load a model", models: () => this.loadable, aim: (/** @type {string} */ one) => this.aim(one),
    });
    state.set("newcomer", null);
    if (id) await this.loadModel(id);
  }

  /** Show where a model would go before it is loaded. @param {string} id */
  async aim(id) {
    const { state } = this.props;
    if (state.get("newcomer")?.id === id) return;
    state.set("newcomer", { id, name: this.nameOf(id), devices: [] });
    const { devices } = await state.request("models:estimate", { id });
    if (state.get("newcomer")?.id === id) state.set("newcomer", { id, name: this.nameOf(id), devices });
  }

  /** @param {string} id */
  async loadModel(id) {
    const { model } = await this.props.state.request("models:load", { id });
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

  didMount() {
    const { state } = this.props;
    const clock = setInterval(() => this.setState({}), TICK_MS);
    this.loadFinished();
    return [
      ...super.didMount(), () => clearInterval(clock),
      state.subscribe("models", () => this.loadFinished()),
      state.subscribe("info", (/** @type {any} */ info) => info?.recovered || this.loadFinished(true)),
      state.on("requests:finished", (/** @type {any} */ { request }) => this.addFinished(request.model, [request])),
    ];
  }

  /** Asks for the requests of models that came into memory. @param {boolean} [again] whether of all of them */
  loadFinished(again = false) {
    if (again) this.finished.clear();
    for (const { id } of this.shown.filter((model) => !this.finished.has(model.id))) {
      this.finished.set(id, []);
      this.props.state.request("requests:list", { model: id, limit: OWN_REQUESTS }).then(
        (/** @type {any} */ { requests = [] }) => this.addFinished(id, requests), () => this.finished.delete(id));
    }
  }

  /** @param {string} id @param {Json[]} requests the newest first */
  addFinished(id, requests) {
    const known = this.finished.get(id);
    if (!known) return; // not in memory
    const all = new Map([...requests, ...known].map((request) => [request.id, request]));
    this.finished.set(id, [...all.values()].sort((one, other) => other.id - one.id).slice(0, OWN_REQUESTS));
    this.setState({});
  }
}

/** @param {string} label @param {string} value @param {string | string[]} [notes] */
function figure(label, value, notes = []) {
  return h("div", { key: label, className: "figure" },
    h("dt", { className: "figure-label" }, label), h("dd", { className: "figure-value" }, value),
    [notes].flat().filter(Boolean).map((note) => h("dd", { key: note, className: "figure-note muted" }, note)));
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
    const seconds = Math.max(0, Math.round((now() - since) / 1000));
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
