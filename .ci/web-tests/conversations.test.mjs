import assert from "node:assert/strict";
import { test } from "node:test";
import { Conversations, titleFrom } from "../../web/core/conversations.js";

class FakeStorage {
  constructor() { this.items = new Map(); this.room = Infinity; }
  get length() { return this.items.size; }
  key(at) { return [...this.items.keys()][at]; }
  getItem(name) { return this.items.get(name) ?? null; }
  removeItem(name) { this.items.delete(name); }
  setItem(name, text) { if (text.length > this.room) throw new DOMException("full", "QuotaExceededError"); this.items.set(name, text); }
}
const conversation = (id, messages = ["hello"]) => ({ id, title: id, createdAt: 1, updatedAt: 1, model: "m", system: "", parameters: {}, messages: messages.map((content) => ({ id: content, role: "user", content })) });
const ids = (conversations) => conversations.list().map(({ id }) => id).sort();

test("what finds no room in the browser stays in its page until it is stored or removed", () => {
  const storage = new FakeStorage();
  const conversations = new Conversations(storage);
  assert.ok(conversations.save(conversation("old")));
  storage.room = 0;
  assert.ok(!conversations.save(conversation("old", ["hello", "more"])));
  assert.ok(!conversations.save(conversation("new")));
  conversations.reload();
  assert.deepEqual(ids(conversations), ["new", "old"]);
  assert.equal(conversations.get("old").messages.length, 2);
  assert.ok(conversations.refresh(conversations.get("new")));
  storage.room = Infinity;
  assert.ok(conversations.save(conversations.get("old")));
  assert.deepEqual(ids(conversations), ["new", "old"]);
  assert.deepEqual(ids(new Conversations(storage)), ["old"]);
  assert.ok(conversations.save(conversation("third")));
  conversations.remove("third");
  assert.deepEqual(ids(new Conversations(storage)), ["old"]);
  conversations.remove("new");
  conversations.reload();
  assert.deepEqual(ids(conversations), ["old"]);
  assert.equal(conversations.get("new"), null);
});

test("a title is cut between characters, never inside of one", () => {
  assert.equal(titleFrom(`${"a".repeat(58)}😀${"b".repeat(20)}`), `${"a".repeat(58)}😀…`);
  assert.equal(titleFrom("😀".repeat(60)), "😀".repeat(60));
});
