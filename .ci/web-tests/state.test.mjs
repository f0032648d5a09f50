import assert from "node:assert/strict";
import { test } from "node:test";
import { StateManager, samplesOf, withItem } from "../../web/core/state.js";

globalThis.reportError ??= () => {};

class FakeSocket {
  constructor() { this.status = "connected"; this.handlers = {}; this.asked = []; this.retryAt = null; this.refusal = null; this.answers = {}; }
  on(event, callback) { (this.handlers[event] ??= []).push(callback); return () => {}; }
  request(event, data) { this.asked.push(event); const answer = this.answers[event]; return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer ?? {}); }
  say(event, data, envelope = { timestamp: 1 }) { for (const callback of this.handlers[event] ?? []) callback(data, envelope); }
}
const fresh = () => { const socket = new FakeSocket(); const state = new StateManager(socket); state.listen(); return [state, socket]; };
const tick = () => new Promise((resolve) => setTimeout(resolve, 5));

test("subscribers hear changes, and no longer after they left", () => {
  const [state] = fresh();
  const heard = [];
  const stop = state.subscribe("x", (value, old) => heard.push([value, old]));
  state.set("x", 1); state.set("x", 1); state.set("x", 2); stop(); state.set("x", 3);
  assert.deepEqual(heard, [[1, undefined], [2, 1]]);
});

test("a fresh connection asks for what every page needs, a recovered one for nothing known", async () => {
  const [state, socket] = fresh();
  socket.answers = { "models:list": { models: [] }, "engine:status": { engine: { status: "running" } }, "settings:get": { settings: {} }, "metrics:get": { metrics: {} } };
  socket.say("connection:established", { recovered: false });
  await tick();
  assert.deepEqual([...socket.asked].sort(), ["engine:status", "metrics:get", "models:list", "settings:get"]);
  socket.asked = [];
  socket.say("connection:established", { recovered: true });
  assert.deepEqual(socket.asked, []);
  socket.answers["logs:list"] = { logs: [{ id: 2 }, { id: 1 }] };
  await state.load("logs"); await state.load("logs");
  assert.deepEqual(socket.asked, ["logs:list"]);
  assert.deepEqual(state.get("logs").map(({ id }) => id), [1, 2]);
  socket.asked = [];
  socket.say("connection:established", { recovered: false });
  assert.ok(socket.asked.includes("logs:list") && socket.asked.includes("models:list"));
});

test("what failed to load is asked for again, also when the connection is back", async () => {
  const [state, socket] = fresh();
  socket.answers["config:get"] = new Error("no");
  await assert.rejects(state.load("config"));
  socket.answers["config:get"] = { config: {} };
  assert.deepEqual(await state.load("config"), { config: {} });
  socket.answers["requests:list"] = new Error("no");
  await assert.rejects(state.load("requests"));
  socket.answers["requests:list"] = { requests: [{ id: 1 }], summary: {} };
  socket.say("connection:established", { recovered: true });
  await tick();
  assert.deepEqual(state.get("requests"), [{ id: 1 }]);
});

test("what is loaded once more is what is known by then", async () => {
  const [state, socket] = fresh();
  socket.answers["models:list"] = { models: [{ id: "a", status: "unloaded" }] };
  assert.deepEqual(await state.load("models"), [{ id: "a", status: "unloaded" }]);
  socket.say("models:updated", { model: { id: "a", status: "loaded" } });
  assert.deepEqual(await state.load("models"), [{ id: "a", status: "loaded" }]);
});

test("requests made while disconnected wait for the connection, chat does not", async () => {
  const [state, socket] = fresh();
  socket.status = "disconnected";
  const waiting = state.request("models:load", { id: "a" });
  await assert.rejects(state.request("chat:send", {}), { code: "DISCONNECTED" });
  socket.status = "connected";
  socket.answers["models:load"] = { model: 1 };
  socket.say("connection:established", { recovered: true });
  assert.deepEqual(await waiting, { model: 1 });
  socket.status = "disconnected";
  const many = Array.from({ length: 101 }, () => state.request("x"));
  await assert.rejects(many[100], { code: "DISCONNECTED" });
  socket.status = "connected";
  socket.say("connection:established", { recovered: true });
  await Promise.all(many.slice(0, 100));
});

