// The ControlNets of a stream: add, remove, switch, scale, their preprocessors with parameters, and what these make, live.

import { element, humanName, icon, redraw, sameJson } from "./dom.js";
import { choiceField, jsonField, sliderField } from "./fields.js";
import { buildField } from "./controls.js";
import { processorName } from "./names.js";
import { tapNode } from "./taps.js";

/**
 * The editor of `controlnets`. `context` is {catalogue, family}: the catalogue's `controlnets` are those of the server, each with its
 * usual preprocessor and scale. The whole list is told on a change, because arrays are replaced whole by the server.
 */
export function controlNetField({ label, value, changed, context }) {
  const known = context.catalogue.controlnets;
  const processors = context.catalogue.processors.image;
  const own = known.filter(({ family }) => family === context.family);
  let items = structuredClone(value ?? []);
  let disabled = false;
  const head = element("div", { class: "field-head" }, element("span", { class: "label", text: label }));
  const list = element("ol", { class: "group-list", "aria-label": label });
  const empty = element("p", { class: "empty", text: "None. The camera's picture and the prompt decide." });
  const announcer = element("span", { class: "visually-hidden", "aria-live": "polite" });
  const adder = element("select", { class: "adder", "aria-label": "Add a ControlNet", onchange: () => add(adder.value) });

  const tell = () => changed(structuredClone(items));
  const say = (words) => (announcer.textContent = words);
  const add = (id) => {
    const net = own.find((each) => each.id === id);
    if (!net) return;
    items.push({ model_id: id, enabled: true, conditioning_scale: net.scale || 0.5, preprocessor: net.preprocessor, preprocessor_params: {}, control_guidance_start: 0, control_guidance_end: 1 });
    render();
    list.lastElementChild.querySelector("input").focus();
    say(`${nameOf(net)} added`);
    tell();
  };
  const remove = (index) => {
    const [gone] = items.splice(index, 1);
    render();
    (list.children[Math.min(index, list.children.length - 1)]?.querySelector("input") ?? adder).focus();
    say(`${nameOf(find(gone.model_id))} removed`);
    tell();
  };
  const find = (id) => known.find((each) => each.id === id) ?? { id, kind: null, present: true };
  const turn = (index, members) => {
    items[index] = { ...items[index], ...members };
    tell();
  };

  const row = (item, index) => {
    const net = find(item.model_id);
    const name = nameOf(net);
    const enabled = item.enabled !== false;
    const node = element("li", { class: `group net${enabled ? "" : " is-off"}`, "data-net": item.model_id });
    const fields = {
      scale: sliderField({ label: "Scale", minimum: 0, maximum: 1, step: 0.01, value: item.conditioning_scale ?? 1, changed: (next) => turn(index, { conditioning_scale: next }) }),
      start: sliderField({ label: "Starts after", minimum: 0, maximum: 1, step: 0.01, value: item.control_guidance_start ?? 0, changed: (next) => turn(index, window_(item, "start", next, fields)) }),
      end: sliderField({ label: "Ends after", minimum: 0, maximum: 1, step: 0.01, value: item.control_guidance_end ?? 1, changed: (next) => turn(index, window_(item, "end", next, fields)) }),
      preprocessor: choiceField({ label: "Preprocessor", value: item.preprocessor ?? "passthrough",
        choices: processors.map((each) => ({ value: each.name, label: `${processorName(each.name)}${each.needs_model ? " (needs a model)" : ""}` })),
        changed: (next) => {
          items[index] = { ...items[index], preprocessor: next, preprocessor_params: {} };
          render();
          list.children[index].querySelector("[data-field='preprocessor'] select").focus();
          tell();
        } }),
    };
    fields.preprocessor.node.dataset.field = "preprocessor";
    const more = [...parameterFields(item, index), fields.start, fields.end];
    for (const field of [...Object.values(fields), ...more]) field.disable(disabled);
    node.append(
      element("div", { class: "processor-head" },
        element("label", { class: "processor-name", title: net.id },
          element("input", { type: "checkbox", role: "switch", class: "switch", checked: enabled, disabled, onchange: (event) => {
            node.classList.toggle("is-off", !event.target.checked);
            turn(index, { enabled: event.target.checked });
          } }),
          element("span", { text: name })),
        element("button", { type: "button", class: "icon-button", disabled, "aria-label": `Remove ${name}`, title: "Remove", onclick: () => remove(index) }, icon("close"))),
      element("p", { class: "net-id", text: net.id }),
      ...missing(net),
      element("div", { class: "net-body" }, element("div", { class: "net-fields" }, fields.scale.node, fields.preprocessor.node), tapNode(`controlnets[${index}]`, item.preprocessor ?? "passthrough")),
      element("details", { class: "more", open: false }, element("summary", {}, element("span", { text: "Preprocessor and window" })), ...more.map(({ node: each }) => each)),
    );
    return node;
  };

  const parameterFields = (item, index) => {
    const kind = processors.find((each) => each.name === item.preprocessor);
    const parameters = kind?.parameters ?? [];
    const fields = parameters.map((parameter) => {
      const field = buildField(parameter, item.preprocessor_params?.[parameter.name] ?? parameter.default, (next) =>
        turn(index, { preprocessor_params: { ...items[index].preprocessor_params, [parameter.name]: next } }));
      field.node.dataset.parameter = parameter.name;
      if (parameter.description) field.node.title = parameter.description;
      return field;
    });
    const strange = Object.entries(item.preprocessor_params ?? {}).filter(([key]) => !parameters.some((each) => each.name === key));
    if (strange.length) {
      fields.push(jsonField({ label: "Other parameters", value: Object.fromEntries(strange), changed: (next) => {
        const kept = Object.entries(items[index].preprocessor_params).filter(([key]) => parameters.some((each) => each.name === key));
        turn(index, { preprocessor_params: { ...Object.fromEntries(kept), ...next } });
      } }));
    }
    return fields;
  };

  const render = () => {
    const open = new Set([...list.querySelectorAll("details[open]")].map((each) => each.closest("li").dataset.net));
    list.replaceChildren(...items.map(row));
    for (const each of list.children) each.querySelector("details").open = open.has(each.dataset.net);
    const left = own.filter(({ id }) => !items.some((item) => item.model_id === id));
    adder.replaceChildren(element("option", { value: "", text: "Add a ControlNet…" }),
      ...left.map((net) => element("option", { value: net.id, text: `${nameOf(net)}${net.present ? "" : net.fetched_when_needed ? " (is fetched)" : " (not on this machine)"}`, title: net.id })));
    adder.disabled = disabled || !left.length;
    empty.hidden = items.length > 0;
  };
  render();
  return {
    node: element("div", { class: "field", role: "group", "aria-label": label }, head, list, empty, adder, announcer),
    set: (next) => {
      if (sameJson(next ?? [], items)) return;
      items = structuredClone(next ?? []);
      redraw(list, render);
    },
    disable: (flag) => {
      disabled = flag;
      render();
    },
    head,
  };
}

