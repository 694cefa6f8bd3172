"""Image processors of a profile: where the files of their networks are, and the components that are made of them."""

from collections.abc import Iterable
from pathlib import Path

import torch

from builder.profiles import Profile
from sdstream.diffusion.fetching.hub import Progress
from sdstream.diffusion.fetching.sources import fetch_chosen, find_repository
from sdstream.directories import ModelPlaces
from sdstream.engines.component import Component, RowRange
from sdstream.model_errors import ModelUnavailable
from sdstream.worker.annotators.components import PROCESSORS, network_components
from sdstream.worker.annotators.parted import PartedNetwork
from sdstream.worker.annotators.shelf import LOADERS
from sdstream.worker.annotators.tiny import make_tiny_network
from sdstream.worker.files.published import NETWORKS, WeightSource


def find_networks(profile: Profile, places: ModelPlaces) -> tuple[tuple[Path, ...], list[str]]:
    """The folders of all that the processors need, each once, and in words what is not on this machine."""
    found: dict[Path, None] = {}
    missing: list[str] = []
    for processor, source in _sources(profile):
        folder = _find(source, places)
        if folder is None:
            missing.append(f"{source.files[-1]} of {source.repository} for {processor}")
        else:
            found[folder] = None
    return tuple(found), missing


def fetch_networks(profile: Profile, places: ModelPlaces, progress: Progress) -> None:
    """Fetch what is not here. Raises `ModelUnavailable` of the kind that fits."""
    for _, source in _sources(profile):
        if _find(source, places) is None:
            fetch_chosen(source.repository, source.files, places, progress)


def processor_components(profile: Profile, places: ModelPlaces, dtype: torch.dtype) -> tuple[Component, ...]:
    """What engines of the profile's processors are made of, in the order of the profile. Raises `ModelUnavailable`."""
    made: list[Component] = []
    rows = RowRange(1, profile.streams.best, profile.streams.most)
    for processor in profile.processors:
        name = PROCESSORS[processor]
        made += network_components(_load(name, profile, places, dtype), profile.pictures, rows, name)
    return tuple(made)


def _load(name: str, profile: Profile, places: ModelPlaces, dtype: torch.dtype) -> PartedNetwork:
    if profile.tiny is not None:
        return make_tiny_network(name, profile.tiny).to(dtype)
    network = LOADERS[name](lambda source: _find(source, places), dtype)
    if not isinstance(network, PartedNetwork):
        raise ModelUnavailable(f"no engines are made of {name}")
    return network.requires_grad_(False).eval()


def _sources(profile: Profile) -> Iterable[tuple[str, WeightSource]]:
    if profile.tiny is not None:
        return
    for processor in profile.processors:
        for source in NETWORKS[PROCESSORS[processor]]:
            yield processor, source


def _find(source: WeightSource, places: ModelPlaces) -> Path | None:
    """The folder that holds all files of a source."""
    folder = find_repository(source.repository, places)
    return folder if folder is not None and all((folder / file).is_file() for file in source.files) else None


__all__ = ["fetch_networks", "find_networks", "processor_components"]
