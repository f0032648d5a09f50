import { h } from "../core/component.js";

/** Strokes of each icon on a 24 px grid. @type {{[name: string]: string}} */
const PATHS = {
  dashboard: "M4 4h7v9H4z M13 4h7v5h-7z M13 11h7v9h-7z M4 15h7v5H4z",
  models: "M12 3l8 4.5v9L12 21l-8-4.5v-9z M4 7.5l8 4.5 8-4.5 M12 12v9",
  chat: "M4 5h16v11H9l-5 4z M8 9h8 M8 12h5",
  monitoring: "M3 12h4l3-8 4 16 3-8h4",
  configuration: "M4 7h9 M17 7h3 M4 17h3 M11 17h9 M15 4.5v5 M9 14.5v5",
  settings: "M12 8.5a3.5 3.5 0 1 0 0 7a3.5 3.5 0 1 0 0-7z M12 2.5v3 M12 18.5v3 M2.5 12h3 M18.5 12h3 "
    + "M5.3 5.3l2.1 2.1 M16.6 16.6l2.1 2.1 M18.7 5.3l-2.1 2.1 M7.4 16.6l-2.1 2.1",
  logs: "M5 3.5h10l4 4v13H5z M9 10h6 M9 13.5h6 M9 17h4",
  play: "M7 4.5v15l12-7.5z",
  stop: "M6 6h12v12H6z",
  refresh: "M19.5 9A8 8 0 1 0 20 13.5 M20 4v5h-5",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13z M15.3 15.3L20 20",
  star: "M12 3.5l2.6 5.4 5.9.8-4.3 4.1 1 5.9-5.2-2.8-5.2 2.8 1-5.9-4.3-4.1 5.9-.8z",
  "star-filled": "M12 3.5l2.6 5.4 5.9.8-4.3 4.1 1 5.9-5.2-2.8-5.2 2.8 1-5.9-4.3-4.1 5.9-.8z",
  trash: "M4 6.5h16 M9 6.5V4h6v2.5 M6.5 6.5l1 13.5h9l1-13.5 M10 10.5v6 M14 10.5v6",
  copy: "M8.5 8.5h11v11h-11z M15.5 8.5v-4h-11v11h4",
  check: "M4.5 12.5l5 5 10-11",
  close: "M6 6l12 12 M18 6L6 18",
  warning: "M12 3.5L2.5 20h19z M12 10v4.5 M12 17v.5",
  error: "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18z M12 7.5v5.5 M12 16v.5",
  info: "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18z M12 11v5.5 M12 7.5v.5",
  download: "M12 4v11 M7 10.5l5 5 5-5 M4.5 20h15",
  upload: "M12 16V5 M7 9.5l5-5 5 5 M4.5 20h15",
  "chevron-down": "M6 9l6 6 6-6",
  "chevron-right": "M9 6l6 6-6 6",
  plus: "M12 5v14 M5 12h14",
  pause: "M8 5v14 M16 5v14",
  menu: "M4 7h16 M4 12h16 M4 17h16",
  sun: "M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8z M12 2.5v2 M12 19.5v2 M2.5 12h2 M19.5 12h2 M5.3 5.3l1.4 1.4 "
    + "M17.3 17.3l1.4 1.4 M18.7 5.3l-1.4 1.4 M6.7 17.3l-1.4 1.4",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  cpu: "M6.5 6.5h11v11h-11z M10 10h4v4h-4z M9.5 3v3.5 M14.5 3v3.5 M9.5 17.5V21 M14.5 17.5V21 M3 9.5h3.5 "
    + "M3 14.5h3.5 M17.5 9.5H21 M17.5 14.5H21",
  memory: "M3 7.5h18v8H3z M7 10.5v2 M12 10.5v2 M17 10.5v2 M5 15.5V19 M9.7 15.5V19 M14.3 15.5V19 M19 15.5V19",
  disk: "M4 14h16v6H4z M4 14l3-10h10l3 10 M8 17h.5 M12 17h4",
  gpu: "M3 6.5h18v10H3z M8.5 9a2.5 2.5 0 1 0 0 5a2.5 2.5 0 1 0 0-5z "
    + "M15.5 9a2.5 2.5 0 1 0 0 5a2.5 2.5 0 1 0 0-5z M6 16.5V20 M10 16.5V20",
  network: "M8 4v15 M4 8l4-4 4 4 M16 20V5 M12 16l4 4 4-4",
  bolt: "M13 3L5 13.5h6L10.5 21 19 10.5h-6z",
  pin: "M9 3.5h6 M10 3.5v6L6.5 14h11L14 9.5v-6 M12 14v6.5",
  returns: "M5 9.5h9.5a4.5 4.5 0 0 1 0 9H10 M9 5.5l-4 4 4 4",
  clock: "M12 3.5a8.5 8.5 0 1 0 0 17a8.5 8.5 0 1 0 0-17z M12 7.5V12l3 2",
  edit: "M4 20l1-4.5L16 4.5l3.5 3.5L8.5 19z M13.5 7l3.5 3.5",
  clip: "M19.5 11.5l-8 8a5 5 0 0 1-7-7l8.5-8.5a3.4 3.4 0 0 1 4.8 4.8l-8.3 8.3a1.8 1.8 0 0 1-2.5-2.5l7.5-7.6",
  camera: "M4 7.5h3.5L9 5h6l1.5 2.5H20v11H4z M12 9.5a3.5 3.5 0 1 0 0 7a3.5 3.5 0 1 0 0-7z",
  microphone: "M12 3.5a2.8 2.8 0 0 0-2.8 2.8v5a2.8 2.8 0 0 0 5.6 0v-5A2.8 2.8 0 0 0 12 3.5z M6 11a6 6 0 0 0 12 0 "
    + "M12 17v3.5",
  columns: "M4 5h6.5v14H4z M13.5 5H20v14h-6.5z",
  send: "M4 12L20 4l-5 16-4-6.5z M11 13.5L20 4",
  bell: "M6 16.5V11a6 6 0 0 1 12 0v5.5l1.5 1.5h-15z M10 20.5h4",
  key: "M8 11a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z M11.2 12.3L20 3.5 M16 7.5l3 3",
};

/**
 * An icon; the control it stands in carries the words.
 * @param {string} name @param {{size?: number, className?: string}} [options] size in px
 */
export function icon(name, { size = 18, className = "" } = {}) {
  const filled = name === "star-filled" || name === "play" || name === "stop";
  return h("svg", {
    className: `icon ${className}`.trim(), viewBox: "0 0 24 24", width: size, height: size,
    "aria-hidden": "true", focusable: "false",
  }, h("path", { d: PATHS[name] ?? PATHS.info, fill: filled ? "currentColor" : "none" }));
}
