import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { LogsPage, countsOf } = await import("../../web/pages/logs.js");
const { marked } = await import("../../web/components/log-list.js");
const { logBars } = await import("../../web/components/log-histogram.js");

test("paused logs stay as they are when the server was restarted, live ones are read again", async () => {
  const said = {};
  let asked = 0;
  const logs = () => ({ logs: [{ id: asked, timestamp: 1, level: "info", source: "engine", message: `answer ${asked}` }], hasMore: false });
  const state = { get: () => [], subscribe: () => () => {}, on: (event, callback) => { said[event] = callback; return () => {}; }, request: async (event, { parts }) => { if (parts) return {}; asked += 1; return logs(); } };
  const page = new LogsPage({ state }); // not mounted: its list measures what only a browser lays out
  page.didMount();
  const shown = async () => { await new Promise(setImmediate); return page.state.lines.map(({ message }) => message); };
  assert.deepEqual(await shown(), ["answer 1"]);
  page.handlePause();
  said["connection:established"]({ recovered: false });
  assert.deepEqual([await shown(), page.state.paused], [["answer 1"], true]);
  page.handlePause();
  assert.deepEqual(await shown(), ["answer 2"]);
  said["connection:established"]({ recovered: false });
  assert.deepEqual(await shown(), ["answer 3"]);
});

test("the address keeps the filters, a level shows those above it too, and a line is shown among those around it", async () => {
  const asked = [];
  const places = [];
  const state = {
    get: () => [], subscribe: () => () => {}, on: () => () => {},
    request: async (event, data) => {
      if (data.parts) return {};
      asked.push([event, data]);
      const logs = data.after ? [{ id: 8 }, { id: 7 }] : [{ id: 6 }, { id: 5 }];
      return { logs, hasMore: true };
    },
  };
  const query = new URLSearchParams("level=warning&search=out+of&from=5&to=9&line=x");
  const page = new LogsPage({ state, query, router: { navigate: (path) => places.push(path) } });
  page.didMount();
  await new Promise(setImmediate);
  assert.deepEqual(asked.find(([event]) => event === "logs:list")[1], { level: "warning", search: "out of", from: 5, to: 9, limit: 500 });
  const line = { source: "engine", message: "Out of memory", timestamp: 6 };
  assert.deepEqual(["debug", "info", "warning", "error"].filter((level) => page.matches({ ...line, level })), ["warning", "error"]);
  assert.equal(page.matches({ ...line, level: "error", timestamp: 9 }), false);
  asked.length = 0;
  page.onLine(7);
  await new Promise(setImmediate);
  assert.deepEqual(asked.filter(([event]) => event === "logs:list").map(([, data]) => data), [{ after: 6, limit: 500 }, { before: 7, limit: 100 }]);
  assert.deepEqual([page.state.lines.map(({ id }) => id), page.state.target, page.state.newer, page.state.paused], [[5, 6, 7, 8], 7, true, true]);
  assert.deepEqual(places, ["/logs?line=7"]);
});

test("what was searched for is marked as often as it stands there, and text stays as it is", () => {
  const text = (parts) => [parts].flat().map((part) => part.children?.[0]?.text ?? part);
  assert.deepEqual(text(marked("GPU out, gpu in", "gpu")), ["", "GPU", " out, ", "gpu", " in"]);
  assert.equal(marked("GPU", ""), "GPU");
  assert.deepEqual(text(marked("a.c abc", "a.c")), ["", "a.c", " abc"]);
});

test("each part of the time has its bar, with the first of its lines and how many of each level", () => {
  const bars = logBars({ from: 1000, bucket: 10, buckets: [[0, "info", 3, 7], [0, "error", 1, 5], [2, "info", 1, 9]] });
  assert.deepEqual(bars.map(({ id, total, time }) => [id, total, time]), [[5, 4, 1000], [Infinity, 0, 1010], [9, 1, 1020]]);
  assert.match(bars[0].words, /: 1 error, 3 info$/);
});

test("each count is of what one would see who chose that level or source beside the other filters", () => {
  const answer = { from: 5, bucket: 10, counts: [[0, "error", "a", 2, 4], [0, "info", "a", 3, 1], [0, "info", "b", 1, 2], [3, "error", "b", 1, 9]] };
  const all = countsOf(answer, {});
  assert.deepEqual([all.levels, all.sources], [{ error: 3, info: 4 }, { a: 5, b: 2 }]);
  assert.deepEqual(all.buckets, [[0, "error", 2, 4], [0, "info", 4, 1], [3, "error", 1, 9]]);
  const some = countsOf(answer, { level: "error", source: "a" });
  assert.deepEqual([some.levels, some.sources, some.buckets], [{ error: 2, info: 3 }, { a: 2, b: 1 }, [[0, "error", 2, 4]]]);
});
