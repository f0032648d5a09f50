import assert from "node:assert/strict";
import { test } from "node:test";
import { EMPTY_DOCUMENT, parseMarkdown } from "../../web/core/markdown-parser.js";

const SAMPLE = `# Title **b**

Hello *world* and __bold__ snake_case_name \`code *x*\` [a](https://x.y/z) [bad](javascript:alert(1)) https://foo.bar/a_(b). **a *b***
second line

1. one
   - sub a
   - sub b

2. two
   \`\`\`py
   def f():
       pass

   x
   \`\`\`
3. three

- [ ] todo
- [x] done

> quote
> - l

| a | b |
|---|--:|
| 1 | \`x|y\` |
| 2 \\| 3 | <br>z |

\`\`\`js
let a = "**no**";

- not list
\`\`\`
---
* a
* b
para after
<script>alert(1)</script> &amp; 2 * 3 * 4
`;
const HOSTILE = {
  stars:"*a ".repeat(2e4),
  under:"_a ".repeat(2e4),
  ticks:"`a ``b ".repeat(1e4),
  br:"[a".repeat(2e4),
  br2:"![](".repeat(1e4),
  quote:"> ".repeat(2e4),
  list:"- ".repeat(2e4),
  nl:"- a\n".repeat(1e4),
  pipe:"|a".repeat(2e4)+"\n"+"|-".repeat(2e4),
  nest:Array.from({length:2000},(_, i)=>" ".repeat(i*2)+"- x").join("\n"),
  em3:"***a".repeat(1e4),
   mix:"*_~`[<&".repeat(1e4),
   para:"a|b\n".repeat(1e4),
   amp:"https://a".repeat(5000),
   tick2: Array.from({length:300},(_, i)=>"`".repeat(i+1)).join(" a "),
   starticks:"*`a ".repeat(1e4),
   blank:"- a\n"+"\n".repeat(2e4)+"b",
};

test("a text that grows letter by letter is parsed like the whole of it, at every length", () => {
  let grown = EMPTY_DOCUMENT;
  for (let length = 1; length <= SAMPLE.length; length += 1) {
    grown = parseMarkdown(SAMPLE.slice(0, length), grown);
    assert.deepEqual(grown, parseMarkdown(SAMPLE.slice(0, length)), `the first ${length} letters`);
  }
});

test("no letter of a text is lost", () => {
  const bare = (text) => text.replace(/\s/g, "");
  assert.equal(bare(parseMarkdown(SAMPLE).pieces.map((piece) => piece.source).join("")), bare(SAMPLE));
});

test("addresses that are no web addresses never become links", () => {
  const json = JSON.stringify(parseMarkdown(SAMPLE));
  assert.ok(json.includes("https://x.y/z"));
  assert.ok(!/"(?:href|address|url)":"javascript:/.test(json));
});

for (const [name, text] of Object.entries(HOSTILE)) {
  test(`a text made to be slow is parsed soon: ${name}`, { timeout: 20_000 }, () => {
    assert.ok(parseMarkdown(text).pieces.length > 0);
  });
}
