import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const root = new URL("../../web/", import.meta.url);
const files = readdirSync(root, { recursive: true }).filter((name) => /\.(js|css|html|svg|webmanifest)$/.test(name)).map((name) => [name, readFileSync(new URL(name, root), "utf8")]);

test("lines of the client are at most 120 characters", () => {
  const long = files.flatMap(([name, text]) => text.split("\n").flatMap((line, at) => (line.length > 120 ? [`${name}:${at + 1}`] : [])));
  assert.deepEqual(long, []);
});

test("a speed has one of its two names", () => {
  for (const [name, text] of files) assert.doesNotMatch(text, /[^a-z]t\/s|[Tt]okens per second|Generation speed|Avg\. /, name);
});

test("what has a label of its own has a role, as else it may have none", () => {
  const plain = /h\("(?:div|span|pre|p|code)",\s*\{(?:[^{}]|\{[^{}]*\})*?"aria-label"(?:[^{}]|\{[^{}]*\})*\}/g;
  for (const [name, text] of files) for (const [found] of text.matchAll(plain)) assert.match(found, /\brole\b/, name);
});
