// Fields made of fields: one object with members, and a picture as an address or as data.

import { isShortened } from "./api.js";
import { element, icon } from "./dom.js";
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

/** The address of a picture, which the server fetches, or a picture of this machine, which is sent as a data URI. */
export function imageField({ label, value, changed, describedBy }) {
  const error = element("p", { class: "field-error", role: "alert" });
  const isData = (next) => next?.startsWith("data:") ?? false;
  const shown = (next) => (isData(next) ? "" : (next ?? ""));
  const preview = element("img", { class: "style-picture", alt: "The style image", hidden: true });
  const note = element("p", { class: "field-note" });
  const clear = element("button", { type: "button", class: "icon-button", "aria-label": `Remove the ${label.toLowerCase()}`, title: "Remove", onclick: () => {
    show("");
    address.focus();
    changed("");
  } }, icon("close"));
  const address = element("input", { type: "text", inputmode: "url", spellcheck: "false", "aria-label": `${label}, as an address`, "aria-describedby": describedBy, placeholder: "https://… or data:image/…", value: shown(value), onchange: () => {
    const given = address.value.trim();
    show(given);
    changed(given);
  } });
  const file = element("input", { type: "file", accept: "image/*", "aria-label": `${label}, from this machine`, onchange: () => {
    const [picture] = file.files;
    file.value = ""; // the same file may be chosen again
    if (!picture) return;
    error.textContent = picture.size > LARGEST_IMAGE_BYTES ? "Pictures of at most 5 MB are accepted." : "";
    if (error.textContent) return;
    const reader = new FileReader();
    reader.onerror = () => (error.textContent = "That file cannot be read.");
    reader.onload = () => {
      show(reader.result);
      changed(reader.result);
    };
    reader.readAsDataURL(picture);
  } });
  const show = (next) => {
    const data = isData(next) && !isShortened(next);
    error.textContent = "";
    preview.hidden = !data;
    if (data) preview.src = next;
    else preview.removeAttribute("src");
    clear.hidden = !next;
    if (document.activeElement !== address || isData(next)) address.value = shown(next);
    note.textContent = isData(next) ? `A picture of ${Math.round(next.length / 1370)} kB.` : next ? "The server fetches it." : "";
  };
  show(value);
  const head = element("div", { class: "field-head" }, element("span", { class: "label", text: label }));
  return {
    node: element("div", { class: "field" }, head, element("div", { class: "image-row" }, address, element("label", { class: "file-button" }, file, element("span", { text: "Choose…" }))),
      element("div", { class: "style-row" }, preview, note, clear), error),
    set: show,
    disable: (flag) => [address, file, clear].forEach((input) => (input.disabled = flag)),
    head,
  };
}
