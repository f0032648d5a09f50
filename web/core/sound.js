/** Sound for models, which read WAV and MP3: other files, and what the microphone hears, become WAV in the page. */

const RATE = 16_000; // samples per second, as audio models take them
const STRIP = 1_000_000; // samples that are converted in one go

export const LONGEST_S = 600;

/**
 * A sound that the browser can decode, as WAV: 16 kHz, one channel.
 * @param {Blob} sound @returns {Promise<Blob>}
 */
export async function toWav(sound) {
  const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await sound.arrayBuffer());
  const { duration, length, numberOfChannels } = decoded;
  if (duration > LONGEST_S) throw new RangeError(`is longer than ${LONGEST_S / 60} minutes`);
  const channels = Array.from({ length: numberOfChannels }, (_, at) => decoded.getChannelData(at));
  const samples = new Int16Array(length);
  for (let start = 0; start < length; start += STRIP) {
    for (let at = start; at < Math.min(start + STRIP, length); at += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[at];
      samples[at] = Math.max(-1, Math.min(1, sum / channels.length)) * 0x7fff;
    }
    await new Promise((resolve) => setTimeout(resolve));
  }
  return new Blob([wavHeader(samples.byteLength), samples], { type: "audio/wav" });
}

/** What stands before 16-bit samples of one channel. @param {number} size of these, in bytes */
function wavHeader(size) {
  const view = new DataView(new ArrayBuffer(44));
  const text = (/** @type {number} */ at, /** @type {string} */ word) => (
    [...word].forEach((letter, further) => view.setUint8(at + further, letter.charCodeAt(0))));
  text(0, "RIFF");
  view.setUint32(4, 36 + size, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of what follows, up to "data"
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, RATE, true);
  view.setUint32(28, RATE * 2, true); // bytes per second
  view.setUint16(32, 2, true); // bytes per sample
  view.setUint16(34, 16, true); // bits per sample
  text(36, "data");
  view.setUint32(40, size, true);
  return view;
}

/** Notes what the microphone hears. An Error says why it cannot, in words for the user. */
export class Recording {
  /** @param {MediaStream} stream */
  constructor(stream) {
    this.stream = stream;
    this.since = Date.now();
    this.recorder = new MediaRecorder(stream);
    /** @type {Promise<Blob>} */
    this.heard = new Promise((resolve) => {
      this.recorder.addEventListener("dataavailable", ({ data }) => resolve(data)); // once, at its end
    });
    this.recorder.start();
  }

  static async begin() {
    if (!navigator.mediaDevices) throw new Error("Recording needs HTTPS or localhost. Add an audio file instead.");
    try {
      return new Recording(await navigator.mediaDevices.getUserMedia({ audio: true }));
    } catch (problem) {
      if (!(problem instanceof DOMException)) throw problem;
      throw new Error(problem.name === "NotFoundError" ? "There is no microphone."
        : "The microphone cannot be used. Allow it for this page in the browser.");
    }
  }

  get seconds() {
    return Math.floor((Date.now() - this.since) / 1000);
  }

  /** @returns {Promise<File>} what was heard */
  async end() {
    if (this.recorder.state !== "inactive") this.recorder.stop();
    for (const track of this.stream.getTracks()) track.stop();
    const heard = await this.heard;
    return new File([heard], "Recording", { type: heard.type });
  }
}
