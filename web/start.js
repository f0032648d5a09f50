/**
 * Loads the client as soon as the page has been painted for the first time, for whatever runs earlier delays that. The
 * first frame needs no other file: it is drawn by attributes, and the stylesheets come after it.
 */
{
  const load = () => {
    const client = /** @type {HTMLTemplateElement} */ (document.querySelector("#client"));
    document.head.append(client.content); // which leaves nothing for a second time
  };
  document.addEventListener("DOMContentLoaded", () => {
    requestAnimationFrame(() => setTimeout(load));
    setTimeout(load, 100); // a tab that nobody looks at is not painted
  });
}
