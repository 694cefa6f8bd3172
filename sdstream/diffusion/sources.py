"""Where a model's files are on this machine. Nothing is fetched; what is not here is refused with the way to get it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from sdstream.errors import ModelUnavailable
from sdstream.settings import Family

_hub: Any = huggingface_hub

TAESD: dict[Family, str] = {
    "sd-turbo": "madebyollin/taesd",
    "sd15": "madebyollin/taesd",
    "sdxl-turbo": "madebyollin/taesdxl",
}
"""The small VAE of each family, on the hub."""


def find_model(source: str) -> Path:
    """The diffusers directory of `source`: a directory, or a hub id that is in the hub's cache.

    Raises `ModelUnavailable` when it is not here.
    """
    path = Path(source).expanduser()
    if source and _is(path.is_dir):
        return path
    if path.suffix == ".safetensors" or _is(path.is_file):
        raise ModelUnavailable(
            f"{source} is a single file; this version of sdstream reads diffusers directories",
            hint="Convert it with `StableDiffusionPipeline.from_single_file(...).save_pretrained(DIRECTORY)`.",
        )
    cached = find_cached(source)
    if cached is None:
        raise ModelUnavailable(
            f"{source} is not on this machine: no directory has this name, and it is not in the hub's cache; "
            f"`hf download {source}` fetches it, or set skip_diffusion to true to run image processors only",
            hint="SDSTREAM_MODELS can name a diffusers directory for each model.",
        )
    return cached


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a name longer than names can be is nothing
        return False


def find_taesd(family: Family) -> Path | None:
    """The small VAE in the hub's cache, if it is there."""
    return find_cached(TAESD[family])


def find_cached(repository: str) -> Path | None:
    """The newest snapshot of a hub repository in the cache, None when there is none."""
    try:
        return Path(_hub.snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


__all__ = ["TAESD", "find_cached", "find_model", "find_taesd"]
