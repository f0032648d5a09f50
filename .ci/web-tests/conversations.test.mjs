import assert from "node:assert/strict";
import { test } from "node:test";
import { branchTo, endOf, importStored, imported, outgoing, samplingOf, siblings, titleFrom, toMarkdown, upload } from "../../web/core/conversations.js";
import { sendBase64, textOf } from "../../web/core/attachments.js";
import { allConversations, fromFile, toFile } from "../../web/core/conversation-files.js";
import { calculate, runTool } from "../../web/core/tools.js";

class FakeStorage {
  constructor(items = {}) { this.items = new Map(Object.entries(items)); }
  get length() { return this.items.size; }
  key(at) { return [...this.items.keys()][at]; }
  getItem(name) { return this.items.get(name) ?? null; }
  removeItem(name) { this.items.delete(name); }
}
const message = (id, parent, role = "user", more = {}) => ({ id, parent, role, content: id, status: "done", ...more });
const tree = [
  message("q1", null), message("a1", "q1", "assistant"), message("q2", "a1"), message("a2", "q2", "assistant"),
  message("a1b", "q1", "assistant"), message("q1b", null), message("c1", "q2", "assistant", { compare: "x" }),
  message("c2", "q2", "assistant", { compare: "x" }),
];
const ids = (messages) => messages.map(({ id }) => id);

test("a branch is what leads to a message, and its end the newest that follows one", () => {
  assert.deepEqual(ids(branchTo(tree, "a2")), ["q1", "a1", "q2", "a2"]);
  assert.deepEqual(branchTo(tree, "nobody"), []);
  assert.equal(endOf(tree, "a1b"), "a1b");
  assert.equal(endOf(tree.slice(0, 4), "q1"), "a2");
  assert.equal(endOf(tree, "q1"), "a1b");
  assert.equal(endOf([message("a", "b"), message("b", "a")], "a"), "a");
  assert.equal(endOf(tree, null), null);
  assert.deepEqual(ids(branchTo([message("a", "b"), message("b", "a")], "a")), ["b", "a"]);
});

test("versions stand beside each other, and answers that are compared count once", () => {
  assert.deepEqual(ids(siblings(tree, tree[1])), ["a1", "a1b"]);
  assert.deepEqual(ids(siblings(tree, tree[0])), ["q1", "q1b"]);
  assert.deepEqual(ids(siblings(tree, tree[3])), ["a2", "c1"]);
  assert.deepEqual(ids(siblings(tree, tree[7])), ["a2", "c2"]);
});

test("the model is sent the branch without thinking and empty answers, and each side speaks once", () => {
  const calls = [{ id: "1", type: "function", function: { name: "calculator", arguments: "{}" } }];
  const sent = outgoing(" Be brief. ", [
    message("q", null, "user", { attachments: [{ name: "x.py", text: "a ``` b", hash: "", type: "text/plain", size: 7 }] }),
    message("a", "q", "assistant", { content: "", reasoning: "hm" }), message("r", "a"),
    message("t", "r", "assistant", { tool_calls: calls, content: "" }), message("u", "t", "tool", { tool_call_id: "1" }),
    message("i", "u", "user", { attachments: [{ name: "x.jpg", hash: "h", type: "image/jpeg", size: 7 }] }),
  ]);
  assert.deepEqual(sent, [
    { role: "system", content: " Be brief. " }, { role: "user", content: "x.py:\n````\na ``` b\n````\n\nq\n\nr" },
    { role: "assistant", content: "", tool_calls: calls }, { role: "tool", content: "u", tool_call_id: "1" },
    { role: "user", content: [{ type: "attachment", hash: "h", mime: "image/jpeg" }, { type: "text", text: "i" }] },
  ]);
});

const old = {
  id: "c", title: "T", createdAt: 1, updatedAt: 2, model: "m", system: "", parameters: { seed: 1 },
  messages: [{ id: "1", role: "user", content: "hello" }, { id: "2", role: "assistant", content: "x".repeat(200_000), stopped: true },
    { id: "3", role: "user", content: "y".repeat(200_000) }, { id: "4", role: "assistant", content: "", error: { code: "C", message: "m" } }],
};

