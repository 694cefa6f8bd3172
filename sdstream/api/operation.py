"""How one operation of the API is described."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: a JSON model, or a body of another media type."""

    text: str
    model: type[BaseModel] | None = None
    media_type: str = JSON
    schema: Mapping[str, Any] | None = None
    example: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path, under its operation id in `OPERATIONS`."""

    method: str
    path: str
    tag: str
    summary: str
    description: str
    answers: Mapping[int, Answer]
    errors: tuple[int, ...]
    key: bool | None = True
    """True: a bearer key is needed; None: it is looked at only under some settings; False: never."""
    query: tuple[Mapping[str, Any], ...] = ()
    bodies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    extension: bool = False
    deprecated: bool = False


__all__ = ["JSON", "Answer", "Operation"]
