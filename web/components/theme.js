import { writeStorage } from "../core/auth.js";

const STORED = "llamadash.theme"; // so that start.js finds it at the next visit

/** Show the page in the colours of `theme`. @param {string} theme system, light or dark */
export function applyTheme(theme) {
  writeStorage(STORED, theme);
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
