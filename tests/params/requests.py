"""Short ways to make requests and to look at refusals."""

from collections.abc import Mapping
from typing import Any

import pytest

from sdstream.errors import InvalidParams
from sdstream.params import ModelTable, StreamParams, Update, apply_update, parse_create

MODELS = ModelTable()
SD_TURBO = "stabilityai/sd-turbo"
SDXL_TURBO = "stabilityai/sdxl-turbo"
DREAMSHAPER = "Lykon/dreamshaper-8"
PUBLIC_IDS = MODELS.ids()
SDXL_DEPTH = "xinsir/controlnet-depth-sdxl-1.0"
SDXL_CANNY = "xinsir/controlnet-canny-sdxl-1.0"
SDXL_TILE = "xinsir/controlnet-tile-sdxl-1.0"
SDXL_TEMPORAL = "daydreamlive/TemporalNet2-stable-diffusion-xl-base-1.0"


def created(model_id: str | None = None, /, **params: Any) -> StreamParams:
    """The parameters of a stream made with `params`."""
    given = params if model_id is None else {"model_id": model_id, **params}
    return parse_create({"pipeline": "streamdiffusion", "params": given}, MODELS).params


def updated(current: StreamParams, /, **params: Any) -> Update:
    """`current` after a PATCH of `params`."""
    return apply_update(current, {"pipeline": "streamdiffusion", "params": params}, MODELS)


def refusal(body: object, current: StreamParams | None = None) -> dict[str, Mapping[str, str | None]]:
    """The details by field of the refusal of a create body or, with `current`, of an update body."""
    with pytest.raises(InvalidParams) as caught:
        parse_create(body, MODELS) if current is None else apply_update(current, body, MODELS)
    return {detail["field"]: detail for detail in caught.value.details}


def refused_fields(model_id: str, /, **params: Any) -> set[str]:
    """The fields that a create with `params` is refused for."""
    return set(refusal({"params": {"model_id": model_id, **params}}))
