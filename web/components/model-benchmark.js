import { Component, h } from "../core/component.js";
import { now, number, plural, relativeTime } from "../core/format.js";
import { comparisonTable } from "./comparison-table.js";
import { toast } from "./toast.js";

/** Longest wait for a benchmark: large models on a CPU take many minutes (ms). */
const TIMEOUT = 30 * 60_000;

/** @typedef {Record<string, any>} Json */

/** @type {Array<[string, string, string, number, string]>} key, label, default, max, hint; the first two are lists */
const FIELDS = [
  ["promptTokens", "Prompt tokens", "512", 131_072, "Prompt lengths, e.g. 512, 4096"],
  ["concurrency", "Requests at once", "1", 64, "e.g. 1, 4; up to the model's slots"],
  ["generateTokens", "Generated tokens", "128", 8_192, "Length of the answer"],
  ["repetitions", "Repetitions", "3", 20, "After a warm-up that does not count"],
];
const LISTS = new Set(["promptTokens", "concurrency"]);

/**
 * The tests that were typed: each length with each number of requests at once.
 * @param {Record<string, string>} fields @returns {{tests: Record<string, number>[]} | {error: string}}
 */
export function benchmarkTests(fields) {
  /** @type {Record<string, number[]>} */ const values = {};
  for (const [key, label, , max] of FIELDS) {
    const words = fields[key].split(LISTS.has(key) ? /[\s,;]+/ : /\s+/).filter(Boolean);
    values[key] = [...new Set(words.map(Number))];
    if (!words.length || values[key].some((value) => !Number.isInteger(value) || value < 1 || value > max)) {
      return { error: `${label}: enter ${LISTS.has(key) ? "numbers" : "a number"} from 1 to ${number(max)}.` };
    }
  }
  const [[generateTokens], [repetitions]] = [values.generateTokens, values.repetitions];
  const tests = values.promptTokens.flatMap((promptTokens) => values.concurrency.map((concurrency) => (
    { promptTokens, generateTokens, repetitions, concurrency })));
  return tests.length > 24 ? { error: "That is more than 24 tests." } : { tests };
}

/** Measures how fast a model reads and writes on this machine. Props: `state`, `model`. */
export class ModelBenchmark extends Component {
  getInitialState() {
    return {
      fields: Object.fromEntries(FIELDS.map(([key, , value]) => [key, value])), running: false, progress: null,
      results: this.props.model.benchmarks ?? [], error: "", chosen: /** @type {number[]} */ ([]), left: 0,
      votes: { best: 0, of: 0 },
    };
  }

  getEventMap() {
    return {
      "submit .model-benchmark": "handleRun", "input [data-benchmark]": "handleInput",
      "change [data-compare]": "handleChoose",
    };
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
        model, benchmarks = model.benchmarks ?? [], benchmarking, votes = this.state.votes,
      } = await this.props.state.request("models:get", { id: this.props.model.id, votes: true });
      this.setState({ votes, ...(this.state.results.length ? {} : { results: benchmarks }) });
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

  /** Choose a result for the comparison, of the last two. @param {Event} _event @param {HTMLInputElement} element */
  handleChoose(_event, element) {
    const id = Number(element.dataset.compare);
    const others = this.state.chosen.filter((/** @type {number} */ item) => item !== id);
    this.setState({ chosen: element.checked ? [...others, id].slice(-2) : others });
  }

