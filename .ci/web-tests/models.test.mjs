import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { namesRepo } = await import("../../web/components/get-models.js");
const { baseName, groupModels, lastSpeed, lastUse, queryModels } = await import("../../web/components/query-models.js");

test("what names a repository is looked up, and words are searched for", () => {
  const repos = ["user/repo", "user/repo:Q4_K_M", "user/repo@dev", "https://huggingface.co/user/repo", "hf.co/user/repo", "[x](https://hf.co/u/r)",
    "ollama run hf.co/user/repo:Q8_0", "hf download user/repo a.gguf", "llama-server -hf user/repo", "`user/repo`"];
  for (const text of repos) assert.ok(namesRepo(text), text);
  for (const text of ["qwen3 coder", "llama 3.1 8B", "gemma", "hf models", "text / image", "llama -q4"]) assert.ok(!namesRepo(text), text);
});

test("quantizations of one model stand under one heading, pinned models and those in memory on top", () => {
  const model = (path, more = {}) => ({ id: path, name: path, path, architecture: "llama", status: "unloaded", ...more });
  for (const [path, base] of [
    ["/m/Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B"], ["/m/Qwen3-8B-UD-IQ2_XXS-00001-of-00002.gguf", "Qwen3-8B"], ["C:\\m\\tiny.q8_0.gguf", "tiny"],
    ["/c/models--a--B-GGUF/snapshots/0123456789012345678901234567890123456789/Q4_K_M.gguf", "B"], ["/m/user/Llama-GGUF/BF16/model.gguf", "Llama"],
    ["/m/model-7.gguf", "model-7"], ["/m/gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b"]]) assert.equal(baseName({ path }), base);
  const models = [model("/a/x-Q4_0.gguf"), model("/b/x-Q8_0.gguf", { tags: ["fast"] }), model("/a/y-Q4_0.gguf"), model("/a/x-F16.gguf", { status: "loaded" }), model("/z.gguf", { pinned: true })];
  const query = { search: "", status: "", architecture: "", quantization: "", tags: "", favorites: false, sort: "name", descending: false };
  const uses = { used: new Map([["/z.gguf", 9]]), speed: new Map() };
  const { rows, facets } = queryModels(models, query, uses);
  const shown = (...more) => groupModels(rows, ...more).map((row) => row.group ? `${row.name} (${row.members.length})` : row.id);
  assert.deepEqual(shown(new Set(), false), ["/a/x-F16.gguf", "/z.gguf", "x (2)", "/a/y-Q4_0.gguf"]);
  assert.deepEqual(shown(new Set(), false, "/b/x-Q8_0.gguf").slice(2), ["x (2)", "/a/x-Q4_0.gguf", "/b/x-Q8_0.gguf", "/a/y-Q4_0.gguf"]);
  assert.deepEqual(facets.tags, [{ value: "fast", count: 1 }]);
  assert.deepEqual(queryModels(models, { ...query, tags: "fast" }, uses).rows.map(({ id }) => id), ["/b/x-Q8_0.gguf"]);
  assert.deepEqual([lastUse({ id: "/z.gguf", last_used_at: 5 }, uses), lastUse({ id: "n" }, uses), lastSpeed({ id: "n", last_speed: 3 }, uses)], [9, null, 3]);
  assert.equal(lastUse({ id: "/z.gguf", last_used_at: Date.now() + 86_400_000 }, uses), 9, "the clock was ahead");
});

test("a thousand models are sorted and grouped at once", () => {
  const models = Array.from({ length: 1000 }, (_, at) => ({ id: `${at}`, name: `n${at}`, path: `/m/n${at % 300}-Q${at % 8 + 1}_0.gguf`, status: "unloaded" }));
  const query = { search: "", status: "", architecture: "", quantization: "", tags: "", favorites: false, sort: "name", descending: false };
  const { rows } = queryModels(models, query, { used: new Map(), speed: new Map() });
  assert.equal(groupModels(rows, new Set(), false).length, 300);
});
