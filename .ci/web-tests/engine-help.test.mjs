import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { EngineHelp } = await import("../../web/components/engine-help.js");

/** An EngineHelp, what the server says to it, and what it shows. */
function mounted(engine = {}) {
  const said = {};
  const subscribed = {};
  const state = {
    get: () => null, load: async () => {}, request: async () => ({}),
    on: (event, callback) => { said[event] = callback; return () => {}; },
    subscribe: (key, callback) => { subscribed[key] = callback; return () => {}; },
  };
  const it = new EngineHelp({ state, engine }).mount(document.body);
  const text = (selector) => { it.update(); return it.element.querySelector(selector)?.textContent ?? null; };
  const buttons = (node) => [node, ...(node.childNodes ?? []).flatMap(buttons)].filter((one) => one.localName === "button");
  const label = () => { it.update(); return buttons(it.element).at(-1).textContent; }; // the first is the official build's
  return { it, said, subscribed, text, label };
}

test("an installation is under way until the server says how it ended", async () => {
  const { it, said, text, label } = mounted();
  assert.equal(label(), "Install");
  await it.handleInstall();
  assert.equal(label(), "Install"); // the answer alone says nothing
  said["engine:install"]({ line: "Collecting", done: false, success: null });
  assert.equal(label(), "Installing…");
  said["engine:install"]({ line: "The embedded engine was not installed: no space left.", done: true, success: false });
  assert.equal(label(), "Install");
  assert.match(text(".field-error"), /no space left/);
});

test("a browser that comes later sees an installation that another one began, and how it ended", () => {
  const { subscribed, text, label } = mounted({ installation: { line: "Collecting", done: false, success: null } });
  assert.equal(label(), "Installing…");
  assert.match(text(".progress-label"), /Collecting/);
  subscribed.engine({ installation: null }); // the server began anew
  assert.equal(label(), "Install");
  const failed = mounted({ installation: { line: "It was not installed: why", done: true, success: false } });
  assert.equal(failed.text(".field-error"), "It was not installed: why");
});
