// How the image processors of a running stream fare, beside their controls: a small live picture of what each made, and words.

import { element } from "./dom.js";
import { processorName } from "./names.js";

const PAUSE_MS = 500;

/** The place for one processor's picture and state. `place` is where the params name it, such as `controlnets[0]`. */
export function tapNode(place, processor) {
  const name = processorName(processor);
  const image = element("img", { alt: `What ${name} sees`, width: 320, height: 320 });
  const button = element("button", { type: "button", class: "tap-picture", hidden: true, "aria-pressed": "false", "aria-label": `Live picture of ${name}: larger`, onclick: () => {
    const large = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(large));
    node.classList.toggle("is-large", large);
  } }, image);
  const node = element("div", { class: "tap", "data-place": place, "data-processor": processor }, button, element("p", { class: "tap-state" }));
  return node;
}

/** Fills the tap nodes below `root` while a stream runs. */
export class Taps {
  #root;
  #states = new Map();
  #session = null;

  constructor(root) {
    this.#root = root;
  }

  /** Follow `session` until another one or null comes. */
  async follow(session) {
    this.#session = session;
    this.show([]);
    while (session && session === this.#session) {
      for (const processor of this.#wanted()) {
        const picture = await session.tap(processor).catch(() => null); // it may have gone a moment ago
        if (session !== this.#session) return;
        if (picture) this.#put(processor, picture);
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }

  /** `processors` of the stream's status; also to be called when the panel was drawn anew. */
  show(processors = [...this.#states.values()]) {
    this.#states = new Map(processors.map((state) => [state.place, state]));
    for (const node of this.#nodes()) {
      const state = this.#stateOf(node);
      const words = node.querySelector(".tap-state");
      const said = describe(state);
      if (words.textContent !== said) words.textContent = said;
      words.classList.toggle("is-bad", state?.phase === "left_out");
      const button = node.querySelector(".tap-picture");
      const picture = node.querySelector("img");
      button.hidden = !(state?.seen && state.phase === "working" && picture.hasAttribute("src"));
    }
  }

  #nodes() {
    return this.#root.querySelectorAll(".tap");
  }

  #stateOf(node) {
    const state = this.#states.get(node.dataset.place);
    return state?.name === node.dataset.processor ? state : undefined;
  }

  /** The processors whose picture a person would see now, each once. */
  #wanted() {
    if (document.hidden) return [];
    const seen = [...this.#nodes()].filter((node) => this.#stateOf(node)?.seen && inSight(node));
    return new Set(seen.map((node) => node.dataset.processor));
  }

  #put(processor, picture) {
    for (const node of this.#nodes()) {
      if (node.dataset.processor !== processor || !this.#stateOf(node)?.seen) continue;
      const image = node.querySelector("img");
      const address = URL.createObjectURL(picture);
      image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
      image.addEventListener("error", () => URL.revokeObjectURL(address), { once: true });
      image.src = address;
    }
    this.show();
  }
}

/** A state in words; empty where the picture says it all. */
export function describe(state) {
  switch (state?.phase) {
    case "loading":
      return "Its network is loading.";
    case "left_out":
      return `Left out: ${state.problem}`;
    case "working":
      return [
        state.interval > 1 ? `Looks at one picture in ${state.interval}.` : "",
        state.acceleration && state.acceleration !== "torch" ? `Runs on ${state.acceleration}.` : "",
      ]
        .filter(Boolean)
        .join(" ");
    default:
      return "";
  }
}

function inSight(node) {
  const place = node.parentElement.getBoundingClientRect();
  return place.width > 0 && place.bottom > -200 && place.top < innerHeight + 200;
}
