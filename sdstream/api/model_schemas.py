"""What `GET /v1/models` answers, as pydantic models. They describe and test."""

from typing import Literal

from sdstream.api.schemas import Shape


class Files(Shape):
    """Whether the files of something are on this machine, and else what a load would say. `path` and `problem` are for
    operators' keys, null for others."""

    present: bool
    path: str | None
    bytes: int
    missing: list[str]
    problem: str | None
    fetched_when_needed: bool


class Model(Files):
    """A model that streams may ask for."""

    id: str
    family: str
    default: bool


class ControlNetEntry(Files):
    """A ControlNet that streams may ask for, with its usual preprocessor and scale."""

    id: str
    family: str
    kind: str | None
    preprocessor: str
    scale: float
    conditioning_channels: int
    in_sdks: bool


class AdapterEntry(Files):
    """An IP-Adapter."""

    family: str
    type: str


class NetworkEntry(Files):
    """A network that image processors look with."""

    name: str
    processors: list[str]


class ModelList(Shape):
    """What `params.model_id`, `controlnets` and the rest may ask for, and what of it is here."""

    success: Literal[True]
    data: list[Model]
    controlnets: list[ControlNetEntry]
    ip_adapters: list[AdapterEntry]
    processor_networks: list[NetworkEntry]


__all__ = ["ModelList"]