test("what browsers kept comes to the server as it was, and is removed only once it is there", async () => {
  const storage = new FakeStorage({ "llamadash.conversations": "[]", "llamadash.conversation.c": JSON.stringify(old), "llamadash.conversation.d": "{broken", other: "1" });
  await assert.rejects(importStored(storage, async () => { throw Object.assign(new Error("full"), { code: "STORAGE_FULL" }); }));
  assert.ok(storage.getItem("llamadash.conversation.c"));
  const sent = [];
  assert.equal(await importStored(storage, async (event, data) => sent.push([event, data])), 1);
  assert.deepEqual([...storage.items.keys()], ["llamadash.conversation.d", "other"]);
  assert.ok(sent.length > 1 && sent.every(([event, data]) => event === "conversations:save" && JSON.stringify(data).length < 900_000));
  const messages = sent.flatMap(([, data]) => data.messages);
  assert.deepEqual(messages.map(({ parent, status }) => [parent, status]), [[null, "done"], ["c.0", "stopped"], ["c.1", "done"], ["c.2", "failed"]]);
  assert.deepEqual([sent[0][1].changes.head, sent[0][1].changes.created_at, sent[0][1].changes.updated_at], ["c.3", 1, 2]);
});

test("a broken message keeps neither the others of its conversation nor other conversations from being brought over", async () => {
  const broken = [null, 5, "text", [], { role: "robot", content: "x" }, { role: "user" }, { id: 7, parent: "a", role: "user", content: "x" }];
  const storage = new FakeStorage(Object.fromEntries([
    ["bad", broken], ["half", [...broken, { role: "user", content: "kept" }]], ["good", [{ role: "user", content: "good" }]],
  ].map(([id, messages]) => [`llamadash.conversation.${id}`, JSON.stringify({ id, messages })])));
  const sent = [];
  assert.equal(await importStored(storage, async (event, data) => sent.push(data)), 2);
  assert.deepEqual(sent.map(({ id, messages }) => [id, messages.map(({ content }) => content)]), [["half", ["kept"]], ["good", ["good"]]]);
  assert.deepEqual([...storage.items.keys()], ["llamadash.conversation.bad"]);
});

test("an exported conversation comes back with its branches, and what is none is not taken", async () => {
  const conversation = { ...imported(old), head: "a2", messages: tree };
  assert.deepEqual(imported(JSON.parse(JSON.stringify(conversation))), conversation);
  for (const other of [null, 5, {}, { id: "x" }, { id: "x", messages: [] }]) assert.equal(imported(other), null);
  assert.ok(toMarkdown(conversation).includes("## You\n\nq2") && !toMarkdown(conversation).includes("a1b"));
  let tries = 0;
  await upload(async () => { if (!tries++) throw Object.assign(new Error("slow down"), { code: "RATE_LIMITED" }); }, conversation);
  assert.equal(tries, 2);
});

test("of a stored sampling only what the server takes is used", () => {
  for (const stored of [null, "warm", 5, [1], { temperature: "warm", top_p: null, seed: NaN, min_p: true, other: 1 }]) assert.deepEqual(samplingOf(stored), {});
  assert.deepEqual(samplingOf({ temperature: 0.5, seed: -1, max_tokens: "9", mirostat: 2 }), { temperature: 0.5, seed: -1 });
  assert.deepEqual(imported({ ...old, parameters: "warm" }).parameters, {});
});

test("a title is cut between characters, never inside of one", () => {
  assert.equal(titleFrom(`${"a".repeat(58)}😀${"b".repeat(20)}`), `${"a".repeat(58)}😀…`);
  assert.equal(titleFrom("😀".repeat(60)), "😀".repeat(60));
});

test("a text file is read as what it begins with, and old ones of Windows, too", () => {
  const bytes = (...codes) => Uint8Array.from(codes);
  const table = [
    [bytes(0xff, 0xfe, 0x47, 0, 0xfc, 0), "Gü"], [bytes(0xfe, 0xff, 0, 0x47, 0, 0xfc), "Gü"], [bytes(0x47, 0xc3, 0xbc), "Gü"],
    [bytes(0xef, 0xbb, 0xbf, 0x47), "G"], [bytes(0x47, 0xfc), "Gü"], [bytes(), ""],
    [bytes(0x47, 0, 0xfc), null], [bytes(0x7f, 0x45, 0), null], [bytes(0xff, 0xfe, 0), null],
  ];
  for (const [given, text] of table) assert.equal(textOf(given), text, String(given));
});

