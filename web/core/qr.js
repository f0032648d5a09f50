/**
 * QR codes (ISO/IEC 18004) of short texts such as links: bytes, error correction M, versions 1 to 10.
 *
 * @typedef {boolean[][]} Modules rows of modules, true where dark
 */

const CHECKS = [10, 16, 26, 18, 24, 16, 18, 22, 22, 26]; // check bytes of a block, by version
const BLOCKS = [1, 1, 1, 2, 2, 4, 4, 4, 5, 5];
const BYTES = [26, 44, 70, 100, 134, 172, 196, 242, 292, 346]; // data and checks
const PAD = [0xec, 0x11];

/** @type {((row: number, column: number) => boolean)[]} */
const MASKS = [
  (y, x) => (y + x) % 2 === 0, (y) => y % 2 === 0, (_y, x) => x % 3 === 0, (y, x) => (y + x) % 3 === 0,
  (y, x) => ((y >> 1) + Math.floor(x / 3)) % 2 === 0, (y, x) => ((y * x) % 2) + ((y * x) % 3) === 0,
  (y, x) => (((y * x) % 2) + ((y * x) % 3)) % 2 === 0, (y, x) => (((y + x) % 2) + ((y * x) % 3)) % 2 === 0,
];

/**
 * The code of `text`; null where it is too long.
 * @param {string} text @returns {Modules | null}
 */
export function qrCode(text) {
  const bytes = [...new TextEncoder().encode(text)];
  const version = BYTES.findIndex((_all, at) => bytes.length + (at < 9 ? 2 : 3) <= dataBytes(at + 1)) + 1;
  if (!version) return null;
  const bits = interleaved(padded(bytes, version), version)
    .flatMap((byte) => Array.from({ length: 8 }, (_, at) => Boolean((byte >> (7 - at)) & 1)));
  const codes = MASKS.map((_mask, mask) => drawn(version, bits, mask));
  return codes.reduce((best, code) => (penalty(code) < penalty(best) ? code : best));
}

/** @param {number} version */
const dataBytes = (version) => BYTES[version - 1] - CHECKS[version - 1] * BLOCKS[version - 1];

/**
 * The data bytes with mode and length before, and what fills the rest.
 * @param {number[]} bytes @param {number} version
 */
function padded(bytes, version) {
  const long = version > 9;
  const nibbles = [4, ...long ? [0, 0] : [], bytes.length >> 4, bytes.length & 15]; // "bytes", and how many
  for (const byte of bytes) nibbles.push(byte >> 4, byte & 15);
  nibbles.push(0); // the end
  const data = Array.from({ length: nibbles.length / 2 }, (_, at) => (nibbles[2 * at] << 4) | nibbles[2 * at + 1]);
  for (let at = 0; data.length < dataBytes(version); at ^= 1) data.push(PAD[at]);
  return data;
}

/** The blocks with their checks, byte by byte in turn. @param {number[]} data @param {number} version */
function interleaved(data, version) {
  const [count, checks] = [BLOCKS[version - 1], CHECKS[version - 1]];
  const short = Math.floor(data.length / count);
  const longer = data.length % count; // the last ones have a byte more
  let at = 0;
  const blocks = Array.from({ length: count }, (_, block) => (
    data.slice(at, at += short + (block >= count - longer ? 1 : 0))));
  const inTurn = (/** @type {number[][]} */ lists) => Array.from(
    { length: Math.max(...lists.map(({ length }) => length)) },
    (_, place) => lists.filter(({ length }) => place < length).map((list) => list[place])
  ).flat();
  return [...inTurn(blocks), ...inTurn(blocks.map((block) => remainder(block, divisor(checks))))];
}

/** @param {number} a @param {number} b product in GF(256) */
function times(a, b) {
  let product = 0;
  for (; b; b >>= 1) {
    if (b & 1) product ^= a;
    a = (a << 1) ^ (a & 128 ? 0x11d : 0);
  }
  return product;
}

/** The polynomial whose roots are the first powers of 2, without its leading 1. @param {number} degree */
function divisor(degree) {
  let result = [1];
  for (let [at, root] = [0, 1]; at < degree; at += 1, root = times(root, 2)) {
    result = [...result, 0].map((value, place) => value ^ (place ? times(result[place - 1], root) : 0));
  }
  return result.slice(1);
}

/** @param {number[]} data @param {number[]} by */
function remainder(data, by) {
  let rest = by.map(() => 0);
  for (const byte of data) {
    const factor = byte ^ rest[0];
    rest = [...rest.slice(1), 0].map((value, at) => value ^ times(by[at], factor));
  }
  return rest;
}

