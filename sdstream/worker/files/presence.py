"""What of all that streams can ask for is on this machine: models, ControlNets, IP-Adapters, networks of processors.

Looks at names, descriptions and headers of files, as a load would look at them; reads no weights. No torch here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdstream.diffusion.fetching.selection import INDEX, NETWORK, find_published
from sdstream.diffusion.fetching.sources import (
    fetched_from,
    fetches,
    find_model,
    find_repository,
    find_taesd,
    find_tokenizer,
    may_fetch,
)
from sdstream.diffusion.loading.flaws import Elsewhere, Flaw, find_flaws, find_small_vae
from sdstream.directories import ModelPlaces
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelTable
from sdstream.settings import Family
from sdstream.worker.files.published import ADAPTERS, CHOSEN, NETWORKS, PROCESSORS


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether files are here. `path` is where they are or, when some are missing, where the others are."""

    present: bool
    path: Path | None = None
    size: int = 0
    """Bytes of those that are here."""
    missing: tuple[str, ...] = ()
    """Names of files below `path` that are not there or of no use; all that are needed when there is no `path`."""
    problem: str = ""
    """What a load says of the first of them; of models only. It may hold paths."""
    hint: str = ""
    """What to do about it."""
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
        {entry.id: model_presence(entry.source, entry.family, places) for entry in table.entries()},
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


def model_presence(source: str, family: Family, places: ModelPlaces) -> Presence:
    """Of a model: a diffusers directory or a single file that lacks nothing, as far as a load can tell that without
    reading weights."""
    try:
        path = find_model(source, places)
    except ModelUnavailable as error:
        fetched = may_fetch(source, places)
        return Presence(False, missing=(INDEX,), problem=error.message, hint=error.hint or "", fetched=fetched)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    flaws = model_flaws(path, family, places)
    if not flaws:
        return Presence(True, path, size)
    names, error = tuple(dict.fromkeys(flaw.name for flaw in flaws)), flaws[0].error
    fetched = fetched_from(source, path, places, vae=_needs_own_vae(path, family, places)) is not None
    return Presence(False, path, size, names, error.message, error.hint or "", fetched)


def model_flaws(path: Path, family: Family, places: ModelPlaces) -> tuple[Flaw, ...]:
    """What would keep the model at `path` from being loaded. Which precision a load takes first is the worker's affair:
    weights in either will do here."""
    elsewhere = Elsewhere(
        None if places.full_vae else find_taesd(family, places),
        find_tokenizer(places, (path.parent,)) if path.is_file() else None,
        fetches(places),
    )
    found = (
        find_flaws(path, family, half=half, taesd=not places.full_vae, elsewhere=elsewhere) for half in (False, True)
    )
    return next(found) and next(found)


def _needs_own_vae(path: Path, family: Family, places: ModelPlaces) -> bool:
    small = fetches(places) or find_small_vae(path, find_taesd(family, places)) is not None
    return places.full_vae or not small


def files_presence(repository: str, names: Iterable[str], places: ModelPlaces) -> Presence:
    """Of these files of a repository or directory."""
    needed = tuple(names)
    folder = find_repository(repository, places)
    here = {name: None if folder is None else find_published(folder, name) for name in needed}
    missing = tuple(name for name, file in here.items() if file is None)
    size = sum(file.stat().st_size for file in here.values() if file is not None)
    return Presence(not missing, folder, size, missing, fetched=bool(missing) and may_fetch(repository, places))


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
        fetched=all(one.present or one.fetched for one in every) and not all(one.present for one in every),
    )


__all__ = [
    "Inventory",
    "Presence",
    "files_presence",
    "model_flaws",
    "model_presence",
    "processors_of",
    "take_inventory",
]
