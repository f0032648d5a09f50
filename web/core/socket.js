/**
 * A Socket.IO v5 client over one Engine.IO v4 WebSocket, as much of it as this page needs.
 *
 * It reconnects by itself, tells the server the last broadcast it saw so that missed ones are sent
 * again, and matches each request with its one response.
 */

import { sentence } from "./format.js";

const REQUEST_TIMEOUT_MS = 30_000;
const CONNECT_TIMEOUT_MS = 10_000; // from opening the socket to the server's welcome
const NO_WEBSOCKET = 405; // llamadash's answer to a page that may connect
const BACKOFF_SHORTEST_MS = 100;
const BACKOFF_FIRST_MS = 1000;
const BACKOFF_LONGEST_MS = 10_000;

/** A request that failed: `code` is the server's, `message` is written for people. */
export class RequestError extends Error {
  /** @param {string} code @param {string} message @param {string} [field] @param {any} [details] the whole error */
  constructor(code, message, field, details) {
    super(sentence(message));
    this.name = "RequestError";
    this.code = code;
    this.field = field;
    /** @type {any} */
    this.details = details ?? {};
  }
}

/** @typedef {"connecting" | "connected" | "disconnected" | "unauthenticated"} Status */
/** @typedef {{resolve: (data: any) => void, reject: (error: Error) => void, timer: any}} Pending */

/**
 * Milliseconds until the next attempt: by chance, so that not all come back at once; up to 1 s, then doubling to 10 s.
 * @param {number} attempt @param {number} [chance]
 */
export function backoff(attempt, chance = Math.random()) {
  const whole = Math.min(BACKOFF_LONGEST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 10));
  return Math.max(BACKOFF_SHORTEST_MS, Math.round(whole * chance));
}

/** Split a Socket.IO packet such as `42/ns,7["event",{}]`. @param {string} text */
export function decodePacket(text) {
  const match = /^(\d)(?:(\/[^,]*),)?(\d+)?/.exec(text);
  if (!match) return null;
  const rest = text.slice(match[0].length);
  try {
    return {
      type: match[1], id: match[3] === undefined ? null : Number(match[3]), data: rest ? JSON.parse(rest) : undefined,
    };
  } catch {
    return null;
  }
}

/** One connection to the server that heals itself. */
export class Socket {
  /**
   * @param {object} [options]
   * @param {string} [options.url] `ws://host:port`; this page's host where left out
   * @param {string} [options.path]
   * @param {() => {[name: string]: any}} [options.auth] what to show the server at each connection
   * @param {any} [options.WebSocket]
   * @param {typeof globalThis.fetch} [options.fetch]
   */
  constructor({
    url, path = "/llamaproxws", auth = () => ({}), WebSocket = globalThis.WebSocket, fetch = globalThis.fetch,
  } = {}) {
    this.url = url;
    this.path = path;
    this.auth = auth;
    this.WebSocket = WebSocket;
    this.fetch = fetch;
    /** @type {Status} */
    this.status = "disconnected";
    /** @type {string | null} */
    this.epoch = null;
    this.seq = 0;
    /** When the next attempt starts (Unix ms), while waiting for it. @type {number | null} */
    this.retryAt = null;
    /** Why the server refused. @type {{code: string, message: string, retryAfter?: number} | null} */
    this.refusal = null;
    /** @type {any} */
    this.ws = null;
    this.attempt = 0;
    this.wanted = false;
    this.counter = 0;
    this.prefix = Math.random().toString(36).slice(2, 10);
    /** @type {any} */
    this.retryTimer = null;
    /** @type {any} */
    this.liveTimer = null;
    this.liveFor = CONNECT_TIMEOUT_MS;
    /** The longest message that the server takes (bytes). */
    this.longest = Infinity;
    /** @type {Map<string, Set<(data: any, envelope: any) => void>>} */
    this.handlers = new Map();
    /** @type {Map<string, Pending>} */
    this.pending = new Map();
    /** @type {Map<number, (...data: any[]) => void>} */
    this.acks = new Map();
    this.watchNetwork();
  }

  watchNetwork() {
    if (typeof window === "undefined") return;
    window.addEventListener("online", () => this.hurry());
    window.addEventListener("offline", () => this.ws && this.drop("the network is gone"));
    document.addEventListener("visibilitychange", () => !document.hidden && this.hurry());
  }

  /** Start, and stay connected until close(). */
  connect() {
    this.wanted = true;
    this.attempt = 0;
    clearTimeout(this.retryTimer);
    if (!this.ws) this.open();
  }

