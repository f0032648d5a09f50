/** The credential of this browser: the access key of the link, or the session token that a password earned. */

import { base } from "./router.js";

const STORED = `llamadash.token${base}`; // several may be offered below one address
let password = ""; // until the server answers it with a session token
let kept = ""; // the token, for browsers whose storage is closed to us

/**
 * Take the key out of the address bar (`#key=…`) into this browser's storage.
 * @returns {boolean} whether there was one
 */
export function takeKeyFromAddress() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return false;
  keepToken(key);
  history.replaceState(history.state, "", location.origin + location.pathname + location.search);
  return true;
}

/** @returns {{token?: string, password?: string}} what to show the server */
export function credentials() {
  const token = readStorage(STORED) || kept;
  return { ...(token ? { token } : {}), ...(password ? { password } : {}) };
}

/** Keep a key or a session token. @param {string} token */
export function keepToken(token) {
  password = "";
  kept = token;
  writeStorage(STORED, token);
}

/** Use a password for the next connection. @param {string} text */
export function offerPassword(text) {
  password = text;
}

/** @param {string} text what a person pasted: a link, a key, or a password */
export function offer(text) {
  const key = /#key=([^&\s]+)/.exec(text)?.[1];
  if (key) return keepToken(key);
  if (/^[\w-]{40,128}$/.test(text)) keepToken(text); // a key, or a password that looks like one: the server tells
  return offerPassword(text);
}

/** @param {string} name @returns {string} "" where storage is closed to us */
export function readStorage(name) {
  try {
    return localStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

/** @param {string} name @param {string} value "" removes it */
export function writeStorage(name, value) {
  try {
    if (value) localStorage.setItem(name, value);
    else localStorage.removeItem(name);
  } catch {
    // a browser that keeps nothing: the page works until it is closed
  }
}
