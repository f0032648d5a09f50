/**
 * Files that are sent along with a message: images, scaled down here; sound; texts, which become part of the message.
 *
 * @typedef {import("./conversations.js").Attachment} Attachment
 */

import { patiently } from "./conversations.js";

const PART_BYTES = 384 * 1024; // of a file, 512 kB as base64
const LONGEST_SIDE_PX = 1568; // of an image; vision models read hardly more
const STRIP_PX = 64; // rows that are drawn in one go
const MAX_SOUND = 20 * 1024 * 1024; // bytes that are sent: 10 minutes of WAV as this page makes it
const MAX_DECODED = 128 * 1024 * 1024; // bytes of a sound that is converted first
const MAX_TEXT = 256 * 1024; // bytes of a text file
const MAX_PDF = 50 * 1024 * 1024; // bytes, most of them pictures
const SOUNDS = /** @type {{[type: string]: string}} */ ({
  "audio/wav": "audio/wav", "audio/x-wav": "audio/wav", "audio/wave": "audio/wav", "audio/mpeg": "audio/mpeg",
  "audio/mp3": "audio/mpeg",
});

// Where the system does not know the type of a file, or has one of its own.
const IMAGE = /\.(avif|bmp|gif|hei[cf]|jpe?g|png|tiff?|webp)$/i;
const SOUND = /\.(aac|aif|aiff|amr|caf|flac|m4a|mka|mp3|oga|ogg|opus|wav|weba|wma)$/i;

/**
 * Which files can be sent, and how large they may be.
 * @param {string[] | null} modalities of the model, null where they are not known
 */
export function fileLimits(modalities) {
  const takes = (/** @type {string} */ kind) => modalities === null || modalities.includes(kind);
  const kinds = [
    takes("image") && "images (scaled down to 1,568 pixels)",
    takes("audio") && "audio (WAV and MP3 to 20 MB, others to 10 minutes)",
    "text and code (to 256 KB)",
  ].filter(Boolean);
  return `Files: ${kinds.join(", ")} and the text of PDFs.`;
}

/**
 * What a file becomes. An Error says why it cannot be sent, in words for the user.
 * @param {File} file @param {string[] | null} modalities of the model, null where they are not known
 * @param {(event: string, data: any) => Promise<any>} request @param {(share: number) => void} progress
 * @returns {Promise<Attachment>}
 */
export async function attach(file, modalities, request, progress) {
  const takes = (/** @type {string} */ kind) => modalities === null || modalities.includes(kind);
  if (!file.size) throw new Error(`${file.name} is empty.`);
  if (file.type ? /^image\/(?!svg)/.test(file.type) : IMAGE.test(file.name)) { // an SVG is read as the text that it is
    if (!takes("image")) throw new Error("This model does not read images. Choose one with a projector (vision).");
    return send(file.name, await scaled(file), request, progress);
  }
  if (/^audio\/|^video\/(webm|ogg)$/.test(file.type) || SOUND.test(file.name)) {
    if (!takes("audio")) throw new Error("This model does not accept audio. Choose one that does.");
    return send(file.name, await readable(file), request, progress);
  }
  if (file.type.startsWith("video/")) throw new Error(`${file.name} cannot be sent: no model here takes videos.`);
  return readText(file);
}

/** A sound as models read it: WAV and MP3 as they are, others as WAV. @param {File} file @returns {Promise<Blob>} */
async function readable(file) {
  const type = SOUNDS[file.type];
  if (type && file.size <= MAX_SOUND) return new Blob([file], { type });
  if (file.size > MAX_DECODED) throw new Error(`${file.name} is larger than 128 MB.`);
  const { toWav } = await import("./sound.js");
  try {
    return await toWav(file);
  } catch (problem) {
    if (problem instanceof RangeError) throw new Error(`${file.name} ${problem.message}.`);
    if (!(problem instanceof DOMException)) throw problem;
    throw new Error(`${file.name} cannot be read by this browser. Save it as WAV or MP3.`);
  }
}

