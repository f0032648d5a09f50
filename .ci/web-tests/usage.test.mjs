import assert from "node:assert/strict";
import { test } from "node:test";
import { usageCsv } from "../../web/components/usage-table.js";

const ROW = { requests: 2, errors: 0, generated_tokens: 7, generated_speeds: [20, 30] };

test("the CSV file has what its lines are counted by", () => {
  const head = (by) => usageCsv(by, [{ ...ROW, model: "a", build: "b1", parameters: "ctx-size 512, temp 1", day: "x" }])
    .split(/\r?\n/).slice(0, 2);
  const [names, values] = head("parameters");
  assert.match(names, /^\W*model,build,parameters,requests,/);
  assert.match(values, /^a,b1,"ctx-size 512, temp 1",2,0,/);
  assert.match(head("build")[0], /^\W*model,build,requests,/);
  assert.match(head("day")[1], /^x,2,0,/);
});