/** `controlnets` for a model of another family: each becomes the one of the same kind, or goes, as the server has it. */
export function translateControlNets(nets, known, family) {
  return nets.flatMap((net) => {
    const kind = known.find(({ id }) => id === net.model_id)?.kind;
    const same = kind && known.find((other) => other.family === family && other.kind === kind && other.in_sdks);
    return same ? [{ ...net, model_id: same.id }] : [];
  });
}

/** "Canny", or the last part of the id of one that a setting added. */
function nameOf({ id, kind }) {
  if (kind === "hed") return "HED";
  return kind ? humanName(kind) : id.split("/").at(-1);
}

function missing(net) {
  if (net.present) return [];
  const words = net.fetched_when_needed ? "Its files are fetched when it is first used." : `Not on this machine: sdstream models pull --for ${net.id}`;
  return [element("p", { class: "field-note", text: words })];
}

/** The window with one end moved; the other end gives way, because the server refuses a window that ends before it starts. */
function window_(item, end, value, fields) {
  const other = end === "start" ? "end" : "start";
  item[`control_guidance_${end}`] = value;
  const bound = end === "start" ? Math.max(value, item.control_guidance_end ?? 1) : Math.min(value, item.control_guidance_start ?? 0);
  item[`control_guidance_${other}`] = bound;
  fields[other].set(bound);
  return { [`control_guidance_${end}`]: value, [`control_guidance_${other}`]: bound };
}
