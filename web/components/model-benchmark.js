import { Component, h } from "../core/component.js";
import { now, number, relativeTime } from "../core/format.js";
import { toast } from "./toast.js";

/** Longest wait for a benchmark: large models on a CPU take many minutes (ms). */
const TIMEOUT = 30 * 60_000;

/** @type {Array<[string, string, number, number, string]>} key, label, default, max, hint */
const FIELDS = [
  ["promptTokens", "Prompt tokens", 512, 32_768, "Length of the question"],
  ["generateTokens", "Generated tokens", 128, 8_192, "Length of the answer"],
  ["repetitions", "Repetitions", 3, 20, "Results are averaged"],
];

/** Measures how fast a model reads and writes on this machine. Props: `state`, `model`. */
export class ModelBenchmark extends Component {
  init() {
    this.state = {
      fields: Object.fromEntries(FIELDS.map(([key, , value]) => [key, String(value)])), running: false, progress: null,
      results: this.props.model.benchmarks ?? [], error: "",
    };
  }

  getEventMap() {
    return { "submit .model-benchmark": "handleRun", "input [data-benchmark]": "handleInput" };
  }

  didMount() {
    this.loadPast();
    const { state } = this.props;
    return [
      state.on("models:benchmark", (/** @type {any} */ progress) => this.follow(progress)),
      state.on("connection:established", (/** @type {{recovered: boolean}} */ { recovered }) => {
        if (!recovered) this.setState({ progress: null });
      }),
    ];
  }

  /** @param {Record<string, any>} progress of any model, whoever measures it; its end has the result or the error */
  follow(progress) {
    if (progress.id !== this.props.model.id) return;
    this.setState({ progress, error: progress.error ?? "" });
    if (progress.benchmark) this.add(progress.benchmark);
  }

  async loadPast() {
    try {
      const {
        model, benchmarks = model.benchmarks ?? [], benchmarking,
      } = await this.props.state.request("models:get", { id: this.props.model.id });
      if (!this.state.results.length) this.setState({ results: benchmarks });
      if (benchmarking && !this.state.progress) this.follow(benchmarking);
    } catch {
      // Earlier results are extra; a failed request here says nothing that the page does not show anyway.
    }
  }

  /** Take in a result, which comes as answer and as broadcast. @param {Record<string, any>} benchmark */
  add(benchmark) {
    this.setState({
      results: [benchmark, ...this.state.results.filter((/** @type {any} */ item) => item.id !== benchmark.id)],
    });
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleInput(_event, element) {
    this.setState({ fields: { ...this.state.fields, [element.dataset.benchmark ?? ""]: element.value } });
  }

  /** @param {Event} event */
  async handleRun(event) {
    event.preventDefault();
    if (this.state.running) return;
    const numbers = Object.fromEntries(FIELDS.map(([key]) => [key, Number(this.state.fields[key])]));
    this.setState({ running: true, progress: null, error: "" });
    try {
      const { benchmark } = await this.props.state.request(
        "models:benchmark", { id: this.props.model.id, ...numbers }, { timeout: TIMEOUT }
      );
      this.add(benchmark);
      toast(`Benchmark of ${this.props.model.name} finished`, { kind: "success" });
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message });
    }
    this.setState({ running: false, progress: null });
  }

  render() {
    const { results, error, progress } = this.state;
    const running = this.state.running || Boolean(progress && progress.done < progress.total);
    return h("div", { className: "stack" },
      h("p", { className: "muted" },
        "Loads the model if needed, then times a prompt and an answer. Other requests slow it down."),
      h("form", { className: "model-benchmark" },
        h("div", { className: "benchmark-fields" }, FIELDS.map((field) => this.field(field))),
        h("div", { className: "row" },
          h("button", { type: "submit", className: "button button-primary", disabled: running, "aria-busy": running },
            running ? "Measuring…" : "Run benchmark"),
          running && this.progress())),
      error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
      results.length > 0
        ? this.results(results)
        : !running && h("p", { key: "none", className: "muted" }, "Not measured yet."));
  }

  /** @param {[string, string, number, number, string]} field */
  field([key, label, , max, hint]) {
    const id = `benchmark-${key}`;
    return h("div", { key, className: "field" },
      h("label", { className: "field-label", htmlFor: id }, label),
      h("input", {
        id, className: "input", type: "number", min: 1, max, required: true, value: this.state.fields[key],
        disabled: this.state.running, dataset: { benchmark: key }, "aria-describedby": `${id}-hint`,
      }),
      h("p", { id: `${id}-hint`, className: "field-hint" }, hint));
  }

  progress() {
    const { done, total } = this.state.progress ?? {};
    return h("div", { className: "row benchmark-progress", role: "status" },
      h("progress", { className: "model-progress", max: total ?? 1, value: done || null, "aria-label": "Benchmark" }),
      h("span", { className: "muted nowrap" }, total ? `${done} of ${total}` : "Loading the model"));
  }

  /** @param {Record<string, any>[]} results */
  results(results) {
    return h("div", { key: "results", className: "table-wrap" }, h("table", { className: "table" },
      h("thead", null,
        h("tr", null,
          ["When", "Prompt speed", "Speed while answering", "Test"].map((title) => (
            h("th", { key: title, scope: "col" }, title))))),
      h("tbody", null, results.map((result, index) => h("tr", { key: result.id ?? index },
        h("td", { className: "nowrap" }, relativeTime(result.timestamp ?? now())),
        h("td", { className: "nowrap" }, speed(result.prompt_per_second, result.prompt_deviation)),
        h("td", { className: "nowrap" }, speed(result.generated_per_second, result.generated_deviation)),
        h("td", { className: "muted nowrap" }, testWords(result)))))));
  }
}

/** What was measured: prompt and generated tokens, how often. @param {Record<string, any>} result */
function testWords({ prompt_tokens: prompt, generated_tokens: made, generate_tokens: asked, repetitions }) {
  return `${prompt ?? "–"} + ${made ?? asked ?? "–"} × ${repetitions ?? 1}`;
}

/** @param {number} average @param {number} [deviation] in tokens a second */
function speed(average, deviation) {
  return `${number(average)}${deviation ? ` ± ${number(deviation)}` : ""} tokens/s`;
}
