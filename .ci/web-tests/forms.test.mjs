import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import "./dom.mjs";
const { csv, csvCell } = await import("../../web/core/csv.js");
const { curlLine, keyRequest, openWebUiLine } = await import("../../web/components/api-keys.js");
const { currentStep } = await import("../../web/components/chat-message.js");
const { settingName } = await import("../../web/core/setting-name.js");
const { commandText } = await import("../../web/components/model-command.js");
const { idleSeconds } = await import("../../web/components/model-serving.js");
const { eventMarks, newestFirst, Timeline } = await import("../../web/components/timeline.js");
const { budgetOf } = await import("../../web/pages/configuration.js");

test("cells are quoted where they must be, and none is a formula", () => {
  const table = [
    [null, ""], [undefined, ""], [0, "0"], [-5, "-5"], [true, "true"], ["a", "a"], ["a,b", "\"a,b\""], ["say \"hi\"", "\"say \"\"hi\"\"\""], ["a\nb", "\"a\nb\""],
    ["=1+1", "'=1+1"], ["+1", "'+1"], ["-1", "'-1"], ["@x", "'@x"], ["\tx", "'\tx"], ["=a,b", "\"'=a,b\""], ["a=b", "a=b"],
  ];
  for (const [value, cell] of table) assert.equal(csvCell(value), cell);
  assert.equal(csv(["a", "b"], [[1, "x,y"]]), "a,b\r\n1,\"x,y\"\r\n");
});

test("a key's request has what was typed, or says what is wrong", () => {
  const none = new Set();
  assert.deepEqual(keyRequest({ name: " Phone ", limit: "", some: false, models: none }), { request: { name: "Phone" }, errors: {} });
  assert.deepEqual(keyRequest({ name: "a", limit: "30", some: true, models: new Set(["m"]) }).request, { name: "a", models: ["m"], requestsPerMinute: 30 });
  assert.deepEqual(Object.keys(keyRequest({ name: " ", limit: "1.5", some: true, models: none }).errors), ["name", "limit", "models"]);
  for (const limit of ["0", "-1", "x", "1e9"]) assert.ok(keyRequest({ name: "a", limit, some: false, models: none }).errors.limit, limit);
});

