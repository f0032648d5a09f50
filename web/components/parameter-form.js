import { Component, h } from "../core/component.js";

/**
 * @typedef {object} Parameter
 * @property {string} key llama-server's long option without dashes
 * @property {string} label
 * @property {string} group
 * @property {"int"|"float"|"bool"|"choice"|"text"|"path"} kind
 * @property {number} [min]
 * @property {number} [max]
 * @property {Array<string|number>} [choices]
 * @property {string} [help]
 * @property {unknown} [default]
 */
/** @typedef {Record<string, string>} Texts what is typed, by parameter key; a missing or empty text means "default" */
/** @typedef {Record<string, string|number|boolean>} Values */

/** Below this many parameters everything is seen at once and a search box is only in the way. */
const SEARCHABLE_FROM = 9;

/**
 * Editor for model parameters.
 *
 * Controlled: the owner keeps the typed texts and hands them back; only the search text lives here.
 * Props: `schema`, `texts`, `inherited` (values shown as what "default" means), `errors` by key, `offers` (values to
 * choose from, by key), `idPrefix`, `disabled`, `onInput(key, text)`.
 */
export class ParameterForm extends Component {
  /** @param {Values|null|undefined} values @returns {Texts} */
  static texts(values) {
    return Object.fromEntries(Object.entries(values ?? {}).map(([key, value]) => [key, String(value)]));
  }

  /**
   * Read typed texts as parameters; `errors` names what cannot be read.
   * @param {Parameter[]} schema @param {Texts} texts
   * @returns {{values: Values, errors: Record<string, string>}}
   */
  static parse(schema, texts) {
    const known = new Map(schema.map((parameter) => [parameter.key, parameter]));
    /** @type {Values} */ const values = {};
    /** @type {Record<string, string>} */ const errors = {};
    for (const [key, typed] of Object.entries(texts)) {
      const text = typed.trim();
      if (!text) continue;
      const parameter = known.get(key);
      const error = parameter ? problem(parameter, text) : "";
      if (error) errors[key] = error;
      else values[key] = parameter ? converted(parameter, text) : typed;
    }
    return { values, errors };
  }

  getInitialState() {
    return { search: "" };
  }

  init() {
    /** Groups that something to correct has opened: they stay open once it is. @type {Set<string>} */
    this.opened = new Set();
  }

  getEventMap() {
    return {
      "input [data-parameter]": "handleInput",
      "click [data-action=\"parameter-clear\"]": "handleClear",
      "input [data-role=\"parameter-search\"]": "handleSearch",
    };
  }

  /** @param {Event} _event @param {HTMLElement} element */
  handleInput(_event, element) {
    const control = /** @type {HTMLInputElement|HTMLSelectElement} */ (element);
    this.props.onInput(control.dataset.parameter ?? "", control.value);
  }

  /** @param {Event} _event @param {HTMLElement} element */
  handleClear(_event, element) {
    const key = element.dataset.key ?? "";
    this.props.onInput(key, "");
    document.getElementById(this.controlId(key))?.focus();
  }

  /** @param {Event} _event @param {HTMLElement} element */
  handleSearch(_event, element) {
    this.setState({ search: /** @type {HTMLInputElement} */ (element).value });
  }

  /** @param {string} key */
  controlId(key) {
    return `${this.props.idPrefix ?? "parameter"}-${key}`;
  }

  render() {
    const schema = /** @type {Parameter[]} */ (this.props.schema ?? []);
    const found = matching(schema, this.state.search);
    return h("div", { className: "parameter-form" },
      schema.length >= SEARCHABLE_FROM && this.searchBox(found.length),
      this.state.search.trim()
        ? h("div", { key: "found", className: "parameter-grid" }, found.map((item) => this.field(item)))
        : h("div", { key: "groups", className: "parameter-groups" },
          groups(schema).map((group, index) => this.group(group, index))),
      this.state.search.trim() && !found.length
        && h("p", { className: "muted" }, "No parameter matches. Try another word, or clear the search."));
  }

  /** @param {number} count */
  searchBox(count) {
    const id = this.controlId("search");
    return h("div", { className: "parameter-search" },
      h("label", { className: "visually-hidden", htmlFor: id }, "Search parameters"),
      h("input", {
        id, className: "input", type: "search", placeholder: "Search parameters, e.g. context or gpu",
        autocomplete: "off", value: this.state.search, dataset: { role: "parameter-search" },
      }),
      h("span", { className: "visually-hidden", role: "status" },
        this.state.search.trim() ? `${count} parameters found` : ""));
  }

  /** @param {{name: string, parameters: Parameter[]}} group @param {number} index */
  group(group, index) {
    const texts = this.props.texts ?? {};
    const set = group.parameters.filter(({ key }) => texts[key]?.trim()).length;
    const wrong = group.parameters.filter(({ key }) => this.props.errors?.[key]).length;
    if (wrong) this.opened.add(group.name);
    return h("details", {
      key: group.name, className: "parameter-group", open: index === 0 || this.opened.has(group.name),
    },
      h("summary", { className: "parameter-summary" },
        h("span", null, group.name),
        h("span", { className: "spacer" }),
        wrong > 0 && h("span", { className: "badge badge-danger" }, `${wrong} to correct`),
        set > 0 && h("span", { className: "badge badge-info" }, `${set} set`),
        h("span", { className: "muted parameter-count" }, String(group.parameters.length))),
      h("div", { className: "parameter-grid" }, group.parameters.map((item) => this.field(item))));
  }

