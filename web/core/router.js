/** Pages by address: History API, parameters, pages loaded when first needed. */

import { construct } from "./component.js";

/** The path under which a proxy offers this client; "" where it has its address for itself. */
export const base = new URL(
  globalThis.document?.documentElement?.dataset?.base ?? "/", globalThis.location?.href ?? "x:/",
).pathname.slice(0, -1);

/** @returns {string} the address of this page below `base`, with its query */
export const here = () => `/${location.pathname.slice(base.length + 1)}${location.search}`;

/** @typedef {import("./component.js").ComponentClass & {title?: string}} PageClass */
/** @typedef {PageClass | (() => Promise<PageClass>)} Loader */
/**
 * @typedef {{path: string, pattern: string, params: {[name: string]: string}, query: URLSearchParams, title?: string}}
 *   Place
 */

/**
 * Match an address with a pattern such as `/models/:id`.
 * @param {string} pattern @param {string} path
 * @returns {{[name: string]: string} | null} the parameters
 */
export function matchPath(pattern, path) {
  const wanted = pattern.split("/").filter(Boolean);
  const given = path.split("/").filter(Boolean);
  if (wanted.length !== given.length) return null;
  /** @type {{[name: string]: string}} */
  const params = {};
  for (const [at, part] of wanted.entries()) {
    try {
      if (part.startsWith(":")) params[part.slice(1)] = decodeURIComponent(given[at]);
      else if (part !== given[at]) return null;
    } catch {
      return null; // a stray % in the address
    }
  }
  return params;
}

/** Shows the page that belongs to the address. */
export class Router {
  /**
   * @param {object} options
   * @param {Element} options.root where pages are mounted
   * @param {Loader} options.notFound
   * @param {Loader} [options.failed] shown where a page cannot be loaded; gets `props.error`
   * @param {{[name: string]: any}} [options.props] given to every page
   * @param {string} [options.brand] ends document.title
   */
  constructor({ root, notFound, failed = notFound, props = {}, brand = "llamadash" }) {
    this.root = root;
    this.notFound = notFound;
    this.failed = failed;
    this.props = props;
    this.brand = brand;
    /** @type {{pattern: string, loader: Loader}[]} */
    this.routes = [];
    /** @type {((to: Place, from: Place | null) => any)[]} */
    this.beforeHooks = [];
    /** @type {((to: Place) => void)[]} */
    this.afterHooks = [];
    /** @type {Place | null} */
    this.current = null;
    /** @type {any} */
    this.page = null;
    this.turn = 0;
    this.entry = 0;
    /** @type {Map<number, number>} */
    this.scrolls = new Map(); // history entry -> scroll position
  }

  /** @param {string} pattern @param {Loader} loader @returns {this} */
  register(pattern, loader) {
    this.routes.push({ pattern, loader });
    return this;
  }

  /**
   * Ask before leaving: a hook that returns (or resolves to) false stays.
   * @param {(to: Place, from: Place | null) => any} hook @returns {() => void}
   */
  before(hook) {
    this.beforeHooks.push(hook);
    return () => void this.beforeHooks.splice(this.beforeHooks.indexOf(hook), 1);
  }

  /** @param {(to: Place) => void} hook @returns {() => void} */
  after(hook) {
    this.afterHooks.push(hook);
    return () => void this.afterHooks.splice(this.afterHooks.indexOf(hook), 1);
  }

  /** Show the page of the address bar, and follow links and history from now on. */
  start() {
    history.scrollRestoration = "manual";
    this.entry = history.state?.entry ?? 0;
    window.addEventListener("popstate", (event) => void this.back(event.state?.entry ?? 0));
    document.addEventListener("click", (event) => this.follow(event));
    return this.show(this.locate(here()), { focus: false });
  }

  /**
   * @param {string} path with its query
   * @param {{replace?: boolean, scroll?: number | null}} [options] `scroll`: null stays where it is
   */
  async navigate(path, { replace = false, scroll = replace ? null : 0 } = {}) {
    const turn = ++this.turn;
    const place = this.locate(path);
    if (!(await this.allowed(place)) || turn !== this.turn) return;
    this.scrolls.set(this.entry, window.scrollY);
    if (!replace) this.entry = Date.now();
    history[replace ? "replaceState" : "pushState"]({ entry: this.entry }, "", location.origin + base + path);
    await this.show(place, { scroll });
  }

