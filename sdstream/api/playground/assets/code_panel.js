// The drawer with the present settings as code: tabs for the languages, and a button that copies.

import { BASE } from "./api.js";
import { copyOnClick } from "./copying.js";
import { byId, element } from "./dom.js";
import { LANGUAGES, snippet } from "./snippets.js";

export class CodePanel {
  #language = LANGUAGES[0].key;
  #params = {};

  constructor() {
    byId("code-tabs").append(...LANGUAGES.map(({ key, name }) => element("button", {
      type: "button", role: "tab", id: `tab-${key}`, "data-language": key, "aria-controls": "code-panel", text: name,
      onclick: () => this.#choose(key),
      onkeydown: (event) => this.#step(event),
    })));
    byId("code-drawer").addEventListener("toggle", () => this.#draw());
    copyOnClick(byId("copy"), () => byId("code").textContent, () => getSelection().selectAllChildren(byId("code")));
  }

  show(params) {
    this.#params = params;
    this.#draw();
  }

  #draw() {
    if (!byId("code-drawer").open) return; // a style image of megabytes would slow every slider down
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
}
