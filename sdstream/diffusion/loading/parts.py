"""The files of the parts of a model's directory, found by their names and looked into; no weights are read. No torch
here: the server looks with these, too.
"""

import json
from pathlib import Path
from typing import Any, cast

from sdstream.diffusion.fetching.selection import PICKLED, STEMS, variants
from sdstream.diffusion.loading.headers import look_into
from sdstream.model_errors import ModelUnavailable

TOKENIZERS = ("tokenizer.json", "vocab.json")
"""By one of these CLIP's tokenizer is opened."""


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `ModelUnavailable`, naming the file."""
    try:
        content: object = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelUnavailable(
            f"{file} is missing", hint="A model's directory is what `save_pretrained` of diffusers writes."
        ) from None
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ModelUnavailable(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelUnavailable(f"{file} must hold a JSON object")
    return cast("dict[str, Any]", content)


def stem_of(part: str) -> str:
    """How the names of the weights of a part begin."""
    return STEMS.get(part, "diffusion_pytorch_model")


def find_weights(folder: Path, stem: str, *, half: bool) -> str:
    """The variant of the weights of a part, `half` the one in half precision first; each of their files has been looked
    into then. Raises `ModelUnavailable`, naming the file."""
    for variant in variants(half):
        index = folder / f"{stem}.safetensors.index{variant}.json"
        single = folder / f"{stem}{variant}.safetensors"
        if single.is_file():
            look_into(single)
            return variant
        if index.is_file():
            for shard in _shards(index):
                look_into(shard)
            return variant
    wanted = folder / f"{stem}.safetensors"
    pickled = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLED)
    if pickled:
        raise ModelUnavailable(
            f"{wanted} is missing; {pickled[0]} beside it is a pickle, which can run any program and is not read",
            hint="Load it where you trust it and save it with `save_pretrained(..., safe_serialization=True)`.",
        )
    raise ModelUnavailable(f"{wanted} is missing")


def weight_files(folder: Path, stem: str, variant: str) -> tuple[Path, ...]:
    """The files of the variant that `find_weights` found."""
    single = folder / f"{stem}{variant}.safetensors"
    return (single,) if single.is_file() else _shards(folder / f"{stem}.safetensors.index{variant}.json")


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names, each once."""
    shards: Any = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelUnavailable(f"{index} has no `weight_map`, which says where the weights are")
    return tuple(
        index.parent / name for name in sorted({str(each) for each in cast("dict[str, Any]", shards).values()})
    )


def look_for_tokenizer(folder: Path) -> None:
    """Raises `ModelUnavailable`, naming the files, where `folder` has no tokenizer of CLIP."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelUnavailable(f"{folder / TOKENIZERS[0]} is missing, and so is {TOKENIZERS[1]}")


__all__ = ["TOKENIZERS", "find_weights", "look_for_tokenizer", "read_json", "stem_of", "weight_files"]
