"""What params ask of a stream that diffuses, made whole before any of it comes into force."""

from dataclasses import dataclass

import torch

from sdstream.diffusion.frame import Guidance
from sdstream.diffusion.safety import ABSENT, CheckRunner
from sdstream.diffusion.seeds import make_noise
from sdstream.diffusion.state import Knobs, make_knobs
from sdstream.directories import ModelPlaces
from sdstream.params import StreamParams
from sdstream.worker.conditions import calm_of
from sdstream.worker.controls import ControlStages
from sdstream.worker.lane_stages import LaneStages
from sdstream.worker.loading.checkers import CheckerShelf
from sdstream.worker.loading.loaded import Loaded, choose_guidance
from sdstream.worker.loading.shelf import Refit
from sdstream.worker.ports import Remark
from sdstream.worker.prompting import encode_prompts

FIXED = ("model_id", "width", "height", "use_denoising_batch", "acceleration")
"""Parameters that another pipeline is made for."""
FUSED = ("use_lcm_lora", "lora_dict")
"""Parameters that other weights are needed for."""


@dataclass(frozen=True, slots=True)
class DiffusionPlan:
    """What params ask of a pipeline, made whole before any of it comes into force. `knobs` are of one stream."""

    params: StreamParams
    stages: LaneStages
    controls: ControlStages
    guidance: Guidance
    knobs: Knobs
    notes: tuple[str, ...]
    remarks: tuple[Remark, ...]
    checker: CheckRunner | None
    refit: Refit | None = None
    """Other LoRAs, to be written into the model before this comes into force."""


def keeps_shapes(params: StreamParams, before: StreamParams) -> bool:
    """Whether all tensors of a stream keep their shapes when `params` follow on `before`, its conditions aside."""
    if params.skip_diffusion or type(params) is not type(before):
        return False
    if any(getattr(params, name) != getattr(before, name) for name in FIXED):
        return False
    return len(params.t_index_list) == len(before.t_index_list)


def needs_other_weights(params: StreamParams, before: StreamParams) -> bool:
    """Whether `params` want other LoRAs in the model than `before`."""
    return any(getattr(params, name) != getattr(before, name) for name in FUSED)


@torch.no_grad()
def make_plan(params: StreamParams, loaded: Loaded, before: DiffusionPlan | None = None) -> DiffusionPlan:
    """Encode what `params` say. Raises `ModelUnavailable` when they ask for something that cannot run here.

    `before` is the plan that this one takes the place of.
    """
    model, conditions = loaded.model, loaded.conditions
    stages = LaneStages.of(params, loaded.shelf, None if before is None else before.stages)
    controls = ControlStages(params, loaded.shelf, None if before is None else before.controls)
    text = encode_prompts(params, model.prompts)
    noise = make_noise(
        params.seed,
        (len(params.t_index_list), *model.latent_shape(params.width, params.height)),
        method=params.seed_interpolation_method,
        normalise=params.normalize_seed_weights,
    )
    knobs = make_knobs(
        model.schedule.tables(params.t_index_list, params.num_inference_steps),
        noise.to(model.device),
        text.prompt,
        text.negative,
        guidance=params.guidance_scale,
        delta=params.delta,
        renoise=params.do_add_noise,
        time_ids=model.time_ids(params.width, params.height),
        calm=calm_of(params),
        steering=conditions.steering(params),
        style=conditions.style(params, model),
        recall=conditions.recall(params, model),
    )
    notes = [f"negative: {note}" if place == "negative_prompt" else note for place, note in text.remarks]
    checker = None
    if params.use_safety_checker:
        places = ModelPlaces() if loaded.wanted is None else loaded.wanted.places
        checker = checkers.get(loaded.source, model.device, model.dtype, places)
        if checker is None:
            notes.append(ABSENT)
    return DiffusionPlan(params, stages, controls, choose_guidance(params), knobs, tuple(notes), text.remarks, checker)


checkers = CheckerShelf()


__all__ = ["DiffusionPlan", "keeps_shapes", "make_plan", "needs_other_weights"]
