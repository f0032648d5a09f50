/** As much of a DOM as core/component.js touches; counts what is written. */
export const writes = { text: 0, attribute: 0, property: 0, insert: 0, remove: 0 };
export const resetWrites = () => Object.keys(writes).forEach((key) => (writes[key] = 0));
class Node_ {
  constructor() { this.parentNode = null; this.childNodes = []; }
  get firstChild() { return this.childNodes[0] ?? null; }
  get nextSibling() { return this.parentNode ? (this.parentNode.childNodes[this.parentNode.childNodes.indexOf(this) + 1] ?? null) : null; }
  get isConnected() { return this === document.body || Boolean(this.parentNode?.isConnected); }
  insertBefore(node, before) {
    node.parentNode?.removeChild(node, true);
    writes.insert += 1;
    this.childNodes.splice(before ? this.childNodes.indexOf(before) : this.childNodes.length, 0, node);
    node.parentNode = this;
    return node;
  }
  append(...nodes) { for (const node of nodes) this.insertBefore(node, null); }
  removeChild(node, moving) { if (!moving) writes.remove += 1; this.childNodes.splice(this.childNodes.indexOf(node), 1); node.parentNode = null; }
  remove() { this.parentNode?.removeChild(this); }
  replaceWith(node) { const parent = this.parentNode; parent.insertBefore(node, this); parent.removeChild(this); }
  contains(node) { for (let at = node; at; at = at.parentNode) if (at === this) return true; return false; }
  get textContent() { return this.childNodes.map((child) => child.textContent).join(""); }
}
class Text_ extends Node_ {
  constructor(text) { super(); this.text = text; }
  get data() { return this.text; }
  set data(text) { writes.text += 1; this.text = text; }
  get textContent() { return this.text; }
}
class Element_ extends Node_ {
  constructor(name, namespace) {
    super();
    Object.assign(this, { localName: name, namespaceURI: namespace, attributes: new Map(), listeners: {}, dataset: {}, properties: {} });
    this.style = { values: {}, setProperty: (key, value) => (this.style.values[key] = value), removeProperty: (key) => delete this.style.values[key] };
  }
  get value() { return this.properties.value ?? ""; }
  set value(value) { writes.property += 1; this.properties.value = String(value); }
  get checked() { return this.properties.checked ?? false; }
  set checked(value) { writes.property += 1; this.properties.checked = value; }
  getAttribute(name) { return this.attributes.get(name) ?? null; }
  setAttribute(name, value) { writes.attribute += 1; this.attributes.set(name, String(value)); }
  removeAttribute(name) { if (this.attributes.delete(name)) writes.attribute += 1; }
  addEventListener(type, listener) { (this.listeners[type] ??= []).push(listener); }
  removeEventListener(type, listener) { this.listeners[type] = this.listeners[type].filter((it) => it !== listener); }
  closest(selector) { for (let at = this; at; at = at.parentNode) if (at.matches?.(selector)) return at; return null; }
  matches(selector) { return selector.startsWith(".") ? (this.getAttribute("class") ?? "").split(" ").includes(selector.slice(1)) : this.localName === selector; }
  querySelector(selector) { for (const child of this.childNodes) { const found = child.matches?.(selector) ? child : child.querySelector?.(selector); if (found) return found; } return null; }
  dispatch(type) { const event = { type, target: this }; for (let at = this; at; at = at.parentNode) for (const listener of at.listeners?.[type] ?? []) listener(event); }
}
globalThis.document = { hidden: true, activeElement: null, createTextNode: (text) => new Text_(text), createElement: (name) => new Element_(name, "html"), createElementNS: (namespace, name) => new Element_(name, namespace), addEventListener() {}, removeEventListener() {}, querySelector: () => null };
document.body = document.createElement("body");
globalThis.reportError ??= () => {};
const every = globalThis.setInterval;
globalThis.setInterval = (...args) => every(...args).unref(); // a clock of a page that is still mounted ends with the tests
