import { Component, h } from "../core/component.js";
import { bytes } from "../core/format.js";
import { Dialog } from "./dialog.js";
import { toast } from "./toast.js";

/** Asks before a model goes, and whether its file goes with it. Props: `state`, `model`, `close()`. */
export class DeleteModel extends Component {
  getInitialState() {
    return { deleteFile: false, busy: false, error: "" };
  }

  getEventMap() {
    return {
      "change [data-role=\"delete-file\"]": "handleToggle", "click [data-action=\"delete-confirm\"]": "handleDelete",
      "click [data-action=\"delete-cancel\"]": "handleCancel",
    };
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleToggle(_event, element) {
    this.setState({ deleteFile: element.checked });
  }

  handleCancel() {
    this.props.close();
  }

  async handleDelete() {
    const { state, model, close } = this.props;
    this.setState({ busy: true, error: "" });
    try {
      const { freed } = await state.request("models:delete", { id: model.id, deleteFile: this.state.deleteFile });
      toast(
        this.state.deleteFile
          ? `${model.name} deleted, ${bytes(freed ?? model.file_size)} freed`
          : `${model.name} removed from the list`,
        { kind: "success" }
      );
      if (!this.destroyed) close();
    } catch (error) {
      this.setState({ busy: false, error: /** @type {Error} */ (error).message });
    }
  }

  render() {
    const { model, close } = this.props;
    const { deleteFile, busy, error } = this.state;
    const size = (model.file_size ?? 0) + (model.projector_size ?? 0);
    return h(Dialog, {
      title: `Delete ${model.name}?`, close,
      footer: [
        h("button", { key: "cancel", type: "button", className: "button", dataset: { action: "delete-cancel" } },
          "Cancel"),
        h("button", {
          key: "confirm", type: "button", className: "button button-danger", disabled: busy, "aria-busy": busy,
          dataset: { action: "delete-confirm" },
        },
          busy ? "Deleting…" : deleteFile ? "Delete with file" : "Remove from list"),
      ],
    },
      h("div", { className: "stack" },
        h("p", null,
          model.status === "loaded" ? "It is in memory and will be unloaded. " : "",
          "Its name, parameters and benchmarks are deleted."),
        model.status !== "missing" && h("label", { key: "file", className: "check-row" },
          h("input", { type: "checkbox", checked: deleteFile, dataset: { role: "delete-file" } }),
          h("span", null, h("strong", null, "Delete the file from disk as well"),
            h("span", { className: "field-hint check-hint" },
              `Frees ${bytes(size)}${files(model)}. This cannot be undone.`))),
        !deleteFile && model.status !== "missing" && h("p", { key: "again", className: "field-hint" },
          "Otherwise the file stays where it is. ",
          "Scans leave it out from then on; “Add by path” brings it back."),
        h("code", { key: "path", className: "code break-all" }, model.path),
        error && h("p", { key: "error", className: "field-error", role: "alert" }, error)));
  }
}

/** @param {Record<string, any>} model */
function files(model) {
  const count = Math.max(1, model.shards?.length ?? 0) + (model.projector ? 1 : 0);
  return count > 1 ? ` (${count} files)` : "";
}
