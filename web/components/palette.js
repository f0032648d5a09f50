/** Everything that can be done or gone to, found by typing; and the same for one of many models. */

import { h } from "../core/component.js";
import { readStorage, writeStorage } from "../core/auth.js";
import { kindWords, past, relativeTime } from "../core/format.js";
import { fuzzyScore } from "../core/fuzzy.js";
import { stylesheet } from "../core/router.js";
import { Dialog } from "./dialog.js";
import { fitWords, marginOf, needOf } from "./fit-badge.js";
import { inMemoryFirst, statusLabel } from "./model-status.js";
import { Picker } from "./picker.js";
import { toast } from "./toast.js";

/** @typedef {{[name: string]: any}} Json */
/** @typedef {import("./picker.js").Choice & {path?: string, reveal?: string, run?: () => any, rank?: number}} Entry */

const RECENT_KEY = "llamadash.recent";
const RECENT = 12;
const SHOWN = 60;

/** @type {Array<[string, string, string, string]>} letter after g, label, path, icon */
const PAGES = [
  ["d", "Dashboard", "/", "dashboard"], ["m", "Models", "/models", "models"], ["c", "Chat", "/chat", "chat"],
  ["o", "Monitoring", "/monitoring", "monitoring"], ["f", "Configuration", "/configuration", "configuration"],
  ["s", "Settings", "/settings", "settings"], ["l", "Logs", "/logs", "logs"],
];

/** @type {{[path: string]: string[]}} the titles of sections and labels of fields that can be gone to */
const SETTINGS = {
  "/configuration": [
    "Model folders", "API for clients", "Address", "Port", "Default model", "Memory", "Models at once", "Idle time",
    "Minimum residency", "Longest wait", "Memory budget", "Left to other programs", "Schedules", "Engine",
    "Default build", "Start with llamadash", "Look for newer builds", "Look for newer models", "Engine builds",
    "Defaults for all models", "models.ini",
  ],
  "/settings": [
    "API keys", "Appearance", "Theme", "Monitoring", "Measure every", "Keep measurements", "Keep their averages",
    "Energy", "Price", "Currency", "Logs", "Minimum level", "Keep log lines", "At most", "Security", "New password",
    "Sessions", "Open on a phone", "Alerts", "Tell me when", "Sent to", "Limits", "GPU temperature",
    "GPU memory in use", "Disk in use", "Backup and transfer", "Back up the database", "Export or import settings",
    "About",
  ],
};

/** @type {Array<[string, string]>} keys and what they do */
const KEYS = [
  ["Ctrl K", "Find anything: models, pages, conversations, settings, logs"], ["/", "Search on this page"],
  ["?", "Show these keys"],
  ...PAGES.map(([letter, label]) => /** @type {[string, string]} */ ([`g ${letter}`, label])),
  ["Esc", "Close what is open"],
];

/** @type {any} what is open */
let open = null;

/** Whether something of this module is on the page. */
const isOpen = () => open !== null && !open.destroyed;

/** @param {any} it @param {HTMLElement | null} opener */
function close(it, opener) {
  it.destroy();
  open = null;
  if (opener?.isConnected) opener.focus();
}

/**
 * Put a dialog on the page, with its stylesheet; gives what closes it.
 * @param {(close: () => void) => any} make
 */
async function show(make) {
  await stylesheet(new URL("../css/palette.css", import.meta.url).pathname);
  if (isOpen()) open.destroy();
  const opener = /** @type {HTMLElement | null} */ (document.activeElement);
  const it = make(() => close(it, opener));
  open = it.mount(document.body);
}

/**
 * Let a person choose one of many models.
 * @param {{state: any, title: string, models?: () => Json[], aim?: (id: string) => void, none?: string}} options
 *   none: words for the choice of none, whose id is ""
 * @returns {Promise<string | null>} its id; null where none was chosen
 */
export function pickModel({ state, title, models = () => state.get("models") ?? [], aim, none }) {
  return new Promise((resolve) => void show((leave) => {
    const finish = (/** @type {string | null} */ id) => (leave(), resolve(id));
    return new Picker({
      title, placeholder: "Name, quantization or folder", none: "No model fits.",
      search: (/** @type {string} */ query) => best(query, [
        ...none ? [{ id: "", title: none, iconName: "close" }] : [],
        ...modelChoices(models(), state.get("engine")?.devices),
      ]),
      choose: (/** @type {Entry} */ { id }) => finish(id), close: () => finish(null),
      aim: aim && ((/** @type {Entry} */ { id }) => aim(id)),
    });
  }));
}

