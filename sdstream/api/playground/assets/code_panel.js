// The drawer with the present settings as code: tabs for the languages, and a button that copies.

import { BASE } from "./api.js";
import { byId, element } from "./dom.js";
import { LANGUAGES, snippet } from "./snippets.js";

const COPIED_MS = 1500;

export class CodePanel {
  #language = LANGUAGES[0].key;
  #params = {};

  constructor() {
    byId("code-tabs").append(...LANGUAGES.map(({ key, name }) => element("button", {
      type: "button", role: "tab", id: `tab-${key}`, "data-language": key, "aria-controls": "code-panel", text: name,
      onclick: () => this.#choose(key),
      onkeydown: (event) => this.#step(event),
    })));
    byId("copy").addEventListener("click", () => this.#copy());
  }

  show(params) {
    this.#params = params;
    this.#draw();
  }

  #draw() {
    byId("code").textContent = snippet(this.#language, { base: BASE.href.replace(/\/$/, ""), params: this.#params });
    for (const tab of byId("code-tabs").children) {
      const chosen = tab.dataset.language === this.#language;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      if (chosen) byId("code-panel").setAttribute("aria-labelledby", tab.id);
    }
  }

  #choose(language) {
    this.#language = language;
    this.#draw();
  }

  #step(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const place = LANGUAGES.findIndex(({ key }) => key === this.#language);
    const next = LANGUAGES[(place + by + LANGUAGES.length) % LANGUAGES.length].key;
    this.#choose(next);
    byId(`tab-${next}`).focus();
  }

  async #copy() {
    const label = byId("copy").querySelector("span");
    try {
      await navigator.clipboard.writeText(byId("code").textContent);
      label.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId("code")); // no permission: the text is selected, ready for the keyboard
      label.textContent = "Selected";
    }
    setTimeout(() => (label.textContent = "Copy"), COPIED_MS);
  }
}
