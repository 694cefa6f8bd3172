// An ordered list of processors: add, remove, move, switch off, and the parameters of each.

import { element, icon, redraw, sameJson } from "./dom.js";
import { jsonField } from "./fields.js";
import { buildField } from "./controls.js";
import { processorName } from "./names.js";
import { tapNode } from "./taps.js";

/**
 * The editor of one processing block, {enabled, processors: [{type, enabled, params}]} or null.
 *
 * `place` is the block's name in the params, for its processors' live pictures; latent processors have none.
 * `types` are the processors of the catalogue: {name, description, parameters, needs_model}. `changed(block)` is called with the whole
 * block, because arrays are replaced whole by the server.
 */
export class ProcessorList {
  #types;
  #changed;
  #block = { enabled: true, processors: [] };
  #rows = [];
  #disabled = false;
  #live = false;
  #place;

  constructor({ label, place, types, value, changed }) {
    this.label = label;
    this.#place = place;
    this.#types = types;
    this.#changed = changed;
    this.list = element("ol", { class: "processors", "aria-label": label });
    this.empty = element("p", { class: "empty", text: "None. The picture passes as it is." });
    this.adder = element("select", { class: "adder", "aria-label": `Add a processor ${label.toLowerCase()}`, onchange: () => this.#add() },
      element("option", { value: "", text: "Add a processor…" }),
      ...types.map((type) => element("option", { value: type.name, text: offer(type), title: type.description })));
    this.announcer = element("span", { class: "visually-hidden", "aria-live": "polite" });
    this.node = element("div", { class: "processor-block", role: "group", "aria-label": label }, element("h3", { text: label }), this.list, this.empty, this.adder, this.announcer);
    this.set(value);
  }

  set(value) {
    const block = { enabled: value?.enabled ?? true, processors: value?.processors ?? [] };
    if (sameJson(block, this.#block) && this.#rows.length === block.processors.length) return this.#showEmpty();
    this.#block = structuredClone(block);
    redraw(this.list, () => this.#render());
  }

  disable(flag) {
    this.#disabled = flag;
    this.adder.disabled = flag;
    redraw(this.list, () => this.#render());
  }

  /** While a stream runs, processors after diffusion that change the size of the picture cannot come, go or be turned. */
  setLive(live) {
    this.#live = live;
    this.#types.forEach((type, index) => {
      const option = this.adder.options[index + 1];
      option.disabled = this.#isFixed(type.name);
      option.textContent = offer(type) + (option.disabled ? " (fixed while live)" : "");
    });
    redraw(this.list, () => this.#render());
  }

  #isFixed(name) {
    return this.#live && this.#place === "image_postprocessing" && Boolean(this.#types.find((type) => type.name === name)?.scales_output);
  }

  #render() {
    this.#rows = this.#block.processors.map((processor, index) => this.#row(processor, index));
    this.list.replaceChildren(...this.#rows);
    this.#showEmpty();
  }

  #showEmpty() {
    this.empty.hidden = this.#block.processors.length > 0;
  }

  #row(processor, index) {
    const type = this.#types.find(({ name }) => name === processor.type);
    const last = this.#block.processors.length - 1;
    const name = processorName(processor.type);
    const enabled = processor.enabled !== false;
    const fixed = this.#isFixed(processor.type);
    const button = (action, iconName, words, disabled, act) =>
      element("button", { type: "button", class: "icon-button", "data-action": action, "aria-label": `${words} ${name}`, title: words, disabled: disabled || this.#disabled, onclick: act }, icon(iconName));
    const head = element("div", { class: "processor-head" },
      element("label", { class: "processor-name", title: type?.description },
        element("input", { type: "checkbox", role: "switch", class: "switch", checked: enabled, disabled: this.#disabled || fixed, onchange: (event) => this.#enable(index, event.target.checked) }),
        element("span", {}, name, fixed && element("span", { class: "mark mark-refused", title: "It changes the size of the picture, which cannot change while the stream is live", text: "fixed while live" }))),
      element("span", { class: "processor-actions" },
        button("up", "up", "Move up", index === 0, () => this.#move(index, -1)),
        button("down", "down", "Move down", index === last, () => this.#move(index, 1)),
        button("remove", "close", "Remove", fixed, () => this.#remove(index))));
    const parameters = this.#parameterFields(processor, type, index);
    return element("li", { class: `processor${enabled ? "" : " is-off"}`, "data-type": processor.type }, head,
      this.#place && tapNode(`${this.#place}[${index}]`, processor.type),
      parameters.length > 0 && element("div", { class: "processor-parameters" }, ...parameters));
  }

  #parameterFields(processor, type, index) {
    const known = type?.parameters ?? [];
    const fields = known.map((parameter) => {
      const field = buildField(parameter, processor.params?.[parameter.name] ?? parameter.default, (value) => this.#setParameter(index, parameter.name, value));
      field.disable(this.#disabled || (this.#isFixed(processor.type) && parameter.change === "refused"));
      if (parameter.description) field.node.title = parameter.description;
      field.node.dataset.parameter = parameter.name;
      return field.node;
    });
    const strange = Object.keys(processor.params ?? {}).filter((name) => !known.some((parameter) => parameter.name === name));
    if (strange.length) {
      const rest = Object.fromEntries(strange.map((name) => [name, processor.params[name]]));
      fields.push(jsonField({ label: "Other parameters", value: rest, changed: (value) => {
        const kept = Object.fromEntries(Object.entries(processor.params).filter(([name]) => !strange.includes(name)));
        this.#block.processors[index].params = { ...kept, ...value };
        this.#tell();
      } }).node);
    }
    return fields;
  }

  #add() {
    const type = this.adder.value;
    this.adder.selectedIndex = 0;
    if (!type) return;
    this.#block.processors.push({ type, enabled: true, params: {} });
    this.#block.enabled = true;
    this.#render();
    this.#rows.at(-1).querySelector("input").focus();
    this.#say(`${processorName(type)} added`);
    this.#tell();
  }

  #remove(index) {
    const [removed] = this.#block.processors.splice(index, 1);
    this.#render();
    (this.#rows[Math.min(index, this.#rows.length - 1)]?.querySelector("input") ?? this.adder).focus();
    this.#say(`${processorName(removed.type)} removed`);
    this.#tell();
  }

  #move(index, by) {
    const [moved] = this.#block.processors.splice(index, 1);
    this.#block.processors.splice(index + by, 0, moved);
    this.#render();
    const row = this.#rows[index + by];
    const again = row.querySelector(`[data-action="${by < 0 ? "up" : "down"}"]`);
    (again.disabled ? row.querySelector("input") : again).focus();
    this.#say(`${processorName(moved.type)} is now number ${index + by + 1} of ${this.#rows.length}`);
    this.#tell();
  }

  #enable(index, flag) {
    this.#block.processors[index].enabled = flag;
    this.#rows[index].classList.toggle("is-off", !flag);
    this.#tell();
  }

  #setParameter(index, name, value) {
    const processor = this.#block.processors[index];
    processor.params = { ...processor.params, [name]: value };
    this.#tell();
  }

  #tell() {
    this.#changed(structuredClone(this.#block));
  }

  #say(words) {
    this.announcer.textContent = words;
  }
}

/** A processor as the list of those to be added has it. */
const offer = (type) => `${processorName(type.name)}${type.needs_model ? " (needs a model)" : ""}`;
