"""The stores of this process: one for each card, in the folder that the operator's data directory has for them."""

from functools import cache
from hashlib import sha256
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sdstream.diffusion.trials.store import Origin, TrialStore
from sdstream.platform.libraries import cuda_driver_version

SOURCES = ("capture.py", "convolving", "eight_bit", "fused", "graph_editing", "trials")
"""Beside `sdstream/diffusion`'s own: programs of kernels, what there is to choose from, and how it is chosen."""


class _Folder:
    path: Path | None = None


def keep_findings_in(folder: Path | None) -> None:
    """Keep what trials find in files of `folder` from now on, and believe what is there; None: nothing is kept."""
    _Folder.path = folder
    _store.cache_clear()


def store_of(device: torch.device) -> TrialStore:
    """The store of a device. Of one that is no CUDA GPU nothing is kept."""
    if device.type != "cuda":
        return _store(str(device))
    return _store(str(torch.zeros(0, device=device).device))  # with its number


@cache
def _store(device: str) -> TrialStore:
    made = torch.device(device)
    if made.type != "cuda":
        return TrialStore(None, Origin(device, ()))
    origin = Origin(torch.cuda.get_device_name(made), versions())
    return TrialStore(None if _Folder.path is None else _Folder.path / origin.file_name, origin)


def versions() -> tuple[str, ...]:
    """Of all that decides how fast kernels are on a card, and whether they work."""
    library: Any = torch
    triton: Any = import_module("triton") if find_spec("triton") is not None else None
    triton_version = "" if triton is None else triton.__version__
    cudnn, driver = library.backends.cudnn.version(), cuda_driver_version()
    bindings = bindings_version()
    parts = (library.__version__, triton_version, cudnn, driver, bindings, sources_digest())
    return tuple(str(part) for part in parts)


def bindings_version() -> str:
    """Of NVIDIA's own, by which kernels for Hopper are compiled; empty without them."""
    try:
        return metadata.version("cuda-bindings")
    except metadata.PackageNotFoundError:
        return ""


@cache
def sources_digest() -> str:
    """Of this project's kernels and trials: what others found does not count."""
    room = Path(__file__).parent.parent
    found = sha256()
    for source in SOURCES:
        place = room / source
        files = [file for file in place.rglob("*") if file.suffix in (".py", ".cu")] if place.is_dir() else [place]
        for file in sorted(files):
            found.update(f"{file.name}\n".encode() + file.read_bytes())
    return found.hexdigest()


__all__ = ["keep_findings_in", "sources_digest", "store_of", "versions"]
