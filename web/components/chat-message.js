/**
 * One message of a conversation.
 *
 * @typedef {import("../core/conversations.js").Message} Message
 * @typedef {import("../core/conversations.js").AnswerStats} AnswerStats
 * @typedef {import("../core/conversations.js").Failure} Failure
 * @typedef {import("../core/chat.js").Run} Run
 * @typedef {import("../core/component.js").VNode} VNode
 */

import { Component, h } from "../core/component.js";
import { duration, energy, number, percent, tokenRate, tokens } from "../core/format.js";
import { addressOf } from "../core/attachments.js";
import { CopyButton } from "./copy-button.js";
import { icon } from "./icon.js";
import { Markdown } from "./markdown.js";
import { progressBar } from "./progress.js";

const LIVE_SPEED_AFTER_MS = 500; // a speed measured over less time jumps about

/**
 * @typedef {object} ChatMessageProps
 * @property {Message} message
 * @property {boolean} last
 * @property {Message[]} siblings what stands at its place, itself among them
 * @property {Message[]} results what the tools that it calls have said
 * @property {boolean} compared whether others answer beside it
 * @property {{currency?: string}} settings
 * @property {(event: string, data: any) => Promise<any>} request asks the server
 * @property {boolean} busy whether no answer can be asked for at the moment
 * @property {boolean} editing
 * @property {() => Run | null} run the answer that is being written
 * @property {() => {status: string, progress: number | null, stage: string | null} | null} loading what the model is
 *   doing
 * @property {Map<string, ChatMessage>} views where the page finds this component
 * @property {() => void} updated called after every patch
 */

/** A question or an answer, with what can be done about it; the page handles the `data-action`s. */
export class ChatMessage extends Component {
  didMount() {
    const { views, message } = this.props;
    views.set(message.id, this);
    return [() => views.delete(message.id)];
  }

  didUpdate() {
    this.props.updated();
  }

  render() {
    const { message, editing } = /** @type {ChatMessageProps} */ (this.props);
    if (message.role === "user") return editing ? this.renderEditor() : this.renderQuestion();
    return this.renderAnswer();
  }

  renderQuestion() {
    const { message, busy, last, request } = /** @type {ChatMessageProps} */ (this.props);
    const { attachments = [] } = message;
    return h("article", {
      className: "chat-message chat-question", dataset: { message: message.id }, "aria-label": "You",
    },
      h("div", { className: "chat-bubble" },
        attachments.length
          ? h("div", { className: "chat-files" },
            attachments.map((file, at) => h(ChatFile, { key: at, file, request })))
          : null,
        message.content),
      h("div", { className: "chat-actions" },
        this.renderBranches(),
        last ? action("regenerate", "refresh", "Answer this", busy) : null,
        action("edit", "edit", "Edit and send again", busy),
        h(CopyButton, { text: message.content, label: "Copy message" })));
  }

  /** Which of several messages at this place is shown, and the ways to the others. */
  renderBranches() {
    const { message, siblings } = /** @type {ChatMessageProps} */ (this.props);
    if (siblings.length < 2) return null;
    const at = siblings.indexOf(message);
    const arrow = (/** @type {number} */ to, /** @type {string} */ label, /** @type {string} */ kind) => h("button", {
      type: "button", className: `button button-ghost button-icon ${kind}`, disabled: !siblings[to], title: label,
      "aria-label": label, dataset: { action: "branch", id: siblings[to]?.id ?? "" },
    }, icon("chevron-right", { size: 16 }));
    return h("span", { className: "chat-branches" },
      arrow(at - 1, "Previous version", "chat-before"),
      h("span", { className: "chat-small" }, `${at + 1}/${siblings.length}`),
      arrow(at + 1, "Next version", "chat-next"));
  }

