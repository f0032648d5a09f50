import { Component, h } from "../core/component.js";
import { credentials } from "../core/auth.js";
import { icon } from "./icon.js";

/** Signing in; the form's submission bubbles. Props: `state`, `brand` (what stands above), `offered` (tried before). */
export class Login extends Component {
  render() {
    const { offered } = this.props;
    return h("form", { className: "login-card", dataset: { form: "login" } },
      this.props.brand,
      h("div", { className: "stack" }, h("h1", { className: "page-title" }, "Sign in"),
        h("p", { className: "muted" },
          "This dashboard is protected by an access key. Open the link that was printed when it started, ",
          "or print it again on that machine:"),
        h("code", { className: "code" }, "python3 llamadash.py link")),
      h("div", { className: "field" },
        h("input", {
          className: "visually-hidden", type: "text", autocomplete: "username", value: "llamadash", tabindex: -1,
          readonly: true, "aria-hidden": true,
        }),
        h("label", { className: "field-label", htmlFor: "login-secret" }, "Link, access key or password"),
        h("input", {
          id: "login-secret", className: "input", type: "password", name: "secret", autocomplete: "current-password",
          required: true, "aria-invalid": offered ? true : null, "aria-describedby": "login-error",
        }),
        h("p", { id: "login-error", className: "field-error", role: "alert" }, this.whySignedOut())),
      h("button", { type: "submit", className: "button button-primary button-block" },
        icon("key", { size: 16 }),
        "Sign in"));
  }

  whySignedOut() {
    const refusal = this.props.state.get("refusal");
    if (refusal?.code === "RATE_LIMITED") return `Too many attempts. Try again in ${refusal.retryAfter ?? 60} s.`;
    if (this.props.offered) return "Not accepted. Check it and try again.";
    if (this.props.state.get("info")) {
      return "You were signed out: this session was ended or has expired, or the access key was replaced.";
    }
    return credentials().token ? "The access key or session of this browser is no longer valid." : "";
  }

  didMount() {
    if (document.activeElement === document.body) this.element.querySelector("#login-secret").focus();
    return ["refusal", "info"].map((key) => this.props.state.subscribe(key, () => this.setState({})));
  }
}
