// One input for each kind of value. A field is {node, set(value), disable(flag)}; it calls `changed(value)` when a person changes it.

import { element, formatNumber, icon, redraw, sameJson, uniqueId } from "./dom.js";

/** Slider and number box side by side; for bounded numbers. */
export function sliderField({ label, minimum, maximum, step, value, changed, describedBy }) {
  const id = uniqueId("slider");
  const range = element("input", { type: "range", id, min: minimum, max: maximum, step, "aria-describedby": describedBy });
  const number = element("input", { type: "number", class: "number", min: minimum, max: maximum, step, "aria-label": `${label}, as a number` });
  const paint = () => range.style.setProperty("--filled", `${(100 * (range.value - minimum)) / (maximum - minimum || 1)}%`);
  const set = (next) => {
    range.value = next;
    if (document.activeElement !== number) number.value = trimmed(next, step);
    paint();
  };
  range.addEventListener("input", () => {
    number.value = trimmed(Number(range.value), step);
    paint();
    changed(Number(range.value));
  });
  number.addEventListener("change", () => {
    const wanted = number.valueAsNumber;
    if (Number.isFinite(wanted)) set(Math.min(maximum, Math.max(minimum, wanted)));
    number.value = trimmed(Number(range.value), step); // of half a number it is what it was
    if (Number.isFinite(wanted)) changed(Number(range.value));
  });
  set(value ?? minimum);
  const head = element("div", { class: "field-head" }, element("label", { for: id, text: label }), number);
  return { node: element("div", { class: "field field-slider" }, head, range), set, disable: disabler(range, number), head };
}

/** A number without bounds, such as a seed; `dice` adds a button that takes a random one. */
export function numberField({ label, minimum, maximum, step, value, changed, dice = false, describedBy }) {
  const id = uniqueId("number");
  const input = element("input", { type: "number", id, class: "number", min: minimum, max: maximum, step, "aria-describedby": describedBy });
  let last = value;
  input.addEventListener("change", () => {
    if (!Number.isFinite(input.valueAsNumber)) return set(last); // empty, or half a number
    last = input.valueAsNumber;
    changed(last);
  });
  const roll = dice && element("button", { type: "button", class: "icon-button", title: "Random", "aria-label": `Random ${label.toLowerCase()}`, onclick: () => {
    last = Math.floor(Math.random() * 2 ** 31);
    input.value = last;
    changed(last);
  } }, icon("dice"));
  const head = element("div", { class: "field-head" }, element("label", { for: id, text: label }), element("span", { class: "field-tail" }, roll, input));
  const set = (next) => {
    last = next;
    input.value = next ?? "";
  };
  set(value);
  return { node: element("div", { class: "field" }, head), set, disable: disabler(input, ...(roll ? [roll] : [])), head };
}

export function switchField({ label, value, changed, describedBy }) {
  const id = uniqueId("switch");
  const input = element("input", { type: "checkbox", role: "switch", class: "switch", id, "aria-describedby": describedBy, onchange: () => changed(input.checked) });
  const set = (next) => (input.checked = Boolean(next));
  set(value);
  const head = element("div", { class: "field-head" }, element("label", { for: id, text: label }), input);
  return { node: element("div", { class: "field" }, head), set, disable: disabler(input), head };
}

/** `choices` are values or {value, label}. */
export function choiceField({ label, choices, value, changed, describedBy }) {
  const id = uniqueId("choice");
  const options = choices.map((choice) => (typeof choice === "object" && choice !== null ? choice : { value: choice, label: String(choice) }));
  const select = element("select", { id, "aria-describedby": describedBy, onchange: () => changed(options[select.selectedIndex].value) },
    ...options.map((option) => element("option", { text: option.label })));
  const set = (next) => (select.selectedIndex = options.findIndex((option) => option.value === next));
  set(value);
  const head = element("div", { class: "field-head" }, element("label", { for: id, text: label }), select);
  return { node: element("div", { class: "field" }, head), set, disable: disabler(select), head };
}

