"""What of all that streams can ask for is on this machine: models, ControlNets, IP-Adapters, networks of processors.

Looks at names and sizes of files only, as the worker would look for them; opens no weights. No torch here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdstream.diffusion.fetching.selection import INDEX, NETWORK, find_published
from sdstream.diffusion.fetching.sources import find_model, find_repository, may_fetch
from sdstream.directories import ModelPlaces
from sdstream.errors import ModelUnavailable
from sdstream.params import ModelTable
from sdstream.worker.files.published import ADAPTERS, CHOSEN, NETWORKS, PROCESSORS


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether files are here. `path` is where they are or, when some are missing, where the others are."""

    present: bool
    path: Path | None = None
    size: int = 0
    """Bytes of those that are here."""
    missing: tuple[str, ...] = ()
    """Names of files below `path`; all that are needed when there is no `path`."""
    fetched: bool = False
    """Whether what is missing is fetched when a stream asks for it."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All presences: models and ControlNets by id, IP-Adapters by (family, type), networks by their name."""

    models: Mapping[str, Presence]
    controlnets: Mapping[str, Presence]
    adapters: Mapping[tuple[str, str], Presence]
    networks: Mapping[str, Presence]


def take_inventory(table: ModelTable) -> Inventory:
    """Look for everything that `table` and this version of sdstream know. Waits for the disk."""
    places = table.places
    return Inventory(
        {entry.id: model_presence(entry.source, places) for entry in table.entries()},
        {name: files_presence(facts.source or name, NETWORK, places) for name, facts in table.controlnets.items()},
        {
            key: _together(files_presence(repository, names, places) for repository, names in files.sources)
            for key, files in ADAPTERS.items()
        },
        {
            name: _together(files_presence(source.repository, source.files, places) for source in sources)
            for name, sources in NETWORKS.items()
        },
    )


def model_presence(source: str, places: ModelPlaces) -> Presence:
    """Of a model: a diffusers directory that has its index, or a single file."""
    fetched = may_fetch(source, places)
    try:
        path = find_model(source, places)
    except ModelUnavailable:
        return Presence(False, missing=(INDEX,), fetched=fetched)
    if path.is_dir() and not (path / INDEX).is_file():
        return Presence(False, path, missing=(INDEX,), fetched=fetched)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Presence(True, path, sum(file.stat().st_size for file in files))


def files_presence(repository: str, names: Iterable[str], places: ModelPlaces) -> Presence:
    """Of these files of a repository or directory."""
    needed = tuple(names)
    folder = find_repository(repository, places)
    here = {name: None if folder is None else find_published(folder, name) for name in needed}
    missing = tuple(name for name, file in here.items() if file is None)
    size = sum(file.stat().st_size for file in here.values() if file is not None)
    return Presence(not missing, folder, size, missing, bool(missing) and may_fetch(repository, places))


def processors_of(network: str) -> tuple[str, ...]:
    """The image processors that look with this network."""
    return tuple(name for known in (PROCESSORS, CHOSEN) for name, networks in known.items() if network in networks)


def _together(presences: Iterable[Presence]) -> Presence:
    every = tuple(presences)
    return Presence(
        all(one.present for one in every),
        next((one.path for one in every if one.path is not None), None),
        sum(one.size for one in every),
        tuple(name for one in every for name in one.missing),
        all(one.present or one.fetched for one in every) and not all(one.present for one in every),
    )


__all__ = ["Inventory", "Presence", "files_presence", "model_presence", "processors_of", "take_inventory"]
