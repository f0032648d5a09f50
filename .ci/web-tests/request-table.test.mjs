import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { RequestTable } = await import("../../web/components/request-table.js");

const PAGE = 25;
const rows = (newest) => Array.from({ length: PAGE }, (_, at) => ({ id: newest - at, timestamp: Date.now(), model: "m", prompt_tokens: 1, cached_tokens: 0, generated_tokens: 1, prompt_per_second: 1, generated_per_second: 1, duration: 1 }));
const summary = { count: 2 * PAGE, prompt_tokens: 1, generated_tokens: 1, prompt_per_second: 1, generated_per_second: 1 };

/** A table that shows its first page, 50 to 26; `answer()` answers what it asks next, `finish(request)` tells of one more. */
async function mounted() {
  const said = {};
  const answers = [];
  const state = {
    get: () => null, subscribe: () => () => {}, on: (event, callback) => { said[event] = callback; return () => {}; },
    request: (_event, { before = 2 * PAGE + 1 }) => new Promise((resolve) => answers.push(() => resolve({ requests: rows(before - 1), summary }))),
  };
  const table = new RequestTable({ state }).mount(document.body);
  const answer = () => { answers.shift()(); return new Promise(setImmediate); };
  await answer();
  return { table, answer, finish: (request) => said["requests:finished"]({ request }) };
}
const times = (table) => { table.update(); return table.element.querySelector("tbody").childNodes.map((row) => row.childNodes[0].textContent); };

test("a request that finishes while older ones are read appears", async () => {
  const { table, answer, finish } = await mounted();
  void table.load(true);
  finish({ ...rows(51)[0] });
  await answer();
  assert.deepEqual(table.state.rows.map(({ id }) => id), Array.from({ length: 51 }, (_, at) => 51 - at));
  assert.equal(times(table).length, 51);
});

test("a request shows its date once its day is over", async ({ mock }) => {
  mock.timers.enable({ apis: ["Date"], now: new Date(2026, 0, 5, 23, 59).getTime() });
  const { table } = await mounted();
  assert.equal(times(table)[0], "23:59:00");
  mock.timers.tick(60_000);
  assert.equal(times(table)[0], "2026-01-05 23:59:00");
});
