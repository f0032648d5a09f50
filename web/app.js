/** The route table and the wiring, nothing else. */
import { Router, here, stylesheet } from "./core/router.js";
import { StateManager } from "./core/state.js";
import { Layout } from "./components/layout.js";
import { MissingPage } from "./components/states.js";
import { toast } from "./components/toast.js";

const SEQUENCE_MS = 1500; // between "g" and the letter of a page
const TYPING = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable], dialog";

document.querySelector("#starting")?.remove();

const state = new StateManager();
const layout = new Layout({ state, path: here() }).mount(document.body);
const router = new Router({ root: layout.main, notFound: MissingPage, props: { state } });

/**
 * A page that loads when it is first opened, with its stylesheets.
 * @param {() => Promise<import("./core/router.js").PageClass>} load @param {...string} styles
 */
const page = (load, ...styles) => async () => (
  await Promise.all([
    load(), ...styles.map((name) => stylesheet(new URL(`./css/${name}.css`, import.meta.url).pathname)),
  ])
)[0];

const models = page(async () => (await import("./pages/models.js")).ModelsPage, "pages", "models");

router
  .register("/", page(async () => (await import("./pages/dashboard.js")).DashboardPage))
  .register("/models", models)
  .register("/models/:id", models)
  .register("/chat", page(async () => (await import("./pages/chat.js")).ChatPage, "pages", "chat"))
  .register("/monitoring", page(
    async () => (await import("./pages/monitoring.js")).MonitoringPage, "pages", "monitoring"
  ))
  .register("/configuration", page(
    async () => (await import("./pages/configuration.js")).ConfigurationPage, "pages", "configuration"
  ))
  .register("/settings", page(async () => (await import("./pages/settings.js")).SettingsPage, "pages", "settings"))
  .register("/logs", page(async () => (await import("./pages/logs.js")).LogsPage, "pages", "logs"));

state.subscribe("connection", (connection) => { // a page that could not be had meanwhile is there now
  if (connection === "connected" && router.page?.props.error) location.reload();
});
router.after(({ path }) => layout.receive({ state, path }));
state.subscribe("settings", (settings) => {
  if (!settings) return;
  const { theme } = settings; // the next visit gets it with the page
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
});
/** Does what keys stand for, by a module that comes with the first of them. @param {string} keys */
const press = async (keys) => (await import("./components/palette.js")).press(keys, { state, router });
let begun = -SEQUENCE_MS; // when "g" was pressed, before the letter of a page
window.addEventListener("keydown", (event) => {
  const { key, ctrlKey, metaKey, altKey, shiftKey } = event;
  const target = /** @type {Element} */ (event.target);
  if (key.toLowerCase() === "k" && (ctrlKey || metaKey) && !altKey && !shiftKey) {
    if (document.querySelector("dialog[open]:not(.picker)")) return;
    event.preventDefault();
    return void press("palette");
  }
  if (event.defaultPrevented || ctrlKey || metaKey || altKey || target.closest(TYPING)) return;
  const second = event.timeStamp - begun < SEQUENCE_MS;
  begun = key === "g" && !second ? event.timeStamp : -SEQUENCE_MS;
  if (second) return void press(`g${key}`);
  if (key !== "/" && key !== "?") return;
  event.preventDefault();
  const field = /** @type {HTMLElement[]} */ ([...layout.main.querySelectorAll("input[type=search]")])
    .find((one) => one.offsetParent);
  if (key === "/" && field) field.focus();
  else void press(key);
});
document.addEventListener("click", (event) => {
  if (/** @type {Element} */ (event.target).closest("[data-palette]")) void press("palette");
});
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name !== "RequestError") return;
  event.preventDefault(); // a request nobody else answers for: its message is written for people
  toast(event.reason.message, { kind: "error" });
});

state.start();
void router.start();
