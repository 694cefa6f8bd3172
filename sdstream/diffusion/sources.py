"""Where a model's files are on this machine. Nothing is fetched here; what is not here is refused with the way to get it."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from sdstream.errors import ModelUnavailable
from sdstream.settings import Family

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
    if path.is_dir():
        return path
    if path.suffix == ".safetensors" or path.is_file():
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


def find_taesd(family: Family) -> Path | None:
    """The small VAE in the hub's cache, if it is there."""
    return find_cached(TAESD[family])


def find_cached(repository: str) -> Path | None:
    """The newest snapshot of a hub repository in the cache, None when there is none."""
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


__all__ = ["TAESD", "find_cached", "find_model", "find_taesd"]
