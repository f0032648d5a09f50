/**
 * Runs before the page is painted for the first time: it has the colours of the last visit from the beginning, and the
 * client is loaded as soon as the page has been painted, for whatever runs earlier delays that.
 */
{
  const load = () => {
    const client = /** @type {HTMLTemplateElement} */ (document.querySelector("#client"));
    document.head.append(client.content); // which leaves nothing for a second time
  };
  try {
    const theme = localStorage.getItem("llamadash.theme"); // as components/theme.js keeps it
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // no storage, hence no last visit
  }
  document.addEventListener("DOMContentLoaded", () => {
    requestAnimationFrame(() => setTimeout(load));
    setTimeout(load, 100); // a tab that nobody looks at is not painted
  });
}
