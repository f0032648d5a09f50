import { Component, h } from "../core/component.js";
import { Dialog, dialogFooter } from "./dialog.js";
import { formField } from "./form-field.js";
import { toast } from "./toast.js";

/** Adds another entry for a model's file, with its parameters to begin with. Props: `state`, `model`, `close()`. */
export class NewVariant extends Component {
  getInitialState() {
    return { name: "", id: "", busy: false, errors: {} };
  }

  getEventMap() {
    return { "input [data-field]": "handleInput", "submit #variant-form": "handleSubmit" };
  }

  didMount() {
    this.element.querySelector("#variant-name")?.focus();
  }

  /** @param {Event} _event @param {HTMLInputElement} input */
  handleInput(_event, input) {
    this.setState({ [input.dataset.field ?? ""]: input.value, errors: {} });
  }

  /** @param {Event} event */
  async handleSubmit(event) {
    event.preventDefault();
    const { state, model, close } = this.props;
    const [name, id] = [this.state.name.trim(), this.state.id.trim()];
    if (!name) return this.setState({ errors: { name: "Enter a name." } });
    this.setState({ busy: true, errors: {} });
    try {
      const entry = { name, path: model.path, parameters: model.parameters ?? {}, ...(id ? { id } : {}) };
      const { model: made } = await state.request("models:create", { model: entry });
      toast(`${made.name} added`, { kind: "success" });
      if (!this.destroyed) close();
    } catch (problem) {
      const { field = "", message } = /** @type {any} */ (problem);
      const where = field === "model.id" ? "id" : "name";
      this.setState({ busy: false, errors: { [where]: message } });
    }
  }

  render() {
    const { model, close } = this.props;
    const { busy } = this.state;
    return h(Dialog, {
      title: `New variant of ${model.name}`, close, footer: dialogFooter("variant-form", "Add variant", busy),
    },
      h("form", { id: "variant-form", className: "stack", noValidate: true },
        h("p", { className: "muted" }, "It begins with this model's parameters; change them afterwards."),
        this.field("name", "Name", `${model.name} creative`, ""),
        this.field("id", "Model id (optional)", "Made from the name", "What clients send as model.")));
  }

  /** @param {"name" | "id"} key @param {string} label @param {string} placeholder @param {string} hint */
  field(key, label, placeholder, hint) {
    const id = `variant-${key}`;
    const error = this.state.errors[key];
    return formField({ id, label, hint, error }, h("input", {
      id, className: "input", value: this.state[key], placeholder, autocomplete: "off", spellcheck: false,
      maxlength: key === "id" ? 96 : 200, dataset: { field: key }, "aria-describedby": `${id}-hint`,
      "aria-invalid": error ? "true" : null,
    }));
  }
}
