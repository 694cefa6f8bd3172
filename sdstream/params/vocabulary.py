"""The closed lists of the wire: exactly the values that the published SDKs know."""

from typing import Any, Literal, get_args

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

Interpolation = Literal["linear", "slerp"]
Acceleration = Literal["none", "xformers", "tensorrt"]
ImageProcessorName = Literal[
    "blur",
    "canny",
    "depth",
    "depth_tensorrt",
    "external",
    "feedback",
    "hed",
    "lineart",
    "mediapipe_pose",
    "mediapipe_segmentation",
    "openpose",
    "passthrough",
    "pose_tensorrt",
    "realesrgan_trt",
    "sharpen",
    "soft_edge",
    "standard_lineart",
    "temporal_net_tensorrt",
    "upscale",
]
LatentProcessorName = Literal["latent_feedback"]
AdapterType = Literal["regular", "faceid"]
WeightType = Literal[
    "linear",
    "ease in",
    "ease out",
    "ease in-out",
    "reverse in-out",
    "weak input",
    "weak output",
    "weak middle",
    "strong middle",
    "style transfer",
    "composition",
    "strong style transfer",
    "style and composition",
    "style transfer precise",
    "composition precise",
]

IMAGE_PROCESSOR_NAMES: tuple[str, ...] = get_args(ImageProcessorName)
LATENT_PROCESSOR_NAMES: tuple[str, ...] = get_args(LatentProcessorName)

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that JavaScript holds exactly."""
MAX_TEXT = 8_000
"""Characters of a prompt."""
MAX_URL = 2_048
MAX_NAME = 256
MAX_WEIGHTED = 16
"""Pairs in a weighted prompt or seed."""
MAX_WEIGHT = 100
"""Of each, as it is sent and once it is normalised, either sign: half precision does not hold much more of a prompt."""
MAX_PROCESSORS = 16
MAX_LORAS = 16


def _refuse_boolean(value: Any) -> Any:
    # pydantic's lax mode takes true for 1; nobody means that by `width: true`.
    if isinstance(value, bool):
        raise PydanticCustomError("number_expected", "must be a number, not true or false")
    return value


NOT_BOOLEAN = BeforeValidator(_refuse_boolean)
"""Put it after the bounds in `Annotated`, so that the bounds stay in the JSON schema."""

__all__ = [
    "IMAGE_PROCESSOR_NAMES",
    "LATENT_PROCESSOR_NAMES",
    "MAX_LORAS",
    "MAX_NAME",
    "MAX_PROCESSORS",
    "MAX_SAFE_INTEGER",
    "MAX_TEXT",
    "MAX_URL",
    "MAX_WEIGHT",
    "MAX_WEIGHTED",
    "NOT_BOOLEAN",
    "Acceleration",
    "AdapterType",
    "ImageProcessorName",
    "Interpolation",
    "LatentProcessorName",
    "WeightType",
]