  /** @param {number} entry */
  async back(entry) {
    const turn = ++this.turn;
    const place = this.locate(here());
    const allowed = await this.allowed(place);
    if (turn !== this.turn) return; // the address is that of a later one
    if (!allowed) {
      history.pushState({ entry: this.entry }, "", location.origin + base + (this.current?.path ?? "/"));
      return;
    }
    this.scrolls.set(this.entry, window.scrollY);
    this.entry = entry;
    await this.show(place, { scroll: this.scrolls.get(entry) ?? 0 });
  }

  /** @param {MouseEvent} event */
  follow(event) {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) {
      return;
    }
    const link = /** @type {Element} */ (event.target).closest?.("a[href]");
    const href = link?.getAttribute("href") ?? "";
    if (!href.startsWith(`${base}/`) || link?.hasAttribute("download") || link?.getAttribute("target")) return;
    event.preventDefault();
    void this.navigate(href.slice(base.length));
  }

  /** @param {string} path @returns {Place} */
  locate(path) {
    const url = new URL(location.origin + path); // a path may begin with two slashes
    for (const { pattern } of this.routes) {
      const params = matchPath(pattern, url.pathname);
      if (params) return { path, pattern, params, query: url.searchParams };
    }
    return { path, pattern: "", params: {}, query: url.searchParams };
  }

  /** @param {Place} place */
  async allowed(place) {
    for (const hook of [...this.beforeHooks]) if ((await hook(place, this.current)) === false) return false;
    return true;
  }

  /** @param {Place} place @param {{focus?: boolean, scroll?: number | null}} options */
  async show(place, { focus = true, scroll = null }) {
    const turn = ++this.turn;
    const loader = this.routes.find(({ pattern }) => pattern === place.pattern)?.loader ?? this.notFound;
    let error = null;
    const Page = await load(loader).catch((problem) => load(this.failed, (error = problem)));
    if (turn !== this.turn) return; // another page was asked for meanwhile
    const props = { ...this.props, router: this, params: place.params, query: place.query, error };
    this.current = { ...place, title: Page.title };
    if (this.page instanceof Page && this.page.constructor === Page && !error) {
      this.page.receive(props);
      focus = false;
    } else {
      this.page?.destroy();
      this.page = construct(Page, props).mount(this.root);
    }
    this.arrive(focus, scroll);
  }

  /** @param {boolean} focus @param {number | null} scroll */
  arrive(focus, scroll) {
    const title = this.current?.title;
    document.title = title ? `${title} · ${this.brand}` : this.brand;
    if (scroll !== null) window.scrollTo(0, scroll);
    if (focus) this.focusHeading();
    for (const hook of [...this.afterHooks]) hook(/** @type {Place} */ (this.current));
  }

  focusHeading() {
    const heading = /** @type {HTMLElement | null} */ (this.root.querySelector("h1"));
    if (!heading) return;
    heading.setAttribute("tabindex", "-1");
    heading.focus({ preventScroll: true });
  }
}

/** @param {Loader} loader @param {any} [_problem] @returns {Promise<PageClass>} */
async function load(loader, _problem) {
  if (/^class\b/.test(Function.prototype.toString.call(loader))) return /** @type {PageClass} */ (loader);
  return /** @type {() => Promise<PageClass>} */ (loader)();
}

/**
 * Load a stylesheet once, after those that are there; resolves when it applies, also where it cannot be had.
 * @param {string} href @returns {Promise<void>}
 */
export function stylesheet(href) {
  if (document.querySelector(`link[href="${href}"]`)) return Promise.resolve();
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = href;
  const last = [...document.querySelectorAll("link[rel=stylesheet]")].at(-1);
  return new Promise((resolve) => {
    link.onload = link.onerror = () => resolve();
    if (last) last.after(link);
    else document.head.append(link);
  });
}
