import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { benchmarkTests, ModelBenchmark } = await import("../../web/components/model-benchmark.js");

test("a benchmark that somebody else runs ends also where it fails or the server restarts", () => {
  const said = {};
  const state = { on: (event, callback) => { said[event] = callback; return () => {}; }, request: () => new Promise(() => {}) };
  const it = new ModelBenchmark({ state, model: { id: "a", name: "A" } }).mount(document.body);
  const text = () => { it.update(); return it.element.textContent; };
  said["models:benchmark"]({ id: "a", done: 1, total: 3 });
  assert.match(text(), /Measuring….*1 of 3/);
  said["models:benchmark"]({ id: "a", done: 3, total: 3, error: "The engine ended" });
  assert.match(text(), /Run benchmark.*The engine ended/);
  said["models:benchmark"]({ id: "a", done: 1, total: 3 });
  assert.doesNotMatch(text(), /The engine ended/);
  said["connection:established"]({ recovered: true });
  assert.match(text(), /Measuring…/);
  said["connection:established"]({ recovered: false });
  assert.match(text(), /Run benchmark/);
});

test("a benchmark that runs already is shown by a page that is opened meanwhile", async () => {
  const answer = Promise.resolve({ model: { id: "a" }, benchmarking: { id: "a", done: 1, total: 3 } });
  const it = new ModelBenchmark({ state: { on: () => () => {}, request: () => answer }, model: { id: "a", name: "A" } }).mount(document.body);
  await answer;
  it.update();
  assert.match(it.element.textContent, /Measuring….*1 of 3/);
});

test("each length is measured with each number of requests at once", () => {
  const fields = { promptTokens: "512, 2048 512", concurrency: "1;4", generateTokens: "64", repetitions: "2" };
  assert.deepEqual(benchmarkTests(fields).tests.map(({ promptTokens, concurrency }) => [promptTokens, concurrency]),
    [[512, 1], [512, 4], [2048, 1], [2048, 4]]);
  for (const [key, value] of [["promptTokens", ""], ["concurrency", "0"], ["repetitions", "1.5"], ["generateTokens", "x"]]) {
    assert.match(benchmarkTests({ ...fields, [key]: value }).error, /: enter/);
  }
  assert.match(benchmarkTests({ ...fields, promptTokens: Array.from({ length: 13 }, (_, at) => at + 1).join() }).error, /24/);
});

test("two results are compared, the older one first", () => {
  const results = [1, 2, 3].map((id) => ({
    id, timestamp: id, build: `b${id}`, prompt_per_second: 100 * id, generated_per_second: 10, repetitions: 3,
    parameters: { "ctx-size": id, threads: 4 }, power: 200, devices: ["CUDA0"], concurrency: id,
  }));
  const state = { on: () => () => {}, request: () => new Promise(() => {}) };
  const it = new ModelBenchmark({ state, model: { id: "a", name: "A", benchmarks: results } }).mount(document.body);
  for (const compare of ["3", "1", "2"]) it.handleChoose({}, { dataset: { compare }, checked: true });
  it.update();
  const text = it.element.textContent;
  assert.match(text, /Prompts 100 % faster, answers 0 % faster/);
  assert.match(text, /Buildb1b2/);
  assert.match(text, /ctx-size12/);
  assert.doesNotMatch(text, /threads/);
});
