import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { LogsPage } = await import("../../web/pages/logs.js");

test("paused logs stay as they are when the server was restarted, live ones are read again", async () => {
  const said = {};
  let asked = 0;
  const logs = () => ({ logs: [{ id: asked, timestamp: 1, level: "info", source: "engine", message: `answer ${asked}` }], hasMore: false });
  const state = { get: () => [], subscribe: () => () => {}, on: (event, callback) => { said[event] = callback; return () => {}; }, request: async () => { asked += 1; return logs(); } };
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
