import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { DeviceMemory, divided } = await import("../../web/components/device-memory.js");
const { ModelsInMemory, Queue, contextInUse, idleSince } = await import("../../web/components/residency.js");
const { inMemoryFirst, loadingStage, nextWords, reasonWords } = await import("../../web/components/model-status.js");
const { energy, tokenRate, until } = await import("../../web/core/format.js");

const GIB = 2 ** 30;
const state = (values) => ({ get: (key) => values[key] ?? null, subscribe: () => () => {}, on: () => () => {}, request: async () => ({}) });

test("what happens next is said with the time that is left", () => {
  const table = [
    [{ what: "unloads", at: 240_000 }, "Unloads in 4 min"], [{ what: "unloads", at: 181_000, reason: "idle" }, "Unloads in 4 min"],
    [{ what: "unloads", at: 40_000 }, "Unloads in 40 s"], [{ what: "unloads", at: 7_200_000 }, "Unloads in 2 h"],
    [{ what: "unloads", at: 0 }, "Unloads any moment now"], [{ what: "leaves", at: null, reason: "room for B" }, "Leaves memory: room for B"],
    [{ what: "returns", at: null, reason: null }, "Comes back"], [{ what: "returns", at: null, reason: "when B is idle" }, "Comes back when B is idle"], [null, ""], [undefined, ""],
  ];
  for (const [next, words] of table) assert.equal(nextWords(next, 0), words);
  assert.equal(until(null), "–");
  assert.equal(reasonWords("by hand"), "manually");
  assert.equal(reasonWords("evicted for B"), "evicted for B");
});

test("lists to choose from begin with what is in memory", () => {
  const models = ["unloaded", "loaded", "failed", "loading"].map((status, at) => ({ id: at, status }));
  assert.deepEqual(inMemoryFirst(models).map(({ id }) => id), [1, 3, 0, 2]);
});

test("a load says what it is at", () => {
  assert.deepEqual(loadingStage({ stage: "text_model", progress: 0.43 }), { text: "Reading weights: 43%", part: 0.43 });
  assert.deepEqual(loadingStage({ stage: null, progress: null }), { text: "Starting…", part: null });
});

const on = (id, used, name = "CUDA0") => ({ id, name: id.toUpperCase(), status: "loaded", runtime: { devices: [{ name, used }] } });

test("the memory of a device is divided into its models, what is reserved, other programs and what is free", () => {
  const sizes = (split) => [...split.parts.map(({ key, size, color }) => `${key} ${size}${color ?? ""}`), `free ${split.free}`];
  const device = { name: "CUDA0", total: 24, free: 15, held: 8 };
  assert.deepEqual(sizes(divided(device, [on("a", 2), on("b", 3), on("c", 9, "CUDA1")])),
    ["model-a 21", "model-b 32", "reserved 3", "other 1", "free 15"]);
  assert.deepEqual(sizes(divided({ ...device, held: 0 }, [])), ["other 9", "free 15"]);
  assert.deepEqual(sizes(divided({ name: "CUDA0", total: 10, free: null, held: 12 }, [on("a", 99)])), ["model-a 101", "free 0"]);
  assert.deepEqual(sizes(divided({ name: "CUDA0", total: 10, free: 9, held: 6 }, [])), ["reserved 6", "free 4"]);
  assert.equal(divided({ total: null }, []), null);
});

test("a model is idle since its last use, its last request or its load", () => {
  const model = { id: "a", last_used_at: 5, runtime: { loaded_at: 7, requests: 0 } };
  assert.equal(idleSince(model), 7);
  assert.equal(idleSince(model, [{ model: "a", timestamp: 10, duration: 3 }, { model: "b", timestamp: 99, duration: 1 }]), 13);
  assert.equal(idleSince({ ...model, runtime: { requests: 1 } }), null);
  assert.equal(idleSince({ id: "a", runtime: {} }), null);
  assert.equal(idleSince({ ...model, last_used_at: Date.now() + 600 * 86_400_000 }, [{ model: "a", timestamp: 10, duration: 3 }]), 13, "the clock was ahead");
});

test("the context in use is that of what runs, whose prompt is as long as the last one until it is told", () => {
  const [last, other] = [{ model: "a", prompt_tokens: 500, generated_tokens: 90 }, { model: "b", prompt_tokens: 9000 }];
  const used = (active, finished = [other, last]) => contextInUse({ id: "a" }, active, finished);
  assert.equal(used([]), 590);
  assert.equal(used([{ model: "a", prompt_tokens: null, generated_tokens: null }]), 590);
  assert.equal(used([{ model: "a", prompt_tokens: null, generated_tokens: 120 }, other]), 620);
  assert.equal(used([{ model: "a", prompt_tokens: 40, generated_tokens: 2 }, other]), 42);
  assert.equal(used([{ model: "a", generated_tokens: 7 }], []), 7);
  assert.equal(used([], []), null);
});

