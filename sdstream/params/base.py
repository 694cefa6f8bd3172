"""How every object of the wire is read: unknown members and nulls are dropped, never fatal."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from sdstream.params.problems import Notes


class WireModel(BaseModel):
    """A frozen object of the wire.

    `place` is its path for warnings. A null member counts as absent, so it takes its default, which for a nullable
    member is null. Unknown members are dropped and, when the validation context has a `Notes` under `notes`, noted
    there.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, validate_default=True)

    place: ClassVar[str] = "params"

    @model_validator(mode="before")
    @classmethod
    def _drop_what_means_nothing(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping):
            return data
        notes = notes_of(info)
        kept: dict[Any, Any] = {}
        for name, value in cast("Mapping[Any, Any]", data).items():
            if name not in cls.model_fields:
                if notes is not None:
                    notes.ignored(f"{cls.place}.{name}", cls.model_fields)
            elif value is not None:
                kept[name] = value
        return kept


def notes_of(info: ValidationInfo) -> Notes | None:
    """The warnings of the validation under way, if it keeps any."""
    context = cast("dict[str, Any] | None", info.context)
    return context.get("notes") if context else None


__all__ = ["WireModel", "notes_of"]
