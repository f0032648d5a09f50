/**
 * What the page knows of the server, kept in step by its broadcasts.
 *
 * Keys: connection, retryAt, refusal, info, models, metrics, metricsRecent, engine, config, settings, logs, requests
 * (the last finished ones), summary, active (requests under way), queue (who waits for a model), keys, keysRequired,
 * builds, recommendedBuild, installing, newerBuild, newcomer (a model that is about to be loaded), downloads, scan,
 * system. Values are replaced, never changed in place.
 */
import { now, setClock, setTimeZone } from "./format.js";
import { base } from "./router.js";
import { RequestError, Socket } from "./socket.js";
import { credentials, keepToken, offerPassword, takeKeyFromAddress } from "./auth.js";

/** @typedef {{[name: string]: any}} Json */

const RECENT_SAMPLES = 90; // of metrics, for sparklines
const RECENT_SPAN_MS = 15 * 60_000;
const RECENT_STEP_MS = RECENT_SPAN_MS / RECENT_SAMPLES;
const KEPT_LOGS = 500;
const KEPT_REQUESTS = 50;
const QUEUE_LENGTH = 100; // requests waiting for the connection
const QUEUE_DEADLINE_MS = 30_000;
const ALWAYS = ["engine", "settings", "models", "metrics"]; // asked for whatever page is shown

/**
 * How each key is fetched: event, data, and the state it gives, with what came meanwhile.
 * @type {{[key: string]: [string, () => Json, (data: Json, came: Json[]) => Json]}}
 */
const SOURCES = {
  models: ["models:list", () => ({}), ({ models }) => ({ models })],
  metrics: ["metrics:get", () => ({}), ({ metrics }) => ({ metrics })],
  engine: ["engine:status", () => ({}), ({ engine }) => ({ engine: timed(engine) })],
  settings: ["settings:get", () => ({}), ({ settings }) => ({ settings })],
  config: ["config:get", () => ({}), (config) => ({ config })],
  logs: ["logs:list", () => ({ limit: KEPT_LOGS }), ({ logs }, came) =>
    ({ logs: [...[...logs].reverse(), ...newer(came, logs)] })],
  requests: ["requests:list", () => ({ limit: KEPT_REQUESTS }), ({ requests, summary, active = [] }, came) =>
    ({ requests: [...newer(came, requests), ...requests], summary, active })],
  queue: ["queue:get", () => ({}), ({ waiting }) => ({ queue: waiting })],
  keys: ["keys:list", () => ({}), ({ keys, required }) => ({ keys, keysRequired: required })],
  builds: ["engines:list", () => ({}), ({ builds, recommended, installing, newer }) =>
    ({ builds, recommendedBuild: recommended, installing, newerBuild: newer })],
  downloads: ["models:downloads", () => ({}), ({ downloads }) => ({ downloads })],
  system: ["system:info", () => ({}), (system) => ({ system })],
  metricsRecent: [
    "metrics:history",
    () => ({ from: now() - RECENT_SPAN_MS, to: now(), points: RECENT_SAMPLES }),
    (history) => ({ metricsRecent: samplesOf(history) }),
  ],
};

/** Those that a list does not have yet. @param {Json[]} came @param {Json[]} list the newest first */
const newer = (came, list) => came.filter(({ id }) => id > (list[0]?.id ?? 0));

/** Samples shaped like `metrics`, from an answer of metrics:history. @param {Json} history @returns {Json[]} */
export function samplesOf({ timestamps, series }) {
  /** @param {string} name @param {number} at */
  const value = (name, at) => series[name]?.avg[at] ?? null;
  const plain = Object.keys(series).filter((name) => !/^(gpu\d|process_)/.test(name));
  const gpus = [
    ...new Set(Object.keys(series).map((name) => /^gpu(\d+)_/.exec(name)?.[1])),
  ].filter((index) => index !== undefined);
  const samples = timestamps.map((/** @type {number} */ timestamp, /** @type {number} */ at) => {
    const own = Object.fromEntries(plain.map((name) => [name, value(name, at)]));
    const fields = ["utilization", "memory_used", "memory_total", "temperature", "power"];
    const cards = gpus.map((index) => (
      { index: Number(index), ...Object.fromEntries(fields.map((field) => [field, value(`gpu${index}_${field}`, at)])) }
    ));
    return {
      ...own, timestamp, gpus: cards, engine: own,
      process: { cpu: value("process_cpu", at), memory: value("process_memory", at) },
    };
  });
  return samples.filter((/** @type {Json} */ sample) => plain.some((name) => sample[name] !== null));
}

