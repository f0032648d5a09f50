import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { RequestTable, chosen, csvOf, passes, placed } = await import("../../web/components/request-table.js");

const PAGE = 25;
const row = (id, more = {}) => ({ id, timestamp: Date.now(), model: "m", key: null, client: "Chat", status: "ok", duration: 1, ...more });
const rows = (newest) => Array.from({ length: PAGE }, (_, at) => row(newest - at));
const summary = { count: 2 * PAGE, prompt_tokens: 1, generated_tokens: 1, prompt_per_second: 1, generated_per_second: 2, throughput: 3 };

/** A table that shows its first page, 50 to 26; `answer()` answers what it asks next, `finish(request)` tells of one more. */
async function mounted() {
  const said = {};
  const asked = [];
  const answers = [];
  const state = {
    get: () => null, set: () => {}, load: async () => {}, subscribe: () => () => {},
    on: (event, callback) => { said[event] = callback; return () => {}; },
    request: (event, query) => new Promise((resolve) => {
      asked.push(query);
      answers.push(() => resolve({ requests: rows((query.before ?? 2 * PAGE + 1) - 1), summary, active: [] }));
    }),
  };
  const table = new RequestTable({ state, span: 3_600_000 }).mount(document.body);
  const answer = () => { answers.shift()(); return new Promise(setImmediate); };
  await answer();
  return { table, asked, answer, finish: (request) => said["requests:finished"]({ request }) };
}
const times = (table) => { table.update(); return table.element.querySelector("tbody").childNodes.map((node) => node.childNodes[0].textContent); };

test("the server is asked for the time range, the order and the filters that are set", async () => {
  const { table, asked, answer } = await mounted();
  assert.deepEqual([asked[0].sort, asked[0].limit, "model" in asked[0]], ["timestamp", PAGE, false]);
  assert.ok(Math.abs(Date.now() - 3_600_000 - asked[0].from) < 1000);
  table.filter({ model: "a", key: "", status: "failed" });
  await answer();
  assert.deepEqual([asked[1].model, asked[1].status, "key" in asked[1]], ["a", "failed", false]);
  table.sortBy("waited");
  await answer();
  assert.equal(asked[2].sort, "waited");
  void table.load(true);
  assert.equal(asked[3].before, 26);
});

test("a request that finishes while older ones are read appears", async () => {
  const { table, answer, finish } = await mounted();
  void table.load(true);
  finish(row(51));
  await answer();
  assert.deepEqual(table.state.rows.map(({ id }) => id), Array.from({ length: 51 }, (_, at) => 51 - at));
  assert.equal(times(table).length, 51);
});

test("a request shows its date once its day is over", async ({ mock }) => {
  mock.timers.enable({ apis: ["Date"], now: new Date(2026, 0, 5, 23, 59).getTime() });
  const { table } = await mounted();
  assert.match(times(table)[0], /^\d\d:59:00( PM)?$/);
  mock.timers.tick(60_000);
  assert.match(times(table)[0], /2026.*:59:00/);
});

test("both speeds are summed up under their names", async () => {
  const { table } = await mounted();
  table.update();
  assert.match(table.element.textContent, /Speed while answering2 tokens\/s.*Throughput3 tokens\/s/);
});

test("filters leave what has every value that is set", () => {
  assert.deepEqual(chosen({ model: "a", key: "", status: "" }), { model: "a" });
  assert.ok(passes(row(1), { model: "", key: "", status: "" }));
  assert.ok(passes(row(1, { key: "k" }), { model: "m", key: "k", status: "ok" }));
  assert.ok(!passes(row(1), { model: "m", key: "k", status: "" }));
  assert.ok(!passes(row(1, { status: "failed" }), { model: "", key: "", status: "ok" }));
});

test("a finished request takes its place as the server sorts", () => {
  const list = [row(3, { waited: 9 }), row(1, { waited: 5 }), row(2, { waited: null })];
  const ids = (request, more) => placed(list, request, "waited", more).map(({ id }) => id);
  assert.deepEqual(ids(row(4, { waited: 10 })), [4, 3, 1, 2]);
  assert.deepEqual(ids(row(4, { waited: 5 })), [3, 4, 1, 2]);
  assert.deepEqual(ids(row(4, { waited: null })), [3, 1, 4, 2]);
  assert.deepEqual(placed(list.slice(0, 2), row(4, { waited: 1 }), "waited", true).map(({ id }) => id), [3, 1]);
});

test("a request from the future comes last by time, and is marked", async () => {
  const future = row(9, { timestamp: Date.now() + 600 * 86_400_000, future: true });
  assert.deepEqual(placed([row(2), future], row(10), "timestamp").map(({ id }) => id), [10, 2, 9]);
  assert.deepEqual(placed([future], row(10), "timestamp").map(({ id }) => id), [10, 9]);
  const { table } = await mounted();
  table.setState({ rows: [row(50), future] });
  assert.match(times(table)[1], /\d{4}.* \(the clock was ahead\)$/);
  assert.doesNotMatch(times(table)[0], /ahead/);
});

test("the exported table has a line for each request", () => {
  const [head, line, end] = csvOf([row(7, { timestamp: 0, error: "=a, \"b\"", key: "k" })]).split("\r\n");
  assert.match(head, /^time,id,model,build,key,client,endpoint/);
  assert.match(line, /^1970-01-01T00:00:00\.000Z,7,m,,k,Chat,.*,ok,,"'=a, ""b""",/);
  assert.equal(end, "");
});
