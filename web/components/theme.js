import { readStorage, writeStorage } from "../core/auth.js";

const STORED = "llamadash.theme"; // so that the next visit starts in the right colours

/** Show the page in the colours of `theme`, or in those of the last visit. @param {string} [theme] system, light or dark */
export function applyTheme(theme) {
  if (theme) writeStorage(STORED, theme);
  const wanted = theme ?? readStorage(STORED);
  if (wanted === "light" || wanted === "dark") document.documentElement.dataset.theme = wanted;
  else delete document.documentElement.dataset.theme;
}
