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
