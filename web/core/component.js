/**
 * Components without a build step: `h` describes a tree, `Component` renders it and patches the page
 * so that only what changed is touched. Data reaches the page as text nodes and attributes only.
 */

import { base } from "./router.js";

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set([
  "svg", "g", "path", "line", "rect", "circle", "polyline", "polygon", "text", "defs", "clipPath",
]);
const PROPERTIES = new Set(["value", "checked", "selected", "indeterminate"]); // live state, not attributes
const ENUMERATED = new Set(["draggable", "spellcheck", "contenteditable"]); // "false" is a value of its own
const CAPTURED = new Set([
  "focus", "blur", "toggle", "scroll", "load", "error", "close", "cancel", "mouseenter", "mouseleave", "invalid",
]);

/** @typedef {{[name: string]: any}} Props */
/** @typedef {new (props: any) => Component} ComponentClass */
/**
 * @typedef {object} VNode
 * @property {string | ComponentClass | null} type an element's tag, a component class, or null for text
 * @property {Props} props
 * @property {(VNode | null)[]} children null keeps the place of a child that is not there
 * @property {string} text
 * @property {string | number | null} key
 * @property {Node | null} node
 * @property {Component | null} instance
 */
/** @typedef {VNode | string | number | boolean | null | undefined} Leaf */
/** @typedef {Leaf | Leaf[] | Leaf[][]} Child */

/** @type {Component[]} */
const mounted = []; // components waiting for didMount until their tree is on the page
let depth = 0;

/**
 * Describe an element or a component.
 * @param {string | ComponentClass} type
 * @param {Props | null} [props]
 * @param {...Child} children strings and numbers become text; null, false and true nothing; arrays are flattened
 * @returns {VNode}
 */
export function h(type, props, ...children) {
  const own = props ?? {};
  if (typeof type === "string") return vnode(type, own, children.flat(3).map(toVNode), own.key);
  return vnode(type, children.length ? { ...own, children } : own, [], own.key);
}

/**
 * @param {VNode["type"]} type @param {Props} props @param {VNode["children"]} children @param {any} [key]
 * @returns {VNode}
 */
function vnode(type, props, children, key) {
  return { type, props, children, text: "", key: key ?? null, node: null, instance: null };
}

/** @param {any} child @returns {VNode | null} */
function toVNode(child) {
  if (child === null || child === undefined || typeof child === "boolean") return null;
  if (typeof child === "object") return child;
  return { ...vnode(null, {}, []), text: String(child) };
}

/** @param {VNode} it @returns {Node} */
function nodeOf(it) {
  return /** @type {Node} */ (it.instance ? it.instance.element : it.node);
}

/** @param {VNode} it @param {boolean} svg whether the parent is an SVG element @returns {Node} */
function create(it, svg) {
  if (it.type === null) return (it.node = document.createTextNode(it.text));
  if (typeof it.type !== "string") {
    it.instance = construct(it.type, it.props);
    return it.instance.attach();
  }
  const inSvg = svg || SVG_TAGS.has(it.type);
  const element = inSvg ? document.createElementNS(SVG, it.type) : document.createElement(it.type);
  it.node = element;
  for (const child of it.children) if (child) element.append(create(child, inSvg));
  for (const [name, value] of Object.entries(it.props)) setProp(element, name, value, undefined);
  it.props.ref?.(element);
  return element;
}

/**
 * A component of its class; one that says so where it cannot be made.
 * @param {ComponentClass} type @param {Props} props
 */
export function construct(type, props) {
  try {
    return new type(props);
  } catch (error) {
    reportError(error);
    const broken = new Component(props);
    broken.render = () => fault(error);
    return broken;
  }
}

/**
 * A part of a page that fails alone: what `render` gives, or its fault.
 * @param {string} key @param {() => VNode | VNode[] | null | false | undefined} render
 */
export function guarded(key, render) {
  try {
    return render();
  } catch (error) {
    reportError(error);
    return { ...fault(error, false), key };
  }
}

/**
 * What stands in the place of a component that threw; the rest of the page works on.
 * @param {any} error @param {boolean} [again] whether a button tries again
 */
