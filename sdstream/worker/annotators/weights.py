"""How a file of weights is found, checked and opened.

A file is checked against its pinned SHA-256 where there is one, and against what the hub itself recorded otherwise: in
the hub's cache each file is named by its hash, which is the SHA-256 of a large one and Git's of a small one.
"""

import hashlib
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError

from sdstream.diffusion.fetching.pins import pinned_hash, shipped_hash
from sdstream.diffusion.fetching.sources import fetch_chosen, fetches, find_repository
from sdstream.directories import ModelPlaces
from sdstream.errors import first_line
from sdstream.model_errors import ModelUnavailable
from sdstream.worker.files.fetched import fetch_addresses
from sdstream.worker.files.published import ADDRESSES, WeightSource

CHUNK = 1 << 20
WRAPPERS = ("params_ema", "params", "state_dict")
"""Members under which training programs keep the tensors."""
HEXADECIMAL = frozenset("0123456789abcdef")


Finder = Callable[[WeightSource], Path | None]
"""The folder that holds the files of a source, None where it is not on this machine."""


def finder(places: ModelPlaces) -> Finder:
    """Looks below the data directory's `models` and in the hub's cache, and fetches what is in neither where it may.

    What was fetched at a commit that sdstream ships a pin of is compared with that, where settings want it.
    """

    def find(source: WeightSource) -> Path | None:
        folder = find_repository(source.repository, places)
        whole = folder is not None and all((folder / name).is_file() for name in source.files)
        if not whole and fetches(places) and source.repository in ADDRESSES:
            return fetch_addresses(source.repository, source.files, places, lambda detail, percent: None)
        if not whole and fetches(places):
            return fetch_chosen(source.repository, source.files, places, lambda detail, percent: None)
        if folder is not None and whole and places.shipped_pins:
            for name in source.files:
                if pinned_hash(folder, name) is None:  # an operator's pin counts more, and is looked at by `locate`
                    check(folder / name, shipped_hash(folder, name))
        return folder

    return find


def locate(source: WeightSource, find: Finder, processor: str) -> Path:
    """The folder with all files of `source`, each checked. Raises `ModelUnavailable`, naming what is wrong."""
    folder = find(source)
    if folder is None:
        raise ModelUnavailable(
            f"{processor} needs {source.files[-1]} of {source.repository}, which is not on this machine",
            hint=f"`sdstream models pull --for {processor}` fetches it.",
        )
    for name in source.files:
        file = folder / name
        if not file.is_file():
            raise ModelUnavailable(
                f"{processor} needs {file}, which is missing",
                hint=f"`sdstream models pull --for {processor}` fetches it.",
            )
        check(file, pinned_hash(folder, name) or source.beginnings.get(name))
    return folder


def check(file: Path, pinned: str | None = None) -> bool:
    """Whether `file` was checked against a hash; False where there is none to check against. `pinned` is its SHA-256,
    or the beginning of it where that is all that its author gives.

    Raises `ModelUnavailable` when the hash is another one: a broken download, or another file than was published.
    """
    target = file.resolve()
    recorded = target.name if len(target.name) in (40, 64) and set(target.name) <= HEXADECIMAL else None
    expected = pinned or recorded
    if expected is None:
        return False
    status = target.stat()
    found = _hash(target, len(expected) != 40, status.st_size, status.st_mtime_ns)
    if not found.startswith(expected):
        raise ModelUnavailable(
            f"{file} is not what was published: its hash is {found[:12]}... and not {expected[:12]}...",
            hint="Delete the file and fetch it again.",
        )
    return True


@lru_cache(maxsize=64)
def _hash(file: Path, large: bool, size: int, changed: int) -> str:
    """SHA-256, or what Git calls a file: remembered as long as its size and time stay."""
    digest = hashlib.sha256() if large else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """The tensors in a safetensors file or in a pickle of tensors alone. Raises `ModelUnavailable`."""
    try:
        if file.suffix == ".safetensors":
            load: Any = safetensors.torch
            return load.load_file(file)
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    # Broken archives raise nearly anything: these are the roots of what torch and its unpickler do.
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        raise ModelUnavailable(f"{file} cannot be read as weights alone: {first_line(error)}") from error
    members = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    for key in WRAPPERS:
        if key in members:
            members = cast("dict[str, Any]", members[key])
            break
    tensors = bool(members) and all(isinstance(value, torch.Tensor) for value in members.values())
    if not tensors:
        raise ModelUnavailable(f"{file} holds something else than named tensors")
    return {name.removeprefix("module."): value for name, value in members.items()}


def fill(network: torch.nn.Module, file: Path) -> None:
    """Give `network` the weights in `file`. Raises `ModelUnavailable`, naming what does not fit."""
    state = read_state(file)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelUnavailable(f"{file} is of another network: {lines[min(1, len(lines) - 1)][:200]}") from error


__all__ = ["Finder", "check", "fill", "finder", "locate", "read_state"]
