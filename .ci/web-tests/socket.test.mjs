import assert from "node:assert/strict";
import { test } from "node:test";
import { RequestError, Socket, backoff, decodePacket } from "../../web/core/socket.js";

class FakeWebSocket {
  static all = [];
  constructor(url) { this.url = url; this.sent = []; this.closed = false; FakeWebSocket.all.push(this); }
  send(text) { this.sent.push(text); }
  close() { this.closed = true; }
  say(text) { this.onmessage({ data: text }); }
  welcome(data = {}, handshake = {}) {
    this.say(`0${JSON.stringify({ sid: "s", pingInterval: 25000, pingTimeout: 60000, ...handshake })}`);
    this.say('40{"sid":"t"}');
    this.event("connection:established", { type: "broadcast", data: { epoch: "e", seq: 5, recovered: false, ...data } });
  }
  event(name, envelope) { this.say(`42${JSON.stringify([name, envelope])}`); }
}
const connect = (auth = () => ({ token: "k" })) => {
  FakeWebSocket.all = [];
  const socket = new Socket({ url: "ws://x", auth, WebSocket: FakeWebSocket });
  socket.connect();
  return [socket, FakeWebSocket.all[0]];
};
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

test("it shakes hands with its credentials and is connected when welcomed", () => {
  const [socket, ws] = connect();
  assert.equal(ws.url, "ws://x/llamaproxws/?EIO=4&transport=websocket");
  assert.equal(socket.status, "connecting");
  ws.say('0{"sid":"s","pingInterval":25000,"pingTimeout":60000}');
  assert.equal(ws.sent[0], '40{"token":"k"}');
  ws.say('40{"sid":"t"}');
  assert.equal(socket.status, "connecting");
  ws.event("connection:established", { data: { epoch: "e", seq: 0, recovered: false } });
  assert.equal(socket.status, "connected");
  ws.say("2");
  assert.equal(ws.sent.at(-1), "3");
  socket.close();
});

test("a request resolves with its own response and rejects with a RequestError", async () => {
  const [socket, ws] = connect();
  ws.welcome();
  const one = socket.request("models:list", { a: 1 });
  const two = socket.request("models:get", { id: "x" });
  const [first, second] = ws.sent.slice(-2).map((text) => JSON.parse(text.slice(2))[1]);
  assert.deepEqual(first.data, { a: 1 });
  assert.equal(typeof first.timestamp, "number");
  ws.event("models:get:result", { type: "response", success: false, error: { code: "NOT_FOUND", message: "no x", field: "id", current: 1 }, requestId: second.requestId });
  ws.event("models:list:result", { type: "response", success: true, data: { models: [] }, requestId: first.requestId });
  assert.deepEqual(await one, { models: [] });
  await assert.rejects(two, (error) => error instanceof RequestError && error.code === "NOT_FOUND" && error.field === "id" && error.details.current === 1);
  await assert.rejects(socket.request("slow", {}, { timeout: 5 }), { code: "TIMEOUT" });
  socket.close();
});

test("a broadcast seen before is dropped, and the last one seen is told on return", async () => {
  const [socket, ws] = connect();
  const seen = [];
  socket.on("x", (data) => seen.push(data.n));
  ws.welcome();
  for (const seq of [6, 7, 7, 6, 8]) ws.event("x", { type: "broadcast", data: { n: seq }, seq });
  assert.deepEqual(seen, [6, 7, 8]);
  ws.onclose();
  assert.equal(socket.status, "disconnected");
  assert.ok(socket.retryAt >= Date.now());
  socket.hurry();
  const again = FakeWebSocket.all[1];
  again.say('0{"sid":"s","pingInterval":25000,"pingTimeout":60000}');
  assert.deepEqual(JSON.parse(again.sent[0].slice(2)), { token: "k", epoch: "e", seq: 8 });
  again.say('40{"sid":"t"}');
  again.event("x", { type: "broadcast", data: { n: 9 }, seq: 9 }); // may come before the welcome
  again.event("connection:established", { data: { epoch: "e", seq: 10, recovered: true } });
  again.event("x", { type: "broadcast", data: { n: 10 }, seq: 10 });
  assert.deepEqual(seen, [6, 7, 8, 9, 10]);
  socket.close();
});

test("a new epoch starts counting anew", () => {
  const [socket, ws] = connect();
  ws.welcome({ seq: 100 });
  ws.onclose();
  socket.hurry();
  FakeWebSocket.all[1].welcome({ epoch: "f", seq: 0 });
  const seen = [];
  socket.on("x", (data) => seen.push(data));
  FakeWebSocket.all[1].event("x", { data: 1, seq: 1 });
  assert.deepEqual(seen, [1]);
  socket.close();
});

test("open requests are rejected when the connection is lost", async () => {
  const [socket, ws] = connect();
  ws.welcome();
  const lost = socket.request("x");
  ws.onclose();
  await assert.rejects(lost, { code: "DISCONNECTED" });
  await assert.rejects(socket.request("y"), { code: "DISCONNECTED" });
  socket.close();
});

