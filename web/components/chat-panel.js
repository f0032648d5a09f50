import { h } from "../core/component.js";
import { icon } from "./icon.js";

/** @typedef {import("../core/conversations.js").Conversation} Conversation */
/** @typedef {import("../core/conversations.js").Sampling} Sampling */
/** @typedef {{name: string, system: string, parameters: Sampling}} ChatPreset */

/** @type {{key: keyof Sampling, label: string, min: number, max: number, step: string, hint: string}[]} */
const SAMPLING = [
  {
    key: "temperature", label: "Temperature", min: 0, max: 5, step: "0.05",
    hint: "Lower is focused, higher is creative.",
  },
  { key: "top_p", label: "Top p", min: 0, max: 1, step: "0.01", hint: "Keep the likeliest tokens up to this sum." },
  { key: "top_k", label: "Top k", min: 0, max: 1000, step: "1", hint: "Keep this many tokens; 0 keeps all." },
  {
    key: "min_p", label: "Min p", min: 0, max: 1, step: "0.01",
    hint: "Drop tokens less likely than this share of the best.",
  },
  { key: "max_tokens", label: "Max tokens", min: 1, max: 1_000_000, step: "1", hint: "The longest answer." },
  { key: "seed", label: "Seed", min: -1, max: 4_294_967_295, step: "1", hint: "The same seed repeats an answer." },
];

/**
 * What is set for one conversation; the page handles the `data-action`s, `data-input`s and `data-choice`s.
 * @param {{conversation: Conversation, presets: ChatPreset[], folders: string[], hidden: boolean,
 *   invalid: {[key: string]: {text: string, message: string}}}} props
 */
export function chatPanel({ conversation, presets, folders, hidden, invalid }) {
  const { system, parameters, folder, tools, messages } = conversation;
  return h("aside", { className: "chat-panel", hidden, "aria-label": "Settings of this conversation" },
    h("div", { className: "chat-panel-head" },
      h("h2", { className: "card-title" }, "This conversation"),
      h("button", {
        type: "button", className: "button button-ghost button-icon", title: "Close the settings",
        "aria-label": "Close the settings", dataset: { action: "view", view: "thread" },
      }, icon("close", { size: 16 }))),
    presetField(conversation, presets),
    h("label", { className: "field" },
      h("span", { className: "field-label" }, "System prompt"),
      h("textarea", {
        className: "input", rows: "5", value: system, placeholder: "You are a helpful assistant.",
        dataset: { input: "system" },
      }),
      h("span", { className: "field-hint" }, "What the model is told before the conversation.")),
    h("label", { className: "field" },
      h("span", { className: "field-label" }, "Folder"),
      h("input", {
        className: "input", value: folder, maxlength: "60", list: "chat-folders", placeholder: "None",
        dataset: { choice: "folder" },
      }),
      h("datalist", { id: "chat-folders" }, folders.map((name) => h("option", { key: name, value: name })))),
    h("label", { className: "chat-check" },
      h("input", { type: "checkbox", checked: tools, dataset: { choice: "tools" } }),
      h("span", null, "Tools: clock and calculator",
        h("span", { className: "field-hint" }, "They run in this page. Not every model can call tools."))),
    h("h3", { className: "chat-panel-title" }, "Sampling"),
    SAMPLING.map((item) => samplingField(item, parameters[item.key], invalid[item.key])),
    h("button", {
      type: "button", className: "button", disabled: !Object.keys({ ...parameters, ...invalid }).length,
      dataset: { action: "sampling-reset" },
    }, "Back to the model's defaults"),
    h("h3", { className: "chat-panel-title" }, "Export and import"),
    h("div", { className: "chat-panel-row" },
      exportButton("export", "Markdown", !messages.length),
      exportButton("export-json", "JSON", !messages.length),
      exportButton("export-all", "All as JSON", false),
      exportButton("import", "Import…", false)));
}

/** @param {string} action @param {string} label @param {boolean} disabled */
function exportButton(action, label, disabled) {
  return h("button", { type: "button", className: "button button-small", disabled, dataset: { action } }, label);
}

/** @param {Conversation} conversation @param {ChatPreset[]} presets */
function presetField({ system, parameters }, presets) {
  const same = (/** @type {ChatPreset} */ preset) => preset.system === system
    && JSON.stringify(preset.parameters) === JSON.stringify(parameters);
  const current = presets.find(same)?.name ?? "";
  return h("div", { className: "field" },
    h("label", { className: "field-label", for: "chat-preset" }, "Preset"),
    h("div", { className: "chat-panel-row" },
      h("select", { id: "chat-preset", className: "select", disabled: !presets.length, dataset: { choice: "preset" } },
        h("option", { value: "", selected: !current }, presets.length ? "None" : "No presets yet"),
        presets.map(({ name }) => h("option", { key: name, value: name, selected: name === current }, name))),
      current
        ? h("button", {
          type: "button", className: "button button-ghost button-icon", "aria-label": `Delete the preset ${current}`,
          title: "Delete this preset", dataset: { action: "preset-delete", name: current },
        }, icon("trash", { size: 16 }))
        : null),
    h("form", { className: "chat-panel-row", dataset: { form: "preset" } },
      h("input", {
        className: "input", name: "name", maxlength: "60", required: true, placeholder: "Name",
        "aria-label": "Name of a new preset",
      }),
      h("button", { type: "submit", className: "button" }, "Save")),
    h("span", { className: "field-hint" }, "A system prompt and sampling under one name."));
}

/**
 * @param {typeof SAMPLING[number]} item @param {number | undefined} value
 * @param {{text: string, message: string}} [invalid]
 */
function samplingField({ key, label, min, max, step, hint }, value, invalid) {
  return h("label", { key, className: "field" },
    h("span", { className: "field-label" }, label),
    h("input", {
      className: "input", type: "number", inputmode: "decimal", min, max, step: key === "temperature" ? "any" : step,
      placeholder: "default", value: invalid ? invalid.text : value ?? "", "aria-invalid": Boolean(invalid),
      dataset: { choice: "sampling", key },
    }),
    invalid
      ? h("span", { className: "field-error", role: "alert" }, invalid.message)
      : h("span", { className: "field-hint" }, hint));
}
