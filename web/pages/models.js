import { readStorage, writeStorage } from "../core/auth.js";
import { Component, h } from "../core/component.js";
import { plural } from "../core/format.js";
import { DeleteModel } from "../components/delete-model.js";
import { confirmDialog, Dialog } from "../components/dialog.js";
import { DownloadQueue } from "../components/download-queue.js";
import { Filters } from "../components/filters.js";
import { FirstRun } from "../components/first-run.js";
import { GetModels } from "../components/get-models.js";
import { icon } from "../components/icon.js";
import { ImportModel } from "../components/import-model.js";
import { ModelDetail } from "../components/model-detail.js";
import { ModelList } from "../components/model-list.js";
import { statusLabel } from "../components/model-status.js";
import { PresetsDialog } from "../components/presets-dialog.js";
import { ModelSelection } from "../components/model-selection.js";
import { groupModels, queryModels } from "../components/query-models.js";
import { emptyState, errorState, loadingState } from "../components/states.js";
import { toast } from "../components/toast.js";
import { upstreamModels } from "../components/upstream-models.js";

/** @typedef {Record<string, any>} Model */
/** @typedef {import("../components/query-models.js").Query} Query */

/** @type {Query} */
const DEFAULT_QUERY = {
  search: "", status: "", architecture: "", quantization: "", tags: "", favorites: false, sort: "name",
  descending: false,
};

/** Where this browser remembers how the list is sorted. */
const SORT_KEY = "llamadash.models.sort";
/** And whether quantizations of one model are under one heading. */
const GROUP_KEY = "llamadash.models.group";

/** A scan of a very large folder on a slow disk may need this long (ms). */
const SCAN_TIMEOUT = 10 * 60_000;

/** @type {Array<[string, string, boolean]>} key, label and whether its natural order is descending */
const SORTS = [
  ["name", "Name", false],
  ["size", "File size", true],
  ["parameters", "Parameters", true],
  ["context", "Context", true],
  ["quantization", "Quantization", false],
  ["memory", "Memory", true],
  ["used", "Last used", true],
  ["speed", "Speed", true],
  ["added", "Recently added", true],
  ["status", "Status", false],
];

/** @typedef {"status"|"architecture"|"quantization"|"tags"} FilterName */
/** @type {Array<[FilterName, string]>} */
const FILTERS = [
  ["status", "Any status"], ["architecture", "Any architecture"], ["quantization", "Any quantization"],
  ["tags", "Any tag"],
];

/** The library: find, load, inspect, tune, add and delete models. */
export class ModelsPage extends Component {
  static title = "Models";

  /** @param {any} props */
  constructor(props) {
    super(props);
    const { state } = props;
    /** @type {any} */ this.state = {
      models: state.get("models"),
      scan: state.get("scan"),
      engine: state.get("engine"),
      config: state.get("config"),
      downloads: state.get("downloads") ?? [],
      query: { ...DEFAULT_QUERY, ...rememberedSort() },
      busy: new Set(),
      chosen: new Set(),
      grouping: readStorage(GROUP_KEY) !== "off",
      open: new Set(),
      dialog: null,
      deleting: "",
      scanning: false,
      error: "",
    };
    this.uses = lastUses(state.get("requests"));
    /** The model whose box was changed last: with Shift the next one chooses all between. */
    this.chosenLast = "";
    /** Ids of the models whose star is being changed. @type {Set<string>} */ this.starring = new Set();
    /** Whether parameters were typed and not saved. @type {boolean} */ this.dirty = false;
    /**
     * The answer of queryModels for these models and this query.
     * @type {{by: any[], answer: ReturnType<typeof queryModels> & {items: any[]}|null}}
     */
    this.found = { by: [], answer: null };
    /** Where the page was scrolled to when an address was left, and when the list was. @type {number|null} */
    this.left = null;
    this.listTop = 0;
    this.onDirty = (/** @type {boolean} */ dirty) => { this.dirty = dirty; };
    this.onClearChosen = () => this.setState({ chosen: new Set() });
    this.closeDialog = () => this.setState({ dialog: null, deleting: "" });
    this.onCreated = (/** @type {Model} */ model) => {
      this.closeDialog();
      this.props.router.navigate(`/models/${model.id}`);
    };
  }

