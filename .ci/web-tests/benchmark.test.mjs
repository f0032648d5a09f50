import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { ModelBenchmark } = await import("../../web/components/model-benchmark.js");

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
