"""Which models this server offers: public id, family, and where the weights come from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from sdstream.directories import ModelPlaces
from sdstream.errors import ConfigurationError
from sdstream.params.controlnets import CONTROLNETS, ControlNetFacts
from sdstream.params.problems import Problem, did_you_mean, one_of, printable
from sdstream.params.vocabulary import IMAGE_PROCESSOR_NAMES, ImageProcessorName
from sdstream.settings import Family, Settings

PUBLIC_MODELS: dict[str, Family] = {
    "stabilityai/sd-turbo": "sd-turbo",
    "stabilityai/sdxl-turbo": "sdxl-turbo",
    "Lykon/dreamshaper-8": "sd15",
    "prompthero/openjourney-v4": "sd15",
}
"""Daydream's own ids, the only ones that its SDKs can send and read back."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model: its id on the wire, its family, and a diffusers directory, a single file or a hub id."""

    id: str
    family: Family
    source: str

    @property
    def public(self) -> bool:
        """Whether Daydream's SDKs know the id; others are for raw HTTP clients only."""
        return self.id in PUBLIC_MODELS


class ModelTable:
    """The models by id. The four public ones are always there; `SDSTREAM_MODELS` moves their source and adds more.

    Ids beyond Daydream's four work over plain HTTP only: the SDKs refuse to send them and to read them back.
    """

    def __init__(
        self,
        entries: Iterable[ModelEntry] = (),
        default_id: str = "stabilityai/sd-turbo",
        places: ModelPlaces | None = None,
        controlnets: Mapping[str, ControlNetFacts] = CONTROLNETS,
    ) -> None:
        self.controlnets = controlnets
        """What is known of each ControlNet that streams may ask for, by id."""
        self.places = places or ModelPlaces()
        """Where the files of models and LoRAs are."""
        self._entries = {name: ModelEntry(name, family, name) for name, family in PUBLIC_MODELS.items()}
        self._entries |= {entry.id: entry for entry in entries}
        if default_id not in self._entries:
            near = did_you_mean(default_id, self._entries)
            raise ConfigurationError(
                f"default_model: {printable(default_id)!r} is not a model of this server; "
                f"{near or one_of(self._entries)}"
            )
        self.default = self._entries[default_id]

    @classmethod
    def from_settings(cls, settings: Settings) -> "ModelTable":
        """The table that `models`, `default_model` and `controlnets` describe. Raises `ConfigurationError`."""
        entries: list[ModelEntry] = []
        for name, given in settings.models.items():
            own = PUBLIC_MODELS.get(name)
            if own is not None and given.family not in (None, own):
                raise ConfigurationError(f"models: {name} is of the {own} family, not of {given.family}")
            family = own or given.family
            if family is None:
                raise ConfigurationError(
                    f"models: {printable(name)!r} is not one of Daydream's models, so it needs a family: "
                    f'{{"source": ..., "family": "sd-turbo" | "sdxl-turbo" | "sd15"}}'
                )
            entries.append(ModelEntry(name, family, given.source))
        places = ModelPlaces.from_settings(settings)
        return cls(entries, settings.default_model, places, _controlnets(settings))

    def get(self, model_id: str) -> ModelEntry | None:
        return self._entries.get(model_id)

    def ids(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def entries(self) -> tuple[ModelEntry, ...]:
        return tuple(self._entries.values())

    def find(self, model_id: object, field: str = "params.model_id") -> ModelEntry | Problem:
        """The entry of `model_id`, or what is wrong with it."""
        if not isinstance(model_id, str):
            return Problem(field, "must be a text", f"use {one_of(self._entries)}")
        entry = self._entries.get(model_id)
        if entry is not None:
            return entry
        return Problem(
            field,
            f"is not a model of this server: '{printable(model_id)}'",
            did_you_mean(model_id, self._entries) or f"use {one_of(self._entries)}",
        )


def _controlnets(settings: Settings) -> Mapping[str, ControlNetFacts]:
    """Daydream's ControlNets, from where the setting says, and further ones."""
    table = dict(CONTROLNETS)
    for name, given in settings.controlnets.items():
        preprocessor = _preprocessor(name, given.preprocessor)
        own = CONTROLNETS.get(name)
        if own is not None:
            said = {"family": given.family, "conditioning_channels": given.conditioning_channels}
            for what, value in said.items():
                if value is not None and value != getattr(own, what):
                    raise ConfigurationError(f"controlnets: the {what} of {name} is {getattr(own, what)}, not {value}")
            table[name] = replace(own, source=given.source, preprocessor=preprocessor or own.preprocessor)
            continue
        if given.family is None:
            raise ConfigurationError(
                f"controlnets: {printable(name)!r} is not one of Daydream's ControlNets, so it needs a family: "
                f'{{"source": ..., "family": "sd-turbo" | "sdxl-turbo" | "sd15"}}'
            )
        table[name] = ControlNetFacts(
            given.family,
            None,
            preprocessor or "passthrough",
            1.0,
            in_sdks=False,
            source=given.source,
            conditioning_channels=given.conditioning_channels or 3,
        )
    return table


def _preprocessor(name: str, given: str | None) -> ImageProcessorName | None:
    if given is None:
        return None
    for known in get_args(ImageProcessorName):
        if given == known:
            return known
    near = did_you_mean(given, IMAGE_PROCESSOR_NAMES) or one_of(IMAGE_PROCESSOR_NAMES)
    raise ConfigurationError(
        f"controlnets: {printable(given)!r}, the preprocessor of {printable(name)}, is no image processor; {near}"
    )


__all__ = ["PUBLIC_MODELS", "ModelEntry", "ModelTable"]
