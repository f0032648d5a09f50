import { Component, h } from "../core/component.js";
import { credentials } from "../core/auth.js";
import { qrCode } from "../core/qr.js";
import { base } from "../core/router.js";
import { CopyButton } from "./copy-button.js";
import { Dialog } from "./dialog.js";

const MARGIN = 4; // modules, light all around

/**
 * Where other devices find this dashboard: "" where they cannot.
 * @param {{[name: string]: any} | null} system what system:info told
 * @param {{origin: string, hostname: string, protocol: string, port: string}} [place] where this page is
 */
export function sharedAddress(system, place = location) {
  if (!isLoopback(place.hostname)) return `${place.origin}${base}/`;
  const { host = "", address } = system ?? {};
  if (!address || isLoopback(host)) return "";
  const name = ["0.0.0.0", "::", "[::]"].includes(host) ? address : host;
  return `${place.protocol}//${name}${place.port && `:${place.port}`}${base}/`;
}

/** @param {string} name */
const isLoopback = (name) => name === "localhost" || /^127\./.test(name) || name === "[::1]" || name === "::1";

/**
 * The way for a phone to get here: a QR code of the sign-in link.
 *
 * Props: `system` (what system:info told), `byPassword` (who signed in so has no link with a key),
 * `open` (nobody has to sign in).
 */
export class SignInCode extends Component {
  getInitialState() {
    return { open: false };
  }

  render() {
    const address = sharedAddress(this.props.system);
    return h("section", { className: "card" },
      h("div", { className: "card-header" }, h("h2", { className: "card-title" }, "Open on a phone")),
      h("div", { className: "card-body stack" }, address ? this.renderOffer(address)
        : h("p", { className: "muted" }, "Only this machine can reach llamadash. Start it with ",
          h("code", null, "--host 0.0.0.0"), " to open it to your phone and other devices on your network.")));
  }

  /** @param {string} address */
  renderOffer(address) {
    return [
      h("p", { key: "words", className: "muted" }, "Scan a code with the phone's camera; then add the page to its ",
        "home screen."),
      h("div", { key: "actions", className: "row" },
        h("button", { type: "button", className: "button", dataset: { action: "code" } }, "Show QR code")),
      this.state.open && this.renderCode(address),
    ];
  }

  /** @param {string} address */
  renderCode(address) {
    const { token } = credentials();
    const { byPassword, open } = this.props;
    const link = token && !byPassword && !open ? `${address}#key=${token}` : address;
    return h(Dialog, { key: "code", title: "Open on a phone", close: () => this.setState({ open: false }) },
      h("div", { className: "stack sign-in-code" },
        this.renderModules(link),
        h("div", { key: "address", className: "code-line" },
          h("code", { tabindex: 0 }, address),
          h(CopyButton, { text: link, label: "Copy the link" })),
        !open && h("p", { key: "hint", className: "field-hint" }, link === address
          ? "The phone asks for the password." : "The code holds the access key: whoever scans it is signed in.")));
  }

  /** @param {string} link */
  renderModules(link) {
    const rows = qrCode(link);
    if (!rows) return h("p", { key: "code", className: "muted" }, "The link is too long for a QR code: copy it.");
    const size = rows.length + 2 * MARGIN;
    const path = rows.flatMap((row, y) => row.map((dark, x) => (
      dark ? `M${x + MARGIN} ${y + MARGIN}h1v1h-1z` : ""))).join("");
    return h("svg", {
      key: "code", className: "qr-code", viewBox: `0 0 ${size} ${size}`, role: "img",
      "aria-label": "QR code of the link",
    }, h("path", { d: path }));
  }

  getEventMap() {
    return { "click [data-action=\"code\"]": () => this.setState({ open: true }) };
  }
}