  /** @param {Event} event */
  async handleRun(event) {
    event.preventDefault();
    if (this.state.running) return;
    const asked = benchmarkTests(this.state.fields);
    if ("error" in asked) {
      this.setState({ error: asked.error });
      return;
    }
    this.setState({ running: true, progress: null, error: "" });
    const { id, name } = this.props.model;
    try {
      for (const [index, test] of asked.tests.entries()) {
        this.setState({ left: asked.tests.length - index - 1 });
        this.add((await this.props.state.request("models:benchmark", { id, ...test }, { timeout: TIMEOUT })).benchmark);
      }
      toast(`Benchmark of ${name} finished`, { kind: "success" });
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message });
    }
    this.setState({ running: false, progress: null, left: 0 });
  }

  render() {
    const { results, error, progress, votes } = this.state;
    const running = this.state.running || Boolean(progress && progress.done < progress.total);
    return h("div", { className: "stack" },
      h("p", { className: "muted" },
        "Loads the model if needed, then times prompts and answers. Other requests slow it down."),
      h("form", { className: "model-benchmark" },
        h("div", { className: "benchmark-fields" }, FIELDS.map((field) => this.field(field))),
        h("div", { className: "row" },
          h("button", { type: "submit", className: "button button-primary", disabled: running, "aria-busy": running },
            running ? "Measuring…" : "Run benchmark"),
          running && this.progress())),
      error && h("p", { key: "error", className: "field-error", role: "alert" }, error),
      votes.of > 0 && h("p", { key: "votes" },
        `Voted best in ${number(votes.best)} of ${plural(votes.of, "comparison")} in chats.`),
      results.length > 0
        ? this.results(results)
        : !running && h("p", { key: "none", className: "muted" }, "Not measured yet."));
  }

  /** @param {[string, string, string, number, string]} field */
  field([key, label, , , hint]) {
    const id = `benchmark-${key}`;
    return h("div", { key, className: "field" },
      h("label", { className: "field-label", htmlFor: id }, label),
      h("input", {
        id, className: "input", inputMode: "numeric", required: true, value: this.state.fields[key],
        disabled: this.state.running, dataset: { benchmark: key }, "aria-describedby": `${id}-hint`,
      }),
      h("p", { id: `${id}-hint`, className: "field-hint" }, hint));
  }

  progress() {
    const { done, total } = this.state.progress ?? {};
    return h("div", { className: "row benchmark-progress", role: "status" },
      h("progress", { className: "model-progress", max: total ?? 1, value: done || null, "aria-label": "Benchmark" }),
      h("span", { className: "muted nowrap" }, total ? `${done} of ${total}` : "Loading the model",
        this.state.left > 0 && `, then ${plural(this.state.left, "more test")}`));
  }

  /** @param {Json[]} results */
  results(results) {
    const pair = results.filter(({ id }) => this.state.chosen.includes(id)).sort((a, b) => a.id - b.id);
    return h("div", { key: "results", className: "stack" },
      pair.length === 2 ? sideBySide(pair)
        : results.length > 1 && h("p", { className: "field-hint" }, "Choose two results to compare them."),
      h("div", { className: "table-wrap" }, h("table", { className: "table" },
        h("thead", null, h("tr", null,
          ["", "When", "Prompt speed", "Speed while answering", "Test", "Build"].map((title) => (
            h("th", { key: title, scope: "col" }, title))))),
        h("tbody", null, results.map((result, index) => h("tr", { key: result.id ?? index },
          h("td", null, h("input", {
            type: "checkbox", checked: this.state.chosen.includes(result.id), dataset: { compare: result.id },
            "aria-label": `Compare ${testWords(result)}, ${relativeTime(result.timestamp ?? now())}`,
          })),
          h("td", { className: "nowrap" }, relativeTime(result.timestamp ?? now())),
          h("td", { className: "nowrap" }, speed(result.prompt_per_second, result.prompt_deviation)),
          h("td", { className: "nowrap" }, speed(result.generated_per_second, result.generated_deviation)),
          h("td", { className: "muted nowrap" }, testWords(result)),
          h("td", { className: "muted" }, result.build ?? "–")))))));
  }
}

/** What of a result is told, and whether more of it is better. @type {Array<[string, (result: Json) => any]>} */
const FACTS = [
  ["Prompt speed", (result) => speed(result.prompt_per_second, result.prompt_deviation)],
  ["Speed while answering", (result) => speed(result.generated_per_second, result.generated_deviation)],
  ["Test", testWords],
  ["Build", (result) => [result.build, result.version].filter(Boolean).join(", ")],
  ["Devices", (result) => result.devices?.join(", ")],
  ["GPU power", (result) => result.power && `${number(result.power)} W`],
];

/** Two results, the older one first, and what differs in the parameters. @param {Json[]} pair */
function sideBySide(pair) {
  const keys = [...new Set(pair.flatMap(({ parameters }) => Object.keys(parameters ?? {})))].sort();
  const value = (/** @type {Json} */ { parameters }, /** @type {string} */ key) =>
    parameters && (parameters[key] ?? "default");
  /** @type {typeof FACTS} */
  const different = keys.filter((key) => value(pair[0], key) !== value(pair[1], key))
    .map((key) => [key, (result) => value(result, key)]);
  const rows = [...FACTS, ...different];
  const [before, after] = pair;
  return comparisonTable(`${change(pair)}.`, [relativeTime(before.timestamp), relativeTime(after.timestamp)],
    rows.map(([title, text]) => [title, text(before), text(after)]));
}

/** By how much the second result is faster or slower. @param {Json[]} pair */
export function change([before, after]) {
  const words = [["prompt", "Prompts"], ["generated", "answers"]].map(([kind, what]) => {
    const share = after[`${kind}_per_second`] / before[`${kind}_per_second`] - 1;
    const percent = Math.round(Math.abs(share) * 100);
    return Number.isFinite(share) && `${what} ${percent} % ${share < 0 ? "slower" : "faster"}`;
  });
  return words.filter(Boolean).join(", ") || "Speeds are not known";
}

/** What was measured: prompt and generated tokens, how often, how many at once. @param {Json} result */
function testWords({ prompt_tokens: prompt, generate_tokens: made, repetitions, concurrency }) {
  const test = `${prompt ?? "–"} + ${made ?? "–"} × ${repetitions ?? 1}`;
  return concurrency > 1 ? `${test}, ${concurrency} at once` : test;
}

/** @param {number | null} median @param {number} [deviation] in tokens a second */
function speed(median, deviation) {
  return median == null ? "–" : `${number(median)}${deviation ? ` ± ${number(deviation)}` : ""} tokens/s`;
}