  getEventMap() {
    return {
      "input [data-role=\"search\"]": "handleSearch",
      "change [data-filter]": "handleFilter",
      "change [data-role=\"sort\"]": "handleSortSelect",
      "click [data-action=\"sort\"]": "handleSort",
      "click [data-action=\"direction\"]": "handleDirection",
      "click [data-action=\"favorites\"]": "handleFavorites",
      "click [data-action=\"grouping\"]": "handleGrouping",
      "click [data-action=\"group\"]": "handleGroup",
      "click [data-choose]": "handleChoose",
      "click [data-action=\"clear-filters\"]": "handleClear",
      "click [data-action=\"load\"]": (
        /** @type {Event} */ _event, /** @type {HTMLElement} */ element
      ) => this.act("models:load", element),
      "click [data-action=\"unload\"]": (
        /** @type {Event} */ _event, /** @type {HTMLElement} */ element
      ) => this.act("models:unload", element),
      "click [data-action=\"favorite\"]": "handleFavorite",
      "click [data-action=\"delete\"]": "handleDelete",
      "click [data-action=\"scan\"]": "handleScan",
      "click [data-action=\"import\"]": () => this.setState({ dialog: "import" }),
      "click [data-action=\"presets\"]": () => this.setState({ dialog: "presets" }),
      "click [data-action=\"get-models\"]": () => this.setState({ dialog: "get" }),
      "click [data-action=\"skipped\"]": () => this.setState({ dialog: "skipped" }),
      "click [data-action=\"retry\"]": "handleRetry",
      keydown: "handleKey",
    };
  }

  didMount() {
    const { state, router } = this.props;
    const follow = (/** @type {string} */ key) => state.subscribe(key, (/** @type {any} */ value) =>
      this.setState({ [key]: value }));
    const guardUnload = (/** @type {BeforeUnloadEvent} */ event) => { if (this.dirty) event.preventDefault(); };
    window.addEventListener("beforeunload", guardUnload);
    this.fetch();
    return [
      ...["models", "scan", "engine", "config", "downloads"].map(follow),
      state.subscribe("requests", (/** @type {any[]} */ requests) => this.updateUses(requests)),
      router.before((/** @type {any} */ to) => this.guard(to)),
      router.after(() => this.keepScroll()),
      () => window.removeEventListener("beforeunload", guardUnload),
    ];
  }

  /** A question about a model ends with the model. */
  didUpdate() {
    if (this.state.dialog === "delete" && !this.find(this.state.deleting)) this.closeDialog();
  }

  async fetch() {
    const { state } = this.props;
    for (const key of ["config", "requests", "downloads"]) state.load(key).catch(() => {});
    try {
      await state.load("models");
    } catch (error) {
      this.setState({ error: /** @type {Error} */ (error).message });
    }
  }

  handleRetry() {
    this.setState({ error: "" });
    this.fetch();
  }

  /** @param {any[]} requests */
  updateUses(requests) {
    this.uses = lastUses(requests);
    this.setState({});
  }

  /** Ask before typed parameters are left behind. @param {any} to */
  async guard(to) {
    this.left = window.scrollY;
    if (!this.props.params.id) this.listTop = window.scrollY;
    if (!this.dirty || to.params.id === this.props.params.id) return undefined;
    const leave = await confirmDialog({
      title: "Leave without saving?", body: "The parameters you changed have not been saved.", confirmLabel: "Leave",
      cancelLabel: "Keep editing", danger: true,
    });
    if (leave) this.dirty = false;
    return leave;
  }

  /** The list stays where it was when a model opens beside it, or closes again. */
  keepScroll() {
    if (this.left === null) return;
    if (matchMedia("(min-width: 1100px)").matches) window.scrollTo(0, this.left);
    else if (!this.props.params.id) window.scrollTo(0, this.listTop);
  }

