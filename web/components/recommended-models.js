import { h } from "../core/component.js";
import { bytes } from "../core/format.js";
import { fitBadge, fitOf } from "./fit-badge.js";
import { icon } from "./icon.js";

/** Cards shown: the smallest model, which shows that all works, and the largest that this machine is made for. */
const SHOWN = 4;

/**
 * Models known to work, as cards with a download button (`[data-action="download"]`).
 * @param {{recommended: Record<string, any>[], devices: any[] | undefined, downloads: Record<string, any>[], busy:
 *   Set<string>}} options devices: the memories of this machine
 */
export function recommendedModels({ recommended, devices, downloads, busy }) {
  const fitting = recommended.filter(({ memory }) => ["gpu", "memory", "unknown"].includes(fitOf(memory, devices).fit));
  const [smallest, ...rest] = fitting.length ? fitting : recommended;
  return h("ul", { className: "recommended" }, [smallest, ...rest.slice(1 - SHOWN)].map((model) => {
    const { name, repo, file, size, license, text, memory: needed } = model;
    const download = downloads.find((item) => item.repo === repo && item.file === file);
    const under = download && !["failed", "cancelled"].includes(download.status);
    return h("li", { key: `${repo}/${file}`, className: "card recommended-card" },
      h("div", { className: "row" },
        h("strong", { className: "recommended-name" }, name), h("span", { className: "spacer" }),
        fitBadge(needed, devices)),
      h("p", { className: "muted recommended-repo truncate", title: `${repo} · ${file}` }, repo),
      text && h("p", { className: "recommended-text" }, text),
      h("dl", { className: "facts recommended-facts" },
        h("dt", null, "Download"), h("dd", null, bytes(size)),
        h("dt", null, "Memory"),
        h("dd", null, `about ${bytes(needed)}`),
        h("dt", null, "Licence"), h("dd", null, license ?? "see the repository")),
      h("button", {
        type: "button", className: "button button-primary", disabled: Boolean(under) || busy.has(`${repo}/${file}`),
        dataset: { action: "download", repo, file }, "aria-label": `Download ${name}`,
      }, icon("download"), download?.status === "done" ? "Downloaded" : under ? "In the queue" : "Download"));
  }));
}
