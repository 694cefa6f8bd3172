"""Warnings for what a request holds and nobody knows, by its whole wire path: `params.controlnets[1].speed`."""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast, get_args

from pydantic import BaseModel

from sdstream.params.base import WireModel
from sdstream.params.problems import Notes, did_you_mean, is_object
from sdstream.params.processors import PROCESSORS, known_parameters

_PROCESSOR_MEMBERS = {"params": "type", "preprocessor_params": "preprocessor"}
"""Members that are told to a processor, and the member beside each that says to which."""


def note_unknown(values: Mapping[str, Any], model: type[BaseModel], notes: Notes, path: str) -> None:
    """Note every member of `values`, at any depth, that `model` does not know; what is no object is passed over."""
    for name, value in values.items():
        field = model.model_fields.get(name)
        if field is None:
            notes.ignored(f"{path}.{name}", model.model_fields)
        elif name in _PROCESSOR_MEMBERS and is_object(value):
            beside = _PROCESSOR_MEMBERS[name]
            _note_parameters(value, values.get(beside, model.model_fields[beside].default), notes, f"{path}.{name}")
        elif (inner := _model_in(field.annotation)) is not None:
            if is_object(value):
                note_unknown(value, inner, notes, f"{path}.{name}")
            elif isinstance(value, list | tuple):
                for index, item in enumerate(cast("list[Any]", value)):
                    if is_object(item):
                        note_unknown(item, inner, notes, f"{path}.{name}[{index}]")


def _note_parameters(values: Mapping[str, Any], processor: object, notes: Notes, path: str) -> None:
    kind = PROCESSORS.get(processor) if isinstance(processor, str) else None
    if kind is None:  # which is told as an error
        return
    known = known_parameters(kind)
    for name in (name for name, value in values.items() if value is not None and name not in known):
        near = did_you_mean(name, known)
        text = f"{path}.{name[:64]} is not a parameter of {kind.name}; it is kept and has no effect"
        notes.add(f"{text}; {near}" if near else text)


@cache
def _model_in(annotation: Any) -> type[WireModel] | None:
    """The object that `annotation` is, or that it is an array of, or that it may be besides null."""
    arguments = get_args(annotation)
    if not arguments:
        return annotation if isinstance(annotation, type) and issubclass(annotation, WireModel) else None
    return next((model for part in arguments if (model := _model_in(part)) is not None), None)


__all__ = ["note_unknown"]