test("the calculator knows the order of operations, and says what it does not understand", () => {
  const values = { "1+2*3": 7, "-2^2": -4, "2^3^2": 512, "(1+2)*3": 9, "10%4": 2, "0.1+0.2": 0.3, "sqrt(16)+max(1, 2)": 6, "2**3": 8, "1e3/4": 250, "2*pi": 6.28318530717959, "-(3)": -3 };
  for (const [text, value] of Object.entries(values)) assert.equal(calculate(text), value, text);
  for (const text of ["", "1+", "(1", "alert(1)", "constructor", "1 2", "__proto__(1)", "1+".repeat(600), "a.b"]) assert.throws(() => calculate(text), Error, text);
  assert.equal(runTool("calculator", '{"expression": "6*7"}'), "42");
  assert.match(runTool("calculator", "{"), /^Error/);
  assert.match(runTool("current_time", '{"time_zone": "Europe/Berlin"}', new Date(0)), /1 January 1970.*Europe\/Berlin/);
  assert.match(runTool("current_time", '{"time_zone": "Nowhere"}'), /^Error/);
  assert.match(runTool("shell", "{}"), /^Error: there is no tool/);
});

test("a file of conversations holds what their messages name, and brings it along", async () => {
  const picture = "A".repeat(600_000); // two parts in base64
  const server = { files: new Map([["h1", picture], ["h2", "c291bmQ="]]), saved: [], parts: [] };
  const conversation = (id, ...attachments) => ({
    id, title: id, folder: "F", head: "q", model: "m", system: "", parameters: {}, tools: false, created_at: 1, updated_at: 2,
    messages: [message("q", null, "user", { attachments }), message("a", "q", "assistant", { status: "answering" })],
  });
  const file = (hash, type = "image/png") => ({ hash, name: `${hash}.x`, type, size: 9 });
  const stored = [conversation("one", file("h1"), { ...file(""), text: "as text" }), conversation("two", file("h1"), file("h2", "audio/wav"), file("gone"))];
  const request = async (event, data) => {
    if (event === "conversations:list") return { conversations: data.before ? [stored[1]] : [stored[0]], hasMore: !data.before };
    if (event === "conversations:get") return { conversation: stored.find(({ id }) => id === data.id) };
    if (event === "conversations:save") return server.saved.push(data);
    if (event === "conversations:attach") return (server.parts.push(data), { attachment: {} });
    if (!server.files.has(data.hash)) throw Object.assign(new Error("gone"), { code: "NOT_FOUND" });
    const content = server.files.get(data.hash);
    return { data: content.slice(data.part * 524_288, (data.part + 1) * 524_288), of: Math.ceil(content.length / 524_288) };
  };
  const { file: blob, missing } = await toFile(request, await allConversations(request));
  assert.deepEqual(missing, ["gone.x"]);
  const text = await blob.text();
  assert.deepEqual(Object.keys(JSON.parse(text).files), ["h1", "h2"]);
  assert.equal(await fromFile(request, text), 2);
  const sent = server.parts.map(({ name, type, part, of, data }) => [name, type, part, of, data.length]);
  assert.deepEqual(sent, [["h1.x", "image/png", 0, 2, 524_288], ["h1.x", "image/png", 1, 2, 75_712], ["h2.x", "audio/wav", 0, 1, 8]]);
  assert.deepEqual(server.saved[0].messages[0].attachments, stored[0].messages[0].attachments);
  assert.equal(server.saved[1].messages[1].status, "cut");
  await assert.rejects(fromFile(request, "no JSON"), /no conversation/);
  assert.equal(await fromFile(request, JSON.stringify(stored[0])), 1); // of one conversation, as version 1 saved it
});

test("the parts of two files that are added at once do not mix", async () => {
  const order = [];
  const request = async (event, { name, part }) => (order.push(`${name}${part}`), await Promise.resolve(), { attachment: {} });
  await Promise.all(["a", "b"].map((name) => sendBase64(name, "image/png", "A".repeat(600_000), request)));
  assert.deepEqual(order, ["a0", "a1", "b0", "b1"]);
});