/** @param {File} file @returns {Promise<Attachment>} */
async function readText(file) {
  if (file.type === "application/pdf" || /\.pdf$/i.test(file.name)) return readPdf(file);
  if (file.size > MAX_TEXT) throw new Error(`${file.name} is larger than 256 KB.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const text = textOf(bytes);
  if (text === null) throw new Error(`${file.name} is not text that this page can read.`);
  return { hash: "", name: file.name, type: "text/plain", size: file.size, text };
}

/**
 * The text of a file: UTF-16 where it begins so, else UTF-8, else what old Windows programs write.
 * @param {Uint8Array} bytes @returns {string | null} null where it is no text
 */
export function textOf(bytes) {
  const wide = bytes[0] === 0xff && bytes[1] === 0xfe ? "utf-16le"
    : bytes[0] === 0xfe && bytes[1] === 0xff ? "utf-16be" : null;
  if (!wide && bytes.includes(0)) return null;
  try {
    return new TextDecoder(wide ?? "utf-8", { fatal: true }).decode(bytes);
  } catch (problem) {
    if (!(problem instanceof TypeError)) throw problem;
    return wide ? null : new TextDecoder("windows-1252").decode(bytes);
  }
}

/** @param {File} file @returns {Promise<Attachment>} */
async function readPdf(file) {
  if (file.size > MAX_PDF) throw new Error(`${file.name} is larger than 50 MB.`);
  const { pdfText } = await import("./pdf-text.js");
  try {
    const text = await pdfText(await file.arrayBuffer(), MAX_TEXT);
    return { hash: "", name: file.name, type: "text/plain", size: file.size, text };
  } catch (problem) {
    throw new Error(`${file.name} ${/** @type {Error} */ (problem).message}`);
  }
}

/**
 * An image no larger than models read: as JPEG, or PNG where it may be transparent. A JPEG is always drawn, as it may
 * lie on its side, which engines do not see; strip by strip, so that a large photo does not hold the page up.
 * @param {File} file @returns {Promise<Blob>}
 */
async function scaled(file) {
  const image = await decoded(file);
  const longest = Math.max(image.width, image.height);
  if (longest <= LONGEST_SIDE_PX && file.size < 1e6 && file.type === "image/png") return file;
  const scale = Math.min(1, LONGEST_SIDE_PX / longest);
  const width = Math.max(1, Math.round(image.width * scale));
  const height = Math.max(1, Math.round(image.height * scale));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const type = file.type === "image/jpeg" || longest > LONGEST_SIDE_PX ? "image/jpeg" : "image/png";
  context.imageSmoothingQuality = "medium";
  context.fillStyle = "white"; // behind what is transparent, for JPEG cannot be
  if (type === "image/jpeg") context.fillRect(0, 0, width, height);
  for (let top = 0; top < height; top += STRIP_PX) {
    const rows = Math.min(STRIP_PX, height - top);
    context.drawImage(image, 0, top / scale, image.width, rows / scale, 0, top, width, rows);
    await new Promise((resolve) => setTimeout(resolve));
  }
  image.close();
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (
    blob ? resolve(blob) : reject(new Error("This browser cannot scale that image."))), type, 0.88));
}

/** @param {File} file @returns {Promise<ImageBitmap>} */
async function decoded(file) {
  try {
    return await createImageBitmap(file);
  } catch (problem) {
    if (!(problem instanceof DOMException)) throw problem;
    throw new Error(`${file.name} cannot be read by this browser. Save it as JPEG or PNG.`);
  }
}

/** @type {Promise<any>} the file that is being sent: the server takes one at a time */
let sending = Promise.resolve();

/**
 * @param {string} name @param {Blob} blob @param {(event: string, data: any) => Promise<any>} request
 * @param {(share: number) => void} progress @returns {Promise<Attachment>}
 */
function send(name, blob, request, progress) {
  const of = Math.max(1, Math.ceil(blob.size / PART_BYTES));
  const read = (/** @type {number} */ part) => toBase64(blob.slice(part * PART_BYTES, (part + 1) * PART_BYTES));
  return sendParts({ name, type: blob.type, of }, read, request, progress);
}

/**
 * Sends a file that is there in base64.
 * @param {string} name @param {string} type @param {string} data
 * @param {(event: string, data: any) => Promise<any>} request @returns {Promise<Attachment>}
 */
export function sendBase64(name, type, data, request) {
  const step = (PART_BYTES / 3) * 4;
  const of = Math.max(1, Math.ceil(data.length / step));
  return sendParts({ name, type, of }, async (part) => data.slice(part * step, (part + 1) * step), request);
}

/**
 * @param {{name: string, type: string, of: number}} file @param {(part: number) => Promise<string>} read in base64
 * @param {(event: string, data: any) => Promise<any>} request @param {(share: number) => void} [progress]
 * @returns {Promise<Attachment>}
 */
function sendParts({ name, type, of }, read, request, progress = () => {}) {
  const sent = sending.then(async () => {
    let answer = /** @type {any} */ (null);
    for (let part = 0; part < of; part += 1) {
      const fields = { name: name.slice(0, 255) || "file", type, part, of, data: await read(part) };
      answer = await patiently(() => request("conversations:attach", fields));
      progress((part + 1) / of);
    }
    return answer.attachment;
  });
  sending = sent.catch(() => {});
  return sent;
}

/** @param {Blob} blob @returns {Promise<string>} */
function toBase64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
}

/** @type {Map<string, Promise<string>>} data: addresses of what was shown, the newest last */
const shown = new Map();
const MOST_SHOWN = 40;

/**
 * An attachment as an address that an image or a sound can have.
 * @param {Attachment} attachment @param {(event: string, data: any) => Promise<any>} request @returns {Promise<string>}
 */
export function addressOf({ hash, type }, request) {
  const known = shown.get(hash);
  if (known) return known;
  const loading = contentOf(hash, request).then((data) => `data:${type};base64,${data}`);
  shown.set(hash, loading);
  loading.catch(() => shown.delete(hash));
  for (const old of [...shown.keys()].slice(0, -MOST_SHOWN)) shown.delete(old);
  return loading;
}

/**
 * What is in an attachment, in base64.
 * @param {string} hash @param {(event: string, data: any) => Promise<any>} request @returns {Promise<string>}
 */
export async function contentOf(hash, request) {
  let text = "";
  for (let part = 0, of = 1; part < of; part += 1) {
    const answer = await patiently(() => request("conversations:attachment", { hash, part }));
    text += answer.data;
    ({ of } = answer);
  }
  return text;
}
