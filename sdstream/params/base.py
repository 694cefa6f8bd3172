"""How every object of the wire is read: unknown members and nulls are dropped, never fatal."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, model_validator


class WireModel(BaseModel):
    """A frozen object of the wire.

    A null member counts as absent, so it takes its default, which for a nullable member is null. Unknown members are
    dropped; `note_unknown` warns of them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_means_nothing(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        members = cast("Mapping[Any, Any]", data).items()
        return {name: value for name, value in members if name in cls.model_fields and value is not None}


__all__ = ["WireModel"]
