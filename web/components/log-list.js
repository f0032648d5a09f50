import { Component, h } from "../core/component.js";
import { AHEAD, dateTime, day, now, wall } from "../core/format.js";

/**
 * @typedef {{seq: number, id: number, timestamp: number, future?: boolean, level: string, source: string,
 *   message: string}} Line
 */

/** Lines drawn and measured together; small enough to keep little beyond the edges. */
const CHUNK = 40;
/** Height in px assumed for a line until its chunk was measured. */
const LINE_HEIGHT = 22;
/** How far beyond each edge lines are drawn (px). */
const MARGIN = 500;
/** This near to the bottom (px) counts as being there. */
const BOTTOM_SLACK = 24;

/**
 * Log lines, of which only those in sight exist, however many there are.
 *
 * Lines carry consecutive `seq` numbers (older ones may be negative), so chunks stay the same ones when lines
 * are added at either end; each chunk's height is measured once it was drawn, hence wrapped lines work too.
 * Props: `lines` (oldest first), `wrap`, `follow`, `onFollow(boolean)`, `onTop()`, `onBottom()`, `search` (what is
 * marked), `target` (the id of the line to go to, once for each value), `onLine(id)`.
 */
export class LogList extends Component {
  getInitialState() {
    return { from: 0, to: 0 };
  }

  init() {
    /** @type {Map<number, {key: string, height: number}>} */ this.heights = new Map();
    /** @type {{seq: string, top: number}|null} */ this.anchor = null;
    this.width = 0;
    /** @type {number | null} */ this.gone = null; // the target that was shown
  }

  getEventMap() {
    return {
      "click .log-time": (/** @type {Event} */ _event, /** @type {HTMLElement} */ button) =>
        this.props.onLine?.(Number(button.dataset.line)),
    };
  }

  didMount() {
    const onScroll = () => this.scrolled();
    this.element.addEventListener("scroll", onScroll, { passive: true });
    const observer = new ResizeObserver(() => {
      this.width = this.element.clientWidth;
      this.keepPlace();
    });
    observer.observe(this.element);
    this.goToTarget();
    this.keepPlace();
    return [() => observer.disconnect(), () => this.element.removeEventListener("scroll", onScroll)];
  }

  didUpdate() {
    this.goToTarget();
    this.keepPlace();
  }

  /** Scroll to the line `target`, near its middle, if that was not done yet. */
  goToTarget() {
    const { target = null } = this.props;
    const line = target !== this.gone && this.props.lines.find((/** @type {Line} */ { id }) => id === target);
    if (target === null) this.gone = null;
    if (!line || this.props.follow) return;
    this.gone = target;
    this.anchor = { seq: String(line.seq), top: this.element.clientHeight / 3 };
    let y = 0;
    for (const chunk of this.chunks()) if (chunk.id < Math.floor(line.seq / CHUNK)) y += chunk.height;
    this.element.scrollTop = y;
  }

  /** After drawing: learn the real heights, then keep the newest line or the line being read in place. */
  keepPlace() {
    let changed = false;
    for (const element of /** @type {NodeListOf<HTMLElement>} */ (this.element.querySelectorAll(".log-chunk"))) {
      const id = Number(element.dataset.chunk);
      const known = this.heights.get(id);
      const height = element.offsetHeight;
      const key = this.measureKey(Number(element.dataset.count));
      if (known?.key !== key || known.height !== height) {
        this.heights.set(id, { key, height });
        changed = true;
      }
    }
    if (this.props.follow) this.element.scrollTop = this.element.scrollHeight;
    else this.restoreAnchor();
    if (this.updateWindow() || (changed && !this.props.follow)) this.setState({});
  }

  restoreAnchor() {
    if (!this.anchor) return;
    const line = this.element.querySelector(`[data-seq="${this.anchor.seq}"]`);
    if (!line) return;
    const moved = line.getBoundingClientRect().top - this.element.getBoundingClientRect().top - this.anchor.top;
    if (Math.abs(moved) >= 1) this.element.scrollTop += moved;
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    const atBottom = scrollHeight - scrollTop - clientHeight < BOTTOM_SLACK;
    this.anchor = atBottom ? null : this.firstInSight();
    if (atBottom !== this.props.follow) this.props.onFollow(atBottom);
    if (scrollTop < MARGIN && scrollHeight > clientHeight) this.props.onTop();
    if (scrollHeight - scrollTop - clientHeight < MARGIN) this.props.onBottom?.();
    if (this.updateWindow()) this.setState({});
  }

  /** @returns {{seq: string, top: number}|null} */
  firstInSight() {
    const box = this.element.getBoundingClientRect();
    for (const line of /** @type {NodeListOf<HTMLElement>} */ (this.element.querySelectorAll(".log-line"))) {
      const { top, bottom } = line.getBoundingClientRect();
      if (bottom > box.top) return { seq: line.dataset.seq ?? "", top: top - box.top };
    }
    return null;
  }

  /** @param {number} count */
  measureKey(count) {
    return `${count}:${this.width}:${this.props.wrap}`;
  }