test("a new key comes with lines that are ready to paste", () => {
  assert.equal(openWebUiLine("http://h:1/v1", "k"), "OPENAI_API_BASE_URL=http://h:1/v1 OPENAI_API_KEY=k");
  assert.match(curlLine("http://h:1/v1", "k", "m"), /^curl http:\/\/h:1\/v1\/chat\/completions -H "Authorization: Bearer k" .* -d '\{"model":"m",/);
});

test("idle seconds may be left out, 0 is never", () => {
  assert.deepEqual([idleSeconds(""), idleSeconds(" 0 "), idleSeconds("90")], [{ value: null }, { value: 0 }, { value: 90 }]);
  for (const text of ["-1", "1.5", "x", "99999999999"]) assert.ok("error" in idleSeconds(text), text);
});

test("a budget is typed in GiB, and all of a device where nothing is", () => {
  const before = { CUDA0: 2 ** 34, CPU: 2 ** 30 };
  assert.deepEqual(budgetOf(before, { "budget.CUDA0": "", "budget.CUDA1": "1.5", api_port: "1" }), { values: { CPU: 2 ** 30, CUDA1: 1.5 * 2 ** 30 }, errors: {} });
  assert.deepEqual(Object.keys(budgetOf({}, { "budget.CUDA0": "x", "budget.CPU": "0" }).errors), ["budget.CUDA0", "budget.CPU"]);
  assert.deepEqual(budgetOf(undefined, {}), { values: {}, errors: {} });
});

test("a command reads as a shell would take it, an option a line", () => {
  assert.equal(commandText(["/bin/x", "-m", "/a b.gguf", "--ctx-size", "8"]), "/bin/x \\\n  -m '/a b.gguf' \\\n  --ctx-size 8");
  assert.equal(commandText(null), "");
});

test("what happened comes newest first and once", () => {
  assert.deepEqual(newestFirst([{ id: 1, timestamp: 5 }, { id: 2, timestamp: 5 }, { id: 3, timestamp: 9 }, { id: 1, timestamp: 5 }]).map(({ id }) => id), [3, 2, 1]);
  assert.deepEqual(newestFirst([{ id: 1, timestamp: 5 }, { id: 2, timestamp: 99, future: true }, { id: 3, timestamp: 6 }]).map(({ id }) => id), [3, 1, 2]);
  const crash = [{ id: 1, timestamp: 5, kind: "crashed" }, { id: 2, timestamp: 5, kind: "alert", details: { kind: "crashed" } }];
  const heat = { id: 3, timestamp: 6, kind: "alert", details: { kind: "temperature" } };
  assert.deepEqual(newestFirst([...crash, heat]).map(({ id }) => id), [3, 1], "a crash is one line, heat has no other");
});

test("what was changed is called as on its page", () => {
  const words = (reason, model = null) => eventMarks({ get: () => [] }, [{ id: 1, timestamp: 5, kind: "configuration", model, reason }])[0].text;
  assert.equal(words("alert_disk, metrics_interval"), "Changed. Disk in use, Measure every");
  assert.equal(words("max_wait"), "Changed. Longest wait");
  assert.match(words("idle, tags", "m"), /Changed\. Idle time, Tags$/);
  assert.match(words("added by hand", "m"), /Changed\. Added by hand$/);
});

test("events have the names of their models once those are known, and are not drawn again for each change", async () => {
  let models = null;
  const heard = {};
  const state = {
    get: () => models, on: () => () => {}, subscribe: (name, call) => ((heard[name] = call), () => {}),
    request: async () => ({ events: [{ id: 1, timestamp: 5, kind: "loaded", model: "m", reason: "by hand" }] }),
  };
  const it = new Timeline({ state, span: 1000 }).mount(document.body);
  await new Promise((resolve) => setTimeout(resolve, 120));
  assert.equal(it.element.querySelector("strong").textContent, "m");
  let drawn = 0;
  const render = it.render.bind(it);
  it.render = () => ((drawn += 1), render());
  models = [{ id: "m", name: "Its name" }];
  for (let round = 0; round < 3; round += 1) {
    heard.models?.(models);
    await new Promise((resolve) => setTimeout(resolve, 120));
  }
  assert.deepEqual([it.element.querySelector("strong").textContent, drawn], ["Its name", 1]);
  it.destroy();
});

test("every setting has a name that people read", async () => {
  const server = readFileSync(new URL("../../llamadash.py", import.meta.url), "utf8");
  const tables = [...server.matchAll(/^(?:CONFIG|SETTINGS): dict.*?^}/gms)].map(([table]) => table).join("\n");
  const keys = [...tables.matchAll(/(?<=[{,]\s+|^\s+|\), |\]\), )"(\w+)": \(/gm)].map(([, key]) => key);
  assert.ok(keys.length >= 25, keys.join());
  for (const key of keys) assert.doesNotMatch(settingName(key), /_/, key);
});

test("an answer that waits says why", () => {
  const run = (stage, more = {}) => ({ progress: { stage, value: null, ...more } });
  const table = [
    [run("waiting", { reason: "no room" }), { status: "waiting" }, "Waiting: no room"], [run("waiting"), { status: "waiting", reason: "busy" }, "Waiting: busy"],
    [run("waiting"), null, "Waiting for the model"], [run("waiting"), { status: "loading", progress: 0.4 }, "Loading the model, 40%"],
    [run("loading", { value: 0.5 }), { status: "unloaded" }, "Loading the model, 50%"], [run("prompt", { value: 0.2 }), { status: "loaded" }, "Reading the prompt, 20%"],
    [{ progress: null }, { status: "loaded" }, "Waiting for the first word"], [null, null, "Waiting for the first word"],
  ];
  for (const [one, model, label] of table) assert.equal(currentStep(one, model).label, label);
});

test("models of one name are known, so that their ids tell them apart", async () => {
  const { sharedNames } = await import("../../web/components/query-models.js");
  assert.deepEqual([...sharedNames([{ name: "A" }, { name: "B" }, { name: "A" }, { name: "A" }])], ["A"]);
});
