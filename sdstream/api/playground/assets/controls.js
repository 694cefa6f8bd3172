// The panel of parameters, made from the server's catalogue: which exist, in which family, and what a change of each does.

import { defaultOf } from "./catalogue.js";
import { element, humanName, sameJson, uniqueId } from "./dom.js";
import { blendField, choiceField, jsonField, numberField, sliderField, stepsField, switchField, textField } from "./fields.js";
import { controlNetField } from "./controlnets.js";
import { imageField, objectField } from "./groups.js";
import { ProcessorList } from "./processors.js";

/** Sections of the panel in order; without diffusion those that need it sink to the end. A parameter that none names shows in the last. */
const SECTIONS = [
  { title: "Prompt", names: ["prompt", "negative_prompt", "prompt_interpolation_method", "normalize_prompt_weights"], diffusion: true, open: true },
  { title: "Processors", names: ["image_preprocessing", "image_postprocessing"], open: true },
  { title: "Diffusion", names: ["guidance_scale", "delta", "num_inference_steps", "t_index_list", "seed", "seed_interpolation_method", "normalize_seed_weights", "use_safety_checker"], diffusion: true, open: true },
  { title: "Guidance by picture", names: ["controlnets", "ip_adapter_style_image_url", "ip_adapter", "cached_attention"], diffusion: true },
  { title: "Latent processors", names: ["latent_preprocessing", "latent_postprocessing"], diffusion: true },
  { title: "Size", names: ["width", "height"] },
];
const REST = { title: "Pipeline", diffusion: true };
const ELSEWHERE = new Set(["model_id", "skip_diffusion"]); // drawn at the head of the panel by main.js

const LABELS = {
  model_id: "Model",
  skip_diffusion: "Diffusion",
  t_index_list: "Denoising steps",
  num_inference_steps: "Schedule length",
  image_preprocessing: "Before diffusion",
  image_postprocessing: "After diffusion",
  latent_preprocessing: "Before denoising",
  latent_postprocessing: "After denoising",
  controlnets: "ControlNets",
  ip_adapter: "IP-Adapter",
  prompt_interpolation_method: "Prompt blending",
  seed_interpolation_method: "Seed blending",
  similar_image_filter_max_skip_frame: "Similar image filter: most skipped",
  ip_adapter_style_image_url: "Style image",
  lora_dict: "LoRAs",
  use_lcm_lora: "LCM-LoRA",
  lcm_lora_id: "LCM-LoRA id",
};

const MARKS = {
  hot: null,
  reload: { text: "reload", title: "A change is loaded first; the pictures go on as they were until then" },
  refused: { text: "fixed while live", title: "Cannot be changed while the stream is live" },
};

export class ControlPanel {
  #catalogue;
  #changed;
  #controls = new Map();
  #sections = [];
  #family = null;
  #diffusing = null;

  constructor(root, catalogue, changed) {
    this.root = root;
    this.#catalogue = catalogue;
    this.#changed = changed;
  }