  /** @param {Partial<Query>} changes */
  query(changes) {
    this.setState({ query: { ...this.state.query, ...changes } });
  }

  /** @param {Event} _event @param {HTMLInputElement} element */
  handleSearch(_event, element) {
    this.query({ search: element.value });
  }

  /** @param {Event} _event @param {HTMLSelectElement} element */
  handleFilter(_event, element) {
    this.query({ [element.dataset.filter ?? ""]: element.value });
  }

  /** @param {Event} _event @param {HTMLSelectElement} element */
  handleSortSelect(_event, element) {
    this.sort(element.value, SORTS.find(([key]) => key === element.value)?.[2] ?? false);
  }

  /** A second click on a heading turns the order round. @param {Event} _event @param {HTMLElement} element */
  handleSort(_event, element) {
    const sort = element.dataset.sort ?? "name";
    const natural = SORTS.find(([key]) => key === sort)?.[2] ?? false;
    this.sort(sort, this.state.query.sort === sort ? !this.state.query.descending : natural);
  }

  handleDirection() {
    this.sort(this.state.query.sort, !this.state.query.descending);
  }

  /** @param {string} sort @param {boolean} descending */
  sort(sort, descending) {
    try {
      localStorage.setItem(SORT_KEY, JSON.stringify({ sort, descending }));
    } catch {
      // Storage may be full or forbidden; the order still holds for this visit.
    }
    this.query({ sort, descending });
  }

  handleFavorites() {
    this.query({ favorites: !this.state.query.favorites });
  }

  handleGrouping() {
    writeStorage(GROUP_KEY, this.state.grouping ? "off" : "on");
    this.setState({ grouping: !this.state.grouping });
  }

  /** @param {Event} _event @param {HTMLElement} element */
  handleGroup(_event, element) {
    const { group = "" } = element.dataset;
    const open = new Set(this.state.open);
    if (!open.delete(group)) open.add(group);
    this.setState({ open });
  }

  /** A box chooses its models, with Shift all from the last one on. @param {MouseEvent} event @param {any} box */
  handleChoose(event, box) {
    const ids = box.dataset.choose.split(" ");
    const all = this.visible().items.filter((item) => !item.group).map(({ id }) => id);
    const [from, to] = [all.indexOf(this.chosenLast), all.indexOf(ids[0])].sort((a, b) => a - b);
    if (event.shiftKey && ids.length === 1 && from >= 0) ids.push(...all.slice(from, to + 1));
    this.chosenLast = ids[0];
    const chosen = new Set(this.state.chosen);
    for (const id of ids) chosen[box.checked ? "add" : "delete"](id);
    this.setState({ chosen });
  }

  handleClear() {
    const { sort, descending } = this.state.query;
    this.query({ ...DEFAULT_QUERY, sort, descending });
  }

  /** Escape closes the details. @param {KeyboardEvent} event */
  handleKey(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (
      event.key !== "Escape" || event.defaultPrevented || !this.props.params.id
        || target.closest("dialog, input, select, textarea")
    ) {
      return;
    }
    this.props.router.navigate("/models");
  }

