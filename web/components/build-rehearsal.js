import { Component, h } from "../core/component.js";
import { bytes, number } from "../core/format.js";
import { comparisonTable } from "./comparison-table.js";

/** @typedef {Record<string, any>} Json */

/** Differences in speed below this share are noise. */
const NOISE = 0.03;

/** @param {Json} trial bytes that a process takes in all memories */
const memoryOf = (trial) => Object.values(trial.devices ?? {}).reduce((sum, used) => sum + used, 0);

/**
 * How the new build compares with the old one, as one phrase: "18 % faster, 0.2 GiB more memory".
 * @param {Json} old @param {Json} fresh two trials
 */
export function comparison(old, fresh) {
  const speed = fresh.generated_per_second / old.generated_per_second - 1;
  const memory = memoryOf(fresh) - memoryOf(old);
  const words = [
    !Number.isFinite(speed) ? "speed unknown" : Math.abs(speed) < NOISE ? "as fast"
      : `${Math.round(Math.abs(speed) * 100)} % ${speed > 0 ? "faster" : "slower"}`,
    Math.abs(memory) < 32 * 2 ** 20 ? "as much memory"
      : `${bytes(Math.abs(memory))} ${memory > 0 ? "more" : "less"} memory`,
  ];
  const gone = Object.keys(old.devices ?? {}).filter((name) => !(name in (fresh.devices ?? {})));
  const unseen = (old.sees ?? []).filter((/** @type {string} */ device) => !(fresh.sees ?? []).includes(device));
  if (unseen.length) words.push(`does not see ${unseen.join(", ")}`);
  else if (gone.length) words.push(`does not use ${gone.join(", ")}`);
  if (old.context !== fresh.context) words.push(`context ${number(fresh.context)} instead of ${number(old.context)}`);
  words.push(old.answer === fresh.answer ? "same answer" : "another answer");
  return words.join(", ");
}

/**
 * Tries a build on a loaded model beside the one that runs it, and shows how they compare.
 *
 * Props: `state`, `build`, `models` (those in memory).
 */
export class BuildRehearsal extends Component {
  init() {
    this.state = { model: "", error: "" };
  }

  getEventMap() {
    return { "click [data-action=\"rehearse\"]": "handleTry", "change select": "handleModel" };
  }

  /** @param {Event} _event @param {HTMLSelectElement} element */
  handleModel(_event, element) {
    this.setState({ model: element.value });
  }

  /** The models that another build runs. @returns {Json[]} */
  candidates() {
    return (this.props.models ?? []).filter((/** @type {Json} */ model) =>
      model.status === "loaded" && model.runtime?.build && model.runtime.build !== this.props.build.id);
  }

  async handleTry() {
    this.setState({ error: "" });
    const candidates = this.candidates();
    const model = (candidates.find(({ id }) => id === this.state.model) ?? candidates[0])?.id;
    try {
      await this.props.state.request("engines:rehearse", { id: this.props.build.id, model });
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message });
    }
  }

  render() {
    const { build } = this.props;
    const { rehearsal } = build;
    const candidates = this.candidates();
    const busy = rehearsal?.status === "running";
    const words = candidates.length === 1 ? `Try with ${candidates[0].name}` : "Try";
    const failure = rehearsal?.status === "failed" ? `Not with ${rehearsal.model}: ${rehearsal.problem}` : "";
    const error = this.state.error || failure;
    return h("div", { className: "stack build-rehearsal" },
      (candidates.length > 0 || busy) && h("div", { key: "row", className: "row" },
        candidates.length > 1 && h("select", {
          key: "model", className: "select build-model", "aria-label": `Model to try ${build.id} with`, disabled: busy,
        }, candidates.map(({ id, name }) => h("option", { key: id, value: id }, name))),
        h("button", {
          key: "try", type: "button", className: "button button-small build-try", disabled: busy, "aria-busy": busy,
          dataset: { action: "rehearse" }, title: "Starts this build beside the one in use and compares them",
        }, busy ? `Trying with ${rehearsal.model}…` : words)),
      error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
      rehearsal?.status === "done" && this.result(rehearsal));
  }

  /** @param {Json} rehearsal */
  result({ model, old, new: fresh }) {
    /** @type {Array<[string, (trial: Json) => string]>} */
    const rows = [
      ["Answering", (trial) => speed(trial.generated_per_second)],
      ["Reading the prompt", (trial) => speed(trial.prompt_per_second)],
      ["Memory", (trial) => bytes(memoryOf(trial))],
      ["Devices", (trial) => Object.keys(trial.devices ?? {}).join(", ")],
      ["Context", (trial) => number(trial.context)],
      ["Loading", (trial) => `${number(trial.loading)} s`],
    ];
    return h("div", { key: "result", className: "stack", role: "status" },
      comparisonTable(`With ${model}: ${comparison(old, fresh)}.`, [`${old.build} (in use)`, fresh.build],
        rows.map(([title, value]) => [title, value(old), value(fresh)])),
      h("div", { className: "row" }, h("button", {
        type: "button", className: "button button-primary button-small",
        dataset: { action: "build-use", id: fresh.build },
      }, "Use this one")));
  }
}

/** @param {number | null} value tokens a second */
function speed(value) {
  return value == null ? "–" : `${number(value)} tokens/s`;
}
