// What went wrong, in words, at the top of the page until it is dismissed or mended.

import { labelOf } from "./controls.js";
import { byId, element, icon } from "./dom.js";

const MOST = 3;
const LEAST_READ_MS = 3000;

/**
 * Show an error. `topic` names what it is about: a newer message on the same topic replaces the older one, and `clearMessage(topic)`
 * takes it away when the thing works again.
 */
export function showError(topic, error, title = "") {
  const words = error.message || String(error);
  const said = words.toLowerCase();
  const problems = (error.problems ?? []).filter((problem) => !said.includes(problem.replace(/^[^:]*: /, "").toLowerCase()));
  const facts = [error.status ? `HTTP ${error.status}` : "", error.code, error.requestId].filter(Boolean).join(" · ");
  const node = element("div", { class: "message", "data-topic": topic },
    element("div", { class: "message-text" },
      element("p", {}, title ? element("b", { text: `${title} ` }) : null, sentence(words)),
      problems.length ? element("ul", {}, ...problems.map((problem) => element("li", { text: named(problem) }))) : null,
      facts ? element("p", { class: "fine", text: facts }) : null),
    element("button", { type: "button", class: "icon-button", "aria-label": "Dismiss", onclick: () => node.remove() }, icon("close")));
  if (error.unanswered) node.dataset.unansweredAt = performance.now();
  const box = byId("messages");
  const same = topic === "fault" && [...box.children].find((each) => each.dataset.topic === topic && each.querySelector("p").textContent === node.querySelector("p").textContent);
  if (same) {
    if (error.unanswered) same.dataset.unansweredAt = node.dataset.unansweredAt;
    return; // what comes back by itself is not read out again
  }
  clearMessage(topic);
  box.append(node);
  while (box.children.length > MOST) box.firstElementChild.remove();
}

export function clearMessage(topic) {
  for (const node of [...byId("messages").children]) if (node.dataset.topic === topic) node.remove();
}

/**
 * The server answers again, to a request of the moment `sentAt`: what says that it does not is no longer so. A request that was sent
 * just after the message leaves it, so that it can be read: what the person did is still undone.
 */
export function clearUnanswered(sentAt) {
  for (const node of [...byId("messages").children]) if (sentAt - Number(node.dataset.unansweredAt) > LEAST_READ_MS) node.remove();
}

export function clearMessages() {
  byId("messages").replaceChildren();
}

function sentence(words) {
  const text = named(words).replace(/^./, (letter) => letter.toUpperCase());
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** "params.guidance_scale: must be ..." with the name that the control has. */
function named(words) {
  return words.replace(/^params\.(\w+)/, (_, name) => labelOf(name));
}
