// Small line plots on canvas: a minute of values, a scale that breathes in round numbers, the newest value large.

import { element, formatNumber } from "./dom.js";

const WINDOW_MS = 60_000;
const ROUND = [1, 1.5, 2, 3, 4, 5, 6, 8, 10];

/** The smallest round number (such as 1, 1.5, 2 or 3 times a power of ten) that is not below `value`. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return (ROUND.find((factor) => factor * power >= value * 0.9999) ?? 10) * power;
}

/** A cleared context for the pixels that `canvas` has on this screen, with their size; undefined while it has none. */
export function cleared(canvas) {
  const scale = devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (!width || !height) return undefined;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return { context, width, height, scale };
}

/** A plot with one or two series. `floor` is the least top of the scale, so that noise near zero stays small. */
export class Plot {
  #samples = [];
  #top;
  #observer;

  constructor({ title, unit, series, floor = 1, spoken }) {
    this.series = series;
    this.unit = unit;
    this.floor = floor;
    this.spoken = spoken ?? title;
    this.#top = floor;
    this.canvas = element("canvas", { role: "img", "aria-label": `${this.spoken}: no values yet` });
    this.values = series.map(({ name, key }) =>
      element("span", { class: `reading reading-${key}`, title: name }, element("b", { text: "–" }), series.length > 1 && element("i", { text: name })),
    );
    this.topLabel = element("span", { class: "axis axis-top", "aria-hidden": "true", text: formatNumber(this.#top) });
    this.node = element(
      "div",
      { class: "plot" },
      element("div", { class: "plot-head" }, element("h3", { text: title }), element("div", { class: "readings" }, ...this.values, element("span", { class: "unit", text: unit }))),
      element("div", { class: "plot-body" }, this.canvas, this.topLabel, element("span", { class: "axis axis-bottom", "aria-hidden": "true", text: "0" })),
    );
    this.#observer = new ResizeObserver(() => this.draw());
    this.#observer.observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Add one value for each series (null where unknown) and draw. */
  push(values, at = performance.now()) {
    this.#samples.push({ at, values });
    while (this.#samples.length && this.#samples[0].at < at - WINDOW_MS - 2000) this.#samples.shift();
    values.forEach((value, index) => {
      this.values[index].firstChild.textContent = value === null ? "–" : formatNumber(value);
    });
    const all = this.#samples.flatMap((sample) => sample.values).filter((value) => value !== null);
    this.#top = roundUp(Math.max(this.floor, ...all));
    this.topLabel.textContent = formatNumber(this.#top);
    this.#describe(values);
    this.draw();
  }

  clear() {
    this.#samples = [];
    this.values.forEach((value) => (value.firstChild.textContent = "–"));
    this.canvas.setAttribute("aria-label", `${this.spoken}: no values yet`);
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const area = cleared(canvas);
    if (!area) return;
    const { context, width, height, scale } = area;
    const style = getComputedStyle(canvas);
    context.lineWidth = 1;
    context.strokeStyle = style.getPropertyValue("--grid");
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(1 + share * (height - 2)) - 0.5;
      context.beginPath();
      context.moveTo(0, y);
      context.lineTo(width, y);
      context.stroke();
    }
    const now = this.#samples.at(-1)?.at ?? 0;
    this.series.forEach(({ key }, index) => {
      this.#line(context, { index, now, width, height, scale, colour: style.getPropertyValue(`--plot-${key}`) });
    });
  }

  #line(context, { index, now, width, height, scale, colour }) {
    const points = [];
    for (const { at, values } of this.#samples) {
      if (values[index] === null) continue;
      const x = width - ((now - at) / WINDOW_MS) * width;
      points.push([x, height - 1 - (values[index] / this.#top) * (height - 2 - scale)]);
    }
    if (!points.length) return;
    context.beginPath();
    points.forEach(([x, y], position) => (position ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.strokeStyle = colour;
    context.lineWidth = 1.5 * scale;
    context.lineJoin = "round";
    context.stroke();
    context.lineTo(points.at(-1)[0], height);
    context.lineTo(points[0][0], height);
    context.globalAlpha = 0.09;
    context.fillStyle = colour;
    context.fill();
    context.globalAlpha = 1;
  }

  #describe(values) {
    const parts = this.series.map(({ name }, index) => {
      const known = this.#samples.map((sample) => sample.values[index]).filter((value) => value !== null);
      const range = known.length ? `, between ${formatNumber(Math.min(...known))} and ${formatNumber(Math.max(...known))} in the last minute` : "";
      return `${name} ${values[index] === null ? "unknown" : formatNumber(values[index])} ${this.unit}${range}`;
    });
    this.canvas.setAttribute("aria-label", `${this.spoken}: ${parts.join("; ")}`);
  }
}