function fault(error, again = true) {
  return h("section", { key: "fault", className: "card fault", role: "alert" },
    h("p", null, h("strong", null, "This part of the page has failed. "), String(error?.message ?? error)),
    again && h("button", {
      type: "button", className: "button button-small", dataset: { fault: "again" },
    }, "Try again"));
}

/** @param {VNode} it */
function destroyTree(it) {
  it.instance?.dispose();
  for (const child of it.children) if (child) destroyTree(child);
}

/** @param {VNode | null} a @param {VNode} b */
function sameKind(a, b) {
  return a !== null && a.type === b.type && a.key === b.key;
}

/**
 * Make the page that shows `old` show `next`.
 * @param {VNode} old @param {VNode} next
 */
function patch(old, next) {
  if (old === next) return;
  next.node = old.node;
  next.instance = old.instance;
  if (next.type === null) {
    if (old.text !== next.text) /** @type {Text} */ (next.node).data = next.text;
  } else if (next.instance) {
    if (!shallowEqual(old.props, next.props)) next.instance.receive(next.props);
  } else {
    const element = /** @type {Element} */ (next.node);
    patchChildren(element, old.children, next.children);
    patchProps(element, old.props, next.props);
  }
}

/**
 * Children with a key are matched by it, the others by their place among those without.
 * @param {Element} parent @param {VNode["children"]} old @param {VNode["children"]} next
 */
function patchChildren(parent, old, next) {
  /** @type {Map<string | number, VNode>} */
  const keyed = new Map();
  const placed = old.filter((child) => child === null || child.key === null);
  const unused = new Set(old);
  for (const child of old) if (child && child.key !== null) keyed.set(child.key, child);
  let place = 0;
  for (const child of next) {
    const match = child && child.key !== null ? (keyed.get(child.key) ?? null) : (placed[place++] ?? null);
    if (!child || !match || !sameKind(match, child) || !unused.delete(match)) continue;
    patch(match, child);
  }
  for (const child of unused) if (child) remove(child);
  let cursor = parent.firstChild;
  const svg = parent.namespaceURI === SVG;
  for (const child of next) {
    if (!child) continue;
    const node = child.node || child.instance ? nodeOf(child) : create(child, svg);
    if (node === cursor) cursor = cursor.nextSibling;
    else if (cursor && cursor.nextSibling === node) cursor = node.nextSibling; // the one before comes later
    else parent.insertBefore(node, cursor);
  }
}

/** @param {VNode} it */
function remove(it) {
  const node = nodeOf(it);
  destroyTree(it);
  node.parentNode?.removeChild(node);
}

/** @param {Element} element @param {Props} old @param {Props} next */
function patchProps(element, old, next) {
  for (const name in old) if (!(name in next)) setProp(element, name, undefined, old[name]);
  for (const name in next) if (next[name] !== old[name]) setProp(element, name, next[name], old[name]);
}

/** @param {any} element @param {string} name @param {any} value @param {any} old */
function setProp(element, name, value, old) {
  if (name === "key" || name === "ref" || name === "children") return;
  if (name.startsWith("on")) throw new Error(`${name}: list events in getEventMap()`);
  if (name === "style") return setStyle(element, value ?? {}, old ?? {});
  if (name === "dataset") return setData(element, value ?? {}, old ?? {});
  if (PROPERTIES.has(name)) return setProperty(element, name, value);
  if (name === "className") name = "class";
  if (name === "htmlFor") name = "for";
  if ((name === "href" || name === "src") && value && !safeAddress(String(value))) value = null;
  if (name === "href" && String(value).startsWith("/")) value = base + value;
  if (typeof value === "boolean" && (name.startsWith("aria-") || ENUMERATED.has(name))) value = String(value);
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value === true ? "" : value)) {
    element.setAttribute(name, value === true ? "" : value);
  }
}

