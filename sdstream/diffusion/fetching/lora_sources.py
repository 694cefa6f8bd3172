"""Where the file of a LoRA is that is named by a path or a hub id: below the data directory's `loras`, in the hub's
cache, or on the hub, from where it is fetched when that is allowed.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from sdstream.diffusion.fetching.hub import Progress
from sdstream.diffusion.fetching.repositories import HubId, fetch_repository
from sdstream.diffusion.fetching.selection import LORA, RemoteFile, choose_lora_file
from sdstream.diffusion.fetching.sources import fetches, find_cached
from sdstream.directories import ModelPlaces
from sdstream.model_errors import LoraUnusable

MAX_BYTES = 2 * 1024**3
"""Of one LoRA."""
HUB_FILE = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+?)(/(?P<file>[\w./ -]+\.safetensors))?(@(?P<revision>[\w./-]+))?", re.ASCII
)


def find_lora(name: str, places: ModelPlaces) -> Path | None:
    """The file of the LoRA `name`, if it is on this machine.

    A name reaches no file but those below `places.loras` and in the hub's cache. Raises `LoraUnusable` for what cannot
    be the name of a LoRA, and where it names several files.
    """
    found = _find_file(name, places)
    if found is not None:
        return found
    hub_id, file = _parse(name)
    for folder in (
        None if places.loras is None else places.loras / hub_id.folder,
        find_cached(hub_id.repository, hub_id.revision),
    ):
        if folder is None or not folder.is_dir():
            continue
        if file is None:
            return only_file(folder, hub_id.repository)
        if (folder / file).is_file():
            return folder / file
    return None


def get_lora(name: str, places: ModelPlaces, progress: Progress) -> Path:
    """`find_lora`, else the one on the hub where it may be fetched. `progress` may raise to give up.

    Raises `LoraUnusable` when there is none, or another `ModelUnavailable` when it cannot be fetched.
    """
    found = find_lora(name, places)
    if found is not None:
        return found
    hub_id, file = _parse(name)
    if places.loras is None or not fetches(places):
        raise LoraUnusable(
            f"the LoRA {name} is not on this machine, and nothing is fetched here",
            hint=f"Put its file below the data directory's loras, as {hub_id.folder}/{file or LORA}.",
        )
    chosen: list[str] = []

    def choose(repository: str, files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
        picked = choose_lora_file(repository, tuple(files), file)
        if picked.size > MAX_BYTES:
            raise LoraUnusable(f"the LoRA {name} has {picked.size} bytes, more than {MAX_BYTES}")
        chosen.append(picked.name)
        return (picked,)

    return fetch_repository(hub_id, places.loras, choose, progress, shipped_pins=places.shipped_pins) / chosen[-1]


def only_file(folder: Path, name: str) -> Path:
    """The LoRA in a directory, by the rules of `choose_lora_file`. Raises `LoraUnusable`, saying what is there."""
    files = tuple(RemoteFile(path.name, 0) for path in sorted(folder.glob("*.safetensors")))
    return folder / choose_lora_file(name, files).name


def _parse(name: str) -> tuple[HubId, str | None]:
    match = HUB_FILE.fullmatch(name)
    if match is None or ".." in name:
        raise LoraUnusable(f"there is no LoRA {name} below the data directory's loras")
    return HubId(match["repository"], match["revision"]), match["file"]


def _find_file(name: str, places: ModelPlaces) -> Path | None:
    """A file below `loras`, by its path there, with its ending or without, or by its directory."""
    if places.loras is None:
        return None
    root = places.loras.resolve()
    for path in (root / name, root / f"{name}.safetensors"):
        try:
            path = path.resolve()
            if not path.is_relative_to(root) or path == root:
                continue
            if path.is_file():
                return path
            if path.is_dir():
                return only_file(path, name)
        except (OSError, ValueError):  # too long a name, or a zero in it
            continue
    return None


__all__ = ["MAX_BYTES", "find_lora", "get_lora", "only_file"]
