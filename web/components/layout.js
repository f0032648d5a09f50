import { Component, h } from "../core/component.js";
import { offer } from "../core/auth.js";
import { icon } from "./icon.js";
import { ToastRegion, toast } from "./toast.js";

/** @typedef {{href: string, label: string, icon: string, extra?: boolean}} NavItem extra: behind "More" on a phone */

/** @type {NavItem[]} */
const NAVIGATION = [
  { href: "/", label: "Dashboard", icon: "dashboard" },
  { href: "/models", label: "Models", icon: "models" },
  { href: "/chat", label: "Chat", icon: "chat" },
  { href: "/monitoring", label: "Monitoring", icon: "monitoring" },
  { href: "/configuration", label: "Configuration", icon: "configuration", extra: true },
  { href: "/settings", label: "Settings", icon: "settings", extra: true },
  { href: "/logs", label: "Logs", icon: "logs", extra: true },
];

/** How each state of the engine looks and reads. @type {{[status: string]: [string, string]}} */
export const ENGINE_STATES = {
  running: ["success", "running"],
  stopping: ["info", "stopping"],
  stopped: ["neutral", "stopped"],
  missing: ["warning", "not found"],
};

/** The frame around every page: navigation, connection, banners, toasts, signing in. Props: `state`, `path`. */
export class Layout extends Component {
  /** @param {any} props */
  constructor(props) {
    super(props);
    this.state = {
      more: false, offered: false, dismissed: null, unread: 0, AlertsPanel: null, CapturesBanner: null, Login: null,
    };
    /** @type {string | undefined} which version of the client this page runs */
    this.web = undefined;
    this.alarmed = 0;
    /** @type {any} where pages go */
    this.main = null;
  }

  /** @param {string} key */
  get(key) {
    return this.props.state.get(key);
  }

  render() {
    const signedOut = this.get("connection") === "unauthenticated";
    return h("div", { className: "app" },
      h("a", { className: "skip-link", href: "#main" }, "Skip to the content"),
      signedOut ? h("main", { key: "login", className: "login" }, this.renderLogin()) : null,
      h("div", { key: "layout", className: "layout", hidden: signedOut },
        h("header", { className: "sidebar" },
          this.renderBrand(), this.renderSearch(), this.renderNavigation(), this.renderPills()),
        h("div", { className: "content" }, h("div", { className: "banners" }, this.renderBanners()),
          h("main", { id: "main", tabindex: -1, ref: (/** @type {any} */ element) => (this.main = element) }))),
      this.state.AlertsPanel && h(this.state.AlertsPanel, {
        key: "alerts", state: this.props.state, close: () => this.setState({ AlertsPanel: null }),
      }),
      h(ToastRegion, { key: "toasts" }));
  }

  renderLogin() {
    const { Login, offered } = this.state;
    if (!Login) void import("./login.js").then((module) => this.setState({ Login: module.Login }));
    return Login && h(Login, { key: "form", state: this.props.state, offered, brand: this.renderBrand() });
  }

  renderBrand() {
    return h("a", { className: "brand", href: "/" },
      h("span", { className: "brand-mark" },
        h("svg", { className: "icon", viewBox: "0 0 24 24", width: 18, height: 18, "aria-hidden": "true" },
          h("path", {
            fill: "none",
            d: "M7 20v-6.5a4 4 0 0 1 1-2.7V4.5l2.5 2.5h3L16 4.5v6.300a6 6 0 0 1 2 4.500V20 M11 20v-3.5h3V20",
          }))),
      "llamadash");
  }

  renderSearch() {
    const apple = /Mac|iP(hone|ad)/.test(navigator.platform);
    return h("button", {
      type: "button", className: "button search-button", "aria-haspopup": "dialog",
      "aria-keyshortcuts": apple ? "Meta+K" : "Control+K", dataset: { palette: true },
    },
      icon("search", { size: 16 }), h("span", { className: "search-words" }, "Find anything"),
      h("kbd", { className: "search-keys", "aria-hidden": "true" }, apple ? "⌘ K" : "Ctrl K"));
  }

