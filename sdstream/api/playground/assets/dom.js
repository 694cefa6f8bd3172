// Small helpers for building the page. No framework: the page has a few dozen live elements.

/** The element with this id; a missing one is a mistake in the page, so it throws. */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no element #${id}`);
  return element;
}

/**
 * Build an element. Keys of `attributes` that start with "on" are listeners, `class` and `text` do what they say, booleans are
 * set or left out, everything else is an attribute. Styles are never set here: the content security policy forbids them.
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** An icon of the sprite in index.html; always decoration, the button around it carries the words. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

let counter = 0;

/** An id that no other element of the page has. */
export function uniqueId(prefix) {
  counter += 1;
  return `${prefix}-${counter}`;
}

/** Call `draw`, which draws what is in `root` anew, and leave the keyboard on what is at the same place then. */
export function redraw(root, draw) {
  const inputs = () => [...root.querySelectorAll("input, select, textarea, button, summary")];
  const place = inputs().indexOf(document.activeElement);
  draw();
  inputs()[place]?.focus();
}

/** A number for a person: at most three significant places, no trailing zeros, never "-0". */
export function formatNumber(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const places = size >= 100 ? 0 : size >= 10 ? 1 : 2;
  const text = value.toFixed(places);
  return (places ? text.replace(/\.?0+$/, "") : text).replace(/^-0$/, "0");
}

/** "controlnets" stays, "guidance_scale" becomes "Guidance scale". */
export function humanName(name) {
  const words = name.replaceAll("_", " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Whether two JSON values are the same. */
export function sameJson(left, right) {
  return JSON.stringify(left) === JSON.stringify(right);
}
