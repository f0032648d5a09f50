import assert from "node:assert/strict";
import { test } from "node:test";

import "./dom.mjs";

const { lanesOf } = await import("../../web/components/model-lanes.js");

const event = (timestamp, kind, model = "a", details = {}) => ({ id: timestamp, timestamp, kind, model, details });

test("a lane is what its model was over the whole range, before the first event too", () => {
  const events = [event(60, "unloaded"), event(70, "waiting"), event(75, "loading"), event(80, "loaded"), event(5, "loaded")];
  assert.deepEqual(lanesOf(events, [], 10, 100), [{ id: "a", pinned: [], spans: [
    { kind: "loaded", from: 10, to: 60 }, { kind: "waiting", from: 70, to: 75 }, { kind: "loading", from: 75, to: 80 },
    { kind: "loaded", from: 80, to: 100 },
  ] }]);
});

test("a model without events is what it is now, and an end of llamadash ends all", () => {
  const models = [{ id: "b", status: "loaded" }, { id: "c", status: "unloaded" }, { id: "d", status: "unloaded", pinned: true }];
  assert.deepEqual(lanesOf([], models, 0, 10), [
    { id: "b", spans: [{ kind: "loaded", from: 0, to: 10 }], pinned: [] },
    { id: "d", spans: [], pinned: [{ kind: "pinned", from: 0, to: 10 }] },
  ]);
  const ended = lanesOf([event(3, "loaded"), event(6, "started", null)], [], 0, 10)[0];
  assert.deepEqual(ended.spans, [{ kind: "loading", from: 0, to: 3 }, { kind: "loaded", from: 3, to: 6 }]);
  const pinned = lanesOf([event(4, "configuration", "d", { pinned: true })], models, 0, 10).find(({ id }) => id === "d");
  assert.deepEqual(pinned.pinned, [{ kind: "pinned", from: 4, to: 10 }]);
});

test("a wait ends when nobody waits any more, and what was left alone has no lane", () => {
  const events = [event(20, "waiting"), event(30, "unwanted"), event(40, "unwanted", "b")];
  assert.deepEqual(lanesOf(events, [], 10, 100), [
    { id: "a", pinned: [], spans: [{ kind: "waiting", from: 20, to: 30 }] },
    { id: "b", pinned: [], spans: [{ kind: "waiting", from: 10, to: 40 }] },
  ]);
});

test("what a model was before a past range and became after it is known by the events around", () => {
  const loaded = [{ id: "a", status: "loaded" }];
  const lane = (around, models = []) => lanesOf([], models, 100, 200, { around })[0]?.spans;
  assert.deepEqual(lane([event(5, "loaded"), event(900, "unloaded")]), [{ kind: "loaded", from: 100, to: 200 }]);
  assert.equal(lane([event(900, "loading")], loaded), undefined);
  assert.equal(lane([event(5, "loaded"), event(7, "started", null), event(900, "loading")], loaded), undefined);
  const pinned = [{ id: "a", status: "unloaded", pinned: true }];
  assert.equal(lanesOf([], pinned, 100, 200, { around: [event(900, "configuration", "a", { pinned: true })] }).length, 0);
});

test("before the first of too many events nothing is drawn", () => {
  const [lane] = lanesOf([event(50, "unloaded")], [], 0, 100, { since: 40, around: [event(30, "loaded")] });
  assert.deepEqual(lane.spans, [{ kind: "loaded", from: 40, to: 50 }]);
});

test("a variant has the lane of the process that it shares, while it does", () => {
  const shared = { shared: ["v"] };
  const events = [event(10, "loading", "a", shared), event(20, "loaded", "a", shared), event(60, "unloaded"),
    event(70, "loading"), event(80, "loaded")];
  const lane = lanesOf(events, [{ id: "v", status: "unloaded" }], 0, 100).find(({ id }) => id === "v");
  assert.deepEqual(lane.spans, [{ kind: "loading", from: 10, to: 20 }, { kind: "loaded", from: 20, to: 60 }]);
});
