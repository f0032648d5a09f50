import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { credentials, keepToken, offer, offerPassword } from "../../web/core/auth.js";
import { StateManager } from "../../web/core/state.js";

const KEY = "abcdefghij".repeat(4);
const stored = new Map();
const storage = { getItem: (name) => stored.get(name) ?? null, setItem: (name, text) => stored.set(name, text), removeItem: (name) => stored.delete(name) };
beforeEach(() => { globalThis.localStorage = storage; keepToken(""); });

test("a link is a key, a short text a password, and one that could be either is offered as both", () => {
  offer("secret");
  assert.deepEqual(credentials(), { password: "secret" });
  offer(`http://127.0.0.1:8080/#key=${KEY}`);
  assert.deepEqual(credentials(), { token: KEY });
  offer(KEY);
  assert.deepEqual(credentials(), { token: KEY, password: KEY });
});

test("a password is forgotten once the server has welcomed this browser", () => {
  const handlers = {};
  new StateManager({ on: (event, callback) => { handlers[event] = callback; }, request: async () => ({}), status: "connected" }).listen();
  for (const [welcome, token] of [[{ recovered: false }, KEY], [{ recovered: false, session: { token: "t" } }, "t"]]) {
    keepToken(KEY);
    offerPassword("secret");
    handlers["connection:established"](welcome);
    assert.deepEqual(credentials(), { token });
  }
});

test("a token holds until the page is closed where the browser keeps nothing", () => {
  const closed = () => { throw new DOMException("no", "SecurityError"); };
  globalThis.localStorage = { getItem: closed, setItem: closed, removeItem: closed };
  keepToken(KEY);
  assert.deepEqual(credentials(), { token: KEY });
});
