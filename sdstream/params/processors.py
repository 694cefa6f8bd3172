"""Image and latent processors: which there are, what each can be told, and the blocks that hold them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from sdstream.params.base import WireModel
from sdstream.params.kinds import ProcessorKind, ProcessorParameter
from sdstream.params.problems import Problem, broken_rules, describe
from sdstream.params.vocabulary import MAX_PROCESSORS, ImageProcessorName, LatentProcessorName


def _number(
    name: str, default: float, minimum: float, maximum: float, step: float, description: str
) -> ProcessorParameter:
    return ProcessorParameter(name, "number", default, description, minimum, maximum, step)


def _integer(
    name: str,
    default: int | None,
    minimum: int,
    maximum: int,
    description: str,
    slider: tuple[float, float] | None = None,
) -> ProcessorParameter:
    return ProcessorParameter(name, "integer", default, description, minimum, maximum, 1, slider=slider)


def _switch(name: str, default: bool, description: str) -> ProcessorParameter:
    return ProcessorParameter(name, "boolean", default, description)


def _interval(default: int) -> ProcessorParameter:
    description = "Processes one picture of this many; in between the last result is shown."
    return _integer("interval", default, 1, 60, description, (1, 10))


COMMON_PARAMETERS = (
    _integer("image_resolution", None, 1, 4096, "Side of the square control picture in pixels; unset: stream size."),
    _integer("image_width", None, 1, 4096, "Width of the control picture in pixels; unset: the stream's."),
    _integer("image_height", None, 1, 4096, "Height of the control picture in pixels; unset: the stream's."),
    _integer("detect_resolution", None, 1, 4096, "Side in pixels at which the detector looks; unset: its own."),
)
"""What every processor can be told besides its own parameters; never filled in, as they follow the stream's size."""

