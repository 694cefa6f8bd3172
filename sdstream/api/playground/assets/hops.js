// Where a picture's time goes: the hops of the last minute one above the other, by their medians, and a key with the figures.

import { element, formatNumber } from "./dom.js";
import { cleared, roundUp } from "./plots.js";

const WINDOW_MS = 60_000;
const LEAST_TOP = 20;

/** The hops that a picture goes through one after the other, with what each is. */
export const HOPS = [
  { key: "receive", title: "from a picture's last packet to its planes" },
  { key: "queue", title: "the way to the worker and back, and the wait there" },
  { key: "worker", title: "the worker's time for the picture" },
  { key: "encode", title: "in the encoder" },
  { key: "send", title: "from the encoder to the sockets of all viewers" },
];

/** Latencies as the status tells them, `{hop: {p50, p95}}` in milliseconds. */
export class HopPlot {
  #samples = [];
  #figures = new Map();

  constructor() {
    this.canvas = element("canvas", { role: "img", "aria-label": "Latency by hop: no values yet" });
    this.topLabel = element("span", { class: "axis axis-top", "aria-hidden": "true", text: formatNumber(LEAST_TOP) });
    const entries = HOPS.map(({ key, title }) => {
      const figures = element("span", { class: "hop-figures", text: "–" });
      this.#figures.set(key, figures);
      return element("li", { class: `hop hop-${key}`, title }, element("i", { text: key }), figures);
    });
    this.node = element(
      "div",
      { class: "hops" },
      element("div", { class: "plot-head" }, element("h3", { text: "Latency by hop" }), element("ul", { class: "hop-key" }, ...entries, element("li", { class: "unit", text: "p50 / p95 ms" }))),
      element("div", { class: "plot-body" }, this.canvas, this.topLabel, element("span", { class: "axis axis-bottom", "aria-hidden": "true", text: "0" })),
    );
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  push(hops, at = performance.now()) {
    const known = HOPS.some(({ key }) => hops[key]);
    this.#samples.push({ at, values: known ? HOPS.map(({ key }) => hops[key]?.p50 ?? 0) : null });
    while (this.#samples[0].at < at - WINDOW_MS - 2000) this.#samples.shift();
    const words = HOPS.map(({ key }) => {
      const figures = hops[key] ? `${formatNumber(hops[key].p50)} / ${formatNumber(hops[key].p95)}` : "–";
      this.#figures.get(key).textContent = figures;
      return `${key} ${figures}`;
    });
    this.canvas.setAttribute("aria-label", `Latency by hop, median and 95th percentile in milliseconds: ${words.join("; ")}`);
    this.draw();
  }

  clear() {
    this.#samples = [];
    for (const figures of this.#figures.values()) figures.textContent = "–";
    this.canvas.setAttribute("aria-label", "Latency by hop: no values yet");
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const area = cleared(canvas);
    if (!area) return;
    const { context, width, height, scale } = area;
    const samples = this.#samples.filter(({ values }) => values);
    const top = roundUp(Math.max(LEAST_TOP, ...samples.map(({ values }) => values.reduce((sum, value) => sum + value, 0))));
    this.topLabel.textContent = formatNumber(top);
    if (!samples.length) return;
    const style = getComputedStyle(canvas);
    const now = this.#samples.at(-1).at;
    const x = (at) => width - ((now - at) / WINDOW_MS) * width;
    const y = (value) => height - (value / top) * (height - scale);
    let below = samples.map(() => 0);
    HOPS.forEach(({ key }, index) => {
      const above = samples.map(({ values }, position) => below[position] + values[index]);
      context.beginPath();
      samples.forEach(({ at }, position) => context.lineTo(x(at), y(above[position])));
      for (let position = samples.length - 1; position >= 0; position -= 1) context.lineTo(x(samples[position].at), y(below[position]));
      context.closePath();
      context.fillStyle = style.getPropertyValue(`--hop-${key}`);
      context.fill();
      below = above;
    });
  }
}
