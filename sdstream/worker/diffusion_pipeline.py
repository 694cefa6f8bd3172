"""A stream that diffuses: image processors, the frame, image processors."""

from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from sdstream.diffusion.frame import Frame, Guidance
from sdstream.diffusion.models import Model, load_model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.seeds import make_noise
from sdstream.diffusion.sources import find_model, find_taesd
from sdstream.diffusion.state import Knobs, copy_into, make_knobs, make_memory, stack
from sdstream.errors import ModelUnavailable
from sdstream.frames import PictureSize
from sdstream.params import StreamParams
from sdstream.params.processors import Processor
from sdstream.worker.colour import resize
from sdstream.worker.pipelines import Progress, usable_processors
from sdstream.worker.processors import ProcessorContext, run_processor

FIXED = ("model_id", "width", "height", "use_denoising_batch", "use_lcm_lora", "lora_dict", "controlnets")
"""Parameters that another pipeline is made for."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What params ask of a pipeline, made whole before any of it comes into force."""

    params: StreamParams
    before: tuple[Processor, ...]
    after: tuple[Processor, ...]
    guidance: Guidance
    notes: tuple[str, ...]


class DiffusionPipeline:
    """One stream on a loaded model. A picture leaves N - 1 pictures after it came, N being the denoising steps.

    The first picture fills all steps, so what leaves first is that picture and not the noise of an empty pipeline.
    """

    def __init__(self, params: StreamParams, model: Model) -> None:
        """Raises `ModelUnavailable` when the params ask for something that cannot run here."""
        self._model = model
        self._frames: dict[Guidance, Frame] = {}
        self._plan, knobs = self._make_plan(params)
        # In storage of its own: what was given shares the remembered prompts, and knobs are turned in place.
        self._knobs = stack([knobs])
        self._memory = make_memory(self._knobs)
        self._primed = False
        self._previous: torch.Tensor | None = None

    @property
    def input_size(self) -> PictureSize:
        return PictureSize(self._plan.params.width, self._plan.params.height)

    @property
    def output_size(self) -> PictureSize:
        return self._plan.params.output_size

    @property
    def changes_nothing(self) -> bool:
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person should know about how the present params are carried out."""
        return self._plan.notes

    def apply(self, params: StreamParams) -> bool:
        """Take params that keep the shapes of all tensors; see `Pipeline.apply`."""
        old = self._plan.params
        if params.skip_diffusion or type(params) is not type(old):
            return False
        if any(getattr(params, name) != getattr(old, name) for name in FIXED):
            return False
        if len(params.t_index_list) != len(old.t_index_list):
            return False
        plan, knobs = self._make_plan(params)
        copy_into(self._knobs, knobs)
        self._plan = plan
        return True

    @torch.no_grad()
    def process(self, image: torch.Tensor) -> torch.Tensor:
        plan = self._plan
        context = ProcessorContext(self._previous)
        for processor in plan.before:
            image = run_processor(processor.type, image, processor.params, context)
        image = self._diffuse(resize(image, plan.params.width, plan.params.height))
        for processor in plan.after:
            image = run_processor(processor.type, image, processor.params, context)
        size = plan.params.output_size
        image = resize(image, size.width, size.height).clamp(0, 1)
        remembers = any(processor.type == "feedback" for processor in (*plan.before, *plan.after))
        self._previous = image if remembers else None
        return image

    def _diffuse(self, image: torch.Tensor) -> torch.Tensor:
        frame = self._frame(self._plan.guidance)
        frames = 1 if self._primed or not frame.batched else frame.slots
        self._primed = True
        result = frame(image, self._knobs, self._memory)
        copy_into(self._memory, result.memory)
        for _ in range(frames - 1):
            result = frame(image, self._knobs, self._memory)
            copy_into(self._memory, result.memory)
        return result.image.clamp(0, 1)

    def _frame(self, guidance: Guidance) -> Frame:
        if guidance not in self._frames:
            self._frames[guidance] = Frame(
                EagerNetworks(self._model.unet, self._model.vae),
                slots=len(self._plan.params.t_index_list),
                guidance=guidance,
                prediction=self._model.schedule.prediction,
                batched=self._plan.params.use_denoising_batch,
            )
        return self._frames[guidance]

    def _make_plan(self, params: StreamParams) -> tuple[_Plan, Knobs]:
        _refuse_what_cannot_run(params)
        model = self._model
        prompt = model.prompts.encode(
            params.prompt, method=params.prompt_interpolation_method, normalise=params.normalize_prompt_weights
        )
        negative = model.prompts.encode_negative(params.negative_prompt)
        noise = make_noise(
            params.seed,
            (len(params.t_index_list), *model.latent_shape(params.width, params.height)),
            method=params.seed_interpolation_method,
            normalise=params.normalize_seed_weights,
        )
        knobs = make_knobs(
            model.schedule.tables(params.t_index_list, params.num_inference_steps),
            noise.to(model.device),
            prompt.conditioning,
            negative.conditioning,
            guidance=params.guidance_scale,
            delta=params.delta,
            renoise=params.do_add_noise,
            time_ids=model.time_ids(params.width, params.height),
        )
        plan = _Plan(
            params,
            usable_processors(params.image_preprocessing),
            usable_processors(params.image_postprocessing),
            choose_guidance(params),
            prompt.notes + tuple(f"negative: {note}" for note in negative.notes),
        )
        return plan, knobs


def choose_guidance(params: StreamParams) -> Guidance:
    """Where the unconditional prediction comes from; the wire does not say.

    A negative prompt needs the network's own answer to it, once for each picture; that is one row more than N. Without
    one the residual does for nothing. All kinds keep the same memory, so this may change between two pictures.
    """
    return "initialize" if params.guidance_scale > 1 and params.negative_prompt.strip() else "self"


def load_diffusion(params: StreamParams, source: str, device: torch.device, progress: Progress) -> DiffusionPipeline:
    """A pipeline for `params` on the model at `source`. Raises `ModelUnavailable`, naming what is missing."""
    _refuse_what_cannot_run(params)
    pipeline = DiffusionPipeline(params, _shelf.get(source, params, device, progress))
    for note in pipeline.notes:
        progress(note, None)
    return pipeline


class _ModelShelf:
    """Loaded models, each once for all streams. The last one stays when no stream has it, until another is loaded."""

    def __init__(self) -> None:
        self._models: WeakValueDictionary[tuple[Path, str], Model] = WeakValueDictionary()
        self._last: Model | None = None

    def get(self, source: str, params: StreamParams, device: torch.device, progress: Progress) -> Model:
        directory = find_model(source)
        key = (directory.resolve(), str(device))
        model = self._models.get(key)
        if model is None or model.family != params.family:
            self._last = None  # make room first
            model = load_model(
                directory, params.family, device, taesd_elsewhere=find_taesd(params.family), progress=progress
            )
            self._models[key] = model
        self._last = model
        return model


_shelf = _ModelShelf()


def _refuse_what_cannot_run(params: StreamParams) -> None:
    """What this version cannot do is said, not left out of the picture in silence."""
    adapter = getattr(params, "ip_adapter", None)
    cached = getattr(params, "cached_attention", None)
    latent = [block for block in (params.latent_preprocessing, params.latent_postprocessing) if block is not None]
    asked = {
        "lora_dict": bool(params.lora_dict),
        "use_lcm_lora": params.family == "sd15" and params.use_lcm_lora,
        "controlnets": any(net.enabled and net.conditioning_scale > 0 for net in params.controlnets),
        "ip_adapter": bool(adapter and adapter.enabled and getattr(params, "ip_adapter_style_image_url", None)),
        "cached_attention": bool(cached and cached.enabled),
        "latent processors": any(block.active for block in latent),
    }
    wanted = [name for name, wants in asked.items() if wants]
    if wanted:
        raise ModelUnavailable(
            f"{', '.join(wanted)}: this version of sdstream cannot diffuse with this yet",
            hint="Switch it off, or wait for a version that has it.",
        )


__all__ = ["DiffusionPipeline", "choose_guidance", "load_diffusion"]
