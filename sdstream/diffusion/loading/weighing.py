"""How many bytes the weights of a model take in memory, told by headers and listings before any are read.

Both are the least: what a network needs beside its weights to run is measured once it does. No torch here.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from sdstream.diffusion.fetching.selection import RemoteFile
from sdstream.diffusion.loading.flaws import TINY_VAE, find_small_vae
from sdstream.diffusion.loading.headers import look_into
from sdstream.diffusion.loading.original_keys import UNET
from sdstream.diffusion.loading.parts import find_weights, read_json, stem_of, weight_files
from sdstream.settings import Family


def weight_bytes(
    path: Path, family: Family, size: int, *, half: bool, taesd: bool, taesd_elsewhere: Path | None
) -> int:
    """Of a diffusers directory or a single file, `size` bytes each, of the files that `load_model` reads with these.
    Raises `ModelUnavailable`, naming the file. Waits for the disk."""
    if path.suffix == ".safetensors" and path.is_file():
        # The UNet alone: of text encoders and VAEs there may be tensors in the file that no load takes.
        shapes = look_into(path).shapes
        return size * _count({key: shape for key, shape in shapes.items() if key.startswith(UNET)})
    parts = ["unet", "text_encoder", *(["text_encoder_2"] if family == "sdxl-turbo" else [])]
    folders = [(path / part, stem_of(part)) for part in parts]
    small = None
    if taesd and read_json(path / "vae/config.json").get("_class_name") != TINY_VAE:
        small = find_small_vae(path, taesd_elsewhere)
    folders.append((small or path / "vae", stem_of("vae")))
    return size * sum(_count_in(folder, stem, half) for folder, stem in folders)


def listed_bytes(files: Iterable[RemoteFile], *, half: bool) -> int:
    """Of the files that are to be fetched of a model, but for their headers, which are small.

    A listing does not say which precision a file has: where half is wanted, one not called so is taken for single.
    """
    total = 0
    for file in files:
        if file.name.endswith(".safetensors"):
            of_half, of_other = (1.0, 2.0) if ".fp16" in file.name else (0.5, 1.0)
            total += int(file.size * (of_half if half else of_other))
    return total


def _count_in(folder: Path, stem: str, half: bool) -> int:
    variant = find_weights(folder, stem, half=half)
    return sum(_count(look_into(file).shapes) for file in weight_files(folder, stem, variant))


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


__all__ = ["listed_bytes", "weight_bytes"]