test("broadcasts keep models, requests, logs and downloads in step without changing them in place", () => {
  const [state, socket] = fresh();
  socket.say("models:list", { models: [{ id: "a", status: "unloaded" }, { id: "b" }] });
  const before = state.get("models");
  socket.say("models:status", { id: "a", status: "loading", progress: 0.5, stage: "text_model" });
  assert.deepEqual(state.get("models")[0], { id: "a", status: "loading", progress: 0.5, stage: "text_model", error: null, reason: null, next: null });
  assert.equal(before[0].status, "unloaded");
  socket.say("models:status", { id: "a", status: "loaded", runtime: { n_ctx: 1 } });
  assert.equal(state.get("models")[0].progress, null);
  socket.say("models:updated", { model: { id: "b", name: "B" } });
  socket.say("models:created", { model: { id: "c" } });
  socket.say("models:deleted", { id: "a" });
  assert.deepEqual(state.get("models").map(({ id }) => id), ["b", "c"]);
  for (let id = 0; id < 600; id += 1) socket.say("logs:entries", { entries: [{ id }] });
  assert.equal(state.get("logs").length, 500);
  socket.say("logs:cleared", {});
  assert.deepEqual(state.get("logs"), []);
  socket.say("models:download", { repo: "r", file: "f", done: 1 });
  socket.say("models:download", { repo: "r", file: "f", done: 2 });
  assert.deepEqual(state.get("downloads"), [{ repo: "r", file: "f", done: 2 }]);
  state.set("requests", []);
  for (let id = 0; id < 60; id += 1) socket.say("requests:finished", { request: { id } });
  assert.equal(state.get("requests").length, 50);
  assert.equal(state.get("requests")[0].id, 59);
});

test("a model keeps no plan that its newest status does not have", () => {
  const [state, socket] = fresh();
  socket.say("models:list", { models: [{ id: "a", status: "loaded", reason: "by hand" }] });
  socket.say("models:status", { id: "a", status: "loaded", next: { what: "unloads", at: 9, reason: "idle" }, runtime: {} });
  assert.deepEqual(state.get("models")[0].next, { what: "unloads", at: 9, reason: "idle" });
  socket.say("models:status", { id: "a", status: "loaded", runtime: {} });
  assert.equal(state.get("models")[0].next, null);
  assert.equal(state.get("models")[0].reason, "by hand");
});

test("who waits, what is under way and the keys follow their broadcasts", async () => {
  const [state, socket] = fresh();
  socket.answers = {
    "queue:get": { waiting: [{ id: 1 }] }, "keys:list": { keys: [{ id: 1 }], required: false },
    "requests:list": { requests: [], summary: {}, active: [{ id: 7 }, { id: 8 }] }, "engines:list": { builds: [{ id: "a" }], recommended: "a" },
  };
  await Promise.all(["queue", "keys", "requests", "builds"].map((key) => state.load(key)));
  assert.deepEqual([state.get("queue"), state.get("active").length, state.get("keysRequired"), state.get("recommendedBuild")], [[{ id: 1 }], 2, false, "a"]);
  socket.say("queue:update", { waiting: [] });
  assert.deepEqual(state.get("queue"), []);
  socket.say("requests:finished", { request: { id: 7 } });
  assert.deepEqual(state.get("active"), [{ id: 8 }]);
  socket.say("requests:active", { requests: [{ id: 8 }, { id: 9 }] });
  assert.deepEqual(state.get("active").map(({ id }) => id), [8, 9]);
  socket.answers["keys:list"] = { keys: [{ id: 2 }], required: true };
  socket.say("keys:updated", { keys: [{ id: 2 }] });
  assert.deepEqual(state.get("keys"), [{ id: 2 }]);
  await tick();
  assert.equal(state.get("keysRequired"), true);
  socket.answers["engines:list"] = { builds: [{ id: "a" }, { id: "b" }], recommended: "b" };
  socket.say("engines:update", { build: { id: "b" } });
  await tick();
  assert.equal(state.get("builds").length, 2);
});

test("recent metrics are steps of ten seconds whose newest one moves", () => {
  const [state, socket] = fresh();
  for (let at = 0; at <= 60; at += 1) socket.say("metrics:update", { metrics: { cpu_usage: at } }, { timestamp: at * 1000 });
  assert.deepEqual(state.get("metricsRecent").map(({ timestamp }) => timestamp / 1000), [0, 10, 20, 30, 40, 50, 60]);
  for (let at = 1; at <= 200; at += 1) socket.say("metrics:update", { metrics: {} }, { timestamp: 60_000 + at * 10_000 });
  assert.equal(state.get("metricsRecent").length, 90);
});

test("recent metrics are of the last quarter of an hour, also after a night and when the clock is set back", () => {
  const [state, socket] = fresh();
  const say = (at) => socket.say("metrics:update", { metrics: {} }, { timestamp: at * 1000 });
  const seen = () => state.get("metricsRecent").map(({ timestamp }) => timestamp / 1000);
  for (let at = 0; at <= 600; at += 10) say(at);
  say(300);
  assert.equal(seen().at(-1), 300);
  assert.ok(seen().every((at) => at <= 300));
  say(30_000);
  assert.deepEqual(seen(), [30_000]);
});

test("a request that waits for the connection keeps its time limit", async () => {
  const [state, socket] = fresh();
  const limits = [];
  socket.request = (_event, _data, options) => { limits.push(options?.timeout); return Promise.resolve({}); };
  socket.status = "disconnected";
  const answer = state.request("models:benchmark", { id: "a" }, { timeout: 3_600_000 });
  socket.status = "connected";
  socket.say("connection:established", { recovered: true });
  await answer;
  assert.ok(limits.includes(3_600_000));
});

