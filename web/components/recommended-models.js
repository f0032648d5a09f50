import { h } from "../core/component.js";
import { bytes } from "../core/format.js";
import { icon } from "./icon.js";

/**
 * Small models that are known to work, as cards with a download button (`[data-action="download"]`).
 * @param {{recommended: Record<string, any>[], memory: number|null|undefined, downloads: Record<string, any>[], busy:
 *   Set<string>}} options memory: of this machine, in bytes
 */
export function recommendedModels({ recommended, memory, downloads, busy }) {
  return h("ul", { className: "recommended" }, recommended.map((model) => {
    const { name, repo, file, size, license, text, memory: needed } = model;
    const download = downloads.find((item) => item.repo === repo && item.file === file);
    const under = download && !["failed", "cancelled"].includes(download.status);
    const fits = !memory || !needed || needed <= memory * 0.9;
    return h("li", { key: `${repo}/${file}`, className: "card recommended-card" },
      h("div", { className: "row" },
        h("strong", { className: "recommended-name" }, name), h("span", { className: "spacer" }),
        memory && needed && h("span", { className: `badge badge-${fits ? "success" : "danger"}` },
          fits ? "Fits" : "Too large")),
      h("p", { className: "muted recommended-repo truncate", title: `${repo} · ${file}` }, repo),
      text && h("p", { className: "recommended-text" }, text),
      h("dl", { className: "facts recommended-facts" },
        h("dt", null, "Download"), h("dd", null, bytes(size)),
        h("dt", null, "Memory"),
        h("dd", null, memory ? `about ${bytes(needed)} of ${bytes(memory)}` : `about ${bytes(needed)}`),
        h("dt", null, "Licence"), h("dd", null, license ?? "see the repository")),
      h("button", {
        type: "button", className: "button button-primary", disabled: Boolean(under) || busy.has(`${repo}/${file}`),
        dataset: { action: "download", repo, file }, "aria-label": `Download ${name}`,
      }, icon("download"), download?.status === "done" ? "Downloaded" : under ? "In the queue" : "Download"));
  }));
}
