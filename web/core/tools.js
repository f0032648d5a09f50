/** The tools that a model may call. They run in this page and reach nothing outside of it. */

/** What the model is told of them. */
export const TOOLS = [
  tool("current_time", "The present date and time.", {
    time_zone: { type: "string", description: "An IANA name such as Europe/Berlin; the user's own by default." },
  }, []),
  tool("calculator", "The value of an arithmetic expression: + - * / % ^ ( ), sqrt, abs, ln, log10, exp, sin, cos, "
    + "tan, round, floor, ceil, min, max, pi, e.", { expression: { type: "string" } }, ["expression"]),
];

/** @param {string} name @param {string} description @param {any} properties @param {string[]} required */
function tool(name, description, properties, required) {
  return { type: "function", function: { name, description, parameters: { type: "object", properties, required } } };
}

/**
 * What a tool says to a call of the model; what is wrong with the call is an answer as well.
 * @param {string} name @param {string} text its arguments, as JSON @param {Date} [now] @returns {string}
 */
export function runTool(name, text, now = new Date()) {
  try {
    const given = JSON.parse(text || "{}");
    if (name === "calculator") return String(calculate(String(given.expression ?? "")));
    if (name === "current_time") return timeIn(now, given.time_zone);
    return `Error: there is no tool ${name}.`;
  } catch (problem) {
    return `Error: ${/** @type {Error} */ (problem).message}`;
  }
}

/** @param {Date} now @param {string} [zone] */
function timeIn(now, zone) {
  const timeZone = zone || Intl.DateTimeFormat().resolvedOptions().timeZone;
  return `${now.toLocaleString("en-GB", { dateStyle: "full", timeStyle: "long", timeZone })} (${timeZone})`;
}

/** @type {{[name: string]: (...values: number[]) => number}} */
const FUNCTIONS = {
  sqrt: Math.sqrt, abs: Math.abs, ln: Math.log, log: Math.log10, log10: Math.log10, log2: Math.log2, exp: Math.exp,
  sin: Math.sin, cos: Math.cos, tan: Math.tan, asin: Math.asin, acos: Math.acos, atan: Math.atan, round: Math.round,
  floor: Math.floor, ceil: Math.ceil, min: Math.min, max: Math.max,
};
/** @type {{[name: string]: number}} */
const CONSTANTS = { pi: Math.PI, e: Math.E };
/** @type {{[sign: string]: (one: number, other: number) => number}} */
const SIGNS = {
  "+": (one, other) => one + other, "-": (one, other) => one - other, "*": (one, other) => one * other,
  "/": (one, other) => one / other, "%": (one, other) => one % other,
};
const MOST_TOKENS = 500;

/** The value of an arithmetic expression; an Error says what is wrong with it. @param {string} expression */
export function calculate(expression) {
  const words = expression.replace(/×/g, "*").replace(/÷/g, "/").replace(/\*\*/g, "^")
    .match(/\d*\.?\d+(?:e[+-]?\d+)?|[a-z]\w*|\S/gi) ?? [];
  if (!words.length || words.length > MOST_TOKENS) throw new Error("the expression is empty or too long");
  let at = 0;
  const next = (/** @type {string} */ wanted) => (words[at] === wanted ? Boolean(++at) : false);
  const need = (/** @type {string} */ wanted) => {
    if (!next(wanted)) throw new Error(`${wanted} is missing before ${words[at] ?? "the end"}`);
  };
  /** @param {string} signs @param {() => number} part @returns {number} */
  const chain = (signs, part) => {
    let value = part();
    while (at < words.length && signs.includes(words[at])) value = SIGNS[words[at++]](value, part());
    return value;
  };
  /** @returns {number} */
  const sum = () => chain("+-", () => chain("*/%", signed));
  /** @returns {number} */
  const signed = () => (next("-") ? -signed() : next("+") ? signed() : power());
  /** @returns {number} */
  const power = () => {
    const base = single();
    return next("^") ? base ** signed() : base;
  };
  /** @returns {number} */
  const single = () => {
    const word = words[at++] ?? "the end";
    if (word === "(") {
      const value = sum();
      need(")");
      return value;
    }
    const name = word.toLowerCase();
    if (Object.hasOwn(FUNCTIONS, name)) return FUNCTIONS[name](...list());
    if (Object.hasOwn(CONSTANTS, name)) return CONSTANTS[name];
    if (/^[\d.]/.test(word) && Number.isFinite(Number(word))) return Number(word);
    throw new Error(`${word} is not understood`);
  };
  /** @returns {number[]} */
  const list = () => {
    need("(");
    const values = [sum()];
    while (next(",")) values.push(sum());
    need(")");
    return values;
  };
  const value = sum();
  if (at < words.length) throw new Error(`${words[at]} is not understood`);
  return Number(value.toPrecision(15));
}
