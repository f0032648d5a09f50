import assert from "node:assert/strict";
import { test } from "node:test";
const { fuzzyScore } = await import("../../web/core/fuzzy.js");

test("words are found whole, by their beginnings and by some of their letters, and nothing else", () => {
  for (const [query, text] of [["qwen", "load qwen3 4b"], ["load 4b", "load qwen3 4b"], ["lq4", "load qwen3 4b"], ["qwn", "load qwen3 4b"], ["", "x"], ["привет", "модель привет"]]) {
    assert.notEqual(fuzzyScore(query, text), null, query);
  }
  for (const [query, text] of [["xyz", "load qwen3 4b"], ["nwq", "load qwen3 4b"], ["load gemma", "load qwen3 4b"]]) assert.equal(fuzzyScore(query, text), null, query);
});

test("what fits better comes first", () => {
  const order = (query, texts) => [...texts].sort((a, b) => fuzzyScore(query, b) - fuzzyScore(query, a));
  assert.deepEqual(order("log", ["catalog of models", "logs"]), ["logs", "catalog of models"]);
  assert.deepEqual(order("mod", ["my own deep", "models"]), ["models", "my own deep"]);
});