  /** Draw every parameter of `family` with `params` (missing ones show their default). */
  render(family, params) {
    this.#family = family;
    this.#controls.clear();
    const left = new Map(this.#catalogue.parameters.filter((parameter) => isOf(parameter, family) && !ELSEWHERE.has(parameter.name)).map((parameter) => [parameter.name, parameter]));
    const sections = SECTIONS.map((section) => ({ ...section, parameters: section.names.filter((name) => left.has(name)).map((name) => take(left, name)) }));
    sections.push({ ...REST, parameters: [...left.values()] });
    this.#sections = sections.filter((section) => section.parameters.length).map((section) => this.#section(section, params));
  }

  /** Show values that came from elsewhere, without telling anyone. */
  set(params) {
    for (const [name, { parameter, field }] of this.#controls) field.set(params[name] ?? defaultOf(parameter, this.#family));
  }

  /** The denoising steps lie on the schedule, so a shorter schedule takes them along. */
  limitSteps(length) {
    this.#controls.get("t_index_list")?.field.limit(length);
  }

  /** While a stream runs, parameters that the server would refuse cannot be moved. */
  setLive(live) {
    for (const { parameter, field, node } of this.#controls.values()) {
      const fixed = live && parameter.change === "refused";
      if (fixed !== node.classList.contains("is-fixed")) field.disable(fixed); // some are drawn anew by it, under the hand
      field.setLive?.(live);
      node.classList.toggle("is-fixed", fixed);
    }
  }

  /** Whether diffusion runs: without it most parameters have no effect, and say so. */
  setDiffusing(diffusing) {
    if (diffusing === this.#diffusing) return; // what moves loses the keyboard, and sections that a person opened would close
    this.#diffusing = diffusing;
    for (const { node, diffusion, note } of this.#sections) {
      node.classList.toggle("is-idle", Boolean(diffusion && !diffusing));
      if (note) note.hidden = diffusing;
      if (diffusion && !diffusing) node.open = false;
      else if (diffusion && node.dataset.open === "true") node.open = true;
    }
    const idle = (section) => Number(Boolean(section.diffusion && !diffusing));
    this.root.replaceChildren(...[...this.#sections].sort((left, right) => idle(left) - idle(right)).map(({ node }) => node));
  }

  #section({ title, parameters, diffusion, open = false }, params) {
    const note = diffusion && element("p", { class: "section-note", text: "Without effect until diffusion is on.", hidden: true });
    const body = element("div", { class: "section-body" }, note, ...parameters.map((parameter) => this.#control(parameter, params)));
    const node = element("details", { class: "section", open, "data-open": String(open) }, element("summary", {}, element("h2", { text: title })), body);
    return { node, diffusion, note };
  }

  #control(parameter, params) {
    const helpId = uniqueId("help");
    const value = params[parameter.name] ?? defaultOf(parameter, this.#family);
    const field = buildField({ ...parameter, describedBy: helpId }, value, (next) => {
      if (!sameJson(next, params[parameter.name])) this.#changed(parameter, next);
    }, { catalogue: this.#catalogue, params, family: this.#family });
    const mark = MARKS[parameter.change];
    if (mark && field.head) field.head.firstChild.append(element("span", { class: `mark mark-${parameter.change}`, title: mark.title, text: mark.text }));
    const help = element("p", { class: "visually-hidden", id: helpId, text: [parameter.description, mark?.title].filter(Boolean).join(" ") });
    const node = element("div", { class: "control", "data-name": parameter.name, title: field.head ? parameter.description : undefined }, field.node, help);
    this.#controls.set(parameter.name, { parameter, field, node });
    return node;
  }
}

/** The field that fits a parameter of the catalogue. `context` is {catalogue, params, family}, for fields that depend on others. */
export function buildField(parameter, value, changed, context = {}) {
  const label = labelOf(parameter.name);
  const common = { label, value, changed, describedBy: parameter.describedBy };
  switch (parameter.type) {
    case "image_processing":
      return new ProcessorList({ label, place: parameter.name, value, changed, types: context.catalogue.processors.image });
    case "latent_processing":
      return new ProcessorList({ label, value, changed, types: context.catalogue.processors.latent });
    case "controlnets":
      return controlNetField({ ...common, context });
    case "object":
      return parameter.members?.length ? objectField({ ...common, members: parameter.members, context }) : jsonField(common);
    case "prompt":
      return blendField(common);
    case "integers":
      return stepsField({ ...common, maximum: context.params.num_inference_steps ?? 50 });
    case "image":
      return imageField(common);
    case "choice":
      return choiceField({ ...common, choices: parameter.choices_by_family?.[context.family] ?? parameter.choices });
    case "boolean":
      return switchField(common);
    case "string":
      return textField(common);
    case "weights":
      return jsonField({ ...common, placeholder: '{"owner/lora": 0.8}' });
    case "seed":
      return Array.isArray(value) ? jsonField(common) : numberField({ ...common, minimum: 0, step: 1, dice: true });
    case "number":
    case "integer":
      return quantityField(parameter, common);
    default:
      return jsonField(common);
  }
}

/** A slider where the range is known and of a size that a hand can hit, else a box. */
function quantityField({ type, minimum, maximum, step: given }, common) {
  const whole = type === "integer";
  const bounded = Number.isFinite(minimum) && Number.isFinite(maximum) && maximum - minimum <= 10_000;
  const step = given ?? (whole ? 1 : fineStep(maximum - minimum));
  return bounded ? sliderField({ ...common, minimum, maximum, step }) : numberField({ ...common, minimum, maximum, step: whole ? 1 : "any" });
}

/** A hundred to a thousand stops over the range, in a power of ten. */
function fineStep(range) {
  return 10 ** Math.min(0, Math.floor(Math.log10(range / 100)));
}

/** What the panel calls a parameter. */
export const labelOf = (name) => LABELS[name] ?? humanName(name);

const isOf = (parameter, family) => !parameter.families?.length || !family || parameter.families.includes(family);

function take(map, name) {
  const value = map.get(name);
  map.delete(name);
  return value;
}
