"""Parameters as the wire and the store write them: strict, with every key, always."""

import json
from typing import Any

from sdstream.params.addresses import StyleImage
from sdstream.params.models import ModelTable
from sdstream.params.problems import Notes, Problem, is_object, refuse
from sdstream.params.validation import check
from sdstream.params.variants import VARIANTS, StreamParams
from sdstream.settings import Family


def wire_params(params: StreamParams, *, short_images: bool = False) -> dict[str, Any]:
    """`params` as a JSON-safe dict with every key of the variant, for answers.

    With `short_images` a style image given as data URI is shortened, for lists and logs; that form cannot be sent back.
    """
    wire = params.model_dump(mode="json")
    style: StyleImage | None = getattr(params, "ip_adapter_style_image_url", None)
    if short_images and style is not None:
        wire["ip_adapter_style_image_url"] = style.short
    return wire


def dump_params(params: StreamParams) -> str:
    """`params` as text for the store and for the worker."""
    return json.dumps({"family": params.family, **wire_params(params)}, ensure_ascii=False, separators=(",", ":"))


def load_params(text: str, models: ModelTable | None = None) -> StreamParams:
    """Parameters from `dump_params`, also of an earlier version: missing members take defaults, unknown ones go.

    A model that is no longer in `models` keeps the family it had, so its streams stay readable.
    Raises `InvalidParams` for a text that `dump_params` did not write.
    """
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise refuse([Problem("params", f"is not JSON: {error}")]) from None
    if not is_object(stored):
        raise refuse([Problem("params", "must be an object")])
    values = dict(stored)
    written = values.pop("family", None)
    entry = models.get(str(values.get("model_id"))) if models is not None else None
    family: Family | None = entry.family if entry else next((name for name in VARIANTS if name == written), None)
    if family is None:
        raise refuse([Problem("params.family", "is not a family of models")])
    params, problems = check(values, family, Notes())
    if params is None:
        raise refuse(problems)
    return params


__all__ = ["dump_params", "load_params", "wire_params"]