export function textField({ label, value, changed, describedBy, rows = 2, placeholder }) {
  const id = uniqueId("text");
  const area = element("textarea", { id, rows, placeholder, spellcheck: "true", "aria-describedby": describedBy, oninput: () => changed(area.value) });
  const set = (next) => {
    if (document.activeElement !== area || area.value === "") area.value = next ?? "";
  };
  area.value = value ?? "";
  const head = element("div", { class: "field-head" }, element("label", { for: id, text: label }));
  return { node: element("div", { class: "field" }, head, area), set, disable: disabler(area), head };
}

/** Text, or several texts with weights: [["a forest", 1], ["a city", 0.5]]. */
export function blendField({ label, value, changed, describedBy }) {
  let pairs = asPairs(value);
  let disabled = false;
  const list = element("div", { class: "blend" });
  const head = element("div", { class: "field-head" }, element("span", { class: "label", text: label }));
  const more = element("button", { type: "button", class: "link", onclick: () => {
    pairs = [...pairs, ["", 0.5]];
    render();
    list.lastElementChild.querySelector("textarea").focus();
  } }, icon("plus"), "Blend with another prompt");

  const tell = () => {
    if (pairs.length === 1) return changed(pairs[0][0]);
    // The server refuses an empty text beside others, so a row a person has not filled in yet does not take part.
    const filled = pairs.filter(([text]) => text.trim());
    if (filled.length) changed(filled);
  };
  const render = () => {
    list.replaceChildren(...pairs.map(([text, weight], index) => {
      const area = element("textarea", { rows: 3, value: text, disabled, "aria-label": pairs.length > 1 ? `${label} ${index + 1}` : label, "aria-describedby": describedBy, oninput: () => {
        pairs[index][0] = area.value;
        tell();
      } });
      if (pairs.length === 1) return element("div", { class: "blend-row" }, area);
      const strength = sliderField({ label: "Weight", minimum: 0, maximum: 1, step: 0.01, value: weight, changed: (next) => {
        pairs[index][1] = next;
        tell();
      } });
      strength.disable(disabled);
      const remove = element("button", { type: "button", class: "icon-button", disabled, "aria-label": `Remove prompt ${index + 1}`, onclick: () => {
        pairs = pairs.filter((_, other) => other !== index);
        render();
        list.children[Math.min(index, pairs.length - 1)].querySelector("textarea").focus();
        tell();
      } }, icon("close"));
      strength.head.append(remove);
      return element("div", { class: "blend-row" }, area, strength.node);
    }));
  };
  render();
  return {
    node: element("div", { class: "field", role: "group", "aria-label": label }, head, list, more),
    set: (next) => {
      if (list.contains(document.activeElement) || sameJson(asPairs(next), pairs)) return;
      pairs = asPairs(next);
      render();
    },
    disable: (flag) => {
      disabled = flag;
      more.disabled = flag;
      redraw(list, render);
    },
    head,
  };
}

/** `count` steps evenly from where `strength` begins on a schedule of `length` to its end, as the server spreads them. */
export function spreadSteps(strength, length, count) {
  const first = Math.round((1 - strength) * length);
  return Array.from({ length: count }, (_, index) => first + Math.round((index * (length - first)) / count));
}

