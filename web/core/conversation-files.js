/**
 * Conversations in a file, and back: with the images and sounds that their messages name.
 *
 * @typedef {import("./conversations.js").Conversation} Conversation
 * @typedef {import("./conversations.js").Attachment} Attachment
 * @typedef {(event: string, data: any) => Promise<any>} Request
 * @typedef {{[hash: string]: {name: string, type: string, data: string}}} Files `data` in base64
 */

import { contentOf, sendBase64 } from "./attachments.js";
import { imported, parsed, patiently, upload } from "./conversations.js";

/** Every conversation that the server has. @param {Request} request @returns {Promise<Conversation[]>} */
export async function allConversations(request) {
  /** @type {Conversation[]} */
  const conversations = [];
  let before = 0;
  for (let more = true; more;) {
    const list = await patiently(() => (
      request("conversations:list", { limit: 1000, ...(before ? { before } : {}) })));
    for (const { id } of list.conversations) {
      conversations.push((await patiently(() => request("conversations:get", { id }))).conversation);
    }
    more = list.hasMore;
    before = list.conversations.at(-1)?.updated_at ?? 0;
  }
  return conversations;
}

/**
 * A file of conversations, and the names of the attachments that the server no longer has.
 * @param {Request} request @param {Conversation[]} conversations @returns {Promise<{file: Blob, missing: string[]}>}
 */
export async function toFile(request, conversations) {
  const head = JSON.stringify({ format: "llamadash-conversations", conversations }, null, 1).slice(0, -2);
  const pieces = [`${head},\n "files": {`]; // not one text: files may be longer together than a text can be
  const missing = [];
  for (const { hash, name, type } of named(conversations)) {
    try {
      const text = JSON.stringify({ name, type, data: await contentOf(hash, request) });
      pieces.push(`${pieces.length > 1 ? "," : ""}\n  ${JSON.stringify(hash)}: ${text}`);
    } catch (problem) {
      if (/** @type {any} */ (problem).code !== "NOT_FOUND") throw problem;
      missing.push(name);
    }
  }
  return { file: new Blob([...pieces, "\n }\n}\n"], { type: "application/json" }), missing };
}

/**
 * Has the server keep the conversations of a file with all that they name.
 * @param {Request} request @param {string} text @returns {Promise<number>} how many there were
 */
export async function fromFile(request, text) {
  const content = parsed(text);
  const found = /** @type {Conversation[]} */ (
    [content?.conversations ?? content].flat().map(imported).filter(Boolean));
  if (!found.length) throw new Error("There is no conversation in this file.");
  const files = /** @type {Files} */ (Object(content.files));
  for (const attachment of named(found)) {
    const { name, type, data } = Object(files[attachment.hash]);
    if (typeof data === "string") await sendBase64(name, type, data, request);
  }
  for (const conversation of found) await upload(request, conversation);
  return found.length;
}

/** What messages name, each once; the text of text files is in the message. @param {Conversation[]} conversations */
function named(conversations) {
  const all = conversations.flatMap(({ messages }) => messages.flatMap(({ attachments }) => attachments ?? []));
  return new Map(all.filter(({ hash }) => hash).map((attachment) => [attachment.hash, attachment])).values();
}
