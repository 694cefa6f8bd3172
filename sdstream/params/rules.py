"""Rules between fields: pure functions that look at whole parameters and say what does not fit together."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sdstream.params.controlnets import controlnet_ids, counterpart
from sdstream.params.problems import Problem
from sdstream.params.vocabulary import MAX_WEIGHT

if TYPE_CHECKING:
    from sdstream.params.processors import ImageProcessing
    from sdstream.params.variants import StreamParams

MAX_OUTPUT_SIDE = 4096
"""Pixels; what an H.264 level 5.1 picture can have, and 1024 times four."""
MAX_PIXELS_AT_WORK = 4 * MAX_OUTPUT_SIDE**2
"""Pixels of all processors' working pictures together: one stream must not keep the others waiting for long."""
MAX_SDXL_CONTROLNETS = 3
CACHED_FRAMES_BY_STEPS = {1: 4, 2: 2, 3: 1}
"""Most pictures that SDXL can keep for cached attention, by the number of denoising steps."""


def find_broken_rules(params: "StreamParams") -> list[Problem]:
    """Everything in `params` that breaks a rule between fields; fields are relative to `params`."""
    return [problem for rule in RULES for problem in rule(params)]


def _steps(params: "StreamParams") -> Iterator[Problem]:
    reads = frozenset({"t_index_list", "num_inference_steps"})
    last = 0
    for index, step in enumerate(params.t_index_list):
        if step > params.num_inference_steps:
            yield Problem(
                f"t_index_list[{index}]",
                f"must be at most num_inference_steps ({params.num_inference_steps}), not {step}",
                f"use {params.num_inference_steps} or less, or raise num_inference_steps",
                reads,
            )
        if step < last:
            yield Problem(
                f"t_index_list[{index}]",
                f"must not be less than the one before ({last}), not {step}",
                f"send {sorted(params.t_index_list)}",
                frozenset({"t_index_list"}),
            )
        last = step


def _weights(params: "StreamParams") -> Iterator[Problem]:
    for field, switch, value, normalized in (
        ("prompt", "normalize_prompt_weights", params.prompt, params.normalize_prompt_weights),
        ("seed", "normalize_seed_weights", params.seed, params.normalize_seed_weights),
    ):
        if not isinstance(value, tuple) or not normalized:
            continue
        weights = [weight for _, weight in value]
        if not (total := sum(weights)) > 0 or max(map(abs, weights)) > MAX_WEIGHT * total:
            yield Problem(
                field,
                "has weights that sum to nothing, or to next to nothing, so they cannot be normalised",
                f"give one of them more weight, or send {switch}: false",
                frozenset({field, switch}),
            )


def _controlnets(params: "StreamParams") -> Iterator[Problem]:
    reads = frozenset({"controlnets", "model_id"})
    seen: dict[str, int] = {}
    for index, controlnet in enumerate(params.controlnets):
        field = f"controlnets[{index}].model_id"
        if controlnet.model_id in seen:
            yield Problem(
                field,
                f"is the same as that of controlnets[{seen[controlnet.model_id]}]",
                "name each ControlNet once",
                frozenset({"controlnets"}),
            )
        seen.setdefault(controlnet.model_id, index)
        family = controlnet.facts.family
        if family != params.family:
            same = counterpart(controlnet.facts, params.family)
            yield Problem(
                field,
                f"belongs to the {family} family, and {params.model_id} is of {params.family}",
                f"use {same}" if same else "use one of " + ", ".join(controlnet_ids(params.family)),
                reads,
            )
    enabled = sum(controlnet.enabled for controlnet in params.controlnets)
    if params.family == "sdxl-turbo" and enabled > MAX_SDXL_CONTROLNETS:
        yield Problem(
            "controlnets",
            f"has {enabled} enabled, and SDXL takes at most {MAX_SDXL_CONTROLNETS}",
            "leave some out, or set their enabled to false",
            reads,
        )