  renderEditor() {
    const { message } = /** @type {ChatMessageProps} */ (this.props);
    return h("form", { className: "chat-message chat-editor", dataset: { message: message.id, form: "edit" } },
      h("textarea", {
        className: "input", name: "text", rows: "3", value: message.content, "aria-label": "Edit your message",
        ref: (/** @type {HTMLTextAreaElement} */ area) => requestAnimationFrame(() => area.focus()),
      }),
      h("div", { className: "row" },
        h("span", { className: "muted chat-small" }, "This starts a new branch. The original stays."),
        h("span", { className: "spacer" }),
        h("button", { type: "button", className: "button", dataset: { action: "edit-cancel" } }, "Cancel"),
        h("button", { type: "submit", className: "button button-primary" }, "Send")));
  }

  renderAnswer() {
    const { message, last, busy, results } = /** @type {ChatMessageProps} */ (this.props);
    const pending = message.status === "answering";
    const cut = message.status === "stopped" || message.status === "cut";
    const note = cut
      ? `${message.status === "cut" ? "Cut off" : "Stopped"} before the ${message.content ? "end" : "first word"}.`
      : message.stats?.finish_reason === "length" ? "Token limit reached." : "";
    const calls = message.tool_calls ?? [];
    return h("article", {
      className: "chat-message chat-answer", dataset: { message: message.id },
      "aria-label": `Answer of ${message.model}`,
    },
      h("div", { className: "chat-author" }, icon("bolt"), h("span", null, message.model),
        message.label ? h("span", { className: "muted" }, message.label) : null),
      message.reasoning ? this.renderThinking() : null,
      message.content ? h(Markdown, { text: message.content }) : null,
      calls.map((call, at) => callNode(call, results[at]?.content)),
      last && !pending && !busy && calls.length > results.length
        ? h("button", { type: "button", className: "button button-small", dataset: { action: "call" } },
          "Run the tools")
        : null,
      pending ? this.renderPending() : null,
      message.status === "failed" && message.error ? failureNode(message.error, last && !busy) : null,
      note && !pending
        ? h("p", { className: "chat-note muted chat-small" }, note,
          last && !busy && message.content
            ? h("button", { type: "button", className: "button button-small", dataset: { action: "continue" } },
              "Continue")
            : null)
        : null,
      pending ? null : this.renderFooter());
  }

  renderThinking() {
    const { message } = /** @type {ChatMessageProps} */ (this.props);
    const busy = message.status === "answering" && !message.content;
    const label = busy
      ? "Thinking…"
      : message.thinking
      ? `Thought for ${duration(Math.max(1, Math.round(message.thinking / 1000)))}`
      : "Thoughts";
    return h("details", { className: "chat-thinking" },
      h("summary", null, icon("chevron-right"), label),
      h("div", { className: "chat-thoughts" }, message.reasoning));
  }

  renderPending() {
    const { message, run, loading } = /** @type {ChatMessageProps} */ (this.props);
    const current = run();
    if (message.content || message.reasoning) {
      return h("p", { className: "chat-live muted", "aria-hidden": "true" }, liveSpeed(current));
    }
    const step = currentStep(current, loading());
    return h("div", { className: "chat-waiting" },
      h("p", { className: "muted", role: "status" }, h("span", { className: "chat-pulse" }), step.label),
      step.value === undefined ? null : progressBar({ value: step.value, label: step.label }));
  }

  renderFooter() {
    const { message, busy, compared, settings } = /** @type {ChatMessageProps} */ (this.props);
    const vote = message.vote ? "Voted best (undo)" : "Vote for this answer";
    return h("div", { className: "chat-footer" },
      h("div", { className: "chat-actions" },
        compared
          ? [
            h("button", {
              key: "vote", type: "button", className: "button button-ghost button-icon", title: vote,
              "aria-label": vote, "aria-pressed": Boolean(message.vote), dataset: { action: "vote" },
            }, icon(message.vote ? "star-filled" : "star", { size: 16 })),
            h("button", {
              key: "choose", type: "button", className: "button button-small",
              dataset: { action: "branch", id: message.id },
            }, "Continue with this")]
          : this.renderBranches(),
        message.content ? h(CopyButton, { text: message.content, label: "Copy answer" }) : null,
        message.status !== "failed" && !compared
          ? action("regenerate", "refresh", "Answer again", busy) : null),
      message.stats ? statsNode(message.stats, settings) : null);
  }
}