/** @param {Json[]} models @param {any[]} [devices] @returns {Entry[]} those in memory and in use first */
function modelChoices(models, devices) {
  const used = (/** @type {Json} */ model) => past(model.last_used_at);
  const list = [...models].sort((a, b) => Number(b.favorite) - Number(a.favorite) || used(b) - used(a)
    || a.name.localeCompare(b.name));
  return inMemoryFirst(list).map((model) => ({
    id: model.id, title: model.name, detail: kindWords(model), iconName: model.favorite ? "star-filled" : "models",
    note: [fitWords(needOf(model), devices, marginOf(model)), model.last_used_at && relativeTime(model.last_used_at)]
      .filter(Boolean).join(" · "),
  }));
}

/**
 * Those that fit best, the first ones of equal fit as they come.
 * @param {string} query @param {Entry[]} entries @returns {Entry[]}
 */
function best(query, entries) {
  const wanted = query.trim().toLowerCase();
  if (!wanted) return entries.slice(0, SHOWN);
  const scored = entries.map((entry) => {
    const inTitle = fuzzyScore(wanted, entry.title.toLowerCase());
    const whole = `${entry.title} ${entry.detail ?? ""} ${entry.kind ?? ""}`.toLowerCase();
    const score = inTitle ?? (fuzzyScore(wanted, whole) ?? NaN) - 30;
    return { entry, score: score + (entry.rank ?? 0) };
  });
  return scored.filter(({ score }) => !Number.isNaN(score)).sort((a, b) => b.score - a.score)
    .slice(0, SHOWN).map(({ entry }) => entry);
}

/**
 * The palette, or nothing more where it is open already.
 * @param {{state: any, router: any, query?: string}} options
 */
async function openPalette({ state, router, query = "" }) {
  if (isOpen()) return open.leave();
  /** @type {Entry[]} */
  const conversations = [];
  await show((leave) => new Picker({
    title: "Find anything", placeholder: "A model, page, conversation or setting", query,
    search: (/** @type {string} */ text) => search(text, state, conversations), close: leave,
    none: "Nothing fits.",
    choose: (/** @type {Entry} */ entry) => {
      leave();
      remember(entry.id);
      return entry.run ? entry.run() : go(router, entry);
    },
  }));
  const picker = open;
  state.load("config").then(() => picker.refresh(), () => {}); // with the parameters that can be gone to
  conversations.push(...await conversationEntries(state)); // may take its time
  picker?.refresh();
}

/** @param {string} query @param {any} state @param {Entry[]} conversations @returns {Entry[]} */
function search(query, state, conversations) {
  const recent = recentIds();
  const all = [...modelEntries(state), ...pageEntries(), ...conversations, ...settingEntries(state)]
    .map((entry) => ({ ...entry, rank: (entry.rank ?? 0) + (recent.includes(entry.id) ? 15 : 0) }));
  const text = query.trim();
  if (text) return [...best(query, all), logSearch(text)];
  const place = (/** @type {Entry} */ { id }) => (recent.includes(id) ? recent.indexOf(id) : RECENT);
  return all.filter((entry) => recent.includes(entry.id) || entry.kind === "Page" || entry.id.startsWith("unload "))
    .sort((a, b) => place(a) - place(b));
}

/** @param {any} state @returns {Entry[]} what can be done with each model */
function modelEntries(state) {
  const models = /** @type {Json[]} */ (state.get("models") ?? []);
  return models.flatMap((model) => {
    const { id, name, status } = model;
    const detail = [kindWords(model), status === "unloaded" ? "" : statusLabel(status)[0]].filter(Boolean).join(" · ");
    const path = `/models/${encodeURIComponent(id)}`;
    /** @param {string} event @param {string} words */
    const ask = (event, words) => async () => {
      await state.request(event, { id });
      toast(`${words} ${name}`);
    };
    const kept = ["loaded", "loading", "waiting"].includes(status);
    const gone = status === "missing" || status === "stopping";
    return /** @type {Entry[]} */ ([
      !gone && {
        rank: 4, ...kept
          ? { id: `unload ${id}`, title: `Unload ${name}`, iconName: "stop", run: ask("models:unload", "Unloading") }
          : { id: `load ${id}`, title: `Load ${name}`, iconName: "play", run: ask("models:load", "Loading") },
      },
      !gone && {
        id: `chat ${id}`, title: `Chat with ${name}`, iconName: "chat", path: `/chat?model=${encodeURIComponent(id)}`,
        rank: 3,
      },
      { id: `open ${id}`, title: `Details of ${name}`, iconName: "models", path, rank: 2 },
      { id: `tune ${id}`, title: `Tune ${name}`, iconName: "configuration", path: `${path}?tab=parameters`, rank: 1 },
    ].filter(Boolean)).map((entry) => ({ kind: "Model", detail, ...entry }));
  });
}

