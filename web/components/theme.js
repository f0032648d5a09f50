/**
 * Show the page in the colours of `theme`, which the next visit gets with the page.
 * @param {string} theme system, light or dark
 */
export function applyTheme(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