  /** End the connection and stay away. */
  close() {
    this.wanted = false;
    clearTimeout(this.retryTimer);
    if (this.ws) this.drop("closed");
    this.change("disconnected");
  }

  /** Try again at once, where an attempt is due later. */
  hurry() {
    if (!this.wanted || this.ws) return;
    clearTimeout(this.retryTimer);
    this.open();
  }

  /** Connect anew, with new credentials. */
  reconnect() {
    if (this.ws) this.drop("reconnecting", false);
    this.connect();
  }

  /** @param {string} event @param {(data: any, envelope: any) => void} callback @returns {() => void} */
  on(event, callback) {
    const set = this.handlers.get(event) ?? new Set();
    this.handlers.set(event, set.add(callback));
    return () => set.delete(callback);
  }

  /**
   * Ask the server; resolves with the response's data or rejects with a RequestError.
   * @param {string} event @param {any} [data] @param {{timeout?: number}} [options] timeout in ms
   * @returns {Promise<any>}
   */
  request(event, data = {}, { timeout = REQUEST_TIMEOUT_MS } = {}) {
    if (this.status !== "connected") {
      return Promise.reject(new RequestError("DISCONNECTED", "Not connected to llamadash"));
    }
    const requestId = `${this.prefix}-${++this.counter}`;
    const packet = `42${JSON.stringify([event, { requestId, data, timestamp: Date.now() }])}`;
    // the server would cut the connection, and all that runs over it
    if (packet.length * 3 > this.longest && new TextEncoder().encode(packet).length > this.longest) {
      return Promise.reject(
        new RequestError(
          "TOO_LARGE", `This is too large: llamadash takes ${this.longest.toLocaleString("en-US")} bytes at a time`
        )
      );
    }
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => this.settle(requestId, (it) =>
          it.reject(new RequestError("TIMEOUT", "llamadash did not answer in time"))),
        timeout
      );
      this.pending.set(requestId, { resolve, reject, timer });
      this.ws.send(packet);
    });
  }

  /**
   * Send an event; `acknowledged` is called with the server's acknowledgement.
   * @param {string} event @param {any} data @param {(...data: any[]) => void} [acknowledged]
   */
  emit(event, data, acknowledged) {
    const id = acknowledged ? ++this.counter : "";
    if (acknowledged) this.acks.set(Number(id), acknowledged);
    this.ws?.send(`42${id}${JSON.stringify([event, data])}`);
  }

  open() {
    this.retryAt = null;
    this.change("connecting");
    const address = `${this.url ?? location.origin.replace(/^http/, "ws")}${this.path}/?EIO=4&transport=websocket`;
    const ws = new this.WebSocket(address);
    let heard = false;
    this.ws = ws;
    this.liveFor = CONNECT_TIMEOUT_MS;
    this.alive();
    ws.onmessage = (/** @type {any} */ message) => {
      heard = true;
      if (this.ws === ws && typeof message.data === "string") this.receive(message.data);
    };
    ws.onclose = () => {
      if (this.ws !== ws) return;
      this.drop("the connection was lost");
      if (!heard && (!this.epoch || this.attempt > 1)) void this.explain(address.replace(/^ws/, "http"));
    };
    ws.onerror = () => {}; // a close always follows
  }

  /**
   * Ask why there is no WebSocket: of that a page learns nothing. With POST the browser says where the page is from.
   * @param {string} address
   */
  async explain(address) {
    const { fetch } = this; // which is called as of nobody, or browsers refuse it
    const answer = await fetch(address, { method: "POST", redirect: "manual" }).catch(() => null);
    const ours = answer?.headers.get("content-type")?.startsWith("text/plain");
    // llamadash would let it in, and a single failure may have another cause, such as its start
    const passing = !answer || (ours && answer.status === NO_WEBSOCKET && this.attempt < 2);
    const words = passing ? "" : ours ? await answer.text()
      : answer.type === "opaqueredirect" ? "A proxy in between redirects elsewhere: reload this page to sign in there."
        : `A proxy in between answers with status ${answer.status} instead of llamadash.`;
    if (this.status === "connected") return;
    this.refusal = words ? { code: "REFUSED", message: words.trim() } : null;
    this.change(this.status);
  }

  /** The server was heard: it has this long until it must be heard again. */
  alive() {
    clearTimeout(this.liveTimer);
    this.liveTimer = setTimeout(() => this.drop("the server stopped responding"), this.liveFor);
  }

  /** @param {string} reason @param {boolean} [retry] @param {number} [retryAfter] s, where the server said so */
  drop(reason, retry = true, retryAfter = 0) {
    const ws = this.ws;
    this.ws = null;
    clearTimeout(this.liveTimer);
    ws?.close();
    this.acks.clear();
    for (const id of [...this.pending.keys()]) {
      this.settle(id, (it) => it.reject(new RequestError("DISCONNECTED", `The request was cut off: ${reason}`)));
    }
    if (!retry || !this.wanted) return;
    const wait = retryAfter ? retryAfter * 1000 : backoff(this.attempt++);
    this.retryAt = Date.now() + wait;
    this.retryTimer = setTimeout(() => this.open(), wait);
    this.change("disconnected");
  }

  /** @param {string} packet one Engine.IO packet */
  receive(packet) {
    const body = packet.slice(1);
    if (packet[0] === "0") return this.opened(JSON.parse(body));
    this.alive();
    if (packet[0] === "2") return this.ws.send(`3${body}`);
    if (packet[0] === "1") return this.drop("the server closed the connection");
    if (packet[0] === "4") return this.receiveSocketIO(body);
    return undefined;
  }

  /** @param {{pingInterval: number, pingTimeout: number, maxPayload?: number}} handshake */
  opened({ pingInterval, pingTimeout, maxPayload = Infinity }) {
    this.longest = maxPayload;
    this.handshakeLife = pingInterval + pingTimeout;
    const known = this.epoch ? { epoch: this.epoch, seq: this.seq } : {};
    this.ws.send(`40${JSON.stringify({ ...this.auth(), ...known })}`);
  }

  /** @param {string} body one Socket.IO packet */
  receiveSocketIO(body) {
    const packet = decodePacket(body);
    if (!packet) return;
    if (packet.type === "0") this.accepted();
    else if (packet.type === "4") this.refused(packet.data);
    // the session was ended: whether another attempt is in vain shows at once
    else if (packet.type === "1") this.reconnect();
    else if (packet.type === "2" && Array.isArray(packet.data)) this.dispatch(packet.data[0], packet.data[1]);
    else if (packet.type === "3" && packet.id !== null) {
      this.acks.get(packet.id)?.(...(packet.data ?? []));
      this.acks.delete(packet.id);
    }
  }

  accepted() {
    this.liveFor = this.handshakeLife ?? this.liveFor;
    this.alive();
    this.refusal = null;
  }

  /** @param {any} problem what a CONNECT_ERROR carries */
  refused(problem) {
    const { code = "REFUSED", retryAfter } = problem?.data ?? {};
    this.refusal = { code, message: problem?.message ?? "The server refused the connection", retryAfter };
    // a person waits for this answer
    const signingIn = code === "RATE_LIMITED" && (!this.epoch || this.auth().password);
    if (code !== "UNAUTHENTICATED" && !signingIn) return this.drop("the server refused", true, retryAfter);
    this.wanted = false;
    this.drop("not authenticated", false);
    return this.change("unauthenticated");
  }

  /** @param {string} event @param {any} envelope */
  dispatch(event, envelope) {
    if (envelope?.type === "response") return this.answer(envelope);
    if (event === "connection:established") this.established(envelope?.data ?? envelope);
    else if (typeof envelope?.seq === "number") {
      if (envelope.seq <= this.seq) return undefined; // seen before the connection was lost
      this.seq = envelope.seq;
    }
    for (const callback of [...(this.handlers.get(event) ?? [])]) {
      try {
        callback(envelope?.data ?? envelope, envelope);
      } catch (error) {
        reportError(error); // the others hear of it all the same
      }
    }
    return undefined;
  }

  /** @param {{epoch: string, seq: number, recovered: boolean}} welcome */
  established({ epoch, seq, recovered }) {
    if (!recovered || epoch !== this.epoch) this.seq = seq ?? 0;
    this.epoch = epoch;
    this.attempt = 0;
    this.change("connected");
  }

  /** @param {any} envelope */
  answer(envelope) {
    this.settle(envelope.requestId, ({ resolve, reject }) => {
      const error = envelope.error ?? {};
      if (envelope.success) resolve(envelope.data);
      else reject(
        new RequestError(error.code ?? "INTERNAL_ERROR", error.message ?? "The request failed", error.field, error)
      );
    });
  }

  /** @param {string} requestId @param {(pending: Pending) => void} finish */
  settle(requestId, finish) {
    const pending = this.pending.get(requestId);
    if (!pending) return;
    this.pending.delete(requestId);
    clearTimeout(pending.timer);
    finish(pending);
  }

  /** @param {Status} status */
  change(status) {
    this.status = status;
    for (const callback of [...(this.handlers.get("status") ?? [])]) callback(status, null);
  }
}