/** Whether `address` leads to a page of ours, a place on it, or the web. @param {string} address */
export function safeAddress(address) {
  return /^(\/(?![/\\])|#|https?:\/\/)/i.test(address) || address === "/";
}

/** @param {any} element @param {string} name @param {any} value */
function setProperty(element, name, value) {
  if (element.localName === "progress") {
    return value === null || value === undefined
      ? element.removeAttribute("value")
      : element.setAttribute("value", value);
  }
  const wanted = name === "value" ? (value ?? "") : Boolean(value);
  if (name === "value" ? String(element.value) !== String(wanted) : element[name] !== wanted) element[name] = wanted;
  else if (element.localName === "option" && name === "value") element.setAttribute("value", wanted);
}

/** @param {HTMLElement} element @param {Props} next @param {Props} old */
function setStyle(element, next, old) {
  for (const name in old) if (next[name] === undefined || next[name] === null) element.style.removeProperty(name);
  for (const name in next) {
    if (next[name] !== old[name] && next[name] !== null && next[name] !== undefined) {
      element.style.setProperty(name, String(next[name]));
    }
  }
}

/** @param {HTMLElement} element @param {Props} next @param {Props} old */
function setData(element, next, old) {
  for (const name in old) if (next[name] === undefined || next[name] === null) delete element.dataset[name];
  for (const name in next) {
    if (next[name] !== old[name] && next[name] !== null && next[name] !== undefined) {
      element.dataset[name] = String(next[name]);
    }
  }
}

/** @param {Props} a @param {Props} b */
export function shallowEqual(a, b) {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.is(a[name], b[name]));
}

/** Run `work`, then didMount of every component it put on the page. @template T @param {() => T} work @returns {T} */
function transaction(work) {
  const path = depth === 0 ? pathOf(document.activeElement) : [];
  depth += 1;
  try {
    return work();
  } finally {
    depth -= 1;
    if (depth === 0) {
      keepPlace(path);
      for (const component of mounted.splice(0)) component.settle();
    }
  }
}

/** @param {Element | null} element @returns {HTMLElement[]} it and everything that it is in, up to the body */
function pathOf(element) {
  const path = [];
  for (let at = element; at && at !== document.body; at = at.parentElement) path.push(/** @type {HTMLElement} */ (at));
  return path;
}

/**
 * Gives the focus back to an element that lost it by being moved; whoever was at one that is gone, or of no use now,
 * goes on from what it was in, or stays where a closed dialog has put him.
 * @param {HTMLElement[]} path
 */
function keepPlace([focused, ...above]) {
  const now = document.activeElement;
  if (!focused || (now !== focused && now !== document.body)) return;
  const lost = !focused.isConnected || focused.matches(":disabled, [hidden], [hidden] *");
  const place = lost ? above.find((element) => element.isConnected && !element.closest("[hidden]")) : focused;
  if (!place || place === now) return;
  if (lost && place.tabIndex < 0) place.setAttribute("tabindex", "-1");
  place.focus({ preventScroll: true });
}

/** A piece of the page with its own state, events and life. */
export class Component {
  static h = h;
  static title = "";
  /** Its props by which it loads. @type {string[]} */
  static loadedBy = [];

  /** @param {any} [props] */
  constructor(props = {}) {
    /** @type {any} */
    this.props = props;
    /** @type {any} */
    this.state = {};
    /** @type {any} the root element once mounted */
    this.element = null;
    /** @type {VNode | null} */
    this.tree = null;
    this.pending = false;
    this.destroyed = false;
    /** @type {(() => void)[]} */
    this.disposers = [];
    /** @type {(() => void)[]} */
    this.listeners = [];
  }

  /** @returns {{[name: string]: any}} what `state` holds at first */
  getInitialState() {
    return {};
  }

  /** Prepare what the first render needs. */
  init() {}

  /** @returns {VNode} what to show; one root */
  render() {
    return h("div");
  }

  /** @returns {{[pattern: string]: string | ((event: any, element: any) => any)}} `"click .selector": "handler"` */
  getEventMap() {
    return {};
  }

  /** Subscribe to what concerns this component. @returns {(() => void)[] | void} what undoes it */
  didMount() {}

  /** After every patch. */
  didUpdate() {}

