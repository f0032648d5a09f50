import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { BuildRehearsal, comparison } = await import("../../web/components/build-rehearsal.js");

const GIB = 2 ** 30;
const trial = { build: "b1", generated_per_second: 100, prompt_per_second: 900, context: 4096, answer: "one", loading: 1,
  devices: { CUDA0: 5 * GIB, "Main memory": GIB } };

test("how a build compares is one phrase", () => {
  assert.equal(comparison(trial, { ...trial, generated_per_second: 118, devices: { ...trial.devices, CUDA0: 6.2 * GIB } }),
    "18 % faster, 1.2 GiB more memory, same answer");
  assert.equal(comparison(trial, { ...trial, generated_per_second: 101, answer: "two", context: 2048 }),
    "as fast, as much memory, context 2,048 instead of 4,096, another answer");
  assert.equal(comparison(trial, { ...trial, generated_per_second: 50, devices: { "Main memory": 6 * GIB } }),
    "50 % slower, as much memory, does not use CUDA0, same answer");
  assert.match(comparison({ ...trial, generated_per_second: null }, trial), /^speed unknown/);
  const [two, one] = [["RTX 4090", "RTX 3060"], ["RTX 4090"]].map((sees) => ({ ...trial, sees }));
  assert.equal(comparison(two, one), "as fast, as much memory, does not see RTX 3060, same answer");
});

test("a build is tried on a model that another one runs, and what came of it is shown", async () => {
  const asked = [];
  const state = { request: async (...given) => { asked.push(given); } };
  const models = [{ id: "a", name: "A", status: "loaded", runtime: { build: "b1" } },
    { id: "b", name: "B", status: "loaded", runtime: { build: "b2" } }, { id: "c", name: "C", status: "unloaded" }];
  const show = (rehearsal) => new BuildRehearsal({ state, build: { id: "b2", rehearsal }, models }).mount(document.body);
  const it = show(null);
  assert.equal(it.element.textContent, "Try with A");
  await it.handleTry();
  assert.deepEqual(asked, [["engines:rehearse", { id: "b2", model: "a" }]]);
  assert.match(show({ status: "running", model: "a" }).element.textContent, /Trying with a/);
  assert.match(show({ status: "failed", model: "a", problem: "No room" }).element.textContent, /Not with a: No room/);
  const done = show({ status: "done", model: "a", old: trial, new: { ...trial, build: "b2" } }).element.textContent;
  assert.match(done, /With a: as fast.*b1 \(in use\)b2.*Use this one/);
});
