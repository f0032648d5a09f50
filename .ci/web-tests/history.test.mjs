import assert from "node:assert/strict";
import { test } from "node:test";
import "./dom.mjs";
const { History } = await import("../../web/core/history.js");
const { MetricsCharts } = await import("../../web/components/metrics-charts.js");
const { ChartLink, LinkedChart } = await import("../../web/components/linked-chart.js");

test("samples join the bucket they belong to, and a silence is a gap", () => {
  const history = new History({ bucket: 10_000, timestamps: [0, 10_000], series: { cpu_usage: { avg: [1, 2], max: [1, 3] } } }, 40_000, 10_000);
  history.append({ cpu_usage: 4, gpus: [{ index: 0, utilization: 5 }], engine: { a: 1 }, process: { cpu: 2 }, load_average: [1, 2, 3] }, 11_000);
  assert.deepEqual(history.column("cpu_usage"), { avg: [1, 3], max: [1, 4] });
  assert.deepEqual(history.column("gpu0_utilization"), { avg: [null, 5], max: [null, 5] });
  history.append({ cpu_usage: 9 }, 20_000);
  assert.equal(history.length, 3);
  history.append({ cpu_usage: 9 }, 60_000);
  assert.deepEqual(history.timestamps, [20_000, 30_000, 60_000]);
  assert.deepEqual(history.column("cpu_usage").avg, [9, null, 9]);
});

test("a sample from just before the window changes nothing", () => {
  const history = new History({ bucket: 10_000, timestamps: [20_000, 30_000], series: { cpu_usage: { avg: [1, 2], max: [1, 2] } } }, 40_000, 10_000);
  history.append({ cpu_usage: 7 }, 5000);
  assert.equal(history.length, 2);
  assert.deepEqual(history.column("cpu_usage").avg, [1, 2]);
});

test("when the clock is set back, what is later than now is forgotten", () => {
  const history = new History({ bucket: 10_000, timestamps: [], series: {} }, 900_000, 10_000);
  for (let at = 1; at <= 60; at += 1) history.append({ cpu_usage: 10 }, at * 10_000);
  for (let at = 31; at <= 50; at += 1) history.append({ cpu_usage: 90 }, at * 10_000);
  assert.equal(history.timestamps.at(-1), 500_000);
  assert.deepEqual(history.column("cpu_usage").avg, [...Array(30).fill(10), 50, ...Array(19).fill(90)]);
  const later = new History({ bucket: 10_000, timestamps: [900_000, 910_000], series: { cpu_usage: { avg: [1, 2], max: [1, 2] } } }, 900_000, 10_000);
  later.append({ cpu_usage: 7 }, 100_000);
  assert.deepEqual([later.timestamps, later.column("cpu_usage").avg], [[100_000], [7]]);
});

test("what is the case now is the newest sample, and not the average that it joins", () => {
  const history = new History({ bucket: 3_600_000, timestamps: [0], series: { cpu_usage: { avg: [80], max: [90] } } }, 86_400_000, 10_000);
  assert.equal(history.now("cpu_usage"), 80);
  history.append({ cpu_usage: 2, engine: { generated_tokens_per_second: null } }, 3_000_000);
  assert.ok(history.column("cpu_usage").avg[0] > 70);
  assert.equal(history.now("cpu_usage"), 2);
  assert.equal(history.now("generated_tokens_per_second"), null);
  history.note({ cpu_usage: 5 });
  assert.equal(history.now("cpu_usage"), 5);
});

test("samples are joined by a line also after a longer interval was set", async () => {
  const settings = { metrics_interval: 10 };
  const start = 10_000 * Math.floor(Date.now() / 10_000);
  const answer = { bucket: 10_000, timestamps: [start], series: { cpu_usage: { avg: [1], max: [1] } } };
  const charts = new MetricsCharts({ span: 900_000, state: { get: (key) => (key === "settings" ? settings : null), request: async () => ({ ...answer, events: [] }) } });
  await charts.load();
  settings.metrics_interval = 60;
  for (const at of [60_000, 120_000]) charts.add({ cpu_usage: 5 }, start + at);
  assert.deepEqual(charts.history.column("cpu_usage").avg, [1, 5, 5]);
});

