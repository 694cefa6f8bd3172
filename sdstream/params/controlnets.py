"""ControlNets: which exist for which family, and the entry that puts one to use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from sdstream.params.base import WireModel
from sdstream.params.processors import IMAGE_PROCESSORS, ProcessorParams, complete_params
from sdstream.params.vocabulary import MAX_URL, NOT_BOOLEAN, ImageProcessorName
from sdstream.settings import Family

ControlNetKind = Literal["openpose", "hed", "canny", "depth", "color", "tile", "temporal"]
MAX_CONTROLNETS = 8
_NOTHING: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class ControlNetFacts:
    """What is known of one ControlNet before it is loaded.

    `kind` is None for one that a setting added. `preset_scale` is the scale to start with. `in_sdks` False:
    Daydream's SDKs do not know the id, so the Python SDK cannot read a stream that uses it; for raw HTTP clients only.
    `source` is a diffusers directory or a hub id, empty where that is the id itself. `conditioning_channels` are those
    of the control picture, 6 where it is two pictures.
    """

    family: Family
    kind: ControlNetKind | None
    preprocessor: ImageProcessorName
    preset_scale: float
    in_sdks: bool = True
    source: str = ""
    conditioning_channels: int = 3


def _temporal(family: Family, *, in_sdks: bool = True) -> ControlNetFacts:
    # TemporalNet takes two pictures: the last output, moved, and the motion.
    return ControlNetFacts(family, "temporal", "temporal_net_tensorrt", 0.0, in_sdks=in_sdks, conditioning_channels=6)


CONTROLNETS: Mapping[str, ControlNetFacts] = {
    "thibaud/controlnet-sd21-openpose-diffusers": ControlNetFacts("sd-turbo", "openpose", "openpose", 0.711),
    "thibaud/controlnet-sd21-hed-diffusers": ControlNetFacts("sd-turbo", "hed", "hed", 0.2),
    "thibaud/controlnet-sd21-canny-diffusers": ControlNetFacts("sd-turbo", "canny", "canny", 0.2),
    "thibaud/controlnet-sd21-depth-diffusers": ControlNetFacts("sd-turbo", "depth", "depth_tensorrt", 0.5),
    "thibaud/controlnet-sd21-color-diffusers": ControlNetFacts("sd-turbo", "color", "passthrough", 0.2),
    "daydreamlive/TemporalNet2-stable-diffusion-2-1": _temporal("sd-turbo"),
    "xinsir/controlnet-depth-sdxl-1.0": ControlNetFacts("sdxl-turbo", "depth", "depth_tensorrt", 0.7),
    "xinsir/controlnet-canny-sdxl-1.0": ControlNetFacts("sdxl-turbo", "canny", "canny", 0.2),
    "xinsir/controlnet-tile-sdxl-1.0": ControlNetFacts("sdxl-turbo", "tile", "feedback", 0.15),
    "daydreamlive/TemporalNet2-stable-diffusion-xl-base-1.0": _temporal("sdxl-turbo", in_sdks=False),
    "lllyasviel/control_v11f1p_sd15_depth": ControlNetFacts("sd15", "depth", "depth_tensorrt", 1.0),
    "lllyasviel/control_v11p_sd15_canny": ControlNetFacts("sd15", "canny", "canny", 0.0),
    "lllyasviel/control_v11f1e_sd15_tile": ControlNetFacts("sd15", "tile", "feedback", 0.0),
    "daydreamlive/TemporalNet2-stable-diffusion-v1-5": _temporal("sd15"),
}


def controlnet_ids(family: Family) -> tuple[str, ...]:
    """Daydream's ControlNets of `family`."""
    return tuple(name for name, facts in CONTROLNETS.items() if facts.family == family)


def counterpart(facts: ControlNetFacts, family: Family) -> str | None:
    """The ControlNet of `family` that does what the one of `facts` does in its own; None when there is none.

    Never one that the SDKs cannot read back: a caller must ask for such a one by name.
    """
    if facts.kind is None:
        return None
    own = {name: CONTROLNETS[name] for name in controlnet_ids(family)}
    same = (name for name, other in own.items() if other.kind == facts.kind and other.in_sdks)
    return next(same, None)


class ControlNet(WireModel):
    """One ControlNet of a stream. Scale 0 switches its effect off without a reload."""

    model_id: Annotated[
        str,
        Field(
            max_length=MAX_URL,
            description="Which ControlNet; each once, and of the model's family.",
            json_schema_extra={"examples": list(CONTROLNETS)},
        ),
    ]
    conditioning_scale: Annotated[
        float,
        Field(
            ge=0,
            le=2,
            description="How strongly it steers: 0 not at all, 1 normally.",
            json_schema_extra={"step": 0.01, "slider": [0, 1]},
        ),
        NOT_BOOLEAN,
    ] = 1.0
    preprocessor: Annotated[
        ImageProcessorName, Field(description="Image processor that makes its control picture from the camera's.")
    ] = "passthrough"
    preprocessor_params: Annotated[ProcessorParams, Field(description="What the preprocessor is told.")] = _NOTHING
    enabled: Annotated[bool, Field(description="Whether it is loaded and runs at all.")] = True
    control_guidance_start: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the denoising steps after which it starts to steer.",
            json_schema_extra={"step": 0.01},
        ),
        NOT_BOOLEAN,
    ] = 0.0
    control_guidance_end: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the denoising steps after which it no longer steers.",
            json_schema_extra={"step": 0.01},
        ),
        NOT_BOOLEAN,
    ] = 1.0

    @field_validator("preprocessor_params")
    @classmethod
    def _complete(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = IMAGE_PROCESSORS.get(info.data.get("preprocessor", ""))
        if kind is None:
            return value
        return complete_params(kind, value)

    _facts: ControlNetFacts = PrivateAttr()

    @field_validator("model_id")
    @classmethod
    def _know(cls, value: str, info: ValidationInfo) -> str:
        table = _table_of(info)
        if value not in table:
            raise PydanticKnownError("literal_error", {"expected": ", ".join(f"'{name}'" for name in table)})
        return value

    @model_validator(mode="after")
    def _take_facts(self, info: ValidationInfo) -> "ControlNet":
        self._facts = _table_of(info)[self.model_id]
        return self

    @property
    def facts(self) -> ControlNetFacts:
        """What the server knew of it when these params were read."""
        return self._facts

    @property
    def has_effect(self) -> bool:
        """Whether it is on, and of a scale above 0."""
        return self.enabled and self.conditioning_scale > 0

    @property
    def source(self) -> str:
        """Where its files are: a directory or a hub id."""
        return self._facts.source or self.model_id


def _table_of(info: ValidationInfo) -> Mapping[str, ControlNetFacts]:
    """The ControlNets of the server that reads, Daydream's own where nobody said."""
    context = cast("Mapping[str, Any] | None", info.context)
    return CONTROLNETS if context is None else context.get("controlnets", CONTROLNETS)


__all__ = [
    "CONTROLNETS",
    "MAX_CONTROLNETS",
    "ControlNet",
    "ControlNetFacts",
    "ControlNetKind",
    "controlnet_ids",
    "counterpart",
]
