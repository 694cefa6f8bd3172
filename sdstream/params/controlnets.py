"""ControlNets: which exist for which family, and the entry that puts one to use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from sdstream.params.base import WireModel, notes_of
from sdstream.params.processors import IMAGE_PROCESSORS, ProcessorParams, complete_params
from sdstream.params.vocabulary import NOT_BOOLEAN, ImageProcessorName
from sdstream.settings import Family

ControlNetId = Literal[
    "thibaud/controlnet-sd21-openpose-diffusers",
    "thibaud/controlnet-sd21-hed-diffusers",
    "thibaud/controlnet-sd21-canny-diffusers",
    "thibaud/controlnet-sd21-depth-diffusers",
    "thibaud/controlnet-sd21-color-diffusers",
    "daydreamlive/TemporalNet2-stable-diffusion-2-1",
    "xinsir/controlnet-depth-sdxl-1.0",
    "xinsir/controlnet-canny-sdxl-1.0",
    "xinsir/controlnet-tile-sdxl-1.0",
    "daydreamlive/TemporalNet2-stable-diffusion-xl-base-1.0",
    "lllyasviel/control_v11f1p_sd15_depth",
    "lllyasviel/control_v11p_sd15_canny",
    "lllyasviel/control_v11f1e_sd15_tile",
    "daydreamlive/TemporalNet2-stable-diffusion-v1-5",
]
ControlNetKind = Literal["openpose", "hed", "canny", "depth", "color", "tile", "temporal"]
MAX_CONTROLNETS = 8
_NOTHING: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class ControlNetFacts:
    """What is known of one ControlNet before it is loaded.

    `preset_scale` is Daydream's own starting scale for it. `in_sdks` False: Daydream's server knows the id and its SDKs
    do not, so the Python SDK cannot read a stream that uses it; for raw HTTP clients only.
    """

    family: Family
    kind: ControlNetKind
    preprocessor: ImageProcessorName
    preset_scale: float
    in_sdks: bool = True

    @property
    def conditioning_channels(self) -> int:
        """Channels of the control picture: TemporalNet takes two pictures."""
        return 6 if self.kind == "temporal" else 3


CONTROLNETS: Mapping[str, ControlNetFacts] = {
    "thibaud/controlnet-sd21-openpose-diffusers": ControlNetFacts("sd-turbo", "openpose", "openpose", 0.711),
    "thibaud/controlnet-sd21-hed-diffusers": ControlNetFacts("sd-turbo", "hed", "hed", 0.2),
    "thibaud/controlnet-sd21-canny-diffusers": ControlNetFacts("sd-turbo", "canny", "canny", 0.2),
    "thibaud/controlnet-sd21-depth-diffusers": ControlNetFacts("sd-turbo", "depth", "depth_tensorrt", 0.5),
    "thibaud/controlnet-sd21-color-diffusers": ControlNetFacts("sd-turbo", "color", "passthrough", 0.2),
    "daydreamlive/TemporalNet2-stable-diffusion-2-1": ControlNetFacts(
        "sd-turbo", "temporal", "temporal_net_tensorrt", 0.0
    ),
    "xinsir/controlnet-depth-sdxl-1.0": ControlNetFacts("sdxl-turbo", "depth", "depth_tensorrt", 0.7),
    "xinsir/controlnet-canny-sdxl-1.0": ControlNetFacts("sdxl-turbo", "canny", "canny", 0.2),
    "xinsir/controlnet-tile-sdxl-1.0": ControlNetFacts("sdxl-turbo", "tile", "feedback", 0.15),
    "daydreamlive/TemporalNet2-stable-diffusion-xl-base-1.0": ControlNetFacts(
        "sdxl-turbo", "temporal", "temporal_net_tensorrt", 0.0, in_sdks=False
    ),
    "lllyasviel/control_v11f1p_sd15_depth": ControlNetFacts("sd15", "depth", "depth_tensorrt", 1.0),
    "lllyasviel/control_v11p_sd15_canny": ControlNetFacts("sd15", "canny", "canny", 0.0),
    "lllyasviel/control_v11f1e_sd15_tile": ControlNetFacts("sd15", "tile", "feedback", 0.0),
    "daydreamlive/TemporalNet2-stable-diffusion-v1-5": ControlNetFacts(
        "sd15", "temporal", "temporal_net_tensorrt", 0.0
    ),
}


def controlnet_ids(family: Family) -> tuple[str, ...]:
    """The ControlNets of `family`."""
    return tuple(name for name, facts in CONTROLNETS.items() if facts.family == family)


def counterpart(controlnet_id: str, family: Family) -> str | None:
    """The ControlNet of `family` that does what `controlnet_id` does in its own; None when there is none.

    Never one that the SDKs cannot read back: a caller must ask for such a one by name.
    """
    kind = CONTROLNETS[controlnet_id].kind
    same = (name for name in controlnet_ids(family) if CONTROLNETS[name].kind == kind and CONTROLNETS[name].in_sdks)
    return next(same, None)


class ControlNet(WireModel):
    """One ControlNet of a stream. Scale 0 switches its effect off without a reload."""

    place: ClassVar[str] = "params.controlnets[]"

    model_id: Annotated[ControlNetId, Field(description="Which ControlNet; each once, and of the model's family.")]
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
        return complete_params(kind, value, notes_of(info), f"{cls.place}.preprocessor_params")

    @property
    def facts(self) -> ControlNetFacts:
        return CONTROLNETS[self.model_id]


__all__ = [
    "CONTROLNETS",
    "MAX_CONTROLNETS",
    "ControlNet",
    "ControlNetFacts",
    "ControlNetId",
    "controlnet_ids",
    "counterpart",
]
