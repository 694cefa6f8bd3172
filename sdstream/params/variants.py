"""The parameters of a stream, one class for each family of models.

Defaults of single values are Daydream's own. Of Daydream's presets per model only two are defaults here, because one
value cannot fit all families: the denoising steps (`t_index_list`) and the LCM LoRA. ControlNets and the IP-Adapter
start off, as the wire's own defaults say: nothing is loaded that nobody asked for. `presets.py` has the whole presets.
"""

from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from sdstream.frames import PictureSize
from sdstream.params.adapters import CachedAttention, IpAdapter, RegularIpAdapter
from sdstream.params.addresses import StyleImageField, read_lora_name
from sdstream.params.base import WireModel
from sdstream.params.controlnets import MAX_CONTROLNETS, ControlNet
from sdstream.params.problems import NUMBER_FORM, PAIRS_FORM, TEXT_FORM, broken_rules
from sdstream.params.processors import ImageProcessing, LatentProcessing
from sdstream.params.rules import find_broken_rules
from sdstream.params.vocabulary import (
    MAX_LORAS,
    MAX_SAFE_INTEGER,
    MAX_TEXT,
    MAX_URL,
    MAX_WEIGHT,
    MAX_WEIGHTED,
    NOT_BOOLEAN,
    Acceleration,
    Interpolation,
)
from sdstream.settings import Family

DEFAULT_STEPS = 50


def _prompt_form(value: Any) -> str | None:
    if isinstance(value, str):
        return TEXT_FORM
    return PAIRS_FORM if isinstance(value, list | tuple) else None


def _seed_form(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return PAIRS_FORM
    return NUMBER_FORM if isinstance(value, int | float | str) else None


Weight = Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT), NOT_BOOLEAN]
SafeInteger = Annotated[int, Field(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER), NOT_BOOLEAN]
WeightedText = tuple[Annotated[str, Field(min_length=1, max_length=MAX_TEXT)], Weight]
WeightedSeed = tuple[SafeInteger, Weight]
Prompt = Annotated[
    Annotated[str, Field(max_length=MAX_TEXT), Tag(TEXT_FORM)]
    | Annotated[tuple[WeightedText, ...], Field(min_length=1, max_length=MAX_WEIGHTED), Tag(PAIRS_FORM)],
    Discriminator(
        _prompt_form,
        custom_error_type="prompt_form",
        custom_error_message="must be a text, or an array of [text, weight] pairs",
    ),
]
Seed = Annotated[
    Annotated[SafeInteger, Tag(NUMBER_FORM)]
    | Annotated[tuple[WeightedSeed, ...], Field(min_length=1, max_length=MAX_WEIGHTED), Tag(PAIRS_FORM)],
    Discriminator(
        _seed_form,
        custom_error_type="seed_form",
        custom_error_message="must be an integer, or an array of [integer, weight] pairs",
    ),
]
StepIndex = Annotated[int, Field(ge=0, le=100), NOT_BOOLEAN]
LoraName = Annotated[str, AfterValidator(read_lora_name), Field(min_length=1, max_length=MAX_URL)]
LoraWeight = Annotated[float, Field(ge=-10, le=10), NOT_BOOLEAN]
Side = Annotated[
    int,
    Field(
        ge=384,
        le=1024,
        multiple_of=64,
        json_schema_extra={"step": 64},
    ),
    NOT_BOOLEAN,
]