/**
 * The newest sample with those of the same step averaged in, so that no short peak is lost.
 * @param {Json} before @param {Json} sample
 */
function blended(before, sample) {
  const count = before.blended ?? 1;
  /** @param {Json} old @param {Json} values @returns {Json} */
  const mean = (old, values) => Object.fromEntries(Object.entries(values).map(([name, value]) =>
    [
      name,
      typeof value === "number" && typeof old?.[name] === "number" ? (old[name] * count + value) / (count + 1) : value,
    ]));
  return {
    ...mean(before, sample), engine: sample.engine && mean(before.engine, sample.engine), timestamp: sample.timestamp,
    blended: count + 1,
  };
}

/**
 * The engine's record with `since`, when it started (Unix ms): its uptime is right only when it arrives.
 * @param {Json} engine
 */
export function timed(engine) {
  return { ...engine, since: typeof engine.uptime === "number" ? now() - engine.uptime * 1000 : null };
}

/**
 * `list` with `item` in place of the one of the same id, or at the end.
 * @param {Json[] | undefined} list @param {Json} item
 */
export function withItem(list = [], item) {
  const at = list.findIndex(({ id }) => id === item.id);
  return at < 0 ? [...list, item] : list.with(at, item);
}

/** The one store of the page. */
export class StateManager {
  /** @param {Socket} [socket] */
  constructor(socket = new Socket({ path: `${base}/llamaproxws`, auth: credentials })) {
    this.socket = socket;
    /** @type {Json} */
    this.state = { connection: "connecting", models: null, metrics: null, metricsRecent: [], engine: null, scan: null };
    /** @type {Map<string, Set<(value: any, old: any) => void>>} */
    this.listeners = new Map();
    /**
     * @type {{event: string, data: any, options: {timeout?: number}, resolve: (data: any) => void, reject: (error:
     *   Error) => void, timer: any}[]}
     */
    this.queue = [];
    /** @type {Map<string, Promise<any>>} */
    this.loaded = new Map();
    this.wanted = new Set(ALWAYS); // every key that was asked for, had or not
    /** @type {(() => void)[] | null} */
    this.toldMeanwhile = null; // of models while their list is fetched, which may be older by the time it comes
  }

  /** Connect, and keep the state in step from now on. */
  start() {
    takeKeyFromAddress();
    // a link pasted into this tab
    window.addEventListener("hashchange", () => takeKeyFromAddress() && this.socket.reconnect());
    this.listen();
    this.socket.connect();
    return this;
  }

  get connection() {
    return this.state.connection;
  }

  /** @param {string} key */
  get(key) {
    return this.state[key];
  }

  /** @param {string} key @param {any} value */
  set(key, value) {
    const old = this.state[key];
    if (Object.is(old, value)) return;
    this.state = { ...this.state, [key]: value };
    for (const callback of [...(this.listeners.get(key) ?? [])]) {
      try {
        callback(value, old);
      } catch (error) {
        reportError(error); // the others hear of it all the same
      }
    }
  }

  /**
   * Call `callback` at every change of `key` (not for the present value).
   * @param {string} key @param {(value: any, old: any) => void} callback @returns {() => void}
   */
  subscribe(key, callback) {
    const set = this.listeners.get(key) ?? new Set();
    this.listeners.set(key, set.add(callback));
    return () => set.delete(callback);
  }

  /**
   * Hear a broadcast's data.
   * @param {string} event @param {(data: any, envelope: any) => void} callback @returns {() => void}
   */
  on(event, callback) {
    return this.socket.on(event, callback);
  }

