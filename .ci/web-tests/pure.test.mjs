import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, duration, fixed, modelName, number, percent, plural, rate, relativeTime, tokens } from "../../web/core/format.js";
import { matchPath } from "../../web/core/router.js";
import { lineRuns, nearestIndex, niceTicks, timeTicks } from "../../web/components/chart.js";

test("a model is called by its name, where no other has it, and else by its id", () => {
  const models = [{ id: "a-Q4", name: "A" }, { id: "a-Q8", name: "A" }, { id: "b", name: "B" }, { id: "c", name: "" }];
  for (const [id, name] of [["a-Q4", "a-Q4"], ["b", "B"], ["c", "c"], ["gone", "gone"]]) {
    assert.equal(modelName(models, id), name);
  }
  assert.equal(modelName(null, "b"), "b");
});

test("numbers read well, and unknown is a dash", () => {
  const table = [
    [bytes, 0, "0 B"], [bytes, 1023, "1 KiB"], [bytes, 1536, "1.5 KiB"], [bytes, 98_304_000, "93.8 MiB"], [bytes, 5.03 * 2 ** 30, "5.03 GiB"], [rate, 1024 ** 2, "1 MiB/s"],
    [number, 12345.67, "12,345.7"], [fixed, 66, "66.0"], [percent, 0, "0%"], [percent, 3.14, "3.1%"], [percent, 99.6, "100%"], [tokens, 4096, "4,096"], [tokens, 131072, "128K"], [tokens, 131000, "131K"], [tokens, 8.19e9, "8.19B"],
    [duration, 0.35, "350 ms"], [duration, 4.21, "4.2 s"], [duration, 59.7, "1 min"], [duration, 200, "3 min 20 s"], [duration, 93784, "1 d 2 h"], [duration, 3600, "1 h"],
  ];
  for (const [format, value, text] of table) assert.equal(format(value), text, `${format.name}(${value})`);
  for (const format of [bytes, rate, number, fixed, percent, tokens, duration, relativeTime]) for (const value of [null, undefined, NaN]) assert.equal(format(value), "–");
  assert.equal(relativeTime(1000, 13_000), "12 s ago");
  assert.equal(relativeTime(0, 3 * 3_600_000), "3 h ago");
  assert.match(relativeTime(600 * 86_400_000, 0), /1971.*the clock was ahead/);
  assert.equal(plural(1, "model"), "1 model");
  assert.equal(plural(3, "model"), "3 models");
});

test("addresses match their patterns", () => {
  assert.deepEqual(matchPath("/models/:id", "/models/a%20b"), { id: "a b" });
  assert.deepEqual(matchPath("/", "/"), {});
  assert.equal(matchPath("/models/:id", "/models"), null);
  assert.equal(matchPath("/models/:id", "/models/%"), null);
});

test("axes have round ticks that cover the values", () => {
  assert.deepEqual(niceTicks(0, 100, 4), [0, 25, 50, 75, 100]);
  assert.deepEqual(niceTicks(0, 7, 4), [0, 2, 4, 6, 8]);
  assert.deepEqual(niceTicks(0, 0.07, 4).at(-1), 0.08);
  assert.deepEqual(niceTicks(0, 24 * 2 ** 30, 4, 1024).map((tick) => tick / 2 ** 30), [0, 8, 16, 24]);
  for (const top of [1e-9, 0.3, 1, 999, 1e12]) assert.ok(niceTicks(0, top).length <= 7 && niceTicks(0, top).at(-1) >= top);
  const { ticks, step } = timeTicks(0, 3_600_000, 6);
  assert.equal(step, 600_000);
  assert.equal(ticks.length, 7);
  for (const count of [4, 8, 20]) assert.ok(timeTicks(0, 365 * 86_400_000, count).ticks.length <= count + 1);
});

test("a line has few points for each pixel, and keeps its extremes and gaps", () => {
  const count = 100_000;
  const xs = Array.from({ length: count }, (_, at) => (at / count) * 500);
  const values = xs.map((_, at) => (at === 77_777 ? 99 : Math.sin(at)));
  const runs = lineRuns(xs, values, (value) => value);
  assert.equal(runs.length, 1);
  assert.ok(runs[0].length <= 1500);
  assert.ok(runs[0].some(([, y]) => y === 99));
  assert.deepEqual(lineRuns([0, 10, 20, 30], [1, null, 3, 4], (value) => value), [[[0, 1]], [[20, 3], [30, 4]]]);
  assert.deepEqual(lineRuns([], [], (value) => value), []);
});

test("the nearest sample is found", () => {
  assert.equal(nearestIndex([10, 20, 30], 24), 1);
  assert.equal(nearestIndex([10, 20, 30], 26), 2);
  assert.equal(nearestIndex([10], 99), 0);
});
