import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { namesRepo } = await import("../../web/components/get-models.js");

test("what names a repository is looked up, and words are searched for", () => {
  const repos = ["user/repo", "user/repo:Q4_K_M", "user/repo@dev", "https://huggingface.co/user/repo", "hf.co/user/repo", "[x](https://hf.co/u/r)",
    "ollama run hf.co/user/repo:Q8_0", "hf download user/repo a.gguf", "llama-server -hf user/repo", "`user/repo`"];
  for (const text of repos) assert.ok(namesRepo(text), text);
  for (const text of ["qwen3 coder", "llama 3.1 8B", "gemma", "hf models", "text / image", "llama -q4"]) assert.ok(!namesRepo(text), text);
});