def _control_window(params: "StreamParams") -> Iterator[Problem]:
    for index, controlnet in enumerate(params.controlnets):
        if controlnet.control_guidance_start > controlnet.control_guidance_end:
            yield Problem(
                f"controlnets[{index}].control_guidance_start",
                f"must not be after control_guidance_end ({controlnet.control_guidance_end:g})",
                None,
                frozenset({"controlnets"}),
            )


def _cached_attention(params: "StreamParams") -> Iterator[Problem]:
    cached = getattr(params, "cached_attention", None)
    if cached is None or not cached.enabled:
        return
    if params.acceleration != "tensorrt":
        yield Problem(
            "cached_attention.enabled",
            "needs acceleration tensorrt",
            "send acceleration: tensorrt, or cached_attention: {enabled: false}",
            frozenset({"cached_attention", "acceleration"}),
        )
    if (params.width, params.height) != (512, 512):
        yield Problem(
            "cached_attention.enabled",
            f"needs 512x512, not {params.width}x{params.height}",
            "use 512x512, or send cached_attention: {enabled: false}",
            frozenset({"cached_attention", "width", "height"}),
        )
    if params.family != "sdxl-turbo":
        return
    reads = frozenset({"cached_attention", "t_index_list", "model_id"})
    steps = len(params.t_index_list)
    most = CACHED_FRAMES_BY_STEPS.get(steps)
    if most is None:
        yield Problem(
            "cached_attention.enabled",
            f"does not go with {steps} denoising steps on SDXL",
            "use at most three items in t_index_list, or send cached_attention: {enabled: false}",
            reads,
        )
    elif cached.max_frames > most:
        yield Problem(
            "cached_attention.max_frames",
            f"must be at most {most} with {steps} denoising steps on SDXL, not {cached.max_frames}",
            f"use {most}",
            reads,
        )


def _output_size(params: "StreamParams") -> Iterator[Problem]:
    if params.image_postprocessing is None:
        return
    width, height = params.image_postprocessing.enlarge(params.width, params.height)
    if max(width, height) > MAX_OUTPUT_SIDE:
        yield Problem(
            "image_postprocessing",
            f"makes pictures of {width}x{height}; {MAX_OUTPUT_SIDE} is the most for a side",
            "use a smaller scale_factor or fewer upscalers",
            frozenset({"image_postprocessing", "width", "height"}),
        )


def _work(params: "StreamParams") -> Iterator[Problem]:
    pixels = 0
    blocks = frozenset({"image_preprocessing", "image_postprocessing"})
    for field in ("image_preprocessing", "image_postprocessing"):
        block: ImageProcessing | None = getattr(params, field)
        size = float(params.width), float(params.height)
        for processor in () if block is None else block.active:
            factor = processor.output_factor
            width, height = (side * factor for side in processor.working_size or size)
            size = size[0] * factor, size[1] * factor
            pixels += int(width * height)
            if max(size) > MAX_OUTPUT_SIDE and field == "image_postprocessing":
                return  # `_output_size` says so
            if (side := max(width, height, *size)) > MAX_OUTPUT_SIDE:
                yield Problem(
                    field,
                    f"has {processor.type} work on pictures of {side:g} pixels a side; {MAX_OUTPUT_SIDE} is the most",
                    "use a smaller scale_factor, resolution, or fewer upscalers",
                    frozenset({field, "width", "height"}),
                )
                return
    if pixels > MAX_PIXELS_AT_WORK:
        yield Problem(
            "image_preprocessing",
            f"and image_postprocessing work on {pixels} pixels together; {MAX_PIXELS_AT_WORK} is the most",
            "use smaller resolutions or fewer processors",
            blocks | {"width", "height"},
        )


RULES: tuple[Callable[["StreamParams"], Iterator[Problem]], ...] = (
    _steps,
    _weights,
    _controlnets,
    _control_window,
    _cached_attention,
    _output_size,
    _work,
)

__all__ = [
    "CACHED_FRAMES_BY_STEPS",
    "MAX_OUTPUT_SIDE",
    "MAX_SDXL_CONTROLNETS",
    "RULES",
    "find_broken_rules",
]
