"""What hangs on the diffusion model besides ControlNets: IP-Adapter and cached attention."""

from typing import Annotated, Literal

from pydantic import Field

from sdstream.params.base import WireModel
from sdstream.params.vocabulary import NOT_BOOLEAN, AdapterType, WeightType


class AdapterSettings(WireModel):
    """What every IP-Adapter can be told. A given block is on unless it says otherwise."""

    enabled: Annotated[bool, Field(description="Whether the style image has any effect.")] = True
    scale: Annotated[
        float,
        Field(
            ge=0,
            le=10,
            description="How strongly the style image is followed: 0 off, 1 normal, 2 strong.",
            json_schema_extra={"step": 0.01, "slider": [0, 2]},
        ),
        NOT_BOOLEAN,
    ] = 1.0
    weight_type: Annotated[
        WeightType, Field(description="How the strength is spread over the layers of the network.")
    ] = "linear"


class IpAdapter(AdapterSettings):
    """The IP-Adapter of the SDXL family."""

    type: Annotated[
        AdapterType, Field(description="`regular` takes the style of the image, `faceid` the face in it.")
    ] = "regular"


class RegularIpAdapter(AdapterSettings):
    """The IP-Adapter of the SD 1.5 family, which knows only the regular type on the wire."""

    type: Annotated[Literal["regular"], Field(description="`regular` takes the style of the image.")] = "regular"


class CachedAttention(WireModel):
    """Attention to earlier pictures, which calms the output. A given block is on unless it says otherwise."""

    enabled: Annotated[bool, Field(description="Whether earlier pictures are attended to.")] = True
    max_frames: Annotated[
        int,
        Field(ge=1, le=4, description="How many earlier pictures are kept.", json_schema_extra={"step": 1}),
        NOT_BOOLEAN,
    ] = 1
    interval: Annotated[
        int,
        Field(
            ge=1,
            le=1440,
            description="Pictures between two that are kept.",
            json_schema_extra={"step": 1, "slider": [1, 240]},
        ),
        NOT_BOOLEAN,
    ] = 1


__all__ = ["AdapterSettings", "CachedAttention", "IpAdapter", "RegularIpAdapter"]
