import assert from "node:assert/strict";
import { test } from "node:test";
import { resetWrites, writes } from "./dom.mjs";
const { Component, h, safeAddress, shallowEqual } = await import("../../web/core/component.js");

const show = (render, map = {}) => {
  class Probe extends Component {
    render() { return render(this.props); }
    getEventMap() { return map; }
  }
  return Probe;
};
const mount = (render, props = {}, map) => new (show(render, map))(props).mount(document.body);

test("a changed text touches one text node and nothing else", () => {
  const it = mount(({ count }) => h("div", { className: "a" }, h("b", null, "Count"), h("i", null, count)), { count: 1 });
  resetWrites();
  it.receive({ count: 2 });
  assert.deepEqual(writes, { text: 1, attribute: 0, property: 0, insert: 0, remove: 0 });
  assert.equal(it.element.textContent, "Count2");
});

test("keyed items keep their elements when they move", () => {
  const it = mount(({ keys }) => h("ul", null, keys.map((key) => h("li", { key }, key))), { keys: ["a", "b", "c", "d"] });
  const before = Object.fromEntries(it.element.childNodes.map((node) => [node.textContent, node]));
  for (const keys of [["d", "a", "b", "c"], ["b", "c", "a", "d"], ["c", "x", "a"], ["a", "b", "c", "d"], [], ["c", "d"], ["d", "c", "b"]]) {
    it.receive({ keys });
    assert.deepEqual(it.element.childNodes.map((node) => node.textContent), keys);
  }
  const other = mount(({ keys }) => h("ul", null, keys.map((key) => h("li", { key }, key))), { keys: ["a", "b", "c"] });
  const [a, b, c] = other.element.childNodes;
  resetWrites();
  other.receive({ keys: ["b", "c", "a"] });
  assert.deepEqual(other.element.childNodes, [b, c, a]);
  assert.equal(writes.insert, 1);
  assert.ok(before.a);
});

test("random keyed orders always end as rendered", () => {
  const it = mount(({ keys }) => h("ul", null, h("li", null, "head"), keys.map((key) => h("li", { key }, key)), null, "tail"), { keys: [] });
  for (let round = 0; round < 300; round += 1) {
    const keys = [..."abcdefgh"].filter(() => Math.random() < 0.6).sort(() => Math.random() - 0.5);
    it.receive({ keys });
    assert.equal(it.element.textContent, `head${keys.join("")}tail`);
  }
});

test("a child that is not there keeps its siblings' elements", () => {
  const it = mount(({ on }) => h("div", null, on ? h("b", null, "!") : null, h("input")), { on: false });
  const input = it.element.childNodes[0];
  it.receive({ on: true });
  assert.equal(it.element.childNodes[1], input);
  it.receive({ on: false });
  assert.deepEqual(it.element.childNodes, [input]);
});

test("what a person typed survives a render with the same value", () => {
  const it = mount(({ value }) => h("input", { value }), { value: "a" });
  it.element.value = "typed";
  resetWrites();
  it.receive({ value: "a", other: 1 });
  assert.equal(it.element.value, "typed");
  it.receive({ value: "typed" });
  assert.equal(writes.property, 0);
  it.receive({ value: "" });
  assert.equal(it.element.value, "");
});

test("markup is text, scripts are no addresses, handlers are no props", () => {
  const it = mount(() => h("a", { href: "javascript:alert(1)", title: "<b>" }, "<img onerror=x>"));
  assert.equal(it.element.getAttribute("href"), null);
  assert.equal(it.element.childNodes[0].data, "<img onerror=x>");
  assert.match(mount(() => h("a", { onclick: "x" })).element.textContent, /has failed.*list events in getEventMap/);
  for (const bad of ["//evil.example", "/\\evil.example", "data:text/html,x", " javascript:x", "mailto:x", ""]) assert.equal(safeAddress(bad), false, bad);
  for (const good of ["/", "/models/a", "#top", "https://example.org/x", "http://127.0.0.1:8080/v1"]) assert.equal(safeAddress(good), true, good);
});