  /**
   * Ask the server. While disconnected the request waits up to 30 s for the connection; chat does not wait.
   * @param {string} event @param {any} [data] @param {{timeout?: number}} [options]
   * @returns {Promise<any>} the response's data; rejects with a RequestError
   */
  request(event, data = {}, options = {}) {
    if (this.socket.status === "connected") return this.socket.request(event, data, options);
    const offline = new RequestError("DISCONNECTED", "Not connected to llamadash; trying to reconnect");
    if (event.startsWith("chat:") || this.queue.length >= QUEUE_LENGTH) return Promise.reject(offline);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.queue = this.queue.filter((item) => item.timer !== timer);
        reject(offline);
      }, QUEUE_DEADLINE_MS);
      this.queue.push({ event, data, options, resolve, reject, timer });
    });
  }

  /**
   * Fetch a key once per connection; a fresh connection fetches it again.
   * @param {string} key @returns {Promise<any>} its value
   */
  load(key) {
    const name = key === "info" ? "system" : key;
    const known = this.loaded.get(name);
    if (known) return known.then(() => this.state[name]); // as it is now; broadcasts may have changed what was fetched
    this.wanted.add(name);
    const [event, data, change] = SOURCES[name];
    const before = this.state[name];
    if (name === "models") this.toldMeanwhile = [];
    const loading = this.request(event, data()).then((answer) => {
      const came = Array.isArray(this.state[name]) ? this.state[name].filter((item) => !before?.includes(item)) : [];
      for (const [field, value] of Object.entries(change(answer, came))) this.set(field, value);
      if (name === "models") this.tellModelsAgain();
      return this.state[name];
    });
    this.loaded.set(name, loading);
    loading.catch(() => {
      this.loaded.delete(name); // the next load() tries again
      if (name === "models") this.toldMeanwhile = null;
    });
    return loading;
  }

  tellModelsAgain() {
    const told = this.toldMeanwhile ?? [];
    this.toldMeanwhile = null;
    for (const tell of told) tell();
  }

  /** Fetch a key again, whatever is known. @param {string} key */
  reload(key) {
    this.loaded.delete(key);
    return this.load(key);
  }

  /** Fetch a key again that is known already. @param {string} key */
  refresh(key) {
    if (this.state[key]) this.reload(key).catch(() => {});
  }

  listen() {
    /** @type {{[event: string]: (data: any, envelope: any) => void}} */
    const broadcasts = {
      status: () => this.followStatus(),
      "connection:established": (data, envelope) => (setClock(envelope?.timestamp ?? Date.now()), this.welcome(data)),
      // which says what the scan left out
      "models:list": ({ models }) => (this.set("models", models), this.set("scan", null), this.refresh("config")),
      "models:created": ({ model }) => this.set("models", withItem(this.state.models ?? [], model)),
      "models:updated": ({ model }) => this.set("models", withItem(this.state.models ?? [], model)),
      "models:deleted": ({ id }) => this.removeModel(id),
      "models:status": (data) => this.mergeModel(data),
      "models:scan": (data) => this.set("scan", data.done >= data.total ? null : data),
      "models:download": (data) => this.mergeDownload(data),
      "metrics:update": ({ metrics }, envelope) => this.addMetrics(metrics, envelope?.timestamp ?? now()),
      "engine:status": ({ engine }) => this.set("engine", timed(engine)),
      "config:updated": ({ config }) => this.refreshConfig(config),
      "settings:updated": ({ settings }) => this.set("settings", settings),
      "logs:entries": ({ entries }) => this.set("logs", [...(this.state.logs ?? []), ...entries].slice(-KEPT_LOGS)),
      "logs:cleared": () => this.set("logs", []),
      "requests:finished": ({ request }) => this.addRequest(request),
      "requests:active": ({ requests }) => this.set("active", requests),
      "queue:update": ({ waiting }) => this.set("queue", waiting),
      "keys:updated": ({ keys }) => (this.set("keys", keys), this.refresh("keys")), // whether one is required now
      "engines:update": (data) => this.mergeBuild(data),
      "system:notice": (change) => this.mergeFeatures(change),
      "alerts:updated": ({ active }) => this.mergeFeatures({ alerts: active }),
      "captures:updated": ({ captures }) => this.mergeFeatures({ captures }),
    };
    for (const [event, callback] of Object.entries(broadcasts)) {
      this.socket.on(event, (data, envelope) => {
        if (/^models:(list|created|updated|deleted|status)$/.test(event)) {
          this.toldMeanwhile?.push(() => callback(data, envelope));
        }
        callback(data, envelope);
      });
    }
  }

  /** What every page shows of the server has changed. @param {Json} changes */
  mergeFeatures(changes) {
    this.set("info", { ...this.state.info, features: { ...this.state.info?.features, ...changes } });
  }

  followStatus() {
    this.set("refusal", this.socket.refusal);
    this.set("retryAt", this.socket.retryAt);
    this.set("connection", this.socket.status);
  }

  /** A build that changed, or how far the installation of one is. @param {Json} data */
  mergeBuild(data) {
    if (data.line !== undefined) this.set("installing", data);
    if (data.build.status !== "installing") this.refresh("builds");
  }

  /** @param {Json} info */
  welcome(info) {
    offerPassword(""); // it has done its part, or was a key
    if (info.session) keepToken(typeof info.session === "string" ? info.session : info.session.token);
    setTimeZone(info.features?.timezone);
    this.set("info", info);
    if (!info.recovered) this.set("scan", null);
    const stale = (/** @type {string} */ key) => !this.loaded.has(key) || !info.recovered;
    for (const key of [...this.wanted].filter(stale)) this.reload(key).catch(() => {});
    for (const { event, data, options, resolve, reject, timer } of this.queue.splice(0)) {
      clearTimeout(timer);
      this.socket.request(event, data, options).then(resolve, reject);
    }
  }

  /** @param {Json} change */
  mergeModel(change) {
    const model = this.state.models?.find((/** @type {Json} */ item) => item.id === change.id);
    if (!model) return;
    const { progress = null, stage = null, error = null, next = null, reason = model.reason ?? null } = change;
    this.set("models", withItem(this.state.models, { ...model, ...change, progress, stage, error, reason, next }));
  }

  /** @param {string} id */
  removeModel(id) {
    this.set("models", this.state.models?.filter((/** @type {Json} */ model) => model.id !== id));
    this.refresh("downloads"); // the server forgets how the model came here
  }

  /** @param {Json} download */
  mergeDownload(download) {
    const list = this.state.downloads ?? [];
    const at = list.findIndex((/** @type {Json} */ item) => item.repo === download.repo && item.file === download.file);
    this.set("downloads", at < 0 ? [...list, download] : list.with(at, download));
  }

  /** @param {Json} metrics @param {number} timestamp */
  addMetrics(metrics, timestamp) {
    this.set("metrics", metrics);
    const kept = this.state.metricsRecent.filter((/** @type {Json} */ sample) =>
      sample.timestamp <= timestamp && sample.timestamp > timestamp - RECENT_SPAN_MS);
    // the newest moves until it is a step away
    const fresh = kept.length > 1 && kept[kept.length - 1].timestamp - kept[kept.length - 2].timestamp < RECENT_STEP_MS;
    const sample = { ...metrics, timestamp };
    this.set(
      "metricsRecent",
      [
        ...(fresh ? kept.slice(0, -1) : kept), fresh ? blended(kept[kept.length - 1], sample) : sample,
      ].slice(-RECENT_SAMPLES)
    );
  }

  /**
   * The broadcast carries the values only; what they mean (command, INI, restart) is asked for where shown.
   * @param {Json} config
   */
  refreshConfig(config) {
    if (!this.state.config) return;
    this.set("config", { ...this.state.config, config });
    this.refresh("config");
  }

  /** @param {Json} request */
  addRequest(request) {
    const { active } = this.state;
    if (active?.some((/** @type {Json} */ { id }) => id === request.id)) {
      this.set("active", active.filter((/** @type {Json} */ { id }) => id !== request.id));
    }
    if (this.state.requests || this.wanted.has("requests")) {
      this.set("requests", [request, ...(this.state.requests ?? [])].slice(0, KEPT_REQUESTS));
    }
  }
}