  /** @param {Parameter} parameter */
  field(parameter) {
    const { key, label, help } = parameter;
    const id = this.controlId(key);
    const text = this.props.texts?.[key] ?? "";
    const error = this.props.errors?.[key];
    return h("div", { key, className: `field parameter${text.trim() ? " is-set" : ""}` },
      h("div", { className: "parameter-label" },
        h("label", { className: "field-label", htmlFor: id }, label),
        h("code", { className: "parameter-key muted" }, key),
        text.trim() && !this.props.disabled && h("button", {
          className: "parameter-clear", type: "button", dataset: { action: "parameter-clear", key },
          "aria-label": `Use the default for ${label}`,
        }, "Use default")),
      this.control(parameter, id, text, Boolean(error)),
      error && h("p", { className: "field-error", id: `${id}-error`, role: "alert" }, error),
      help && h("p", { className: "field-hint", id: `${id}-help` }, help));
  }

  /** @param {Parameter} parameter @param {string} id @param {string} text @param {boolean} invalid */
  control(parameter, id, text, invalid) {
    const shared = {
      id, dataset: { parameter: parameter.key }, disabled: Boolean(this.props.disabled),
      "aria-invalid": invalid ? "true" : undefined, "aria-describedby": `${id}-error ${id}-help`,
    };
    const fallback = this.fallback(parameter);
    const choices = choicesOf(parameter);
    if (choices) {
      return h("select", { ...shared, className: "select", value: text },
        h("option", { key: "", value: "" }, fallback ? `Default (${fallback})` : "Default"),
        choices.map(([value, label]) => h("option", { key: value, value }, label)));
    }
    const numeric = parameter.kind === "int" || parameter.kind === "float";
    const offers = /** @type {string[]} */ (this.props.offers?.[parameter.key] ?? []);
    const input = h("input", {
      ...shared, className: "input", type: "text", value: text, autocomplete: "off", spellcheck: "false",
      list: offers.length ? `${id}-offers` : undefined,
      inputmode: !numeric
        ? "text"
        : (parameter.min ?? -1) < 0
        ? "text"
        : parameter.kind === "int"
        ? "numeric"
        : "decimal",
      placeholder: fallback ? `Default (${fallback})` : "Default",
    });
    if (!offers.length) return input;
    return h("div", { className: "stack" }, input,
      h("datalist", { id: `${id}-offers` }, offers.map((value) => h("option", { key: value, value }))),
      h("p", { className: "field-hint" }, `Beside this model: ${offers.join(", ")}`));
  }

  /** @param {Parameter} parameter @returns {string} what an unset parameter amounts to */
  fallback(parameter) {
    const value = this.props.inherited?.[parameter.key] ?? parameter.default;
    if (value === undefined || value === null || value === "") return "";
    if (value === true) return "on";
    return value === false ? "off" : String(value);
  }
}

/** @param {Parameter[]} schema @param {string} search */
function matching(schema, search) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return schema.filter((item) => {
    const text = `${item.key} ${item.label} ${item.group} ${item.help ?? ""}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

/** @param {Parameter[]} schema @returns {Array<{name: string, parameters: Parameter[]}>} in the schema's order */
function groups(schema) {
  /** @type {Map<string, Parameter[]>} */ const byName = new Map();
  for (const parameter of schema) {
    byName.set(parameter.group, [...(byName.get(parameter.group) ?? []), parameter]);
  }
  return [...byName].map(([name, parameters]) => ({ name, parameters }));
}

/** @param {Parameter} parameter @returns {Array<[string, string]>|null} value and label */
function choicesOf(parameter) {
  if (parameter.kind === "bool") return [["true", "On"], ["false", "Off"]];
  if (parameter.kind !== "choice") return null;
  return (parameter.choices ?? []).map((choice) => [String(choice), String(choice)]);
}

/** @param {Parameter} parameter @param {string} text @returns {string} what is wrong with it, "" when nothing */
function problem(parameter, text) {
  const { kind, min = -Infinity, max = Infinity } = parameter;
  if (kind === "int" && !/^[+-]?\d+$/.test(text)) return "Enter a whole number.";
  if (kind === "float" && !Number.isFinite(Number(text))) return "Enter a number.";
  if ((kind === "int" || kind === "float") && (Number(text) < min || Number(text) > max)) return range(min, max);
  if (/[;#\u0000-\u001f]/.test(text)) return "The characters ; and # cannot be used here.";
  return "";
}

/** @param {number} min @param {number} max */
function range(min, max) {
  if (max === Infinity) return `Enter ${min} or more.`;
  return min === -Infinity ? `Enter ${max} or less.` : `Enter a number from ${min} to ${max}.`;
}

/** @param {Parameter} parameter @param {string} text */
function converted(parameter, text) {
  if (parameter.kind === "bool") return text === "true";
  return parameter.kind === "int" || parameter.kind === "float" ? Number(text) : text;
}
