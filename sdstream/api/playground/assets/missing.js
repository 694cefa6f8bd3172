// What the stream asks for and cannot have: said below the pictures, and at the control that it belongs to.

import { labelOf } from "./controls.js";
import { byId, element } from "./dom.js";

/**
 * Show `missing`, as the status has it: [{place, name, message, next_try_time}]; [] takes all words away. `fault` is why nothing runs at
 * all, empty while something does. To be called again when the panel was drawn anew.
 */
export function showMissing(missing, fault = "") {
  const lines = fault ? [fault] : missing.map(sentence);
  const note = byId("missing");
  const said = lines.join("\n");
  if (note.dataset.said !== said) note.replaceChildren(...lines.map((text) => element("span", { text }))); // else it is read out again
  note.dataset.said = said;
  note.hidden = lines.length === 0;
  const wanted = new Map(missing.map((part) => [part.place, `Not in force: ${part.message}`]));
  for (const words of document.querySelectorAll(".missing-here")) if (!wanted.has(words.dataset.place)) words.remove();
  for (const [place, text] of wanted) {
    const home = homeOf(place);
    let words = home?.querySelector(":scope > .missing-here");
    if (home && !words) home.append((words = element("p", { class: "missing-here", "data-place": place })));
    if (words && words.textContent !== text) words.textContent = text;
  }
}

function sentence({ place, name, message, tries, next_try_time }) {
  const [what] = place.split("[");
  const named = name ? `${labelOf(what)} (${name})` : labelOf(what);
  const often = tries > 1 ? ` Tried ${tries} times.` : "";
  return `Not in force: ${named}. ${capital(message)}.${often}${nextTry(next_try_time)}`;
}

/** When the next try comes, by the minute or in tens of seconds: words that change each second would be read out each second. */
function nextTry(time) {
  if (time === null) return "";
  const seconds = (time - Date.now()) / 1000;
  if (seconds <= 0) return " It is being tried again.";
  if (seconds <= 90) return ` It is tried again within ${10 * Math.ceil(seconds / 10)} s.`;
  return ` It is tried again within ${Math.ceil(seconds / 60)} min.`;
}

/** The node below which the words belong: the row of a list where the place has a number. */
function homeOf(place) {
  const [, name, index] = /^(\w+)(?:\[(\d+)\])?/.exec(place) ?? [];
  if (name === "model_id") return document.querySelector(".model-box");
  if (name === "skip_diffusion") return document.querySelector(".diffusion-box");
  const control = document.querySelector(`.control[data-name="${name}"]`);
  if (index === undefined) return control;
  return control?.querySelectorAll(".net")[Number(index)] ?? control;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/\.$/, "");