IMAGE_PROCESSORS: Mapping[str, ProcessorKind] = {
    kind.name: kind
    for kind in (
        ProcessorKind(
            "blur",
            "Gaussian blur: softens the picture and removes detail.",
            (
                _number("blur_intensity", 2.0, 0.1, 10.0, 0.1, "Standard deviation of the blur in pixels."),
                _integer("kernel_size", 15, 3, 51, "Width of the kernel in pixels; an even one counts as one more."),
            ),
        ),
        ProcessorKind(
            "canny",
            "Thin white outlines on black, by Canny's method.",
            (
                _integer("low_threshold", 100, 0, 1000, "Gradient above which a pixel may continue an edge.", (1, 255)),
                _integer("high_threshold", 200, 0, 1000, "Gradient above which a pixel starts an edge.", (1, 255)),
            ),
        ),
        ProcessorKind(
            "depth",
            "Estimated distance of every pixel, near is bright (Depth Anything V2).",
            (_interval(1),),
            needs_model=True,
        ),
        ProcessorKind(
            "depth_tensorrt",
            "Estimated distance of every pixel, near is bright (Depth Anything V2).",
            (_interval(1),),
            needs_model=True,
        ),
        ProcessorKind(
            "external",
            "The picture is a control picture already, made by the publisher.",
            (_switch("validate_input", True, "Check that the picture can serve as a control picture."),),
        ),
        ProcessorKind(
            "feedback",
            "Mixes the stream's previous output into the picture, which calms it over time.",
            (_number("feedback_strength", 0.5, 0.0, 1.0, 0.01, "Share of the previous output: 0 none, 1 only it."),),
            remembers=True,
        ),
        ProcessorKind(
            "hed",
            "Soft outlines of whole objects (holistically-nested edge detection).",
            (
                _switch("safe", True, "Round the strengths of edges to a few steps, as the ControlNet was trained."),
                _interval(1),
            ),
            needs_model=True,
        ),
        ProcessorKind(
            "lineart",
            "A line drawing made by a network.",
            (
                _switch("coarse", True, "Draw coarser lines, which is faster."),
                _switch("anime_style", False, "Draw in the manner of anime."),
                _interval(1),
            ),
            needs_model=True,
        ),
        ProcessorKind(
            "mediapipe_pose",
            "A stick figure of the person in the picture (MediaPipe).",
            (
                _number("min_detection_confidence", 0.5, 0.0, 1.0, 0.01, "Least confidence to find a person."),
                _number("min_tracking_confidence", 0.5, 0.0, 1.0, 0.01, "Least confidence to go on following one."),
                _integer("model_complexity", 1, 0, 2, "Size of the network: 0 fastest, 2 most accurate."),
                _switch("static_image_mode", False, "Look for the person anew in every picture."),
                _switch("draw_hands", True, "Draw hands too."),
                _switch("draw_face", False, "Draw the face too."),
                _integer("line_thickness", 2, 1, 10, "Thickness of bones in pixels."),
                _integer("circle_radius", 4, 1, 10, "Radius of joints in pixels."),
                _number("confidence_threshold", 0.3, 0.0, 1.0, 0.01, "Least confidence of a joint that is drawn."),
                _switch("enable_smoothing", True, "Smooth the figure over time."),
                _number("smoothing_factor", 0.7, 0.0, 1.0, 0.01, "How much of the earlier figure is kept."),
            ),
            needs_model=True,
            remembers=True,
        ),
        ProcessorKind(
            "mediapipe_segmentation",
            "Cuts the person out of the picture (MediaPipe).",
            (
                _integer("model_selection", 1, 0, 1, "Network: 0 general and fast, 1 for wide pictures."),
                _number("threshold", 0.5, 0.0, 1.0, 0.01, "Confidence above which a pixel belongs to the person."),
                _integer("blur_radius", 0, 0, 20, "Softening of the mask's border in pixels; 0 for none."),
                _switch("invert_mask", False, "Cut the person away instead."),
            ),
            needs_model=True,
        ),
        ProcessorKind(
            "openpose",
            "Stick figures of the people in the picture (OpenPose).",
            (
                _switch("include_hands", False, "Draw hands too, of the four largest people."),
                _switch("include_face", False, "Draw faces too, of the four largest people."),
                _interval(2),
            ),
            needs_model=True,
        ),
        ProcessorKind("passthrough", "Leaves the picture as it is."),
        ProcessorKind(
            "pose_tensorrt",
            "Stick figures of the people in the picture (RT-DETR and ViTPose).",
            (
                _number("confidence_threshold", 0.5, 0.0, 1.0, 0.01, "Least confidence of a person that is drawn."),
                _interval(2),
            ),
            needs_model=True,
        ),
        ProcessorKind(
            "realesrgan_trt",
            "Doubles width and height with a network, when it is on in image_postprocessing.",
            needs_model=True,
            scales_output=True,
        ),
        ProcessorKind(
            "sharpen",
            "Sharpens by unsharp masking, with edges and fine detail raised.",
            (
                _number("sharpen_intensity", 1.5, 0.1, 5.0, 0.1, "Strength of the unsharp mask."),
                _number("unsharp_radius", 1.0, 0.1, 5.0, 0.1, "Standard deviation of the mask's blur in pixels."),
                _number("edge_enhancement", 0.5, 0.0, 2.0, 0.05, "How much of the gradient is added."),
                _number("detail_boost", 0.3, 0.0, 1.0, 0.05, "How much of the Laplacian is added."),
                _number("noise_reduction", 0.1, 0.0, 0.5, 0.01, "Share of a lightly blurred picture mixed in before."),
                _switch("multi_scale", True, "Sharpen at three radii instead of one."),
            ),
        ),
        ProcessorKind("soft_edge", "Soft grey outlines, from gradients at three scales."),
        ProcessorKind(
            "standard_lineart",
            "Dark-on-light differences from a blurred picture, drawn as white lines on black.",
            (
                _number("gaussian_sigma", 6.0, 1.0, 20.0, 0.1, "Standard deviation of the blur in pixels."),
                _integer("intensity_threshold", 8, 1, 50, "Least difference that counts for the scale of the lines."),
            ),
        ),
        ProcessorKind(
            "temporal_net_tensorrt",
            "The previous output moved along the optical flow, and the flow, for TemporalNet; needs the extra flow.",
            (_number("flow_strength", 1.0, 0.0, 2.0, 0.1, "Factor on the motion."),),
            remembers=True,
        ),
        ProcessorKind(
            "upscale",
            "Enlarges the picture by interpolation, when it is on in image_postprocessing.",
            (
                _number("scale_factor", 2.0, 1.0, 4.0, 0.25, "Factor on width and height."),
                ProcessorParameter(
                    "algorithm",
                    "choice",
                    "bilinear",
                    "How pixels in between are found: bilinear fast, bicubic or lanczos sharper, nearest blocky.",
                    choices=("bilinear", "lanczos", "bicubic", "nearest"),
                ),
            ),
            scales_output=True,
        ),
    )
}
LATENT_PROCESSORS: Mapping[str, ProcessorKind] = {
    "latent_feedback": ProcessorKind(
        "latent_feedback",
        "Mixes the previous picture's latents into the present ones.",
        (_number("feedback_strength", 0.15, 0.0, 1.0, 0.01, "Share of the previous latents; up to 0.4 is sensible."),),
    )
}
PROCESSORS: Mapping[str, ProcessorKind] = {**IMAGE_PROCESSORS, **LATENT_PROCESSORS}

