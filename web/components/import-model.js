import { Component, h } from "../core/component.js";
import { Dialog, dialogFooter } from "./dialog.js";
import { toast } from "./toast.js";

/** Adds one model file of a model folder by its path. Props: `state`, `close()`, `onCreated(model)`. */
export class ImportModel extends Component {
  getInitialState() {
    return { path: "", name: "", busy: false, field: "", error: "" };
  }

  getEventMap() {
    return { "input [data-field]": "handleInput", "submit .import-model": "handleSubmit" };
  }

  didMount() {
    this.element.querySelector("#import-path")?.focus();
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleInput(_event, element) {
    this.setState({ [element.dataset.field ?? ""]: element.value, error: "", field: "" });
  }

  /** @param {Event} event */
  async handleSubmit(event) {
    event.preventDefault();
    const path = this.state.path.trim();
    if (!path) return this.setState({ error: "Enter the path of a .gguf file.", field: "path" });
    const name = this.state.name.trim() || (path.split(/[\\/]/).pop() ?? path).replace(/\.gguf$/i, "");
    this.setState({ busy: true, error: "", field: "" });
    try {
      const { model } = await this.props.state.request("models:create", { model: { name, path } });
      toast(`${model.name} added`, { kind: "success" });
      if (!this.destroyed) this.props.onCreated(model);
    } catch (error) {
      const { field = "", message } = /** @type {any} */ (error);
      this.setState({ busy: false, error: message, field: field.replace(/^model\./, "") });
    }
    return undefined;
  }

  render() {
    const { path, name, busy, error, field } = this.state;
    const pathError = error && field !== "name" ? error : "";
    const nameError = error && field === "name" ? error : "";
    return h(Dialog, {
      title: "Add a model by path", close: this.props.close,
      footer: dialogFooter("import-form", busy ? "Reading…" : "Add model", busy),
    },
      h("form", { id: "import-form", className: "stack import-model", noValidate: true },
        h("p", { className: "muted" },
          "One GGUF file, without a scan. It must lie in a model folder; add its folder in the configuration first."),
        this.field("path", "Path on the server", path, "/path/to/model.gguf", pathError),
        this.field("name", "Name (optional)", name, "From the file's name", nameError)));
  }

  /**
   * @param {string} key @param {string} label @param {string} value @param {string} placeholder @param {string} error
   */
  field(key, label, value, placeholder, error) {
    const id = `import-${key}`;
    return h("div", { key, className: "field" },
      h("label", { className: "field-label", htmlFor: id }, label),
      h("input", {
        id, className: key === "path" ? "input mono" : "input", value, placeholder, autocomplete: "off",
        spellcheck: false, dataset: { field: key },
        "aria-invalid": error ? "true" : null, "aria-describedby": error ? `${id}-error` : null,
      }),
      error && h("p", { id: `${id}-error`, className: "field-error", role: "alert" }, error));
  }
}