  /** Before the element leaves the page. */
  willDestroy() {}

  /** Put this component on the page. @param {Element} parent @returns {this} */
  mount(parent) {
    transaction(() => parent.append(this.attach()));
    return this;
  }

  /** Make the element, for whoever puts it on the page. @returns {Node} */
  attach() {
    try {
      this.state = { ...this.getInitialState(), ...this.state };
      this.init();
      this.tree = this.render();
      this.element = create(this.tree, false);
    } catch (error) {
      reportError(error);
      this.tree = fault(error);
      this.element = create(this.tree, false);
    }
    this.listen();
    mounted.push(this);
    return this.element;
  }

  /** Called once the element is on the page. */
  settle() {
    try {
      if (!this.destroyed) this.disposers.push(...(this.didMount() ?? []));
    } catch (error) {
      this.fail(error);
    }
  }

  /** Show that this component threw, in its place; its next update tries again. @param {unknown} error */
  fail(error) {
    reportError(error);
    const failed = /** @type {VNode} */ (this.tree);
    this.tree = fault(error);
    this.element.replaceWith(create(this.tree, false));
    this.element = this.tree.node;
    destroyTree(failed);
    this.listen();
  }

  /** Take new props from the parent, and load anew where one of those changed by which it loads. @param {any} props */
  receive(props) {
    const before = this.props;
    this.props = props;
    this.update();
    const { loadedBy } = /** @type {typeof Component} */ (this.constructor);
    if (loadedBy.some((name) => props[name] !== before[name])) void this.load();
  }

  /** Ask the server for what is shown. */
  async load() {}

  /** Change the state; the page follows in the next frame. @param {{[name: string]: any}} partial */
  setState(partial) {
    this.state = { ...this.state, ...partial };
    if (this.pending || this.destroyed) return;
    this.pending = true;
    const run = () => this.pending && this.update();
    if (document.hidden) setTimeout(run, 50); // no frames come to a page nobody sees
    else requestAnimationFrame(run);
  }

  /** Make the page show what render() says now. */
  update() {
    this.pending = false;
    if (!this.tree || this.destroyed) return;
    try {
      transaction(() => this.replaceTree(this.render()));
      this.didUpdate();
    } catch (error) {
      this.fail(error);
    }
  }

  /** @param {VNode} next */
  replaceTree(next) {
    const old = /** @type {VNode} */ (this.tree);
    const before = this.element;
    if (sameKind(old, next)) {
      this.tree = next;
      patch(old, next);
    } else {
      create(next, before.namespaceURI === SVG);
      this.tree = next;
      before.replaceWith(nodeOf(next));
      destroyTree(old);
    }
    if (nodeOf(next) === before) return;
    this.element = nodeOf(next);
    this.listen();
  }

  /** Delegate the events of getEventMap() to the root element. */
  listen() {
    for (const stop of this.listeners.splice(0)) stop();
    const root = this.element;
    const events = this.tree?.key === "fault"
      ? { "click [data-fault]": () => this.update() }
      : this.getEventMap();
    for (const [pattern, action] of Object.entries(events)) {
      const [type, ...rest] = pattern.split(" ");
      const selector = rest.join(" ");
      /** @param {any} event */
      const listener = (event) => {
        const target = selector ? event.target.closest?.(selector) : root;
        if (!target || !root.contains(target)) return undefined;
        return typeof action === "string"
          ? /** @type {any} */ (this)[action](event, target)
          : action.call(this, event, target);
      };
      root.addEventListener(type, listener, CAPTURED.has(type));
      this.listeners.push(() => root.removeEventListener(type, listener, CAPTURED.has(type)));
    }
  }

  /** Undo everything but the element itself, here and below. */
  dispose() {
    if (this.destroyed) return;
    this.willDestroy();
    this.destroyed = true;
    for (const stop of [...this.disposers.splice(0), ...this.listeners.splice(0)]) stop();
    if (this.tree) destroyTree(this.tree);
  }

  /** Take this component off the page. */
  destroy() {
    this.dispose();
    this.element?.remove();
  }
}
