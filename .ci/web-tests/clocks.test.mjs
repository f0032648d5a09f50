import assert from "node:assert/strict";
import { test } from "node:test";
import { timeMarks, timeTicks } from "../../web/components/chart.js";
import { usageDays } from "../../web/components/usage-table.js";
import { dateTime, day, foreignZone, setTimeZone, wall } from "../../web/core/format.js";

const ZONE = process.env.TZ;
const shown = (from, to, count) => timeTicks(from.getTime(), to.getTime(), count).ticks.map((tick) => new Date(tick).toString());

test("each day is marked once, when it begins, also in a week when the clocks change", (t) => {
  t.after(() => { process.env.TZ = ZONE ?? ""; });
  for (const zone of ["Europe/Berlin", "Africa/Cairo", "America/Santiago", "Asia/Kolkata"]) {
    process.env.TZ = zone;
    for (const [month, day] of [[2, 26], [9, 22], [3, 20], [8, 2], [5, 1]]) { // to summer time, back, and neither
      const days = Array.from({ length: 7 }, (_, at) => new Date(2026, month, day + 1 + at).toString());
      assert.deepEqual(shown(new Date(2026, month, day, 10), new Date(2026, month, day + 7, 0, 30), 8), days, zone);
    }
  }
});

test("the usage says which whole days it is of", () => {
  const noon = new Date(2026, 5, 3, 12).getTime();
  assert.equal(usageDays(noon - 900_000, noon), `Of the whole day ${day(noon)}`);
  assert.equal(usageDays(noon - 86_400_000, noon), `Of whole days: ${day(noon - 86_400_000)} to ${day(noon)}`);
});

test("marks of hours are whole hours, also in a night when the clocks change", (t) => {
  t.after(() => { process.env.TZ = ZONE ?? ""; });
  process.env.TZ = "Europe/Berlin";
  for (const [month, day, marks] of [[2, 28, [22, 0, 3, 4, 6, 8]], [9, 24, [0, 3, 6, 9]]]) { // there is no 2 o'clock in March
    const hours = shown(new Date(2026, month, day, 21, 30), new Date(2026, month, day + 1, 9, 30), 6).map((text) => Number(text.slice(16, 18)));
    assert.deepEqual(hours, marks);
  }
});

test("an axis has times and days in the browser's own form, with room for them", (t) => {
  const [time, date] = [Date.prototype.toLocaleTimeString, Date.prototype.toLocaleDateString];
  t.after(() => { process.env.TZ = ZONE ?? ""; Object.assign(Date.prototype, { toLocaleTimeString: time, toLocaleDateString: date }); });
  process.env.TZ = "UTC";
  const browser = (own) => {
    Date.prototype.toLocaleTimeString = function (locale, options) { return time.call(this, locale ?? own, options); };
    Date.prototype.toLocaleDateString = function (locale, options) { return date.call(this, locale ?? own, options); };
  };
  const evening = Date.UTC(2026, 10, 27, 22, 30);
  for (const [own, length, first] of [["en-US", 7_200_000, /^10:30\sPM$/], ["en-US", 120_000, /^10:30:00\sPM$/],
    ["de", 7_200_000, /^22:30$/], ["en-US", 7 * 86_400_000, /^Nov 28$/], ["de", 7 * 86_400_000, /^28. Nov/]]) {
    browser(own);
    const marks = timeMarks(evening, evening + length, 500);
    assert.match(marks[0].text, first);
    const widest = Math.max(...marks.map(({ text }) => text.length)) * 6.4;
    assert.ok((marks[1].tick - marks[0].tick) / length * 500 > widest, `${own} ${marks.map(({ text }) => text)}`);
  }
});

test("times and marks are by the server's clocks, wherever the browser is", (t) => {
  t.after(() => { setTimeZone(null); process.env.TZ = ZONE ?? ""; });
  process.env.TZ = "America/New_York";
  const noon = Date.UTC(2026, 6, 1, 12);
  for (const [zone, shown] of [["Asia/Kolkata", "5:30:00"], ["Etc/GMT-2", "2:00:00"], ["Mars/Base", "8:00:00"]]) {
    setTimeZone(zone);
    assert.match(dateTime(noon), new RegExp(`^Jul 1, 2026, ${shown}`));
    assert.equal(foreignZone() === "", zone === "Mars/Base");
  }
  setTimeZone("Europe/Berlin");
  const { ticks } = timeTicks(Date.UTC(2026, 9, 24, 12), Date.UTC(2026, 9, 27, 12), 4); // over the end of summer time
  assert.deepEqual(ticks.map((tick) => wall(tick).toISOString()), [25, 26, 27].map((day) => `2026-10-${day}T00:00:00.000Z`));
  assert.doesNotThrow(() => dateTime(1e300));
});