class StreamParams(WireModel):
    """What all variants share; only the three subclasses are ever made.

    An object is always whole and consistent: making one checks every field and every rule between fields, and raises
    pydantic's `ValidationError`. Use `parse_create` and `apply_update`, which raise `InvalidParams` with all problems.
    """

    family: ClassVar[Family]

    model_id: Annotated[
        str, Field(min_length=1, max_length=MAX_URL, description="The diffusion model; it decides the family.")
    ]
    prompt: Annotated[
        Prompt,
        Field(description="What the picture shall show: a text, or an array of [text, weight] pairs that are blended."),
    ] = "flowers"
    prompt_interpolation_method: Annotated[
        Interpolation,
        Field(
            description="How weighted prompts are blended: slerp along the sphere, linear as a sum; any number of them."
        ),
    ] = "slerp"
    normalize_prompt_weights: Annotated[
        bool, Field(description="Scale the weights of prompts so that they sum to one.")
    ] = True
    negative_prompt: Annotated[
        str, Field(max_length=MAX_TEXT, description="What the picture shall not show; needs guidance_scale above 1.")
    ] = "blurry, low quality, flat, 2d"
    guidance_scale: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            description="How strictly the prompt is followed; up to 1 the negative prompt has no effect.",
            json_schema_extra={"step": 0.1, "slider": [0.1, 20]},
        ),
        NOT_BOOLEAN,
    ] = 1.0
    delta: Annotated[
        float,
        Field(
            ge=0,
            le=10,
            description="Progress of each picture's denoising: lower is steadier and softer, higher sharper.",
            json_schema_extra={"step": 0.01, "slider": [0, 1]},
        ),
        NOT_BOOLEAN,
    ] = 0.7
    num_inference_steps: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="Length of the denoising schedule that t_index_list points into.",
            json_schema_extra={"step": 1},
        ),
        NOT_BOOLEAN,
    ] = DEFAULT_STEPS
    t_index_list: Annotated[
        tuple[StepIndex, ...],
        Field(
            min_length=1,
            max_length=4,
            description="Steps of the schedule that each picture runs through, one to four, in order: low ones change "
            "much, high ones keep the camera's picture; each costs one pass of the network.",
            json_schema_extra={"step": 1},
        ),
    ] = (12, 20, 32)
    seed: Annotated[
        Seed, Field(description="Seed of the noise: an integer, or an array of [integer, weight] pairs.")
    ] = 789
    seed_interpolation_method: Annotated[
        Interpolation, Field(description="How the noises of weighted seeds are blended.")
    ] = "linear"
    normalize_seed_weights: Annotated[
        bool, Field(description="Scale the weights of seeds so that they sum to one.")
    ] = True
    width: Annotated[Side, Field(description="Width of the picture in pixels, before any upscaler.")] = 512
    height: Annotated[Side, Field(description="Height of the picture in pixels, before any upscaler.")] = 512
    use_safety_checker: Annotated[
        bool, Field(description="Replace pictures that the safety checker takes offence at.")
    ] = True
    lora_dict: Annotated[
        dict[LoraName, LoraWeight] | None,
        Field(
            max_length=MAX_LORAS,
            description="LoRAs by file, repository or https URL, each with its weight; null for none.",
        ),
    ] = None
    use_lcm_lora: Annotated[
        bool, Field(description="Fuse the LCM LoRA that few-step SD 1.5 needs; turbo models ignore it.")
    ] = True
    lcm_lora_id: Annotated[
        str, Field(max_length=MAX_URL, description="Name of the LCM LoRA; stored only, the family decides.")
    ] = "latent-consistency/lcm-lora-sdv1-5"
    acceleration: Annotated[
        Acceleration, Field(description="How networks run: tensorrt engines, or without them (none, xformers).")
    ] = "tensorrt"
    use_denoising_batch: Annotated[
        bool, Field(description="Denoise the steps of successive pictures in one batch.")
    ] = True
    do_add_noise: Annotated[bool, Field(description="Add fresh noise between steps: steadier, a little softer.")] = True
    enable_similar_image_filter: Annotated[
        bool, Field(description="Skip pictures that hardly differ from the one before.")
    ] = False
    similar_image_filter_threshold: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Similarity above which a picture may be skipped.",
            json_schema_extra={"step": 0.005},
        ),
        NOT_BOOLEAN,
    ] = 0.98
    similar_image_filter_max_skip_frame: Annotated[
        int,
        Field(
            ge=0,
            le=10_000,
            description="Most pictures skipped in a row.",
            json_schema_extra={"step": 1, "slider": [0, 60]},
        ),
        NOT_BOOLEAN,
    ] = 10
    skip_diffusion: Annotated[
        bool, Field(description="Leave the diffusion model out: only the image processors run.")
    ] = False
    image_preprocessing: Annotated[
        ImageProcessing | None, Field(description="Image processors before the diffusion model.")
    ] = None
    image_postprocessing: Annotated[
        ImageProcessing | None,
        Field(description="Image processors after the diffusion model; upscale and realesrgan_trt enlarge the output."),
    ] = None
    latent_preprocessing: Annotated[
        LatentProcessing | None, Field(description="Latent processors before denoising.")
    ] = None
    latent_postprocessing: Annotated[
        LatentProcessing | None, Field(description="Latent processors after denoising.")
    ] = None
    controlnets: Annotated[
        tuple[ControlNet, ...],
        Field(max_length=MAX_CONTROLNETS, description="ControlNets that steer the picture by the camera's."),
    ] = ()

    @field_validator("lora_dict")
    @classmethod
    def _empty_is_none(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        return value or None

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        problems = find_broken_rules(self)
        if problems:
            raise broken_rules(problems)
        return self

    @property
    def output_size(self) -> PictureSize:
        """Size of the pictures that leave: width and height times the upscalers in force, rounded down to even."""
        return PictureSize(*output_sides(self))

    @property
    def pictures_late(self) -> int:
        """How many pictures come out before that of the first one that went in: denoising steps less one, if the steps
        of successive pictures share a batch."""
        return 0 if self.skip_diffusion or not self.use_denoising_batch else len(self.t_index_list) - 1


class SdTurboParams(StreamParams):
    """`stabilityai/sd-turbo` and its family (SD 2.1): no IP-Adapter, no cached attention."""

    family: ClassVar[Family] = "sd-turbo"


class SdxlTurboParams(StreamParams):
    """`stabilityai/sdxl-turbo` and its family."""

    family: ClassVar[Family] = "sdxl-turbo"

    t_index_list: Annotated[
        tuple[StepIndex, ...],
        Field(
            min_length=1,
            max_length=4,
            description=StreamParams.model_fields["t_index_list"].description,
            json_schema_extra={"step": 1},
        ),
    ] = (36,)
    lcm_lora_id: Annotated[
        str, Field(max_length=MAX_URL, description=StreamParams.model_fields["lcm_lora_id"].description)
    ] = "latent-consistency/lcm-lora-sdxl"
    ip_adapter: Annotated[IpAdapter, Field(description="Style from an image.")] = IpAdapter(enabled=False)
    ip_adapter_style_image_url: Annotated[
        StyleImageField,
        Field(description="The style image: a public http(s) URL, or a data URI of at most 10 MiB; empty for none."),
    ] = None
    cached_attention: Annotated[CachedAttention, Field(description="Attention to earlier pictures.")] = CachedAttention(
        enabled=False
    )


class Sd15Params(StreamParams):
    """`Lykon/dreamshaper-8`, `prompthero/openjourney-v4` and their family (SD 1.5)."""

    family: ClassVar[Family] = "sd15"

    t_index_list: Annotated[
        tuple[StepIndex, ...],
        Field(
            min_length=1,
            max_length=4,
            description=StreamParams.model_fields["t_index_list"].description,
            json_schema_extra={"step": 1},
        ),
    ] = (5, 15, 32)
    ip_adapter: Annotated[RegularIpAdapter, Field(description="Style from an image.")] = RegularIpAdapter(enabled=False)
    ip_adapter_style_image_url: Annotated[
        StyleImageField,
        Field(description="The style image: a public http(s) URL, or a data URI of at most 10 MiB; empty for none."),
    ] = None
    cached_attention: Annotated[CachedAttention, Field(description="Attention to earlier pictures.")] = CachedAttention(
        enabled=False
    )


VARIANTS: dict[Family, type[StreamParams]] = {
    "sd-turbo": SdTurboParams,
    "sdxl-turbo": SdxlTurboParams,
    "sd15": Sd15Params,
}


def output_sides(params: StreamParams) -> tuple[int, int]:
    """Width and height that leave the pipeline, in pixels, both even."""
    width, height = params.width, params.height
    if params.image_postprocessing is not None:
        width, height = params.image_postprocessing.enlarge(width, height)
    return width // 2 * 2, height // 2 * 2


__all__ = [
    "DEFAULT_STEPS",
    "VARIANTS",
    "Sd15Params",
    "SdTurboParams",
    "SdxlTurboParams",
    "StreamParams",
    "output_sides",
]
