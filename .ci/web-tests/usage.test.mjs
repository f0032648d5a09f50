import assert from "node:assert/strict";
import { test } from "node:test";
import { MEASURES, serverTime, usageCsv } from "../../web/components/usage-table.js";
import { setTimeZone } from "../../web/core/format.js";

const ROW = { requests: 2, errors: 0, generated_tokens: 7, generated_speeds: [20, 30] };

test("the CSV file has what its lines are counted by", () => {
  const head = (by) => usageCsv(by, [{ ...ROW, model: "a", build: "b1", parameters: "ctx-size 512, temp 1", day: "x" }])
    .split(/\r?\n/).slice(0, 2);
  const [names, values] = head("parameters");
  assert.match(names, /^\W*model,build,parameters,requests,/);
  assert.match(values, /^a,b1,"ctx-size 512, temp 1",2,0,/);
  assert.match(head("build")[0], /^\W*model,build,requests,/);
  assert.match(head("day")[1], /^x,2,0,/);
});

test("a chart of days can show what the table has of each", () => {
  const row = {
    requests: 9, errors: 1, prompt_tokens: 30, cached_tokens: 4, generated_tokens: 70, busy: 5000, energy: 7200,
    idle_energy: null, cost: 0.5, prompt_speeds: [100, 200], generated_speeds: null,
  };
  const shown = Object.fromEntries(Object.entries(MEASURES).map(([name, [, words, lines]]) =>
    [name, lines.map(([label, figure]) => [label, figure(row), words(figure(row), "€")])]));
  assert.deepEqual(shown.requests.map(([label, value]) => [label, value]), [["Requests", 9], ["Failed", 1]]);
  assert.deepEqual(shown.tokens.map(([, value]) => value), [70, 30, 4]);
  assert.deepEqual(shown.energy, [["Requests", 7200, "2 Wh"], ["Idle", null, "–"]]);
  assert.deepEqual(shown.cost, [["Cost", 0.5, "0.50 €"]]);
  assert.deepEqual(shown.busy[0].slice(1), [5, "5 s"]);
  assert.deepEqual([shown.prompt, shown.generated].map((lines) => lines.map(([, value]) => value)), [[100, 200], [null, null]]);
});

test("a day is the server's", (t) => {
  t.after(() => setTimeZone(null));
  for (const [zone, utc] of [["Asia/Tokyo", "2026-03-01T15:00Z"], ["America/New_York", "2026-03-02T05:00Z"]]) {
    setTimeZone(zone);
    assert.equal(serverTime("2026-03-02", "00:00"), Date.parse(utc), zone);
  }
});