test("recent metrics are asked for again after a connection that was not recovered", async () => {
  const [state, socket] = fresh();
  socket.answers["metrics:history"] = { timestamps: [], series: {} };
  await state.load("metricsRecent");
  socket.asked = [];
  socket.say("connection:established", { recovered: true });
  assert.ok(!socket.asked.includes("metrics:history"));
  socket.say("connection:established", { recovered: false });
  assert.ok(socket.asked.includes("metrics:history"));
});

test("downloads are asked for again when a model is deleted, where they were asked for", async () => {
  const [state, socket] = fresh();
  socket.say("models:deleted", { id: "a" });
  assert.deepEqual(socket.asked, []);
  socket.answers["models:downloads"] = { downloads: [{ repo: "r", file: "f", status: "done" }] };
  await state.load("downloads");
  socket.answers["models:downloads"] = { downloads: [] };
  socket.say("models:deleted", { id: "a" });
  await tick();
  assert.deepEqual(state.get("downloads"), []);
});

test("the configuration, which names the skipped files, is asked for again after a scan, where it was asked for", async () => {
  const [state, socket] = fresh();
  socket.say("models:list", { models: [] });
  assert.deepEqual(socket.asked, []);
  socket.answers["config:get"] = { config: {}, skipped: [] };
  await state.load("config");
  socket.answers["config:get"] = { config: {}, skipped: [{ path: "/a.gguf" }] };
  socket.say("models:list", { models: [] });
  await tick();
  assert.deepEqual(state.get("config").skipped, [{ path: "/a.gguf" }]);
});

test("history becomes samples shaped like metrics", () => {
  const samples = samplesOf({ timestamps: [1, 2], series: { cpu_usage: { avg: [5, null] }, generated_tokens_per_second: { avg: [7, null] }, gpu0_power: { avg: [9, null] } } });
  assert.equal(samples.length, 1);
  assert.equal(samples[0].cpu_usage, 5);
  assert.equal(samples[0].engine.generated_tokens_per_second, 7);
  assert.deepEqual(samples[0].gpus, [{ index: 0, utilization: null, memory_used: null, memory_total: null, temperature: null, power: 9 }]);
});

test("withItem replaces by id or appends", () => {
  assert.deepEqual(withItem([{ id: 1, a: 1 }], { id: 1 }), [{ id: 1 }]);
  assert.deepEqual(withItem(undefined, { id: 1 }), [{ id: 1 }]);
});

test("what comes while a list is fetched is kept, once", async () => {
  const [state, socket] = fresh();
  socket.say("connection:established", { recovered: false });
  await tick();
  let answer;
  const asked = socket.request;
  socket.request = () => new Promise((resolve) => (answer = resolve));
  const loading = state.load("logs");
  socket.say("logs:entries", { entries: [{ id: 2 }, { id: 3 }] });
  answer({ logs: [{ id: 2 }, { id: 1 }] });
  assert.deepEqual((await loading).map(({ id }) => id), [1, 2, 3]);
  const list = state.load("requests");
  socket.say("requests:finished", { request: { id: 8 } });
  answer({ requests: [{ id: 7 }], summary: {} });
  assert.deepEqual((await list).map(({ id }) => id), [8, 7]);
  const again = state.reload("logs");
  answer({ logs: [{ id: 1 }] });
  assert.deepEqual((await again).map(({ id }) => id), [1]);
  socket.request = asked;
});

test("what is told of models while their list is fetched is newer than the list", async () => {
  const [state, socket] = fresh();
  let answer;
  socket.request = () => new Promise((resolve) => { answer = resolve; });
  const loading = state.load("models");
  socket.say("models:status", { id: "a", status: "loaded" });
  socket.say("models:deleted", { id: "b" });
  socket.say("models:created", { model: { id: "c", status: "unloaded" } });
  answer({ models: [{ id: "a", status: "loading" }, { id: "b", status: "unloaded" }] });
  await loading;
  const known = () => state.get("models").map(({ id, status }) => [id, status]);
  assert.deepEqual(known(), [["a", "loaded"], ["c", "unloaded"]]);
  socket.say("models:status", { id: "a", status: "unloaded" });
  assert.equal(state.toldMeanwhile, null);
  assert.deepEqual(known()[0], ["a", "unloaded"]);
});

test("a listener that throws keeps no other from hearing", () => {
  const [state] = fresh();
  const heard = [];
  state.subscribe("x", () => { throw new Error("broken"); });
  state.subscribe("x", (value) => heard.push(value));
  state.set("x", 1);
  assert.deepEqual(heard, [1]);
});

test("the server's clock is kept to, however this one goes", async () => {
  const { now, relativeTime } = await import("../../web/core/format.js");
  const [, socket] = fresh();
  socket.say("connection:established", { recovered: true }, { timestamp: Date.now() + 7_200_000 });
  assert.ok(Math.abs(now() - Date.now() - 7_200_000) < 5000);
  assert.equal(relativeTime(Date.now() + 7_200_000 - 65_000), "1 min ago");
  socket.say("connection:established", { recovered: true }, { timestamp: Date.now() });
});
