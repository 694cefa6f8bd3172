// The left side of the page: state, pictures, their facts, the plots and the list of what happened.

import { byId, element, formatNumber } from "./dom.js";
import { HopPlot } from "./hops.js";
import { Plot } from "./plots.js";
import { describeDrops, describeEvent, readStatus, STATES, wordsLeft } from "./status.js";

const MOST_ACTIVITIES = 100;
const HOPS = ["receive", "queue", "wait", "worker", "encode", "send", "total"];

export class Stage {
  #plots;
  #hops = new HopPlot();
  #dropped = null;
  #lastStatusAt = null;
  #warned = new Set();
  #acceleration = ""; // what runs the networks; empty without any

  constructor() {
    this.#plots = {
      input: new Plot({ title: "Input", unit: "fps", floor: 30, spoken: "Input rate", series: [{ name: "input", key: "input" }] }),
      output: new Plot({ title: "Output", unit: "fps", floor: 30, spoken: "Output rate", series: [{ name: "output", key: "output" }] }),
      latency: new Plot({ title: "Latency", unit: "ms", floor: 20, spoken: "Latency in the server", series: [{ name: "p50", key: "latency" }, { name: "p95", key: "latency-high" }] }),
      drops: new Plot({ title: "Drops", unit: "per s", floor: 5, spoken: "Dropped pictures", series: [{ name: "drops", key: "drops" }] }),
    };
    byId("plots").append(...Object.values(this.#plots).map((plot) => plot.node), this.#hops.node);
  }

  /** The badge: a state of the stream (see STATES) and why. */
  showState(state, reason = "", percent = null) {
    const { word, tone } = STATES[state] ?? { word: state, tone: "quiet" };
    const badge = byId("state-badge");
    if (badge.textContent !== word) badge.textContent = word;
    badge.dataset.tone = tone;
    badge.dataset.state = state;
    const line = byId("state-reason");
    if (line.textContent !== reason) line.textContent = reason;
    line.title = reason;
    const progress = byId("state-progress");
    progress.hidden = state !== "LOADING";
    if (percent === null) progress.removeAttribute("value");
    else progress.value = percent;
  }

  showStatus(data) {
    const status = readStatus(data);
    this.#acceleration = status.acceleration;
    const reason = [status.reason, status.state === "LOADING" && status.detail !== status.reason ? status.detail : "", status.percent === null ? "" : [`${Math.round(status.percent)} %`, wordsLeft(status.left)].filter(Boolean).join(", ")];
    this.showState(status.state, reason.filter(Boolean).join(" "), status.percent);
    const now = performance.now();
    this.#plots.input.push([status.inputFps], now);
    this.#plots.output.push([status.outputFps], now);
    this.#plots.latency.push([status.p50, status.p95], now);
    this.#hops.push(status.hops, now);
    this.#plots.drops.push([this.#dropRate(status.dropped, now)], now);
    this.#plots.drops.node.title = `Dropped since the publisher came: ${describeDrops(status.drops)}`;
    this.#plots.latency.node.title = HOPS.filter((hop) => status.hops[hop]).map((hop) => `${hop}: ${formatNumber(status.hops[hop].p50)} ms, p95 ${formatNumber(status.hops[hop].p95)} ms`).join("\n");
    for (const warning of status.warnings) {
      if (this.#warned.has(warning)) continue;
      this.#warned.add(warning);
      this.note(warning);
    }
    return status;
  }

  /** Size and codec under each picture, and what runs the networks under the output; null where nothing flows. */
  showFacts(which, facts, label = "") {
    const size = facts ? `${facts.width} × ${facts.height}` : "";
    const runs = which === "output" && facts ? this.#acceleration : "";
    byId(`${which}-facts`).textContent = [label, size, facts?.codec, runs].filter(Boolean).join(" · ");
  }

  showPicture(which, stream) {
    const video = byId(which);
    if (video.srcObject !== stream) video.srcObject = stream;
    byId(`view-${which}`).classList.toggle("has-picture", Boolean(stream));
    if (stream) video.play().catch(() => {}); // the attribute autoplay starts it where play() is refused
  }

  setShape(width, height) {
    document.documentElement.style.setProperty("--shape", `${width} / ${height}`);
    document.documentElement.style.setProperty("--ratio", width / height);
  }

  /** What the last update did. */
  showApplied(words, tone = "") {
    const line = byId("applied");
    line.textContent = words;
    line.dataset.tone = tone;
  }

  /** How the pictures travel, where that costs something; empty for the usual way. */
  showWay(words) {
    const line = byId("way");
    if (line.textContent !== words) line.textContent = words; // else it is read out again
  }

  noteEvent(name, data) {
    const words = describeEvent(name, data);
    if (words) this.note(words, data.at);
  }

  note(words, at = new Date()) {
    const list = byId("activity");
    const time = new Date(at).toLocaleTimeString([], { hour12: false });
    list.prepend(element("li", {}, element("time", { text: time }), element("span", { text: words })));
    while (list.children.length > MOST_ACTIVITIES) list.lastElementChild.remove();
    byId("activity-latest").textContent = words;
  }

  reset() {
    this.#dropped = null;
    this.#lastStatusAt = null;
    this.#warned.clear();
    for (const plot of Object.values(this.#plots)) plot.clear();
    this.#hops.clear();
  }

  #dropRate(dropped, now) {
    const before = this.#dropped;
    const seconds = this.#lastStatusAt === null ? 0 : (now - this.#lastStatusAt) / 1000;
    this.#dropped = dropped;
    this.#lastStatusAt = now;
    // The counters start anew with each publisher.
    if (before === null || dropped < before || seconds <= 0) return before === null ? null : 0;
    return (dropped - before) / seconds;
  }
}