/** @param {string} name @param {string} symbol @param {string} label @param {boolean} disabled */
function action(name, symbol, label, disabled) {
  return h("button", {
    type: "button", className: "button button-ghost button-icon", disabled, title: label, "aria-label": label,
    dataset: { action: name },
  }, icon(symbol));
}

/** @param {import("../core/conversations.js").ToolCall} call @param {string} [result] @returns {VNode} */
function callNode({ function: { name, arguments: given } }, result) {
  return h("details", { className: "chat-call" },
    h("summary", null, icon("configuration", { size: 14 }), h("span", null, name),
      h("code", { className: "chat-call-arguments" }, given)),
    h("dl", null,
      h("dt", null, "Arguments"), h("dd", null, h("code", null, given || "none")),
      h("dt", null, "Result"), h("dd", null, result === undefined ? "No result yet" : h("code", null, result))));
}

/** @param {Run | null} run */
function liveSpeed(run) {
  if (!run?.firstAt) return "";
  const elapsed = Date.now() - run.firstAt;
  const speed = elapsed > LIVE_SPEED_AFTER_MS ? ` · ${tokenRate((run.pieces * 1000) / elapsed)} while answering` : "";
  return `${number(run.pieces, 0)} tokens${speed}`;
}

/**
 * What is happening before the first word; `value` is 0..1, null when it cannot be told, undefined when there is
 * nothing to measure.
 * @param {Run | null} run
 * @param {{status: string, progress?: number | null, stage?: string | null, reason?: string | null} | null} model
 * @returns {{label: string, value?: number | null}}
 */
export function currentStep(run, model) {
  const progress = run?.progress;
  const loading = model?.status === "loading" ? model : null;
  if (progress?.stage === "prompt") {
    return { label: `Reading the prompt${share(progress.value)}`, value: progress.value };
  }
  if (!loading && (progress?.stage === "waiting" || model?.status === "waiting")) {
    const reason = progress?.reason ?? model?.reason;
    return { label: reason ? `Waiting: ${reason}` : "Waiting for the model" };
  }
  if (!loading && (progress?.stage !== "loading" || model?.status === "loaded")) {
    return { label: "Waiting for the first word" };
  }
  const value = loading?.progress ?? progress?.value ?? null;
  if (loading?.stage === "warming up" || value === 1) return { label: "Warming up the model", value: null };
  return { label: `Loading the model${share(value)}`, value };
}

/** @param {number | null} value 0..1 */
function share(value) {
  return value === null ? "" : `, ${percent(Math.floor(value * 100))}`;
}

/** @param {AnswerStats} stats @param {ChatMessageProps["settings"]} settings @returns {VNode} */
function statsNode(stats, { currency = "" }) {
  const cost = typeof stats.cost === "number" ? `, ${number(stats.cost, 6)} ${currency}` : "";
  const used = (stats.prompt_tokens ?? 0) + (stats.generated_tokens ?? 0);
  const cached = stats.cached_tokens ? `, ${tokens(stats.cached_tokens)} of them cached` : "";
  const items = [
    stats.generated_per_second === null
      ? null
      : ["Speed while answering", `${tokenRate(stats.generated_per_second)} while answering`],
    stats.time_to_first_token === null
      ? null
      : ["Time to the first token", `${duration(stats.time_to_first_token / 1000)} to first token`],
    stats.generated_tokens === null ? null : ["Generated tokens", `${tokens(stats.generated_tokens)} generated`],
    stats.prompt_tokens === null ? null : [
      `Prompt tokens${cached}; read at ${tokenRate(stats.prompt_per_second)}`,
      `${tokens(stats.prompt_tokens)} prompt`],
    typeof stats.energy === "number" ? ["Energy used by this answer", energy(stats.energy) + cost] : null,
  ].filter((item) => item !== null);
  return h("div", { className: "chat-stats" },
    items.map(([title, text]) => h("span", { title }, text)),
    used && stats.context ? contextNode(used, stats.context) : null);
}