test("a model in memory shows what it takes, does, and what happens to it next", () => {
  const models = [
    { id: "a", name: "A", status: "loaded", pinned: true, preferred: false, revision: 1, next: { what: "unloads", at: Date.now() + 239_000 },
      runtime: { requests: 2, waiting: 1, slots: 4, n_ctx: 131_072, memory: 2 * GIB, tokens_per_second: 61.4, devices: [{ name: "CUDA0", used: 2 * GIB }], shared_with: ["b"], left_out: ["x"], warning: "cut" } },
    { id: "b", name: "B", status: "unloaded" },
  ];
  const it = new ModelsInMemory({ state: state({ models, engine: { status: "running" }, connection: "connected", active: [{ model: "a", prompt_tokens: 1000, generated_tokens: 200 }] }) }).mount(document.body);
  const text = it.element.textContent;
  for (const part of ["Requests in flight2 of 4 slots1 waiting", "Speed while answering61.4 tokens/s", "Memory2 GiBCUDA0", "Context in use1,200 of 128K", "Unloads in 4 min", "Same process as B", "cut", "left out: x"]) assert.ok(text.includes(part), part);
  it.destroy();
});

test("a model's speeds, context and idle time come from its own last requests, however many others had since", async () => {
  const own = Array.from({ length: 4 }, (_, at) => ({ id: 4 - at, model: "a", timestamp: Date.now() - 60_000, duration: 0, prompt_tokens: 90, generated_tokens: 10, generated_per_second: 50 + at }));
  const asked = [];
  const told = {};
  const values = { models: [{ id: "a", name: "A", status: "loaded", runtime: { requests: 0, n_ctx: 1000 } }, { id: "b", name: "B", status: "unloaded" }] };
  const source = { ...state(values), on: (event, callback) => ((told[event] = callback), () => {}), request: async (event, data) => (asked.push([event, data.model]), { requests: own }) };
  const it = new ModelsInMemory({ state: source }).mount(document.body);
  await Promise.resolve();
  told["requests:finished"]({ request: { ...own[0], id: 9, timestamp: Date.now() - 30_000, generated_per_second: 70 } });
  told["requests:finished"]({ request: { ...own[0], id: 10, model: "b" } });
  await new Promise((resolve) => setTimeout(resolve));
  it.update();
  assert.deepEqual(asked, [["requests:list", "a"]]);
  const text = it.element.textContent;
  assert.ok(text.includes("Speed while answering70 tokens/s"), text);
  assert.ok(text.includes("100 of 1,000"), text);
  assert.match(text, /Idle3[01] s/);
  assert.equal(it.element.querySelector(".sparkline").getAttribute("aria-label"), "Speed of the last 5 answers of A");
  it.destroy();
});

test("models of one name are told apart by quantization, size and folder", () => {
  const twin = (id, quantization, folder) => ({ id, name: "Twin", status: "loaded", quantization, file_size: 2 * GIB, path: `/models/${folder}/x.gguf` });
  const models = [twin("a", "Q4_K_M", "one"), { ...twin("b", "Q8_0", "two"), status: "unloaded" }, { ...twin("c", "Q6_K", "three"), name: "Other" }];
  const it = new ModelsInMemory({ state: state({ models }) }).mount(document.body);
  const text = it.element.textContent;
  assert.ok(text.includes("Q4_K_M · 2 GiB · one · a"), text);
  assert.ok(text.includes("Q6_K") && !text.includes("three"), text);
  it.destroy();
});

test("who waits is shown with model, time and reason, and nothing where nobody waits", () => {
  const waiting = [{ id: 3, model: "a", client: "Open WebUI", since: Date.now() - 14_000, reason: "no room on CUDA0" }];
  const it = new Queue({ state: state({ queue: waiting, models: [{ id: "a", name: "A" }] }) }).mount(document.body);
  assert.match(it.element.textContent, /1 request.*Open WebUI waits for A.*No room on CUDA0.*14 s/);
  it.destroy();
  const none = new Queue({ state: state({ queue: [] }) }).mount(document.body);
  assert.equal(none.element.getAttribute("hidden"), "");
  none.destroy();
});

test("each device says how its memory is used", () => {
  const devices = [{ name: "CUDA0", total: 24 * GIB, unused: 15 * GIB, budget: 22 * GIB, held: 6 * GIB }, { name: "X", total: null }];
  const newcomer = { id: "n", name: "New", devices: [{ name: "CUDA0", used: 16 * GIB }] };
  const it = new DeviceMemory({ state: state({ engine: { devices }, models: [on("a", 6 * GIB)], newcomer }) }).mount(document.body);
  assert.match(it.element.textContent, /CUDA0budget 22 GiB of 24 GiB6 GiB A3 GiB other programs15 GiB free/);
  assert.match(it.element.textContent, /New needs about 16 GiB: other models will be unloaded/);
  assert.match(it.element.textContent, /X: memory unknown/);
  it.destroy();
});

test("what is larger than a device is not promised room by unloading others", () => {
  const devices = [{ name: "CUDA0", total: 24 * GIB, unused: 15 * GIB, budget: null, held: 6 * GIB }];
  const newcomer = { id: "n", name: "New", devices: [{ name: "CUDA0", used: 25 * GIB }] };
  const it = new DeviceMemory({ state: state({ engine: { devices }, models: [on("a", 6 * GIB)], newcomer }) }).mount(document.body);
  assert.match(it.element.textContent, /New needs about 25 GiB: 4 GiB more than there can be/);
  it.destroy();
});

test("speeds have a digit after the point where it tells something", () => {
  for (const [value, words] of [[61.44, "61.4 tokens/s"], [1532.1, "1,532 tokens/s"], [0, "0 tokens/s"], [null, "–"]]) assert.equal(tokenRate(value), words);
});

test("energy reads well", () => {
  for (const [value, words] of [[850, "850 J"], [7200, "2 Wh"], [5_400_000, "1.5 kWh"], [null, "–"]]) assert.equal(energy(value), words);
});
