"""Which files of a hub repository are needed: one precision of each network, no VAE that nobody uses, and a pickle only
of a single network that is published as nothing else."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdstream.model_errors import LoraUnusable, ModelUnavailable

INDEX = "model_index.json"
CONFIGS = (
    INDEX,
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
)
TOKENIZER = re.compile(r"tokenizer(_2)?/[\w.-]+\.(json|txt)")
STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
NETWORK = ("config.json", "diffusion_pytorch_model.safetensors")
"""The files of a repository that is one network of diffusers, such as a ControlNet or a TAESD."""
TRANSFORMERS = ("config.json", "model.safetensors")
"""The files of a repository that is one network of transformers."""
STAND_INS: Mapping[str, tuple[str, ...]] = {
    "diffusion_pytorch_model.safetensors": (
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.bin",
    ),
    "model.safetensors": ("pytorch_model.bin",),
}
"""What is taken, in this order, where a repository of single networks has no file of that name: some of Daydream's
ControlNets and the safety checker are published as pickles only. Those are opened as tensors alone (`weights_only`)."""
WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".onnx")
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
LORA = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file of a LoRA."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository: its size in bytes, and the hash that the hub gives for it."""

    name: str
    size: int
    sha256: str | None = None
    """Of large files."""
    git_blob: str | None = None
    """Git's SHA-1, of the others."""
    pinned: bool = False
    """Whether `sha256` is a pin's and not the hub's."""


def variants(half: bool) -> tuple[str, str]:
    """The parts of weight files' names for the precisions, the wanted one first."""
    return (".fp16", "") if half else ("", ".fp16")


def choose_model_files(
    repository: str, files: Iterable[RemoteFile], *, half: bool, vae: bool
) -> tuple[RemoteFile, ...]:
    """The files of a diffusers model, the small ones first.

    `half` prefers half precision, `vae` takes the VAE's weights too.

    Raises `ModelUnavailable`, naming what the repository lacks.
    """
    known = {file.name: file for file in files}
    if INDEX not in known:
        raise ModelUnavailable(
            f"{repository} holds no diffusers model: it has no {INDEX}",
            hint="A single .safetensors file can be downloaded by hand and named in SDSTREAM_MODELS.",
        )
    chosen = [known[name] for name in CONFIGS if name in known]
    chosen += [file for name, file in known.items() if TOKENIZER.fullmatch(name)]
    for part, stem in STEMS.items():
        if (part != "vae" or vae) and (part != "text_encoder_2" or f"{part}/config.json" in known):
            chosen += _choose_weights(repository, known, part, stem, half)
    return tuple(sorted(chosen, key=lambda file: (file.size, file.name)))


def choose_network_files(repository: str, files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files of a repository that is one network of diffusers, such as a TAESD."""
    return choose_named_files(repository, files, NETWORK)


def choose_named_files(repository: str, files: Iterable[RemoteFile], names: Iterable[str]) -> tuple[RemoteFile, ...]:
    """The files of these names, or what stands in for them. Raises `ModelUnavailable`, naming what is not there."""
    known = {file.name: file for file in files}
    chosen: list[RemoteFile] = []
    for name in names:
        found = next((known[one] for one in published_names(name) if one in known), None)
        if found is None:
            raise ModelUnavailable(f"{repository} on the hub has no {name}")
        chosen.append(found)
    return tuple(chosen)


def published_names(name: str) -> tuple[str, ...]:
    """The names under which a file may be published, the best first: `name`, then what stands in for it."""
    folder, slash, last = name.rpartition("/")
    return (name, *(f"{folder}{slash}{other}" for other in STAND_INS.get(last, ())))


def find_published(folder: Path, name: str) -> Path | None:
    """The file `name` in `folder`, or what stands in for it there; None where there is neither."""
    return next((folder / one for one in published_names(name) if (folder / one).is_file()), None)


def opening(folder: Path, name: str) -> dict[str, Any]:
    """What `from_pretrained` of diffusers and transformers is told to open the weights that are in `folder`, published
    as `name` or what stands in for it. Both open pickles as tensors alone."""
    found = find_published(folder, name)
    if found is None or found.name == name:
        return {"use_safetensors": True}
    return {"use_safetensors": False} if found.suffix in PICKLED else {"use_safetensors": True, "variant": "fp16"}


def choose_tokenizer_files(repository: str, files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files of CLIP's tokenizer at the top of a repository."""
    wanted = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
    chosen = tuple(file for file in files if file.name in wanted)
    if not {"vocab.json", "merges.txt"} <= {file.name for file in chosen}:
        raise ModelUnavailable(f"{repository} has no tokenizer: no vocab.json and merges.txt")
    return chosen


def choose_lora_file(repository: str, files: Sequence[RemoteFile], name: str | None = None) -> RemoteFile:
    """The LoRA of a repository: the file `name`, else diffusers' own, else the only one.

    Raises `LoraUnusable`, naming what there is.
    """
    loras = {file.name: file for file in files if file.name.endswith(".safetensors")}
    if name is not None:
        if name in loras:
            return loras[name]
        raise LoraUnusable(f"{repository} has no file {name}; it has {_listed(loras)}")
    if LORA in loras:
        return loras[LORA]
    if len(loras) == 1:
        return next(iter(loras.values()))
    if loras:
        raise LoraUnusable(
            f"{repository} has {len(loras)} safetensors files: {_listed(loras)}",
            hint=f"Name one of them, as in {repository}/{next(iter(loras))}.",
        )
    raise LoraUnusable(f"{repository} has no safetensors file; pickles are not read")


def _choose_weights(
    repository: str, known: dict[str, RemoteFile], part: str, stem: str, half: bool
) -> list[RemoteFile]:
    for variant in variants(half):
        single = known.get(f"{part}/{stem}{variant}.safetensors")
        if single is not None:
            return [single]
        index = known.get(f"{part}/{stem}.safetensors.index{variant}.json")
        if index is not None:
            shard = re.compile(rf"{part}/{stem}[\w.-]*-of-[\w.-]*\.safetensors")
            shards = [file for name, file in known.items() if shard.fullmatch(name)]
            return [index, *(file for file in shards if (".fp16" in file.name) == bool(variant))]
    wanted = f"{part}/{stem}.safetensors"
    pickled = sorted(name for name in known if name.startswith(f"{part}/") and name.endswith(PICKLED))
    if pickled:
        raise ModelUnavailable(
            f"{repository} has no {wanted}, only {pickled[0]}, a pickle, which can run any program and is not read",
            hint="Load it where you trust it and save it with `save_pretrained(..., safe_serialization=True)`.",
        )
    raise ModelUnavailable(f"{repository} has no {wanted}")


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "") if shown else "no safetensors file"


__all__ = [
    "INDEX",
    "LORA",
    "NETWORK",
    "PICKLED",
    "STAND_INS",
    "TRANSFORMERS",
    "WEIGHTS",
    "RemoteFile",
    "choose_lora_file",
    "choose_model_files",
    "choose_named_files",
    "choose_network_files",
    "choose_tokenizer_files",
    "find_published",
    "opening",
    "published_names",
    "variants",
]