test("child components are kept, patched by changed props only, and destroyed", () => {
  const log = [];
  class Child extends Component {
    didMount() { log.push("mount"); return [() => log.push("disposed")]; }
    willDestroy() { log.push("destroy"); }
    render() { log.push("render"); return h("i", null, this.props.n); }
  }
  const it = mount(({ n, gone }) => h("div", null, gone ? null : h(Child, { key: "c", n })), { n: 1 });
  it.receive({ n: 1, other: 2 });
  it.receive({ n: 2 });
  it.receive({ n: 2, gone: true });
  assert.deepEqual(log, ["render", "mount", "render", "destroy", "disposed"]);
  assert.equal(it.element.childNodes.length, 0);
});

test("events are delegated, and no longer heard after destroy", () => {
  let heard = [];
  const it = mount(() => h("div", null, h("button", null, h("i", null, "x"))), {}, { "click button": (event, target) => heard.push(target.localName) });
  const inner = it.element.childNodes[0].childNodes[0];
  inner.dispatch("click");
  it.element.dispatch("click");
  assert.deepEqual(heard, ["button"]);
  const root = it.element;
  it.destroy();
  inner.dispatch("click");
  assert.equal(heard.length, 1);
  assert.equal(root.parentNode, null);
});

test("a root that changes its kind is replaced and still hears its events", () => {
  let heard = 0;
  const it = mount(({ link }) => h(link ? "a" : "b", null, "x"), { link: false }, { click: () => (heard += 1) });
  const place = document.body.childNodes.indexOf(it.element);
  it.receive({ link: true });
  assert.equal(document.body.childNodes[place], it.element);
  it.element.dispatch("click");
  assert.equal(heard, 1);
});

test("several changes of the state are one patch", async () => {
  let renders = 0;
  const it = mount(() => h("b", null, (renders += 1)));
  it.setState({ a: 1 });
  it.setState({ b: 2 });
  await new Promise((resolve) => setTimeout(resolve, 80));
  assert.equal(renders, 2);
  assert.deepEqual(it.state, { a: 1, b: 2 });
});

test("SVG elements are made in their namespace", () => {
  const it = mount(() => h("svg", null, h("g", null, h("path", { d: "M0 0" }))));
  assert.match(it.element.childNodes[0].childNodes[0].namespaceURI, /svg/);
});

test("shallowEqual compares what is in the props", () => {
  assert.ok(shallowEqual({ a: 1 }, { a: 1 }));
  assert.ok(!shallowEqual({ a: 1 }, { a: 1, b: undefined }));
  assert.ok(!shallowEqual({ a: [] }, { a: [] }));
});

test("a component loads anew where a prop changed by which it loads, and only there", () => {
  const spans = [];
  class Probe extends Component {
    static loadedBy = ["span"];
    render() { return h("b", null, this.props.span); }
    async load() { spans.push(this.props.span); }
  }
  const it = new Probe({ span: 1, name: "a" }).mount(document.body);
  for (const props of [{ span: 1, name: "b" }, { span: 2, name: "b" }, { span: 2, name: "c" }]) it.receive(props);
  assert.deepEqual([spans, it.element.textContent], [[2], "2"]);
});

test("a component that throws is replaced by its fault, the others work on, and its next update tries again", () => {
  class Card extends Component {
    render() {
      if (this.props.bad) throw new Error("broken values");
      return h("p", null, this.props.words);
    }
  }
  class Never extends Component {
    constructor(props) { super(props); throw new Error("corrupt storage"); }
  }
  class Late extends Component {
    didMount() { throw new Error("no subscription"); }
  }
  const it = mount(({ bad, words }) => h("main", null, h(Card, { bad, words }), h(Card, { words }), h(Never), h(Late)), { bad: true, words: "one" });
  const texts = () => it.element.childNodes.map((node) => node.textContent);
  assert.match(texts()[0], /failed\. broken values/);
  assert.equal(texts()[1], "one");
  assert.match(texts()[2], /corrupt storage/);
  assert.match(texts()[3], /no subscription/);
  it.receive({ bad: false, words: "two" });
  assert.deepEqual(texts().slice(0, 2), ["two", "two"]);
  it.receive({ bad: true, words: "three" });
  assert.match(texts()[0], /failed\. broken values/);
  assert.equal(texts()[1], "three");
});
