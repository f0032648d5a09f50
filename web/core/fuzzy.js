/** Finds by what people type: every word somewhere in the text, whole or by some of its letters in their order. */

const WHOLE = 100;
const START = 40; // of a word
const LETTER = 2; // taken off for each letter in between

/**
 * How well `query` fits `text`; null where it does not.
 * @param {string} query @param {string} text both in lower case
 */
export function fuzzyScore(query, text) {
  let score = 0;
  for (const word of query.split(/\s+/).filter(Boolean)) {
    const found = wordScore(word, text);
    if (found === null) return null;
    score += found;
  }
  return score;
}

/** @param {string} word @param {string} text @returns {number | null} */
function wordScore(word, text) {
  const at = text.indexOf(word);
  if (at >= 0) return WHOLE + (startsWord(text, at) ? START : 0) - Math.min(at, 20) / 4;
  return lettersScore(word, text);
}

/** @param {string} word @param {string} text @returns {number | null} */
function lettersScore(word, text) {
  let [first, last, starts] = [-1, -1, 0];
  for (const letter of word) {
    const at = text.indexOf(letter, last + 1);
    if (at < 0) return null;
    if (first < 0) first = at;
    if (startsWord(text, at)) starts += 1;
    last = at;
  }
  const between = last - first + 1 - word.length;
  return between > 3 * word.length && starts < word.length / 2 ? null : START + 4 * starts - LETTER * between;
}

/** @param {string} text @param {number} at */
const startsWord = (text, at) => at === 0 || !/[\p{L}\p{N}]/u.test(text[at - 1]);