/** One to four rising step numbers, and one slider for all; moving one past its neighbour takes the neighbour along. */
export function stepsField({ label, value, maximum, changed, describedBy, least = 1, most = 4 }) {
  let steps = [...value];
  let chosen = steps; // before they were held within a shorter schedule: a longer one brings them back
  let disabled = false;
  const head = element("div", { class: "field-head" }, element("span", { class: "label", text: label }));
  const list = element("div", { class: "steps" });
  const node = element("div", { class: "field", role: "group", "aria-label": label, "aria-describedby": describedBy }, head, list);
  const add = element("button", { type: "button", class: "icon-button", "aria-label": "Add a step", title: "Add a step", onclick: () => alter([...steps, steps.at(-1)]) }, icon("plus"));
  const drop = element("button", { type: "button", class: "icon-button", "aria-label": "Remove the last step", title: "Remove the last step", onclick: () => alter(steps.slice(0, -1)) }, icon("minus"));
  head.append(element("span", { class: "field-tail" }, drop, add));
  let sliders = [];
  const strength = sliderField({ label: "Strength", minimum: 0, maximum: 1, step: 0.01, value: 0, changed: (next) => {
    steps = chosen = spreadSteps(next, maximum, steps.length);
    sliders.forEach((slider, place) => slider.set(steps[place]));
    changed([...steps]);
  } });
  strength.node.title = "How far the picture may go from the camera's: moves all steps";
  const showStrength = () => strength.set(1 - steps[0] / maximum);
  const alter = (next) => {
    steps = chosen = next;
    render();
    changed([...steps]);
  };
  const render = () => {
    add.disabled = disabled || steps.length >= most;
    drop.disabled = disabled || steps.length <= least;
    sliders = steps.map((step, index) => sliderField({ label: `Step ${index + 1}`, minimum: 0, maximum, step: 1, value: step, changed: (next) => {
      steps = chosen = steps.map((other, place) => (place < index ? Math.min(other, next) : place > index ? Math.max(other, next) : next));
      sliders.forEach((slider, place) => slider.set(steps[place]));
      showStrength();
      changed([...steps]);
    } }));
    [strength, ...sliders].forEach((slider) => slider.disable(disabled));
    showStrength();
    list.replaceChildren(strength.node, ...sliders.map((slider) => slider.node));
  };
  render();
  return {
    node,
    set: (next) => {
      if (!Array.isArray(next) || sameJson(next, steps)) return;
      steps = chosen = [...next];
      redraw(list, render);
    },
    limit: (next) => {
      if (next === maximum) return;
      maximum = next;
      const inside = chosen.map((step) => Math.min(step, maximum));
      const same = sameJson(inside, steps);
      steps = inside;
      render();
      if (!same) changed([...steps]);
    },
    disable: (flag) => {
      disabled = flag;
      render();
    },
    head,
  };
}

/** Any JSON value; sent when the box is left and the text is JSON. */
export function jsonField({ label, value, changed, describedBy, placeholder }) {
  const id = uniqueId("json");
  const error = element("p", { class: "field-error", role: "alert", id: `${id}-error` });
  const area = element("textarea", { id, rows: 2, class: "code", placeholder, spellcheck: "false", "aria-describedby": `${describedBy ?? ""} ${id}-error`.trim(), onchange: () => {
    try {
      const parsed = area.value.trim() === "" ? null : JSON.parse(area.value);
      error.textContent = "";
      area.removeAttribute("aria-invalid");
      changed(parsed);
    } catch (fault) {
      error.textContent = `Not JSON: ${fault.message}${placeholder ? `; such as ${placeholder}` : ""}`;
      area.setAttribute("aria-invalid", "true");
    }
  } });
  const set = (next) => {
    if (document.activeElement === area) return;
    area.value = next === null || next === undefined ? "" : JSON.stringify(next, null, 1).replace(/\s*\n\s*/g, " ");
    error.textContent = "";
    area.removeAttribute("aria-invalid");
  };
  set(value);
  const head = element("div", { class: "field-head" }, element("label", { for: id, text: label }));
  return { node: element("div", { class: "field" }, head, area, error), set, disable: disabler(area), head };
}

const asPairs = (value) => (Array.isArray(value) ? value.map((pair) => [...pair]) : [[value ?? "", 1]]);

const disabler = (...inputs) => (flag) => inputs.forEach((input) => (input.disabled = flag));

function trimmed(value, step) {
  const places = Math.min(4, String(step ?? 1).split(".")[1]?.length ?? 0);
  return places ? Number(value).toFixed(places) : formatNumber(value).replace("–", "");
}
