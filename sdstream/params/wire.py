"""Parameters as the wire and the store write them: strict, with every key, always."""

import json
from collections.abc import Mapping
from typing import Any, cast

from sdstream.params.addresses import StyleImage
from sdstream.params.controlnets import CONTROLNETS, ControlNetFacts
from sdstream.params.models import ModelTable
from sdstream.params.problems import Notes, Problem, is_object, printable, refuse
from sdstream.params.validation import check
from sdstream.params.variants import VARIANTS, StreamParams
from sdstream.settings import Family

STYLE_IMAGE = "ip_adapter_style_image_url"
KEPT_APART = "stored:"
"""Before the digest of a style image in dumped params; no value of the wire begins so."""


def wire_params(params: StreamParams, *, short_images: bool = False) -> dict[str, Any]:
    """`params` as a JSON-safe dict with every key of the variant, for answers.

    With `short_images` a style image given as data URI is shortened, for lists and logs; sent back to that stream,
    that form changes nothing.
    """
    style: StyleImage | None = getattr(params, STYLE_IMAGE, None)
    if not short_images or style is None:
        return params.model_dump(mode="json")
    return _with_image(params, style.short)


def dump_params(params: StreamParams) -> str:
    """`params` as text for the store and for the worker; `image_apart` of them is only named in it.

    A style image may have megabytes, and a stream's params are written and sent with each change of any of them.
    """
    image = image_apart(params)
    wire = params.model_dump(mode="json") if image is None else _with_image(params, KEPT_APART + image.digest)
    return json.dumps({"family": params.family, **wire}, ensure_ascii=False, separators=(",", ":"))


def image_apart(params: StreamParams) -> StyleImage | None:
    """The style image that `dump_params` leaves out: one given as data URI."""
    style: StyleImage | None = getattr(params, STYLE_IMAGE, None)
    return style if style is not None and style.is_data else None


def load_params(
    text: str,
    models: ModelTable | None = None,
    images: Mapping[str, StyleImage] | None = None,
    notes: Notes | None = None,
) -> StreamParams:
    """Parameters from `dump_params`, also of an earlier version: missing members take defaults, unknown ones go.

    `images` has the style images that were kept apart, by digest. A model that is no longer in `models` keeps the
    family it had, so its streams stay readable; a ControlNet that is no longer there goes. `notes` is told what goes.
    Raises `InvalidParams` for a text that `dump_params` did not write, and where an image is missing.
    """
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise refuse([Problem("params", f"is not JSON: {error}")]) from None
    if not is_object(stored):
        raise refuse([Problem("params", "must be an object")])
    values = dict(stored)
    style = values.get(STYLE_IMAGE)
    if isinstance(style, str) and style.startswith(KEPT_APART):
        image = (images or {}).get(style.removeprefix(KEPT_APART))
        if image is None:
            raise refuse([Problem(f"params.{STYLE_IMAGE}", "names a picture that is not kept")])
        values[STYLE_IMAGE] = image
    written = values.pop("family", None)
    entry = models.get(str(values.get("model_id"))) if models is not None else None
    family: Family | None = entry.family if entry else next((name for name in VARIANTS if name == written), None)
    if family is None:
        raise refuse([Problem("params.family", "is not a family of models")])
    controlnets = CONTROLNETS if models is None else models.controlnets
    told = notes or Notes()
    _drop_unknown_controlnets(values, controlnets, told)
    for name in values.keys() - VARIANTS[family].model_fields.keys():
        told.ignored(f"params.{name}")
    params, problems = check(values, family, Notes(), controlnets=controlnets)
    if params is None:
        raise refuse(problems)
    return params


def _drop_unknown_controlnets(values: dict[str, Any], known: Mapping[str, ControlNetFacts], notes: Notes) -> None:
    nets = values.get("controlnets")
    if isinstance(nets, list):
        entries = cast("list[Any]", nets)
        values["controlnets"] = [net for net in entries if not is_object(net) or net.get("model_id") in known]
        for net in entries:
            if is_object(net) and net.get("model_id") not in known:
                notes.add(f"ControlNet {printable(str(net.get('model_id')))} is not known and was left out")


def _with_image(params: StreamParams, image: str) -> dict[str, Any]:
    """What `model_dump` gives, with `image` in the place of the style image, which is not even copied."""
    wire = params.model_dump(mode="json", exclude={STYLE_IMAGE})
    return {name: image if name == STYLE_IMAGE else wire[name] for name in type(params).model_fields}


__all__ = ["STYLE_IMAGE", "dump_params", "image_apart", "load_params", "wire_params"]
