import assert from "node:assert/strict";
import { test } from "node:test";

import "./dom.mjs";

const { logAddress, anatomySentence, partsOf } = await import("../../web/components/request-anatomy.js");

const row = (fields) => ({
  model: "qwen", duration: 11_200, waited: 0, loading: 8300, first_token: 2600, prompt_tokens: 1000, cached_tokens: 40,
  generated_tokens: 30, prompt_per_second: 370, generated_per_second: 100, ...fields,
});
const sum = (parts) => parts.reduce((total, { ms }) => total + ms, 0);
const named = (parts) => Object.fromEntries(parts.map(({ name, ms }) => [name, Math.round(ms)]));

test("the parts of a request add up to its duration, whatever is known of it", () => {
  const some = [
    row(), row({ first_token: null }), row({ first_token: null, prompt_per_second: 1, generated_per_second: 0.1 }),
    row({ prompt_per_second: null, generated_per_second: null }), row({ waited: 4000, loading: 9000 }),
    row({ waited: null, loading: null, first_token: null, generated_per_second: null, prompt_per_second: null }),
    row({ first_token: 20_000 }), row({ prompt_tokens: null, cached_tokens: null }),
    row({ status: "failed", waited: 11_200, loading: null, first_token: null }),
  ];
  for (const one of some) {
    assert.ok(Math.abs(sum(partsOf(one)) - one.duration) < 0.01 * one.duration, JSON.stringify(partsOf(one)));
    assert.ok(partsOf(one).every(({ ms }) => ms > 0));
  }
  assert.deepEqual(partsOf(row({ duration: null })), []);
});

test("what lies between waiting and the prompt is the engine's queue", () => {
  assert.deepEqual(named(partsOf(row({ loading: 0, duration: 5000, first_token: 4000, prompt_per_second: 960 }))),
    { slot: 3000, prompt: 1000, answer: 1000 });
});

test("one sentence says where the time went, and what a model had left memory for", () => {
  assert.equal(anatomySentence(row({ details: { after: "evicted for Gemma" } }), "Qwen3"),
    "11 s: 8.3 s loading after Qwen3 was evicted for Gemma, 2.6 s prompt (4.0% cached), 305 ms answer");
  const waited = row({ waited: 5000, loading: 0, duration: 7900, details: { waits: [["until it is loaded", 9], ["until Gemma has answered", 5000]] } });
  assert.equal(anatomySentence(waited), "7.9 s: 5 s waiting until Gemma has answered, 2.6 s prompt (4.0% cached), 305 ms answer");
  assert.equal(anatomySentence(row({ details: { after: "idle" } }), "A").split(",")[0], "11 s: 8.3 s loading after A was unloaded when idle");
});

test("the link to the lines of a request names the process that answered, which may be another entry's", () => {
  const row = { model: "v", timestamp: 1000, duration: 10, details: { process: "a" } };
  assert.equal(logAddress(row), "/logs?source=a&from=500&to=1510");
  assert.equal(logAddress({ ...row, details: null }), "/logs?source=v&from=500&to=1510");
  assert.equal(logAddress(row, "llamadash"), "/logs?source=llamadash&from=500&to=1510");
});
