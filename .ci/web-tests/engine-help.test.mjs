import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { EngineHelp } = await import("../../web/components/engine-help.js");

test("an installation that the server's end cut off is not shown as under way", () => {
  const said = {};
  const state = { on: (event, callback) => { said[event] = callback; return () => {}; } };
  const it = new EngineHelp({ state, engine: {} }).mount(document.body);
  const label = () => { it.update(); return it.element.querySelector("button").textContent; };
  said["engine:install"]({ line: "Collecting", done: false });
  assert.equal(label(), "Installing…");
  said["connection:established"]?.({ recovered: true });
  assert.equal(label(), "Installing…");
  said["connection:established"]?.({ recovered: false });
  assert.equal(label(), "Install");
});