test("a refusal stops it, and it says why", () => {
  const [socket, ws] = connect();
  ws.say('0{"sid":"s","pingInterval":25000,"pingTimeout":60000}');
  ws.say('44{"message":"The key is wrong","data":{"code":"UNAUTHENTICATED"}}');
  assert.equal(socket.status, "unauthenticated");
  assert.equal(socket.refusal.message, "The key is wrong");
  ws.onclose?.();
  socket.hurry();
  assert.equal(FakeWebSocket.all.length, 1);
  socket.reconnect();
  FakeWebSocket.all[1].welcome();
  assert.equal(socket.status, "connected");
  assert.equal(socket.refusal, null);
  socket.close();
});

test("a rate limit waits as long as told; a typed password hears it at once", () => {
  const [socket, ws] = connect();
  ws.welcome();
  ws.onclose();
  socket.hurry();
  FakeWebSocket.all[1].say('44{"message":"slow down","data":{"code":"RATE_LIMITED","retryAfter":30}}');
  assert.equal(socket.status, "disconnected");
  assert.ok(socket.retryAt - Date.now() > 29_000);
  socket.close();
  const [typed, other] = connect(() => ({ password: "p" }));
  other.say('44{"message":"slow down","data":{"code":"RATE_LIMITED","retryAfter":30}}');
  assert.equal(typed.status, "unauthenticated");
  typed.close();
});

test("how long a refusal asked to wait holds for the next attempt only", () => {
  const [socket, ws] = connect();
  ws.welcome();
  ws.onclose();
  socket.hurry();
  FakeWebSocket.all[1].say('44{"message":"slow down","data":{"code":"RATE_LIMITED","retryAfter":60}}');
  assert.ok(socket.retryAt - Date.now() > 59_000);
  socket.hurry();
  FakeWebSocket.all[2].onclose();
  assert.ok(socket.retryAt - Date.now() <= 10_000);
  socket.close();
});

test("a request larger than the server takes is refused here, and the connection stays", async () => {
  const [socket, ws] = connect();
  ws.welcome({}, { maxPayload: 1000 });
  const before = ws.sent.length;
  await assert.rejects(socket.request("x", { text: "a".repeat(1000) }, { timeout: 5 }), { code: "TOO_LARGE", message: /1,000 bytes/ });
  assert.equal(ws.sent.length, before);
  assert.equal(socket.status, "connected");
  socket.request("x", { text: "a" }).catch(() => {});
  assert.equal(ws.sent.length, before + 1);
  socket.close();
});

test("how large a request is counts in bytes, not in characters", async () => {
  const [socket, ws] = connect();
  ws.welcome({}, { maxPayload: 1000 });
  socket.request("x", { text: "" }).catch(() => {});
  const text = "é".repeat(200).padEnd(200 + 1000 - ws.sent.at(-1).length - 400, "a");
  socket.request("x", { text }).catch(() => {});
  assert.equal(Buffer.byteLength(ws.sent.at(-1)), 1000);
  await assert.rejects(socket.request("x", { text: `${text}a` }, { timeout: 5 }), { code: "TOO_LARGE" });
  socket.close();
});

test("a server that falls silent is left", async () => {
  const [socket, ws] = connect();
  ws.say('0{"sid":"s","pingInterval":20,"pingTimeout":20}');
  ws.say('40{"sid":"t"}');
  ws.event("connection:established", { data: { epoch: "e", seq: 0 } });
  await sleep(80);
  assert.equal(socket.status, "disconnected");
  assert.ok(ws.closed);
  socket.close();
});

test("waiting doubles up to ten seconds, with chance in it", () => {
  assert.equal(backoff(0, 0), 100);
  assert.equal(backoff(0, 0.5), 500);
  assert.equal(backoff(0, 1), 1000);
  assert.equal(backoff(2, 1), 4000);
  assert.equal(backoff(2, 0.25), 1000);
  assert.equal(backoff(50, 1), 10_000);
  assert.equal(backoff(50, 0), 100);
  const first = new Set(Array.from({ length: 100 }, () => backoff(0)));
  assert.ok(first.size > 50, "a thousand tabs must not come back in the same moment");
});

test("packets are taken apart, broken ones ignored", () => {
  assert.deepEqual(decodePacket('2["a",{"b":1}]'), { type: "2", id: null, data: ["a", { b: 1 }] });
  assert.deepEqual(decodePacket('2/ns,12["a"]'), { type: "2", id: 12, data: ["a"] });
  assert.deepEqual(decodePacket('37["x"]'), { type: "3", id: 7, data: ["x"] });
  assert.equal(decodePacket("2[broken"), null);
  assert.equal(decodePacket(""), null);
  const [socket, ws] = connect();
  ws.welcome();
  let answer;
  socket.emit("e", {}, (value) => (answer = value));
  ws.say(`43${/^42(\d+)/.exec(ws.sent.at(-1))[1]}["yes"]`);
  assert.equal(answer, "yes");
  for (const junk of ["", "x", "4", "42", "42{}", "9", "43", "42[]", "42[null]"]) ws.say(junk);
  assert.equal(socket.status, "connected");
  socket.close();
});