ProcessorParams = Annotated[dict[str, Any], Field(max_length=64)]
_NOTHING: dict[str, Any] = {}
"""The default of `params`; validating it makes a new, complete dict each time."""


def known_parameters(kind: ProcessorKind) -> Mapping[str, ProcessorParameter]:
    """What a processor can be told, its own parameters and those that all have."""
    return {parameter.name: parameter for parameter in (*COMMON_PARAMETERS, *kind.parameters)}


def complete_params(kind: ProcessorKind, params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with known values read, missing known ones filled in and unknown ones kept as they are.

    Raises pydantic's custom error with one problem for each known value that is wrong.
    """
    known = known_parameters(kind)
    complete: dict[str, Any] = kind.defaults
    problems: list[Problem] = []
    for name, value in params.items():
        if value is None:
            continue
        if name not in known:
            complete[name] = value
            continue
        try:
            complete[name] = known[name].read(value)
        except ValidationError as error:
            problems += describe(error, name)
    if problems:
        raise broken_rules(problems)
    return complete


class Processor(WireModel):
    """One image processor of a block; `params` always holds every parameter of its kind."""

    type: Annotated[ImageProcessorName, Field(description="Which processor.")]
    enabled: Annotated[bool, Field(description="Whether it runs; off, the picture passes by.")] = True
    params: Annotated[ProcessorParams, Field(description="What it is told; unknown members have no effect.")] = _NOTHING

    @field_validator("params")
    @classmethod
    def _complete(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = PROCESSORS.get(info.data.get("type", ""))
        return value if kind is None else complete_params(kind, value)

    @property
    def working_size(self) -> tuple[int, int] | None:
        """Width and height in pixels at which it works; None for the picture's own."""
        return working_size(self.params)

    @property
    def output_factor(self) -> float:
        """By how much it multiplies width and height at the end of the pipeline."""
        kind = IMAGE_PROCESSORS[self.type]
        if not self.enabled or not kind.scales_output:
            return 1.0
        # One that has no such parameter of its own may have been sent any value under that name.
        return float(self.params["scale_factor"]) if "scale_factor" in kind.defaults else 2.0


def working_size(params: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height in pixels that a processor's parameters ask for; None for the picture's own.

    `detect_resolution` (a square), else `image_width` and `image_height`, else `image_resolution` (a square).
    """
    square = params.get("detect_resolution")
    if square is None and params.get("image_width") and params.get("image_height"):
        return int(params["image_width"]), int(params["image_height"])
    square = square or params.get("image_resolution")
    return None if square is None else (int(square), int(square))


class LatentProcessor(WireModel):
    """One latent processor of a block; `params` always holds every parameter of its kind."""

    type: Annotated[LatentProcessorName, Field(description="Which processor.")]
    enabled: Annotated[bool, Field(description="Whether it runs; off, the latents pass by.")] = True
    params: Annotated[ProcessorParams, Field(description="What it is told; unknown members have no effect.")] = _NOTHING

    @field_validator("params")
    @classmethod
    def _complete(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = PROCESSORS.get(info.data.get("type", ""))
        return value if kind is None else complete_params(kind, value)


class ImageProcessing(WireModel):
    """A block of image processors, run in order."""

    enabled: Annotated[bool, Field(description="Whether the block runs at all.")] = True
    processors: Annotated[
        tuple[Processor, ...], Field(max_length=MAX_PROCESSORS, description="The processors, in the order they run.")
    ] = ()

    @property
    def active(self) -> tuple[Processor, ...]:
        """The processors that run."""
        return tuple(processor for processor in self.processors if processor.enabled) if self.enabled else ()

    def enlarge(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in pixels after the active upscalers, each rounding down."""
        for processor in self.active:
            width, height = int(width * processor.output_factor), int(height * processor.output_factor)
        return width, height


class LatentProcessing(WireModel):
    """A block of latent processors, run in order."""

    enabled: Annotated[bool, Field(description="Whether the block runs at all.")] = True
    processors: Annotated[
        tuple[LatentProcessor, ...],
        Field(max_length=MAX_PROCESSORS, description="The processors, in the order they run."),
    ] = ()

    @property
    def active(self) -> tuple[LatentProcessor, ...]:
        """The processors that run."""
        return tuple(processor for processor in self.processors if processor.enabled) if self.enabled else ()


__all__ = [
    "COMMON_PARAMETERS",
    "IMAGE_PROCESSORS",
    "LATENT_PROCESSORS",
    "PROCESSORS",
    "ImageProcessing",
    "LatentProcessing",
    "LatentProcessor",
    "Processor",
    "ProcessorKind",
    "ProcessorParameter",
    "ProcessorParams",
    "complete_params",
    "known_parameters",
    "working_size",
]
