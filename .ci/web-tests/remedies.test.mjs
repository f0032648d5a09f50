import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { Remedies, remedies } = await import("../../web/components/remedies.js");
const { fitWords, marginOf, needOf } = await import("../../web/components/fit-badge.js");
const { takenOf } = await import("../../web/components/memory-estimate.js");

const model = (shortfall, parameters = {}) => ({
  id: "a", name: "A", revision: 3, status: "loaded", parameters, runtime: { shortfall, n_ctx: 1024, slots: 4, context: 4096 },
});
const other = { id: "b", name: "B", status: "loaded" };

test("each kind of shortfall has its remedies", () => {
  const words = (...given) => remedies(...given).map((remedy) => remedy.words);
  assert.deepEqual(words(model(null), [other]), []);
  assert.deepEqual(words(model("trained"), [other]), ["Set the context to 4,096"]);
  assert.deepEqual(words(model("cut"), [other, { ...other, id: "c", pinned: true }]),
    ["Unload B", "Use a q8_0 KV cache", "Set the context to 4,096"]);
  assert.deepEqual(words(model("spilled", { "cache-type-k": "q8_0" }), []), ["Set the context to 2,048"]);
  const shared = model("spilled", { "cache-type-k": "q8_0" });
  shared.runtime.context = 1024; // which the slots share
  assert.deepEqual(words(shared, []), ["Set the context to 512"]);
});

test("a GPU that is not used has a build that sees it, or that can be installed", () => {
  const it = model("unused");
  assert.deepEqual(remedies(it, [other]).map(({ words, install }) => [words, install]),
    [["Install a build for the GPU", true]]);
  it.runtime.better_build = "b1-cuda";
  assert.deepEqual(remedies(it, [other]), [{ key: "build", words: "Use b1-cuda", changes: { build: "b1-cuda" } }]);
});

test("a remedy is saved, and the model is loaded again", async () => {
  const asked = [];
  const it = model("cut", { threads: 4 });
  const state = {
    get: () => [it], subscribe: () => () => {},
    request: async (event, data) => {
      asked.push([event, data.id]);
      if (event === "models:unload") it.status = "unloaded";
      if (event === "models:update") assert.deepEqual(data.changes, { parameters: { threads: 4, "ctx-size": 4096 } });
    },
  };
  const buttons = new Remedies({ state, model: it }).mount(document.body);
  await buttons.handleRemedy({}, { dataset: { remedy: "context" } });
  assert.deepEqual(asked, [["models:update", "a"], ["models:unload", "a"], ["models:load", "a"]]);
});

test("whether a model fits is said in words where it is chosen", () => {
  const memory = (kind, budget, free, held, unified) =>
    ({ kind, budget: budget * 2 ** 30, free: free * 2 ** 30, held: held * 2 ** 30, unified });
  const devices = [memory("gpu", 8, 8, 0), memory("cpu", 8, 8, 0)];
  const words = (size, some = devices) => fitWords(needOf({ file_size: size * 2 ** 30 }), some);
  assert.deepEqual([4, 10, 40].map((size) => words(size)), ["Fits on the GPU", "4.1 GiB spill, slow", "Too large"]);
  assert.equal(fitWords(needOf({ memory_correction: { taken: 2 ** 30 } }), devices), "Fits on the GPU");
  assert.equal(fitWords(needOf({}), devices), "");
  // The engine leaves a GiB of each GPU free, as it did of what was there before
  assert.equal(words(6.8), "758 MiB spill, slow");
  assert.equal(words(6.8, [memory("gpu", 8, 8, 0), memory("gpu", 4, 4, 0), memory("cpu", 8, 8, 0)]), "Fits on the GPU");
  assert.match(words(10, [memory("gpu", 8, 8, 0), memory("gpu", 4, 4, 0), memory("cpu", 8, 8, 0)]), /1.1 GiB spill/);
  const known = { memory_correction: { taken: 7.8 * 2 ** 30 } };
  assert.equal(fitWords(needOf(known), devices, marginOf(known)), "Fits on the GPU");
  const busy = [memory("gpu", 8, 8, 5), memory("cpu", 8, 6, 1)];
  assert.deepEqual([1, 4, 10, 40].map((size) => words(size, busy)), [
    "Fits on the GPU", "Fits on the GPU once memory is freed", "4.1 GiB spill, slow once memory is freed", "Too large"]);
  assert.equal(words(6, [memory("cpu", 8, 3, 0)]), "Fits once memory is freed");
});

test("the memory of a unified GPU is main memory, and counts once", () => {
  const devices = [["gpu", true], ["cpu", false]].map(([kind, unified]) =>
    ({ kind, unified, budget: 96 * 2 ** 30, free: 90 * 2 ** 30, held: 0 }));
  const words = (size) => fitWords(needOf({ file_size: size * 2 ** 30 }), devices);
  assert.deepEqual([60, 88, 120].map(words), ["Fits on the GPU", "Fits on the GPU once memory is freed", "Too large"]);
});

test("what an APU has of its own counts, and what the engine leaves alone does not", () => {
  const memory = (kind, budget, more = {}) =>
    ({ kind, budget: budget * 2 ** 30, free: budget * 2 ** 30, held: 0, ...more });
  const words = (size, ...some) => fitWords(needOf({ file_size: size * 2 ** 30 }), some);
  const apu = memory("gpu", 112, { unified: true, own: 96 * 2 ** 30 });
  assert.deepEqual([100, 115, 125].map((size) => words(size, apu, memory("cpu", 30))), [
    "Fits on the GPU", "10.3 GiB spill, slow", "Too large"]);
  const beside = memory("gpu", 60, { unified: true, own: 0, spare: true });
  assert.deepEqual([20, 40].map((size) => words(size, memory("gpu", 24), beside, memory("cpu", 62))), [
    "Fits on the GPU", "19.6 GiB spill, slow"]);
});

test("what a model would take is the sum of its devices, and what a GPU shares counts once", () => {
  assert.equal(takenOf([{ used: 6 }, { used: 4, unified: false, own: 8 }, { used: 1 }]), 11);
  assert.equal(takenOf([{ used: 20, unified: true, own: 0 }, { used: 21 }]), 21);
  assert.equal(takenOf([{ used: 20, unified: true, own: 16 }, { used: 5 }]), 21);
  assert.equal(takenOf([{ used: null }, {}]), 0);
});