  /** @param {string} event @param {HTMLElement} element */
  async act(event, element) {
    const id = element.dataset.id ?? "";
    if (this.state.busy.has(id)) return; // its button keeps the focus, so it is not disabled
    this.setState({ busy: new Set([...this.state.busy, id]) });
    try {
      await this.props.state.request(event, { id });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
    this.setState({ busy: new Set([...this.state.busy].filter((item) => item !== id)) });
  }

  /** @param {Event} _event @param {HTMLElement} element */
  async handleFavorite(_event, element) {
    const model = this.find(element.dataset.id ?? "");
    if (!model || this.starring.has(model.id)) return; // a double click
    this.starring.add(model.id);
    try {
      await this.props.state.request("models:update", {
        id: model.id, revision: model.revision, changes: { favorite: !model.favorite },
      });
    } catch (error) {
      toast(/** @type {Error} */ (error).message, { kind: "error" });
    }
    this.starring.delete(model.id);
  }

  /** @param {Event} _event @param {HTMLElement} element */
  handleDelete(_event, element) {
    this.setState({ dialog: "delete", deleting: element.dataset.id });
  }

  async handleScan() {
    this.setState({ scanning: true });
    try {
      const { added, updated, missing, skipped, total } = await this.props.state.request("models:scan", {}, {
        timeout: SCAN_TIMEOUT,
      });
      const changes = [
        added && `${added} added`, updated && `${updated} updated`, missing && `${missing} missing`,
        skipped.length && `${skipped.length} skipped`,
      ].filter(Boolean);
      toast(`${plural(total, "model")} found${changes.length ? `: ${changes.join(", ")}` : ", nothing new"}`, {
        kind: "success",
        action: skipped.length && !this.destroyed
          ? { label: "Show skipped", run: () => this.setState({ dialog: "skipped" }) }
          : undefined,
      });
    } catch (error) {
      toast(`The scan failed: ${/** @type {Error} */ (error).message}`, { kind: "error" });
    }
    this.setState({ scanning: false });
  }

  /** @param {string} id @returns {Model|undefined} */
  find(id) {
    return (this.state.models ?? []).find((/** @type {Model} */ model) => model.id === id);
  }

  /** Filtering and sorting only when models or query changed, so that rows stay the same objects. */
  visible() {
    const { models, query, grouping, open } = this.state;
    const { id } = this.props.params;
    const by = [models, query, grouping, open, id, this.uses];
    if (!this.found.answer || by.some((value, at) => value !== this.found.by[at])) {
      const { rows, facets } = queryModels(models, query, this.uses);
      const items = grouping ? groupModels(rows, open, Boolean(query.search), id) : rows;
      this.found = { by, answer: { rows, facets, items } };
    }
    return /** @type {NonNullable<ModelsPage["found"]["answer"]>} */ (this.found.answer);
  }

  render() {
    const { models, error } = this.state;
    const id = this.props.params.id;
    return h("div", { className: `page models-page${id && models?.length ? " has-detail" : ""}` },
      this.header(),
      !models ? this.wait(error) : models.length ? this.full(id) : this.empty(),
      this.dialog());
  }

  header() {
    const { scan, models } = this.state;
    const scanning = this.state.scanning || Boolean(scan);
    return h("header", { key: "header", className: "page-header" },
      h("div", { key: "title", className: "row" },
        h("h1", { className: "page-title" }, "Models"),
        models && h("span", { className: "muted models-count" },
          models.length ? `${plural(models.length, "model")}` : "")),
      h("div", { key: "actions", className: "page-actions" },
        this.skipped().length > 0 && h("button", {
          key: "skipped", type: "button", className: "button button-ghost", dataset: { action: "skipped" },
        }, icon("warning"), `${this.skipped().length} skipped`),
        h("button", {
          key: "presets", type: "button", className: "button button-ghost", dataset: { action: "presets" },
        }, "Presets"),
        h("button", { key: "import", type: "button", className: "button button-ghost", dataset: { action: "import" } },
          icon("plus"),
          "Add by path"),
        h("button", {
          key: "scan", type: "button", className: "button scan-button", disabled: scanning, "aria-busy": scanning,
          dataset: { action: "scan" },
        },
          icon("refresh"), scan?.total ? `Scanning ${scan.done} of ${scan.total}` : scanning ? "Scanning…" : "Scan"),
        h("button", {
          key: "get", type: "button", className: "button button-primary", dataset: { action: "get-models" },
        }, icon("download"), "Get models")),
      scanning && h("progress", {
        key: "progress", className: "scan-progress", max: scan?.total || 1, value: scan?.total ? scan.done : null,
        "aria-label": "Scan of the model folders",
      }));
  }

  /** @param {string} error */
  wait(error) {
    return h("div", { key: "wait", className: "card" }, error ? errorState({
      title: "The models could not be loaded", body: error,
      action: h("button", { type: "button", className: "button", dataset: { action: "retry" } }, "Try again"),
    }) : loadingState("Loading models…"));
  }

  empty() {
    return [upstreamModels(this.state.engine?.upstreams), this.firstRun()];
  }

  firstRun() {
    return h(FirstRun, {
      key: "first", state: this.props.state, engine: this.state.engine,
      scanning: this.state.scanning || Boolean(this.state.scan),
    });
  }

  /** @param {string|undefined} id */
  full(id) {
    const { rows, facets, items } = this.visible();
    const { query, busy, models, chosen } = this.state;
    const picked = models.filter((/** @type {Model} */ one) => chosen.has(one.id));
    const model = id ? this.find(id) : undefined;
    const active = this.state.downloads.filter((/** @type {any} */ item) =>
      ["queued", "running", "paused", "verifying", "failed"].includes(item.status));
    return h("div", { key: "full", className: "models-split" },
      h("div", { key: "main", className: "models-main" },
        active.length > 0 && h("section", { key: "downloads", className: "card models-downloads" },
          h(DownloadQueue, { state: this.props.state, downloads: active })),
        this.toolbar(facets),
        picked.length > 0 && h(ModelSelection, {
          key: "selection", state: this.props.state, models: picked, all: models, clear: this.onClearChosen,
        }),
        h("div", { key: "list", className: "card models-card" },
          rows.length
            ? h(ModelList, {
              key: "list", models: items, selected: id, sort: query.sort, descending: query.descending, busy, chosen,
              devices: this.state.engine?.devices, uses: this.uses,
            })
            : h("div", { key: "none" }, emptyState({
              title: "No model matches", body: "Try other words, or fewer filters.", iconName: "search",
              action: h("button", { type: "button", className: "button", dataset: { action: "clear-filters" } },
                "Clear search and filters"),
            }))),
        upstreamModels(this.state.engine?.upstreams)),
      id && h("aside", { key: "side", className: "models-side", "aria-label": "Details" }, model
        ? h(ModelDetail, {
          key: id, state: this.props.state, model, schema: this.state.config?.parameters,
          inherited: this.state.config?.config?.defaults, idleDefault: this.state.config?.config?.idle_seconds,
          busy: busy.has(id), onDirty: this.onDirty,
        })
        : h("div", { key: "gone", className: "card" },
          emptyState({
            title: "Model not found", body: `There is no model ${id}.`,
            action: h("a", { className: "button", href: "/models" }, "Back to the list"),
          }))));
  }

  /** @param {ReturnType<typeof queryModels>["facets"]} facets */
  toolbar(facets) {
    const { query } = this.state;
    const set = [query.favorites, ...FILTERS.map(([name]) => query[name])];
    const filtered = Boolean(query.search || set.some(Boolean));
    return h("div", { key: "toolbar", className: "toolbar models-toolbar", role: "search", "aria-label": "Models" },
      h("div", { key: "search", className: "input-with-icon models-search" }, icon("search"),
        h("label", { className: "visually-hidden", htmlFor: "models-search" }, "Search models"),
        h("input", {
          id: "models-search", className: "input", type: "search", placeholder: "Search models",
          autocomplete: "off", value: query.search, dataset: { role: "search" },
        })),
      h(Filters, { key: "filters", count: set.filter(Boolean).length },
        FILTERS.map(([name, any]) => name === "tags" && !facets.tags.length && !query.tags ? null
          : this.filter(name, any, facets[name])),
        h("button", {
          key: "favorites", type: "button", className: `button models-favorites${query.favorites ? " is-on" : ""}`,
          dataset: { action: "favorites" }, "aria-pressed": query.favorites,
        },
          icon(query.favorites ? "star-filled" : "star"), h("span", null, "Favourites")),
        h("button", {
          key: "grouping", type: "button", className: `button${this.state.grouping ? " is-on" : ""}`,
          dataset: { action: "grouping" }, "aria-pressed": this.state.grouping,
          title: "Quantizations of one model under one heading",
        }, icon("models"), h("span", null, "Group")),
        h("div", { key: "sort", className: "models-sorting" },
          h("label", { className: "visually-hidden", htmlFor: "models-sort" }, "Sort by"),
          h("select", { id: "models-sort", className: "select", value: query.sort, dataset: { role: "sort" } },
            SORTS.map(([key, label]) => h("option", { key, value: key }, label))),
          h("button", {
            type: "button", className: "button button-icon", dataset: { action: "direction" },
            "aria-label": query.descending ? "Descending; sort ascending" : "Ascending; sort descending",
            title: query.descending ? "Descending" : "Ascending",
          }, h("span", { "aria-hidden": "true" }, query.descending ? "↓" : "↑")))),
      filtered && h("button", {
        key: "clear", type: "button", className: "button button-ghost", dataset: { action: "clear-filters" },
      }, icon("close"), "Clear"));
  }

  /**
   * @param {FilterName} name @param {string} any
   * @param {Array<{value: string, count: number}>} facet
   */
  filter(name, any, facet) {
    const chosen = this.state.query[name];
    const options = !chosen || facet.some(({ value }) => value === chosen)
      ? facet
      : [...facet, { value: chosen, count: 0 }];
    const label = (/** @type {string} */ value) => (name === "status" ? statusLabel(value)[0] : value);
    return h("select", {
      key: name, className: `select models-filter${chosen ? " is-on" : ""}`, value: chosen, dataset: { filter: name },
      "aria-label": `Filter by ${name === "tags" ? "tag" : name}`,
    },
      h("option", { key: "", value: "" }, any),
      options.map(({ value, count }) => h("option", { key: value, value }, `${label(value)} (${count})`)));
  }

  dialog() {
    const { state } = this.props;
    const { dialog, deleting } = this.state;
    const close = this.closeDialog;
    const model = this.find(deleting);
    if (dialog === "import") return h(ImportModel, { key: "import", state, close, onCreated: this.onCreated });
    if (dialog === "presets") return h(PresetsDialog, { key: "presets", state, close });
    if (dialog === "get") return h(GetModels, { key: "get", state, close });
    if (dialog === "delete" && model) return h(DeleteModel, { key: "delete", state, model, close });
    if (dialog === "skipped") return this.skippedDialog();
    return null;
  }

  /** Details open with the focus in them, and give it back to their row. @param {any} props */
  receive(props) {
    const before = this.props.params.id;
    super.receive(props);
    const { id } = props.params;
    if (id === before) return;
    const place = id ? ".model-detail-title" : `.model-row[data-id="${CSS.escape(before)}"] a`;
    this.element.querySelector(place)?.focus({ preventScroll: Boolean(id) });
  }

  /** The files that the last scan left out. @returns {Array<{path: string, reason: string}>} */
  skipped() {
    return this.state.config?.skipped ?? [];
  }

  skippedDialog() {
    const skipped = this.skipped();
    return h(Dialog, {
      key: "skipped", title: `${plural(skipped.length, "file")} skipped`, wide: true, close: this.closeDialog,
    },
      h("ul", { className: "list skipped-list" },
        skipped.map(({ path, reason }) =>
          h("li", { key: path, className: "list-item skipped-item" },
            h("code", { className: "break-all" }, path),
            h("span", { className: "muted" }, reason)))));
  }
}

/** @returns {Partial<Query>} */
function rememberedSort() {
  try {
    const { sort, descending } = JSON.parse(localStorage.getItem(SORT_KEY) ?? "{}");
    return SORTS.some(([key]) => key === sort) ? { sort, descending: Boolean(descending) } : {};
  } catch {
    return {};
  }
}

/**
 * What the last requests tell that the models' rows do not tell yet.
 * @param {any[]|undefined} requests newest first @returns {import("../components/query-models.js").Uses}
 */
function lastUses(requests) {
  const oldest = [...(requests ?? [])].reverse();
  const timed = oldest.filter(({ generated_per_second: speed }) => speed);
  return {
    used: new Map(oldest.map(({ model, timestamp }) => [model, timestamp])),
    speed: new Map(timed.map(({ model, generated_per_second: speed }) => [model, speed])),
  };
}