test("charts that get new values together are drawn one after the other, each in a turn of its own", async () => {
  const drawn = [];
  const charts = ["one", "two", "three"].map((label) => {
    const chart = new LinkedChart({ link: new ChartLink(), label, timestamps: [], series: [] });
    chart.update = () => drawn.push(chart.props.label);
    return chart;
  });
  for (const round of [1, 2]) for (const chart of charts) chart.receive({ ...chart.props, label: `${chart.props.label} ${round}` });
  assert.deepEqual(drawn, []);
  for (const count of [1, 2, 3, 3]) {
    await new Promise((resolve) => setTimeout(resolve));
    assert.equal(drawn.length, count);
  }
  assert.deepEqual(drawn, ["one 1 2", "two 1 2", "three 1 2"]);
});

test("a chart that failed is as wide as there is room once it can be drawn, and follows the room again", () => {
  const watched = new Set();
  const element = Object.getPrototypeOf(document.body);
  let room = 400;
  let changed = () => {};
  globalThis.ResizeObserver = class {
    constructor(callback) { changed = callback; }
    observe(node) { watched.add(node); }
    disconnect() { watched.clear(); }
  };
  Object.defineProperty(element, "clientWidth", { configurable: true, get() { return this.isConnected ? room : 0; } });
  const props = { label: "Load", series: [{ label: "a", values: [1, 2] }] };
  const drawn = (chart) => [chart.element.querySelector("path") !== null, Number(chart.element.querySelector("svg")?.getAttribute("width")), watched.has(chart.plot)];
  try {
    for (const first of [null, [0, 10_000]]) {
      const chart = new LinkedChart({ ...props, link: new ChartLink(), timestamps: first }).mount(document.body);
      for (const timestamps of [null, [0, 10_000], null]) {
        chart.props = { ...chart.props, timestamps };
        chart.update();
        if (watched.size) changed();
      }
      assert.match(chart.element.textContent, /has failed/);
      chart.props.timestamps = [0, 10_000];
      chart.update();
      assert.deepEqual(drawn(chart), [true, room, true]);
      room += 100;
      changed();
      chart.update();
      assert.deepEqual(drawn(chart), [true, room, true]);
      chart.destroy();
      assert.equal(watched.size, 0);
    }
  } finally {
    delete element.clientWidth;
    delete globalThis.ResizeObserver;
  }
});

test("a chart is zoomed by keys, shows one line alone, and an old stretch does not go on", () => {
  const zooms = [];
  const series = [{ label: "a", values: [1, 2, 3] }, { label: "b", values: [400, 500, 600] }];
  const chart = new LinkedChart({ link: new ChartLink(), timestamps: [0, 10_000, 20_000], series, onZoom: (...range) => zooms.push(range), onBack: () => zooms.push("back") });
  chart.init();
  const press = (key, shiftKey = false) => chart.handleKey({ key, shiftKey, defaultPrevented: false, preventDefault() { this.defaultPrevented = true; } });
  press("ArrowLeft");
  for (const key of ["ArrowLeft", "ArrowLeft"]) press(key, true);
  press("Enter");
  press("0");
  assert.deepEqual(zooms, [[0, 20_000], "back"]);
  chart.handleIsolate(null, { dataset: { isolate: "b" } });
  assert.deepEqual(chart.geometry().series.map(({ label, at }) => [label, at]), [["b", 1]]);
  chart.handleIsolate(null, { dataset: { isolate: "b" } });
  assert.equal(chart.geometry().series.length, 2);
  const charts = new MetricsCharts({ span: 60_000, until: 60_000, state: { get: () => null } });
  charts.history = new History({ bucket: 10_000, timestamps: [10_000], series: {} }, 60_000, 10_000);
  charts.state.loading = false;
  charts.add({ cpu_usage: 1 }, 20_000);
  assert.equal(charts.history.length, 1);
});
