// Fields made of fields: one object with members, a list of objects, and a picture as an address or as data.

import { element, icon, sameJson } from "./dom.js";
import { buildField } from "./controls.js";

const LARGEST_IMAGE_BYTES = 5_000_000; // Daydream's documented limit

/** An object whose members the catalogue lists, such as ip_adapter; the whole object is told on a change. */
export function objectField({ label, members, value, changed, context }) {
  let current = { ...value };
  const fields = new Map(members.map((member) => [member.name, buildField(member, current[member.name] ?? member.default, (next) => {
    current = { ...current, [member.name]: next };
    changed(current);
  }, context)]));
  const head = element("div", { class: "field-head" }, element("span", { class: "label group-label", text: label }));
  return {
    node: element("div", { class: "group", role: "group", "aria-label": label }, head, ...[...fields.values()].map(({ node }) => node)),
    set: (next) => {
      current = { ...next };
      for (const member of members) fields.get(member.name).set(current[member.name] ?? member.default);
    },
    disable: (flag) => fields.forEach((field) => field.disable(flag)),
    head,
  };
}

/** A list of objects, such as controlnets; `key` is the member that names an item and can be taken once. */
export function listField({ label, members, key, value, changed, context }) {
  let items = structuredClone(value ?? []);
  let disabled = false;
  const choices = members.find(({ name }) => name === key).choices;
  const list = element("div", { class: "group-list" });
  const head = element("div", { class: "field-head" }, element("span", { class: "label", text: label }));
  const adder = element("select", { class: "adder", "aria-label": `Add to ${label}`, onchange: () => {
    const chosen = adder.value;
    if (!chosen) return;
    const others = members.filter(({ name }) => name !== key).map(({ name, default: preset }) => [name, structuredClone(preset)]);
    alter([...items, { [key]: chosen, ...Object.fromEntries(others) }]);
  } });
  const alter = (next) => {
    items = next;
    render();
    changed(structuredClone(items));
  };
  const render = () => {
    const left = choices.filter((choice) => !items.some((item) => item[key] === choice));
    adder.replaceChildren(element("option", { value: "", text: "Add…" }), ...left.map((choice) => element("option", { value: choice, text: choice })));
    adder.disabled = disabled || !left.length;
    list.replaceChildren(...items.map((item, index) => {
      const group = objectField({ label: item[key], members: members.filter(({ name }) => name !== key), value: item, context, changed: (next) => {
        items[index] = { ...next, [key]: item[key] };
        changed(structuredClone(items));
      } });
      group.head.append(element("button", { type: "button", class: "icon-button", disabled, "aria-label": `Remove ${item[key]}`, onclick: () => alter(items.filter((_, other) => other !== index)) }, icon("close")));
      group.disable(disabled);
      return group.node;
    }));
  };
  render();
  return {
    node: element("div", { class: "field", role: "group", "aria-label": label }, head, list, adder),
    set: (next) => {
      if (sameJson(next ?? [], items)) return;
      items = structuredClone(next ?? []);
      render();
    },
    disable: (flag) => {
      disabled = flag;
      render();
    },
    head,
  };
}

/** The address of a picture, or a picture of this machine, which is sent as a data URI. */
export function imageField({ label, value, changed }) {
  const error = element("p", { class: "field-error", role: "alert" });
  const shown = (next) => (next?.startsWith("data:") ? `a picture of ${Math.round(next.length / 1370)} kB` : (next ?? ""));
  const address = element("input", { type: "text", "aria-label": `${label}, as an address`, placeholder: "https://…", value: shown(value), onchange: () => address.value.trim() && changed(address.value.trim()) });
  const file = element("input", { type: "file", accept: "image/*", "aria-label": `${label}, from this machine`, onchange: () => {
    const [picture] = file.files;
    if (!picture) return;
    error.textContent = picture.size > LARGEST_IMAGE_BYTES ? "Pictures of at most 5 MB are accepted." : "";
    if (error.textContent) return;
    const reader = new FileReader();
    reader.onload = () => {
      address.value = shown(reader.result);
      changed(reader.result);
    };
    reader.readAsDataURL(picture);
  } });
  const head = element("div", { class: "field-head" }, element("span", { class: "label", text: label }));
  return {
    node: element("div", { class: "field" }, head, element("div", { class: "image-row" }, address, element("label", { class: "file-button" }, file, element("span", { text: "Choose…" }))), error),
    set: (next) => {
      if (document.activeElement !== address) address.value = shown(next);
    },
    disable: (flag) => [address, file].forEach((input) => (input.disabled = flag)),
    head,
  };
}

