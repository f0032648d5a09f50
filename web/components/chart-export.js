/** A chart as a file. */

import { csv } from "../core/csv.js";
import { foreignZone } from "../core/format.js";
import { saveBlob, saveText } from "./copy-button.js";

/** @typedef {import("./chart.js").Series} Series */

const SCALE = 2; // for sharp text on any screen
const LEGEND = ".chart-legend-item:not(.is-off)";
const PAD = 16;
const TITLE_PX = 15;
const TITLE_ROOM = 28;
const LEGEND_ROOM = 20; // of each line

/**
 * Save the values as a table: a line for each moment, with the average and the highest value of each series.
 * @param {string} name @param {number[]} timestamps Unix ms @param {Series[]} series
 */
export function saveTable(name, timestamps, series) {
  const headings = series.flatMap(({ label, max }) => max ? [label, `${label} (max)`] : [label]);
  const rows = timestamps.map((time, at) => [
    new Date(time).toISOString(), ...series.flatMap(({ values, max }) => max ? [values[at], max[at]] : [values[at]]),
  ]);
  saveText(`${name}.csv`, csv(["time", ...headings], rows), "text/csv");
}

/**
 * Save the chart as it is seen, with its title and its legend.
 * @param {string} name @param {HTMLElement} figure @param {string} title
 */
export async function saveChart(name, figure, title) {
  const plot = /** @type {SVGElement} */ (figure.querySelector(".chart-plot > svg"));
  const { width, height } = plot.getBoundingClientRect();
  const canvas = document.createElement("canvas");
  const head = TITLE_ROOM + LEGEND_ROOM * figure.querySelectorAll(LEGEND).length;
  [canvas.width, canvas.height] = [(width + 2 * PAD) * SCALE, (height + head + 2 * PAD) * SCALE];
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.scale(SCALE, SCALE);
  const card = getComputedStyle(figure.closest(".card") ?? document.body);
  pen.fillStyle = card.backgroundColor;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.translate(PAD, PAD);
  drawTitle(pen, title, figure, card);
  pen.translate(0, head);
  for (const node of plot.querySelectorAll("line, path, rect, circle, text")) {
    if (!node.closest(".chart-cursor, .chart-selection")) draw(pen, node);
  }
  const blob = await new Promise((resolve) => canvas.toBlob(resolve));
  saveBlob(`${name}.png`, blob);
}

/**
 * @param {CanvasRenderingContext2D} pen @param {string} title @param {HTMLElement} figure
 * @param {CSSStyleDeclaration} card
 */
function drawTitle(pen, title, figure, card) {
  pen.fillStyle = card.color;
  pen.font = `600 ${TITLE_PX}px ${card.fontFamily}`;
  pen.fillText(foreignZone() ? `${title} (${foreignZone()})` : title, 0, TITLE_PX);
  pen.font = `12px ${card.fontFamily}`;
  figure.querySelectorAll(LEGEND).forEach((item, at) => {
    pen.save();
    pen.translate(0, TITLE_ROOM + at * LEGEND_ROOM);
    for (const line of item.querySelectorAll("line")) draw(pen, line);
    pen.fillText([...item.childNodes].map((node) => node.textContent).filter(Boolean).join("  "), 26, 8);
    pen.restore();
  });
}

/** Draw one shape of the page. @param {CanvasRenderingContext2D} pen @param {Element} node */
function draw(pen, node) {
  const style = getComputedStyle(node);
  const number = (/** @type {string} */ attribute) => Number(node.getAttribute(attribute));
  pen.save();
  pen.globalAlpha = Number(style.opacity);
  pen.fillStyle = style.fill;
  pen.strokeStyle = style.stroke;
  pen.lineWidth = parseFloat(style.strokeWidth);
  pen.setLineDash(style.strokeDasharray === "none" ? [] : style.strokeDasharray.split(/[ ,]+/).map(parseFloat));
  const path = new Path2D(node.getAttribute("d") ?? "");
  if (node.localName === "line") {
    path.moveTo(number("x1"), number("y1"));
    path.lineTo(number("x2"), number("y2"));
  } else if (node.localName === "rect") path.rect(number("x"), number("y"), number("width"), number("height"));
  else if (node.localName === "circle") path.arc(number("cx"), number("cy"), number("r"), 0, 2 * Math.PI);
  if (node.localName === "text") {
    pen.font = `${style.fontSize} ${style.fontFamily}`;
    pen.textAlign = /** @type {CanvasTextAlign} */ ({ middle: "center", end: "right" }[style.textAnchor] ?? "left");
    pen.fillText(node.textContent ?? "", number("x"), number("y"));
  } else {
    if (style.fill !== "none") pen.fill(path);
    if (style.stroke !== "none") pen.stroke(path);
  }
  pen.restore();
}