/** The code with one of the masks. @param {number} version @param {boolean[]} bits @param {number} mask */
function drawn(version, bits, mask) {
  const size = 4 * version + 17;
  /** @type {(boolean | null)[][]} null where data goes */
  const rows = Array.from({ length: size }, () => Array(size).fill(null));
  drawPatterns(rows, version);
  drawFormat(rows, mask);
  let at = 0;
  for (const [y, x] of zigzag(size)) {
    if (rows[y][x] === null) rows[y][x] = (bits[at++] ?? false) !== MASKS[mask](y, x);
  }
  return /** @type {Modules} */ (rows);
}

/** @param {(boolean | null)[][]} rows @param {number} version */
function drawPatterns(rows, version) {
  const size = rows.length;
  /** @param {number} y @param {number} x @param {number[]} light its light rings @param {number} radius */
  const ring = (y, x, light, radius) => {
    for (let dy = -radius; dy <= radius; dy += 1) {
      for (let dx = -radius; dx <= radius; dx += 1) {
        if (rows[y + dy]?.[x + dx] === undefined) continue; // beyond the edge
        rows[y + dy][x + dx] = !light.includes(Math.max(Math.abs(dy), Math.abs(dx)));
      }
    }
  };
  for (let at = 0; at < size; at += 1) rows[6][at] = rows[at][6] = at % 2 === 0;
  for (const [y, x] of [[3, 3], [3, size - 4], [size - 4, 3]]) ring(y, x, [2, 4], 4);
  const places = version < 2 ? [] : version < 7 ? [6, size - 7] : [6, (size - 1) / 2, size - 7];
  const corner = (/** @type {number} */ at) => at === 6 || at === size - 7;
  for (const y of places) {
    for (const x of places) {
      const taken = corner(y) && corner(x) && (y === 6 || x === 6); // by one of the three large patterns
      if (!taken) ring(y, x, [1], 2);
    }
  }
  if (version > 6) drawVersion(rows, version);
}

/** @param {(boolean | null)[][]} rows @param {number} version */
function drawVersion(rows, version) {
  const bits = (version << 12) | checked(version, 12, 0x1f25);
  for (let at = 0; at < 18; at += 1) {
    const [near, far] = [Math.floor(at / 3), rows.length - 11 + (at % 3)];
    rows[near][far] = rows[far][near] = Boolean((bits >> at) & 1);
  }
}

/** @param {(boolean | null)[][]} rows @param {number} mask */
function drawFormat(rows, mask) {
  const size = rows.length;
  const bits = ((mask << 10) | checked(mask, 10, 0x537)) ^ 0x5412; // correction M is 0
  for (let at = 0; at < 15; at += 1) {
    const dark = Boolean((bits >> at) & 1);
    if (at < 8) rows[at + (at > 5 ? 1 : 0)][8] = rows[8][size - 1 - at] = dark;
    else rows[size - 15 + at][8] = rows[8][at < 9 ? 7 : 14 - at] = dark;
  }
  rows[size - 8][8] = true;
}

/** The check bits of `value`. @param {number} value @param {number} count @param {number} by */
function checked(value, count, by) {
  let rest = value;
  for (let at = 0; at < count; at += 1) rest = (rest << 1) ^ ((rest >> (count - 1)) & 1 ? by : 0);
  return rest & ((1 << count) - 1);
}

/** Every module in the order of the data: upwards and downwards in columns of two. @param {number} size */
function* zigzag(size) {
  let upwards = true;
  for (let right = size - 1; right > 0; right -= 2) {
    if (right === 6) right = 5;
    for (let at = 0; at < size; at += 1) {
      const y = upwards ? size - 1 - at : at;
      yield [y, right];
      yield [y, right - 1];
    }
    upwards = !upwards;
  }
}

/** How hard a code is to read. @param {Modules} rows */
function penalty(rows) {
  const size = rows.length;
  const lines = [...rows, ...rows.map((_row, x) => rows.map((row) => row[x]))]
    .map((line) => line.map((dark) => (dark ? 1 : 0)).join(""));
  let sum = 0;
  for (const line of lines) {
    for (const [run] of line.matchAll(/0{5,}|1{5,}/g)) sum += run.length - 2;
    sum += 40 * (line.match(/(?=10111010000|00001011101)/g)?.length ?? 0);
  }
  for (let y = 1; y < size; y += 1) {
    for (let x = 1; x < size; x += 1) {
      const dark = rows[y][x];
      if (dark === rows[y - 1][x] && dark === rows[y][x - 1] && dark === rows[y - 1][x - 1]) sum += 3;
    }
  }
  const dark = rows.flat().filter(Boolean).length / size ** 2;
  return sum + 10 * Math.floor(Math.abs(20 * dark - 10));
}
