import { Component, h } from "../core/component.js";
import { bytes, clock, duration, rate } from "../core/format.js";
import { icon } from "./icon.js";
import { toast } from "./toast.js";

/** @typedef {Record<string, any>} Download */

/** @type {Record<string, string>} */
const LABELS = {
  queued: "Waiting", running: "Downloading", paused: "Paused", verifying: "Checking", done: "Done", failed: "Failed",
  cancelled: "Cancelled",
};

/** The downloads with their progress, and what can be done with each. Props: `state`, `downloads`. */
export class DownloadQueue extends Component {
  getInitialState() {
    return { busy: new Set() };
  }

  getEventMap() {
    return { "click [data-download]": "handleAction" };
  }

  /** @param {Event} _event @param {HTMLElement} element */
  async handleAction(_event, element) {
    const { download = "", repo = "", file = "" } = element.dataset;
    const id = `${repo}/${file}`;
    this.setState({ busy: new Set([...this.state.busy, id]) });
    try {
      await this.props.state.request(download, { repo, file });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
    this.setState({ busy: new Set([...this.state.busy].filter((item) => item !== id)) });
  }

  render() {
    const downloads = /** @type {Download[]} */ (this.props.downloads ?? []);
    return h("ul", { className: "download-queue", "aria-label": "Downloads" },
      downloads.map((item) => this.item(item)));
  }

  /** @param {Download} download */
  item(download) {
    const { repo, file, status, done, total, error, retryAt } = download;
    const active = status === "running" || status === "verifying" || status === "queued" || status === "paused";
    const kind = {
      done: "success", failed: "danger", cancelled: "neutral", paused: "warning",
    }[/** @type {string} */ (status)] ?? "info";
    return h("li", { key: `${repo}/${file}`, className: "download" },
      h("div", { className: "download-head" },
        h("span", { className: "download-name" },
          h("strong", { className: "truncate", title: file }, file),
          h("span", { className: "muted truncate" }, repo)),
        h("span", { className: `badge badge-${retryAt ? "warning" : kind}` },
          retryAt ? "Trying again" : LABELS[status] ?? status),
        h("span", { className: "row download-actions" }, this.actions(download))),
      active && h("progress", {
        key: "bar", className: "model-progress", max: total || 1, value: total ? done : null,
        "aria-label": `Download of ${file}`,
      }),
      h("span", {
        key: "facts", className: status === "failed" ? "text-danger download-facts" : "muted download-facts",
      }, status === "failed" ? error ?? "The download failed" : facts(download)));
  }

  /** @param {Download} download */
  actions({ repo, file, status }) {
    const disabled = this.state.busy.has(`${repo}/${file}`);
    const button = (
      /** @type {string} */ download, /** @type {string} */ label, /** @type {string} */ name
    ) => h("button", {
      key: label, type: "button", className: "button button-ghost button-icon", disabled,
      dataset: { download, repo, file }, "aria-label": `${label} ${file}`, title: label,
    }, icon(name));
    const cancel = button("models:download:cancel", "Cancel", "close");
    switch (status) {
      case "queued":
      case "running": return [button("models:download:pause", "Pause", "pause"), cancel];
      case "paused": return [button("models:download:resume", "Resume", "play"), cancel];
      case "failed": return [button("models:download:resume", "Try again", "refresh"), cancel];
      case "cancelled": return [button("models:download", "Download again", "refresh")];
      default: return [];
    }
  }
}

/** @param {Download} download @returns {string} */
function facts({ status, done, total, bytesPerSecond: speed, retryAt, error }) {
  if (status === "done") return bytes(total);
  if (status === "verifying") return `${bytes(total)} · checking its checksum`;
  const parts = [total ? `${bytes(done)} of ${bytes(total)}` : bytes(done)];
  if (retryAt) parts.push(`${error}; next try at ${clock(retryAt)}`);
  if (status === "running" && speed > 0) {
    parts.push(rate(speed));
    if (total) parts.push(`${duration((total - done) / speed)} left`);
  }
  return parts.join(" · ");
}
