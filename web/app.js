/** The route table and the wiring, nothing else. */
import { Router, here, stylesheet } from "./core/router.js";
import { StateManager } from "./core/state.js";
import { applyTheme } from "./components/theme.js";
import { Layout } from "./components/layout.js";
import { MissingPage } from "./components/states.js";
import { toast } from "./components/toast.js";

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
  .register("/chat", page(async () => (await import("./pages/chat.js")).ChatPage, "chat"))
  .register("/monitoring", page(async () => (await import("./pages/monitoring.js")).MonitoringPage, "monitoring"))
  .register("/configuration", page(
    async () => (await import("./pages/configuration.js")).ConfigurationPage, "pages", "configuration"
  ))
  .register("/settings", page(async () => (await import("./pages/settings.js")).SettingsPage, "pages", "settings"))
  .register("/logs", page(async () => (await import("./pages/logs.js")).LogsPage, "pages", "logs"));

router.after(({ path }) => layout.receive({ state, path }));
state.subscribe("settings", (settings) => settings && applyTheme(settings.theme));
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name !== "RequestError") return;
  event.preventDefault(); // a request nobody else answers for: its message is written for people
  toast(event.reason.message, { kind: "error" });
});

state.start();
void router.start();
