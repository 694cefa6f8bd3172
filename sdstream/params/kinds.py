"""What a processor is and what it can be told, as data."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from sdstream.params.vocabulary import NOT_BOOLEAN

ParameterType = Literal["integer", "number", "boolean", "choice"]


@dataclass(frozen=True, slots=True)
class ProcessorParameter:
    """One thing a processor can be told. `minimum` and `maximum` are what is accepted, both included.

    `default` None means that the worker derives it from the stream. `slider` is the useful part of the range.
    """

    name: str
    type: ParameterType
    default: float | bool | str | None
    description: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    slider: tuple[float, float] | None = None

    def read(self, value: object) -> Any:
        """`value` as this parameter's own type; integral floats and numeric texts are taken.

        Raises pydantic's `ValidationError`.
        """
        return _adapter(self).validate_python(value)


@dataclass(frozen=True, slots=True)
class ProcessorKind:
    """A processor by its wire name. `needs_model` ones run only where their network has been loaded; what one that
    `remembers` makes of a picture depends on those before."""

    name: str
    description: str
    parameters: tuple[ProcessorParameter, ...] = ()
    needs_model: bool = False
    scales_output: bool = False
    remembers: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        return {parameter.name: parameter.default for parameter in self.parameters if parameter.default is not None}


@cache
def _adapter(parameter: ProcessorParameter) -> TypeAdapter[Any]:
    bounds = Field(ge=parameter.minimum, le=parameter.maximum, allow_inf_nan=False)
    match parameter.type:
        case "integer":
            return TypeAdapter(Annotated[int, Field(ge=parameter.minimum, le=parameter.maximum), NOT_BOOLEAN])
        case "number":
            return TypeAdapter(Annotated[float, bounds, NOT_BOOLEAN])
        case "boolean":
            return TypeAdapter(bool)
        case "choice":
            return TypeAdapter[Any](Literal[parameter.choices])  # pyright: ignore[reportArgumentType]


__all__ = ["ParameterType", "ProcessorKind", "ProcessorParameter"]
