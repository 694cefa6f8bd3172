// What of params that are in force is not as a person may think, such as a prompt that is longer than the model reads: said at the control.

import { element } from "./dom.js";

/** Show `remarks`, as the status has them: [{place, message}]; [] takes all words away. To be called again when the panel was drawn anew. */
export function showRemarks(remarks) {
  const wanted = new Map();
  for (const { place, message } of remarks) wanted.set(place, [...(wanted.get(place) ?? []), sentence(message)]);
  for (const words of document.querySelectorAll(".remark-here")) if (!wanted.has(words.dataset.place)) words.remove();
  for (const [place, sentences] of wanted) {
    const control = document.querySelector(`.control[data-name="${place}"]`);
    let words = control?.querySelector(":scope > .remark-here");
    if (control && !words) control.append((words = element("p", { class: "field-note remark-here", "data-place": place })));
    const text = sentences.join(" ");
    if (words && words.textContent !== text) words.textContent = text;
  }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;
