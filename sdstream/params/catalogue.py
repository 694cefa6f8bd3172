"""Everything there is to know of every parameter, as data, for the playground and the documentation.

All of it is read from the models themselves, so it cannot differ from what is accepted.
"""

from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sdstream.params.adapters import CachedAttention, IpAdapter
from sdstream.params.change import HOT_FIELDS, HOT_MEMBERS, SIZE_FIELDS, ChangeKind
from sdstream.params.controlnets import CONTROLNETS, ControlNet, controlnet_ids
from sdstream.params.costs import COSTS, describe_cost, interval_of
from sdstream.params.kinds import ProcessorKind
from sdstream.params.models import PUBLIC_MODELS
from sdstream.params.processors import (
    IMAGE_PROCESSORS,
    PROCESSORS,
    ImageProcessing,
    LatentProcessing,
    Processor,
    ProcessorParameter,
)
from sdstream.params.processors import LatentProcessor as LatentProcessorModel
from sdstream.params.variants import VARIANTS
from sdstream.settings import Family

_SPECIAL_TYPES = {
    "prompt": "prompt",
    "seed": "seed",
    "t_index_list": "integers",
    "lora_dict": "weights",
    "controlnets": "controlnets",
    "image_preprocessing": "image_processing",
    "image_postprocessing": "image_processing",
    "latent_preprocessing": "latent_processing",
    "latent_postprocessing": "latent_processing",
    "ip_adapter": "object",
    "cached_attention": "object",
    "ip_adapter_style_image_url": "image",
    "preprocessor_params": "object",
    "params": "object",
    "processors": "processors",
}
_NESTED: dict[str, tuple[type[BaseModel], str]] = {
    "controlnets": (ControlNet, "controlnets[]"),
    "ip_adapter": (IpAdapter, "ip_adapter"),
    "cached_attention": (CachedAttention, "cached_attention"),
    "image_preprocessing": (ImageProcessing, "image_preprocessing"),
    "image_postprocessing": (ImageProcessing, "image_postprocessing"),
    "latent_preprocessing": (LatentProcessing, "latent_preprocessing"),
    "latent_postprocessing": (LatentProcessing, "latent_postprocessing"),
}
_BLOCK_ENTRIES: dict[type[BaseModel], type[BaseModel]] = {
    ImageProcessing: Processor,
    LatentProcessing: LatentProcessorModel,
}
_CHOICES_BY_FAMILY: dict[str, dict[Family, list[str]]] = {
    "controlnets[].model_id": {family: list(controlnet_ids(family)) for family in VARIANTS},
    "ip_adapter.type": {"sdxl-turbo": ["regular", "faceid"], "sd15": ["regular"]},
}


def parameter_catalogue() -> list[dict[str, Any]]:
    """One entry for each parameter, nested ones after their parent, those of processors last.

    Every entry has all of these keys, None where they mean nothing:
    `name` (wire path below `params`, `[]` for an item; `processors.canny.low_threshold` for what a processor is told),
    `type` (`boolean integer number string choice prompt seed integers weights object image controlnets processors
    image_processing latent_processing`), `minimum`, `maximum`, `step`, `slider` ([from, to], the useful part of the
    range), `default`, `defaults` (by family, where they differ), `choices`, `choices_by_family` (where they differ),
    `families`, `nullable`, `required`, `update` (`hot`, `reload` or `refused` while live), `processor` (the one it
    belongs to), `description`.
    """
    return [*_stream_entries(), *_processor_entries()]


def processor_catalogue() -> list[dict[str, Any]]:
    """One entry for each processor: `name`, `kind` (`image` or `latent`), `needs_model`, `scales_output`,
    `description`, `cost` (what it takes, how large a picture it looks at and how often; None for latent ones), and
    `parameters` as in `parameter_catalogue`.
    """
    return [
        {
            "name": kind.name,
            "kind": "image" if kind.name in IMAGE_PROCESSORS else "latent",
            "needs_model": kind.needs_model,
            "scales_output": kind.scales_output,
            "description": kind.description,
            "cost": _cost_entry(kind),
            "parameters": [_parameter_entry(kind.name, parameter) for parameter in kind.parameters],
        }
        for kind in PROCESSORS.values()
    ]


def _cost_entry(kind: ProcessorKind) -> dict[str, Any] | None:
    cost = COSTS.get(kind.name)
    if cost is None:
        return None
    return {
        "gigaflops": cost.gigaflops,
        "milliseconds": cost.milliseconds,
        "largest": cost.largest,
        "interval": interval_of(kind.defaults),
        "described": describe_cost(kind.name),
    }