/** @param {number} used tokens @param {number} context tokens @returns {VNode} */
function contextNode(used, context) {
  const part = Math.min(used / context, 1);
  return h("span", {
    className: part > 0.85 ? "chat-context chat-context-full" : "chat-context",
    title: "Share of the model's context in use",
  },
    h("span", { className: "chat-context-bar", "aria-hidden": "true" },
      h("span", { style: { width: `${part * 100}%` } })),
    `${tokens(used)} of ${tokens(context)} context`);
}

/**
 * What went wrong and what to do about it.
 * @param {Failure} failure
 * @returns {{title: string, body: string, href?: string, link?: string}}
 */
export function advice({ code, message }) {
  if (code === "ENGINE_UNAVAILABLE") {
    return { title: "No engine is running", body: message, href: "/", link: "Start it on the Dashboard" };
  }
  if (code === "NOT_FOUND") {
    return {
      title: "This model no longer exists", body: "Choose another model above, then try again.", href: "/models",
      link: "See the models",
    };
  }
  if (code === "DISCONNECTED") {
    return {
      title: "Connection lost", body: "The text so far is kept. Try again once llamadash is connected.",
    };
  }
  if (code === "TIMEOUT") {
    return { title: "No answer in time", body: "llamadash is busy or not reachable. Try again in a moment." };
  }
  if (code === "RATE_LIMITED") return { title: "Too many requests", body: `${message} Wait a moment, then try again.` };
  if (/context/i.test(message) && /exceed|too (long|large)|shift|full/i.test(message)) {
    return {
      title: "Conversation exceeds the context",
      body: `${message} Start a new conversation, or give the model a larger context.`, href: "/models",
      link: "Change the model's context",
    };
  }
  if (code === "ENGINE_FAILED") {
    return { title: "The engine could not answer", body: message, href: "/logs", link: "See the logs" };
  }
  return { title: "Something went wrong", body: message };
}

/** @param {Failure} failure @param {boolean} retry @returns {VNode} */
function failureNode(failure, retry) {
  const { title, body, href, link } = advice(failure);
  return h("div", { className: "chat-failure", role: "alert" },
    icon("error"),
    h("div", null, h("strong", null, title), h("p", null, body)),
    h("div", { className: "row" },
      href ? h("a", { className: "button", href }, link) : null,
      retry
        ? h("button", { type: "button", className: "button", dataset: { action: "regenerate" } },
          icon("refresh"),
          "Try again")
        : null));
}

/** A file that is attached to a message: an image is shown, sound has a player. Props: `file`, `request`. */
class ChatFile extends Component {
  static loadedBy = ["file"];

  didMount() {
    void this.load();
  }

  async load() {
    const { file, request } = this.props;
    if (!/^(image|audio)\//.test(file.type)) return;
    try {
      const address = await addressOf(file, request);
      this.setState({ address });
    } catch (problem) {
      if (!(/** @type {any} */ (problem).code)) throw problem;
      this.setState({ failed: true });
    }
  }

  render() {
    const { file } = this.props;
    const { address, failed } = this.state;
    if (address) {
      const sound = file.type.startsWith("audio/");
      return h(sound ? "audio" : "img", {
        key: "media", title: file.name, ...(sound ? { className: "chat-sound", controls: true, "aria-label": file.name }
          : { className: "chat-image", alt: file.name }),
        ref: (/** @type {HTMLImageElement | HTMLAudioElement} */ media) => { media.src = address; },
      });
    }
    return h("span", { key: "file", className: "chat-file" }, icon(failed ? "warning" : "logs", { size: 14 }),
      h("span", null, failed ? `${file.name} is no longer available` : file.name));
  }
}