  /** @returns {Array<{id: number, lines: Line[]|null, start: number, end: number, height: number}>} */
  chunks() {
    const lines = /** @type {Line[]} */ (this.props.lines);
    const found = [];
    for (let start = 0; start < lines.length;) {
      const id = Math.floor(lines[start].seq / CHUNK);
      const end = Math.min(lines.length, start + (id + 1) * CHUNK - lines[start].seq);
      const known = this.heights.get(id);
      const height = known?.key === this.measureKey(end - start) ? known.height : (end - start) * LINE_HEIGHT;
      found.push({ id, lines: null, start, end, height });
      start = end;
    }
    return found;
  }

  /**
   * The chunks that fill the window from the newest line upwards.
   * @param {ReturnType<LogList["chunks"]>} chunks @returns {number} the first one's id
   */
  newestFrom(chunks) {
    let height = 0;
    const enough = (this.element?.clientHeight ?? window.innerHeight) + MARGIN;
    return chunks.findLast((chunk) => (height += chunk.height) >= enough)?.id ?? chunks[0]?.id ?? 0;
  }

  /** Which chunks are in sight. @returns {boolean} whether that changed */
  updateWindow() {
    if (this.props.follow) return false;
    const top = this.element.scrollTop - MARGIN;
    const bottom = this.element.scrollTop + this.element.clientHeight + MARGIN;
    const chunks = this.chunks();
    let [from, to, y] = [chunks.length, 0, 0];
    chunks.forEach((chunk, index) => {
      if (y + chunk.height >= top && y <= bottom) {
        from = Math.min(from, index);
        to = index + 1;
      }
      y += chunk.height;
    });
    const [fromId, toId] = [chunks[from]?.id ?? 0, chunks[to - 1]?.id ?? 0];
    const changed = fromId !== this.state.from || toId !== this.state.to;
    this.state.from = fromId;
    this.state.to = toId;
    return changed;
  }

  /**
   * A line, below its day where that is another one than the line's before.
   * @param {Line} line @param {Line} [before]
   */
  logLine(line, before) {
    const { search, target } = this.props;
    const [today, last] = [line, before].map((it) => it && day(it.timestamp));
    return [
      today !== last && h("div", { key: `day${line.seq}`, className: "log-day" },
        wall(line.timestamp).toLocaleDateString(undefined, { dateStyle: "full", timeZone: "UTC" })),
      h("div", {
        key: line.seq, className: `log-line is-${line.level}${line.id && line.id === target ? " is-target" : ""}`,
        dataset: { seq: String(line.seq) },
      },
        h("button", {
          type: "button", className: "log-time", dataset: { line: String(line.id) }, disabled: !line.id,
          title: `${dateTime(line.timestamp)}: show the lines around`,
        }, clock(line.timestamp)),
        h("span", { className: "log-level" }, line.level),
        h("span", { className: "log-source", title: line.source }, line.source),
        h("span", { className: "log-message" }, marked(line.message, search),
          line.future ? h("em", null, AHEAD) : null)),
    ];
  }

  render() {
    const lines = /** @type {Line[]} */ (this.props.lines);
    const chunks = this.chunks();
    // While following, the newest lines are drawn: what else is in sight is only known after scrolling there.
    const [from, to] = this.props.follow ? [this.newestFrom(chunks), Infinity] : [this.state.from, this.state.to];
    let [before, after] = [0, 0];
    const drawn = [];
    for (const chunk of chunks) {
      if (chunk.id < from) before += chunk.height;
      else if (chunk.id > to) after += chunk.height;
      else drawn.push(h("div", {
        key: `chunk${chunk.id}`, className: "log-chunk",
        dataset: { chunk: String(chunk.id), count: String(chunk.end - chunk.start) },
      },
        lines.slice(chunk.start, chunk.end).flatMap((line, at) => this.logLine(line, lines[chunk.start + at - 1]))));
    }
    return h("div", {
      className: `log-scroll${this.props.wrap ? " is-wrapped" : ""}`, tabIndex: 0, role: "region",
      "aria-label": "Log lines, newest last",
    },
      h("div", {
        key: "before", style: { height: `${before}px` },
      }), drawn, h("div", { key: "after", style: { height: `${after}px` } }));
  }
}

/**
 * `text` with what was searched for marked, in whatever case.
 * @param {string} text @param {string} [search]
 */
export function marked(text, search) {
  if (!search) return text;
  const parts = [];
  const [lower, wanted] = [text.toLowerCase(), search.toLowerCase()];
  if (lower.length !== text.length) return text; // letters that become two: no places to go by
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
    parts.push(text.slice(from, at), h("mark", null, text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  return [...parts, text.slice(from)];
}

/** @param {number} timestamp ms @returns {string} the server's time with milliseconds, on other days with the date */
function clock(timestamp) {
  const date = wall(timestamp);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const today = day(timestamp) === day(now()) ? "" : `${two(date.getUTCMonth() + 1)}-${two(date.getUTCDate())} `;
  const time = [date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()].map(two).join(":");
  return `${today}${time}.${String(date.getUTCMilliseconds()).padStart(3, "0")}`;
}