  /** The page that is shown, without what its address has beside it. */
  get path() {
    return (this.props.path ?? "/").split(/[?#]/)[0];
  }

  renderNavigation() {
    const { path } = this;
    const { more } = this.state;
    return h("nav", { className: more ? "nav nav-open" : "nav", "aria-label": "Main" },
      h("ul", { className: "nav-list" },
        NAVIGATION.map((item) =>
          this.renderNavItem(
            item, item.href === "/" ? path === "/" : path === item.href || path.startsWith(`${item.href}/`)
          )),
        h("li", { key: "more", className: "nav-item nav-more" },
          h("button", { type: "button", className: "nav-link", dataset: { action: "more" }, "aria-expanded": more },
            icon(more ? "close" : "menu", { size: 20 }),
            h("span", { className: "nav-label" }, "More")))));
  }

  /** @param {NavItem} item @param {boolean} current */
  renderNavItem(item, current) {
    return h("li", { key: item.href, className: item.extra ? "nav-item nav-extra" : "nav-item" },
      h("a", { className: "nav-link", href: item.href, "aria-current": current ? "page" : null },
        icon(item.icon, { size: 20 }),
        h("span", { className: "nav-label" }, item.label)));
  }

  renderPills() {
    const engine = this.get("engine");
    const [kind, words] = ENGINE_STATES[engine?.status] ?? ["neutral", "unknown"];
    const connected = this.get("connection") === "connected";
    return h("div", { className: "sidebar-foot" },
      h("a", { className: `badge badge-${connected ? kind : "neutral"} pill-engine`, href: "/" },
        h("span", { className: kind === "info" ? "dot dot-busy" : "dot" }),
        h("span", { className: "pill-words" }, `Engine ${connected ? words : "unknown"}`)),
      this.renderConnection(), this.renderBell());
  }

  /** How many alerts last, or came since the bell was used. */
  get alarms() {
    return Math.max(this.state.unread, this.get("info")?.features?.alerts?.length ?? 0);
  }

  renderBell() {
    const { alarms } = this;
    return h("button", {
      key: "bell", type: "button", className: `button button-ghost button-small bell${alarms ? " is-on" : ""}`,
      dataset: { action: "alerts" }, "aria-label": alarms ? `Alerts: ${alarms}` : "Alerts",
    }, icon("bell"), alarms > 0 && h("span", { className: "bell-count" }, String(alarms)));
  }

  /** @param {any} added to the timeline */
  handleEvents({ events }) {
    const alerts = events.filter((/** @type {any} */ { kind }) => kind === "alert");
    if (!alerts.length) return;
    this.setState({ unread: this.state.AlertsPanel ? 0 : this.state.unread + alerts.length });
    void import("./alerts-panel.js").then(({ notify }) => notify(alerts));
  }

  async handleBell() {
    const { AlertsPanel } = await import("./alerts-panel.js");
    this.setState({ AlertsPanel, unread: 0 });
  }

  renderConnection() {
    const [kind, words, busy] = this.connectionWords();
    return h("span", {
      className: `badge badge-${kind} pill-connection`, role: "status", dataset: { connection: this.get("connection") },
    },
      h("span", { className: busy ? "dot dot-busy" : "dot" }), h("span", { className: "pill-words" }, words));
  }

  /** @returns {[string, string, boolean]} */
  connectionWords() {
    const connection = this.get("connection");
    if (connection === "connected") return ["success", "Connected", false];
    if (connection === "unauthenticated") return ["warning", "Signed out", false];
    if (this.get("refusal")?.code === "REFUSED") return ["danger", "Refused", false];
    if (connection === "connecting") return ["info", "Connecting…", true];
    if (!navigator.onLine) return ["danger", "Offline", false];
    return ["danger", `Reconnecting in ${this.secondsLeft()} s`, true];
  }

  secondsLeft() {
    return Math.max(1, Math.ceil(((this.get("retryAt") ?? 0) - Date.now()) / 1000));
  }

  renderBanners() {
    return [
      this.state.CapturesBanner && h(this.state.CapturesBanner, { key: "captures", state: this.props.state }),
      this.renderOffline(), this.renderNoAuth(), this.renderNotice(), this.renderUpdated(), this.renderEngineTrouble(),
    ];
  }

  renderOffline() {
    const connection = this.get("connection");
    const lost = connection === "disconnected" || (connection === "connecting" && this.props.state.socket.attempt > 0);
    if (!lost) return null;
    const refusal = this.get("refusal");
    const words = refusal?.code === "RATE_LIMITED" ? "Too many requests: llamadash asked this browser to slow down."
      : refusal?.code === "REFUSED" ? refusal.message
        : "Not connected to llamadash. What is shown may be out of date.";
    return banner("offline", "danger", "warning", words, smallButton("retry", "Try now"), "alert");
  }

  renderNoAuth() {
    if (this.get("info")?.features?.auth !== false) return null;
    return banner("no-auth", "warning", "warning",
      "Authentication is off (--no-auth): anyone who can reach this address controls this dashboard.");
  }

  /** What the server has to say about its start, such as a restored database. */
  renderNotice() {
    const notice = this.get("info")?.features?.notice;
    if (!notice || notice === this.state.dismissed) return null;
    return banner("notice", "warning", "info", notice, smallButton("dismiss-notice", "Dismiss"), "alert");
  }

  /** The server came back with other files than those this page was made from. */
  renderUpdated() {
    const web = this.get("info")?.features?.web;
    this.web ??= web;
    if (web === this.web) return null;
    const words = "llamadash was updated. Reload this page to use the new version.";
    return banner("updated", "info", "refresh", words, smallButton("reload-page", "Reload"), "status");
  }

  renderEngineTrouble() {
    const engine = this.get("engine");
    if (engine?.unused_gpu && this.path !== "/configuration") {
      return banner("gpu", "warning", "warning", `No engine build here can use the ${engine.unused_gpu}.`,
        h("a", {
          className: "button button-small", href: "/configuration#builds", dataset: { action: "build-install" },
        }, "Install one"));
    }
    if (engine?.status !== "missing" || this.path === "/") return null; // the dashboard's card says it in full
    if (engine.upstreams?.some((/** @type {any} */ { status }) => status === "connected")) return null;
    return banner("engine", "warning", "warning", "No engine was found, so models cannot run yet.",
      h("a", { className: "button button-small", href: "/" }, "How to get one"));
  }

  async handleInstall() {
    try {
      await this.props.state.request("engines:install", {}, { timeout: 60_000 });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
  }

  getEventMap() {
    return {
      "click [data-action=\"more\"]": () => this.setState({ more: !this.state.more }),
      "click .nav a": () => this.setState({ more: false }), // also a link to the page that is shown already
      "keydown .nav": "handleNavigationKey",
      "click [data-action=\"retry\"]": () => this.props.state.socket.hurry(),
      "click [data-action=\"dismiss-notice\"]": () => this.setState({ dismissed: this.get("info")?.features?.notice }),
      "click [data-action=\"reload-page\"]": () => location.reload(),
      "click .banner [data-action=\"build-install\"]": "handleInstall", // the page it leads to shows how far it is
      "click [data-action=\"alerts\"]": "handleBell",
      "click .skip-link": "handleSkip",
      "submit [data-form=\"login\"]": "handleLogin",
    };
  }

  /**
   * Arrow keys move in what "More" opened; Escape closes it and leaves the focus there, Tab closes it and goes on.
   * @param {KeyboardEvent} event @param {HTMLElement} navigation
   */
  handleNavigationKey(event, navigation) {
    if (!this.state.more) return;
    const more = /** @type {HTMLElement} */ (navigation.querySelector("[data-action=\"more\"]"));
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (step) {
      const items = /** @type {HTMLElement[]} */ ([...navigation.querySelectorAll(".nav-extra > a")]);
      const at = items.indexOf(/** @type {HTMLElement} */ (document.activeElement));
      items[(at < 0 && step < 0 ? items.length - 1 : at + step + items.length) % items.length].focus();
      return event.preventDefault();
    }
    if (event.key !== "Escape" && event.key !== "Tab") return;
    this.setState({ more: false });
    more.focus(); // from where Tab goes on
  }

  /** @param {Event} event */
  handleSkip(event) {
    event.preventDefault(); // the address stays the page's
    this.main.focus();
  }

  /** @param {Event} event @param {HTMLFormElement} form */
  handleLogin(event, form) {
    event.preventDefault();
    offer(String(new FormData(form).get("secret")).trim());
    this.setState({ offered: true });
    this.props.state.socket.reconnect();
  }

  /** @param {any} props */
  receive(props) {
    if (props.path !== this.props.path) this.state = { ...this.state, more: false };
    super.receive(props);
  }

  didUpdate() {
    const { alarms } = this;
    if (alarms || this.alarmed) void import("./alerts-panel.js").then(({ markTab }) => markTab(alarms));
    this.alarmed = alarms;
    if (Object.keys(this.get("info")?.features?.captures ?? {}).length && !this.state.CapturesBanner) {
      void import("./captures.js").then(({ CapturesBanner }) => this.setState({ CapturesBanner }));
    }
    if (document.activeElement === document.body) this.element.querySelector("#login-secret")?.focus();
  }

  didMount() {
    const { state } = this.props;
    const redraw = () => this.setState({});
    const clock = setInterval(() => this.get("connection") === "disconnected" && redraw(), 1000);
    const follow = (/** @type {string} */ connection) => this.setState(
      connection === "connected" ? { offered: false } : {}
    );
    return [
      state.subscribe("connection", follow),
      ...["retryAt", "refusal", "info", "engine"].map((key) => state.subscribe(key, redraw)),
      state.on("timeline:added", (/** @type {any} */ added) => this.handleEvents(added)),
      () => clearInterval(clock),
    ];
  }
}

/**
 * @param {string} key @param {string} kind @param {string} symbol @param {string} words @param {any} [action]
 * @param {string | null} [role]
 */
function banner(key, kind, symbol, words, action = null, role = null) {
  return h("div", { key, className: `banner banner-${kind}`, role },
    icon(symbol), h("span", { className: "banner-text" }, words), action);
}

/** @param {string} action @param {string} words */
function smallButton(action, words) {
  return h("button", { type: "button", className: "button button-small", dataset: { action } }, words);
}
