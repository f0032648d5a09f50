import { Component, h } from "../core/component.js";
import { icon } from "./icon.js";

/**
 * A native modal dialog.
 *
 * Props: `title`, `children`, `footer?`, `wide?`, `open?` (default true), `sticky?` (a click beside it stays), `close`
 * (called when
 * the person leaves it). The browser keeps the focus inside, Escape and a click beside it leave.
 */
export class Dialog extends Component {
  render() {
    const { title, children, footer, wide } = this.props;
    return h("dialog", { className: wide ? "dialog dialog-wide" : "dialog", "aria-label": title },
      h("div", { className: "dialog-frame" },
        h("header", { className: "dialog-header" }, h("h2", { className: "dialog-title" }, title),
          h("button", {
            type: "button", className: "button button-ghost button-icon", dataset: { dialog: "close" },
            "aria-label": "Close",
          }, icon("close"))),
        h("div", { className: "dialog-body" }, children),
        footer ? h("footer", { className: "dialog-footer" }, footer) : null));
  }

  getEventMap() {
    return {
      "click [data-dialog=\"close\"]": "leave", cancel: "handleCancel", close: "handleCancel", mousedown: "handlePress",
    };
  }

  didMount() {
    this.follow();
  }

  didUpdate() {
    this.follow();
  }

  willDestroy() {
    this.element.close(); // which gives the focus back to where it was
  }

  follow() {
    const open = this.props.open ?? true;
    if (open && !this.element.open) this.element.showModal();
    if (!open && this.element.open) this.element.close();
  }

  /** @param {Event} event */
  handleCancel(event) {
    if (event.target !== this.element) return; // of something inside
    event.preventDefault();
    if (this.props.open ?? true) this.leave();
  }

  /** @param {MouseEvent} event */
  handlePress(event) {
    if (event.target === this.element && !this.props.sticky) this.leave();
  }

  leave() {
    if (!this.destroyed) this.props.close?.();
  }
}

/**
 * The footer of a dialog with a form: Cancel, and the button that sends it.
 * @param {string} form its id @param {string} label @param {boolean} busy
 */
export function dialogFooter(form, label, busy) {
  return [
    h("button", { key: "cancel", type: "button", className: "button", dataset: { dialog: "close" } }, "Cancel"),
    h("button", {
      key: "send", type: "submit", form, className: "button button-primary", disabled: busy, "aria-busy": busy,
    }, label),
  ];
}

/**
 * Ask before something that cannot be taken back. Whoever goes back or forward meanwhile has not agreed.
 * @param {{title: string, body?: any, confirmLabel?: string, cancelLabel?: string, danger?: boolean, details?:
 *   string[]}} options
 * @returns {Promise<boolean>}
 */
export function confirmDialog({
  title, body, confirmLabel = "Continue", cancelLabel = "Cancel", danger = false, details = [],
}) {
  return new Promise((resolve) => {
    const opener = /** @type {HTMLElement | null} */ (document.activeElement);
    /** @param {boolean} answer */
    const finish = (answer) => {
      window.removeEventListener("popstate", leave);
      dialog.element.close();
      dialog.destroy();
      opener?.focus?.();
      resolve(answer);
    };
    const leave = () => finish(false);
    window.addEventListener("popstate", leave);
    const dialog = new Confirmation({
      title, body, confirmLabel, cancelLabel, danger, details, finish,
    }).mount(document.body);
  });
}

class Confirmation extends Dialog {
  /** @param {any} props */
  constructor(props) {
    const { body, details, danger, confirmLabel, cancelLabel, finish } = props;
    super({
      ...props,
      close: () => finish(false),
      children: [
        body ? h("p", null, body) : null,
        details.length
          ? h("ul", { className: "dialog-details" }, details.map((/** @type {string} */ line) => h("li", null, line)))
          : null,
      ],
      footer: [
        h("button", { type: "button", className: "button", dataset: { answer: "no" }, autofocus: danger }, cancelLabel),
        h("button", {
          type: "button", className: danger ? "button button-danger" : "button button-primary",
          dataset: { answer: "yes" }, autofocus: !danger,
        }, confirmLabel),
      ],
    });
  }

  getEventMap() {
    return { ...super.getEventMap(), "click [data-answer]": "handleAnswer" };
  }

  /** @param {Event} _event @param {HTMLElement} button */
  handleAnswer(_event, button) {
    this.props.finish(button.dataset.answer === "yes");
  }
}
