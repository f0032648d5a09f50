import { Component, h } from "../core/component.js";
import { number } from "../core/format.js";
import { toast } from "./toast.js";

/** @typedef {Record<string, any>} Json */
/** @typedef {{key: string, words: string, changes?: Json, unload?: string, install?: boolean}} Remedy */

const STEP = 256; // tokens that a context is a multiple of

/**
 * What mends a model that runs with less than was asked for, the best first.
 * @param {Json} model @param {Json[]} models all of them @returns {Remedy[]}
 */
export function remedies({ id, parameters = {}, runtime = {} }, models) {
  const { shortfall, context: whole, better_build: build } = runtime;
  if (!shortfall) return [];
  if (shortfall === "unused") {
    return [build ? { key: "build", words: `Use ${build}`, changes: { build } }
      : { key: "install", words: "Install a build for the GPU", install: true }];
  }
  const smaller = shortfall === "spilled" ? Math.max(STEP, Math.floor(whole / 2 / STEP) * STEP) : whole;
  const words = `Set the context to ${number(smaller, 0)}`;
  const change = (/** @type {Json} */ more) => ({ parameters: { ...parameters, ...more } });
  const less = { key: "context", words, changes: change({ "ctx-size": smaller }) };
  if (shortfall === "trained") return [less];
  const plain = [undefined, "f16", "f32", "bf16"].includes(parameters["cache-type-k"]);
  const others = models.filter((other) => other.id !== id && other.status === "loaded" && !other.pinned);
  return [
    ...others.map((other) => ({ key: `unload ${other.id}`, words: `Unload ${other.name}`, unload: other.id })),
    ...(plain ? [{
      key: "cache", words: "Use a q8_0 KV cache", changes: change({ "cache-type-k": "q8_0", "cache-type-v": "q8_0" }),
    }] : []),
    less,
  ].slice(0, 3);
}

/** Buttons that mend a model that runs with less than was asked for. Props: `state`, `model`. */
export class Remedies extends Component {
  init() {
    this.state = { busy: false };
  }

  getEventMap() {
    return { "click [data-remedy]": "handleRemedy" };
  }

  /** @returns {Remedy[]} */
  get list() {
    return remedies(this.props.model, this.props.state.get("models") ?? []);
  }

  /** @param {Event} _event @param {HTMLElement} button */
  async handleRemedy(_event, button) {
    const remedy = this.list.find(({ key }) => key === button.dataset.remedy);
    if (!remedy || this.state.busy) return;
    this.setState({ busy: true });
    try {
      await applyRemedy(this.props.state, this.props.model, remedy);
    } finally {
      this.setState({ busy: false });
    }
  }

  render() {
    return h("span", { className: "row" }, this.list.map(({ key, words }) => h("button", {
      key, type: "button", className: "button button-small", disabled: this.state.busy, dataset: { remedy: key },
    }, words)));
  }
}

/**
 * Do what a remedy says, and load the model again with it.
 * @param {any} state @param {Json} model @param {Remedy} remedy
 */
async function applyRemedy(state, model, { changes, unload, install }) {
  if (install) {
    await state.request("engines:install");
    toast("Installing: load the model again afterwards");
    return;
  }
  if (unload) await state.request("models:unload", { id: unload });
  if (changes) await state.request("models:update", { id: model.id, revision: model.revision, changes });
  await state.request("models:unload", { id: model.id });
  const gone = () => state.get("models").find((/** @type {Json} */ { id }) => id === model.id)?.status === "unloaded";
  if (!gone()) {
    await new Promise((resolve) => {
      const stop = state.subscribe("models", () => gone() && (stop(), resolve(null)));
    });
  }
  await state.request("models:load", { id: model.id });
  toast(`Loading ${model.name} again`);
}