def _stream_entries() -> Iterator[dict[str, Any]]:
    names = dict.fromkeys(name for variant in VARIANTS.values() for name in variant.model_fields)
    for name in names:
        holders = {family: variant for family, variant in VARIANTS.items() if name in variant.model_fields}
        families = list(holders)
        # The SDXL variant has every field, and the widest choices.
        entry = _field_entry(name, name, VARIANTS["sdxl-turbo"].model_fields[name], families, _update_of(name))
        if name == "model_id":
            # Public ids only: further ones are the server's own affair, and GET /v1/models has them.
            entry |= {
                "type": "choice",
                "choices": list(PUBLIC_MODELS),
                "choices_by_family": {
                    family: [model for model, own in PUBLIC_MODELS.items() if own == family] for family in families
                },
                "required": False,
            }
            yield entry
            continue
        defaults = {family: _plain(variant.model_fields[name].default) for family, variant in holders.items()}
        if any(value != entry["default"] for value in defaults.values()):
            entry["defaults"] = defaults
        yield entry
        if name in _NESTED:
            yield from _nested_entries(name, families)


def _nested_entries(parent: str, families: list[str]) -> Iterator[dict[str, Any]]:
    model, path = _NESTED[parent]
    for name, field in model.model_fields.items():
        entry = _field_entry(f"{path}.{name}", name, field, families, _update_of(parent, name))
        if entry["name"] in _CHOICES_BY_FAMILY:
            entry["choices_by_family"] = _CHOICES_BY_FAMILY[entry["name"]]
        if entry["name"] == "controlnets[].model_id":
            # Daydream's own: further ones are the server's own affair, and GET /v1/models has them.
            entry |= {"type": "choice", "choices": list(CONTROLNETS)}
        yield entry
    item = _BLOCK_ENTRIES.get(model)
    for name, field in item.model_fields.items() if item else ():
        yield _field_entry(f"{path}.processors[].{name}", name, field, families, _update_of(parent, name))


def _processor_entries() -> Iterator[dict[str, Any]]:
    for kind in PROCESSORS.values():
        for parameter in kind.parameters:
            yield _parameter_entry(kind.name, parameter)


def _update_of(name: str, member: str | None = None) -> str:
    if name in SIZE_FIELDS:
        return ChangeKind.REFUSED.value
    hot = name in HOT_FIELDS or (member is not None and member in HOT_MEMBERS.get(name, ()))
    return (ChangeKind.HOT if hot else ChangeKind.RELOAD).value


def _field_entry(path: str, name: str, field: FieldInfo, families: list[str], update: str) -> dict[str, Any]:
    annotation, nullable = _without_none(field.annotation)
    extra: Any = field.json_schema_extra or {}
    choices = list(get_args(annotation)) if get_origin(annotation) is Literal else None
    return {
        "name": path,
        "type": _SPECIAL_TYPES.get(name) or _type_of(annotation),
        "minimum": next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None),
        "maximum": next((bound.le for bound in field.metadata if isinstance(bound, Le)), None),
        "step": extra.get("step"),
        "slider": extra.get("slider"),
        "default": None if field.is_required() else _plain(field.default),
        "defaults": None,
        "choices": choices,
        "choices_by_family": None,
        "families": families,
        "nullable": nullable,
        "required": field.is_required(),
        "update": update,
        "processor": None,
        "description": field.description,
    }


def _parameter_entry(processor: str, parameter: ProcessorParameter) -> dict[str, Any]:
    resizes = PROCESSORS[processor].scales_output and parameter.name == "scale_factor"
    return {
        "name": f"processors.{processor}.{parameter.name}",
        "type": parameter.type,
        "minimum": parameter.minimum,
        "maximum": parameter.maximum,
        "step": parameter.step,
        "slider": list(parameter.slider) if parameter.slider else None,
        "default": parameter.default,
        "defaults": None,
        "choices": list(parameter.choices) or None,
        "choices_by_family": None,
        "families": list(VARIANTS),
        "nullable": False,
        "required": False,
        "update": (ChangeKind.REFUSED if resizes else ChangeKind.HOT).value,
        "processor": processor,
        "description": parameter.description,
    }


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation):
        rest = [part for part in get_args(annotation) if part is not type(None)]
        return (rest[0] if len(rest) == 1 else annotation), True
    return annotation, False


def _type_of(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "choice"
    return {bool: "boolean", int: "integer", float: "number", str: "string"}[annotation]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value


__all__ = ["parameter_catalogue", "processor_catalogue"]