/** @returns {Entry[]} */
function pageEntries() {
  return PAGES.map(([letter, title, path, iconName]) => (
    { id: `page ${path}`, title, kind: "Page", note: `g ${letter}`, path, iconName, rank: 8 }));
}

/** @param {any} state @returns {Entry[]} */
export function settingEntries(state) {
  const entry = (/** @type {string} */ path, /** @type {string} */ title, /** @type {string} */ detail) => ({
    id: `setting ${path} ${title}`, title, kind: "Setting", iconName: path.slice(1), path, reveal: title, detail,
  });
  const parameters = /** @type {Json[]} */ (state.get("config")?.parameters ?? []);
  return [
    ...Object.entries(SETTINGS).flatMap(([path, titles]) => titles.map((title) => (
      entry(path, title, path === "/settings" ? "Settings" : "Configuration")))),
    ...parameters.map(({ key, label }) => entry("/configuration", label, `Default for all models · ${key}`)),
  ];
}

/** @param {string} text @returns {Entry} */
const logSearch = (text) => ({
  id: "logs", title: `Search the logs for “${text}”`, kind: "Logs", iconName: "logs",
  path: `/logs?search=${encodeURIComponent(text)}`,
});

/** @param {any} state @returns {Promise<Entry[]>} none where they cannot be had */
async function conversationEntries(state) {
  try {
    const { conversations } = await state.request("conversations:list", { limit: 1000 });
    return conversations.map((/** @type {Json} */ { id, title, updated_at: at }) => ({
      id: `conversation ${id}`, title, kind: "Conversation", iconName: "chat", detail: at ? relativeTime(at) : "",
      path: `/chat?c=${encodeURIComponent(id)}`,
    }));
  } catch {
    return []; // everything else can be found all the same
  }
}

/** @returns {string[]} what was chosen last, the newest first */
function recentIds() {
  try {
    const ids = JSON.parse(readStorage(RECENT_KEY) || "[]");
    return Array.isArray(ids) ? ids.filter((id) => typeof id === "string").slice(0, RECENT) : [];
  } catch {
    return [];
  }
}

/** @param {string} id */
function remember(id) {
  if (id === "logs") return;
  writeStorage(RECENT_KEY, JSON.stringify([id, ...recentIds().filter((other) => other !== id)].slice(0, RECENT)));
}

/** @param {any} router @param {Entry} entry */
async function go(router, { path = "/", reveal }) {
  await router.navigate(path);
  if (!reveal) return;
  for (let tries = 0; tries < 30; tries += 1) { // what is to be shown may still have to be asked for
    const labels = [...document.querySelectorAll("main :is(h2, h3, label, legend, .field-label)")];
    const begins = labels.filter((element) => element.textContent?.trim().startsWith(reveal));
    const found = begins.find((element) => element.textContent?.trim() === reveal) ?? begins[0];
    if (found) return point(/** @type {HTMLElement} */ (found));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** @param {HTMLElement} element a heading, or the label of a field */
function point(element) {
  const group = element.closest("details");
  if (group) group.open = true;
  element.scrollIntoView({ block: "center" });
  const field = /** @type {HTMLLabelElement} */ (element).control;
  if (!field) element.setAttribute("tabindex", "-1");
  (field ?? element).focus({ preventScroll: true });
  element.classList.add("is-revealed");
  setTimeout(() => element.classList.remove("is-revealed"), 2000);
}

/** The keys that work everywhere. */
function openKeys() {
  return show((leave) => new Dialog({
    title: "Keys", close: leave,
    children: h("dl", { className: "keys" }, KEYS.map(([keys, words]) => h("div", { key: keys },
      h("dt", null, keys.split(" ").map((key) => h("kbd", { key }, key))), h("dd", null, words)))),
  }));
}

/**
 * Do what a key stands for. "g" waits for the letter of a page.
 * @param {string} keys @param {{state: any, router: any}} context
 */
export function press(keys, { state, router }) {
  if (keys === "?") return openKeys();
  if (keys.length !== 2) return openPalette({ state, router });
  const page = PAGES.find(([letter]) => keys === `g${letter}`);
  return page && router.navigate(page[2]);
}
