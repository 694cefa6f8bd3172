"""LoRAs read from files: what each adds to which weight of a model, whatever program wrote it.

The layouts that are read are those of peft, of diffusers (old and new) and of kohya's trainers, for UNet and text
encoders, for linear and convolutional layers. What has another layout, or another model's shapes, is refused by name.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sdstream.diffusion.fetching.selection import PICKLED
from sdstream.diffusion.libraries import lora_loaders, state_dicts
from sdstream.diffusion.loading.headers import SafetensorError, read_header
from sdstream.diffusion.loading.weights import read_tensors
from sdstream.model_errors import LoraUnusable
from sdstream.settings import Family

PARTS = ("unet", "text_encoder", "text_encoder_2")
OTHER_KINDS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_w": "a LoHa",
    "lokr_w": "a LoKr",
    "lora_mid": "a LoCon with CP decomposition",
    "oft_": "an OFT",
    ".diff": "a file of weight differences",
    "lora_B.bias": "a LoRA with biases",
}
"""What a part of a key tells of a file that is something else."""
ENDINGS = (".lora_A.weight", ".lora_B.weight")
STRANGE = (ValueError, TypeError, IndexError, KeyError, AttributeError, ZeroDivisionError, RecursionError)
"""What comes of tensors and headers that are of another form than those of a LoRA."""
CONTEXT_WIDTHS: dict[int, str] = {768: "SD 1.5", 1024: "SD 2", 2048: "SDXL"}


@dataclass(frozen=True, slots=True)
class LowRank:
    """The change of one weight: `up @ down`, float32; for a convolution `down` has the kernel and `up` is 1x1."""

    down: torch.Tensor
    up: torch.Tensor

    def change(self, like: torch.Tensor) -> torch.Tensor:
        """The change, float32, of the shape and on the device of the weight `like`."""
        down, up = (part.to(like.device, torch.float32) for part in (self.down, self.up))
        return (up.flatten(1) @ down.flatten(1)).reshape(like.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """A LoRA for one model: part of the model to name of the weight to its change."""

    name: str
    changes: Mapping[str, Mapping[str, LowRank]]
    file: Path | None = None
    """Where it was read from."""


def read_lora(file: Path, name: str, family: Family, networks: Mapping[str, nn.Module]) -> Lora:
    """Read the LoRA in `file` for the networks of a model, which are not changed.

    `name` is what people call it. Raises `LoraUnusable`, by that name: it is no LoRA, has a layout that is not known,
    numbers that are not finite, or was made for another base model.
    """
    try:
        return _read(file, name, family, networks)
    except STRANGE as error:
        raise LoraUnusable(f"the layout of the LoRA {name} is not known: {_first_line(error)}") from error


def _read(file: Path, name: str, family: Family, networks: Mapping[str, nn.Module]) -> Lora:
    tensors, metadata = _read_file(file, name)
    for mark, kind in OTHER_KINDS.items():
        if any(mark in key for key in tensors):
            raise LoraUnusable(f"the LoRA {name} is {kind}, which sdstream cannot apply")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise LoraUnusable(f"the LoRA {name} holds numbers that are not finite")
    by_part = _in_one_layout(tensors, name, family, networks["unet"])
    changes = {
        part: _match(networks.get(part), pairs, _scales(metadata, part), name, part, family)
        for part, pairs in by_part.items()
        if pairs
    }
    if not any(changes.values()):
        raise LoraUnusable(f"the LoRA {name} holds no layers of a LoRA")
    return Lora(name, changes, file)


def _read_file(file: Path, name: str) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    if file.suffix in PICKLED:
        raise LoraUnusable(f"the LoRA {name} is a pickle, which can run any program and is not read")
    try:
        metadata = read_header(file).metadata
        return {key: tensor.to(torch.float32) for key, tensor in read_tensors(file).items()}, metadata
    except FileNotFoundError:
        raise LoraUnusable(f"the LoRA {name} is not here: {file.name} is missing") from None
    except (SafetensorError, OSError) as error:
        raise LoraUnusable(f"the LoRA {name} is not a whole safetensors file: {error}") from None


def _in_one_layout(
    tensors: dict[str, torch.Tensor], name: str, family: Family, unet: nn.Module
) -> dict[str, dict[str, torch.Tensor]]:
    """Part of the model to key to tensor, keys as peft writes them; what alpha scales is scaled. Raises `LoraUnusable`
    or one of `STRANGE`."""
    tensors = {_without_wrapping(key): tensor for key, tensor in _with_alpha_applied(tensors, name).items()}
    is_xl = family == "sdxl-turbo"
    loader = lora_loaders.StableDiffusionXLLoraLoaderMixin if is_xl else lora_loaders.StableDiffusionLoraLoaderMixin
    converted: dict[str, torch.Tensor]
    converted, _ = loader.lora_state_dict(dict(tensors), unet_config=unet.config)
    parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in PARTS}
    for key, tensor in converted.items():
        part, dot, rest = key.partition(".")
        if not dot or part not in parts:
            raise LoraUnusable(f"the layout of the LoRA {name} is not known: it has the key {key[:80]}")
        parts[part][rest] = tensor
    for part, pairs in parts.items():
        if not pairs:
            continue
        if part == "unet":
            parts[part] = state_dicts.convert_unet_state_dict_to_peft(pairs)
        else:
            in_between = state_dicts.convert_state_dict_to_diffusers(pairs)
            parts[part] = state_dicts.convert_state_dict_to_peft(in_between)
    return parts


def _with_alpha_applied(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Without `X.alpha`: it means that the pair of X counts alpha / rank times."""
    alphas = {key.removesuffix(".alpha"): float(tensor) for key, tensor in tensors.items() if key.endswith(".alpha")}
    found = {key: tensor for key, tensor in tensors.items() if not key.endswith(".alpha")}
    for layer, alpha in alphas.items():
        ups = [key for key in found if key.startswith(f"{layer}.") and _is_up(key)]
        if not ups:
            raise LoraUnusable(f"the layout of the LoRA {name} is not known: {layer[:80]}.alpha belongs to nothing")
        for key in ups:
            found[key] = found[key] * (alpha / found[key].shape[1])
    return found


def _is_up(key: str) -> bool:
    return key.endswith((".lora_up.weight", ".lora_B.weight", ".lora.up.weight", "_lora.up.weight"))


def _without_wrapping(key: str) -> str:
    """peft's own `save_pretrained` names the wrapped network, which is the UNet where nothing else is said."""
    rest = key.removeprefix("base_model.model.")
    return key if rest == key else (rest if rest.startswith(PARTS) else f"unet.{rest}")


def _scales(metadata: Mapping[str, str], part: str) -> "_Scales":
    """What the file's header says of alphas: diffusers writes peft's configuration there."""
    try:
        content: Any = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        content = None
    said = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    own = {key.removeprefix(f"{part}."): value for key, value in said.items() if key.startswith(f"{part}.")}
    return _Scales(own.get("lora_alpha"), own.get("alpha_pattern") or {}, bool(own.get("use_rslora")))


@dataclass(frozen=True, slots=True)
class _Scales:
    alpha: float | None
    pattern: Mapping[str, float]
    by_root: bool

    def of(self, layer: str, rank: int) -> float:
        alpha = self.pattern.get(layer, self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.by_root else rank)


def _match(
    network: nn.Module | None,
    pairs: Mapping[str, torch.Tensor],
    scales: _Scales,
    name: str,
    part: str,
    family: Family,
) -> dict[str, LowRank]:
    """Each pair with the weight that it changes."""
    if network is None:
        raise _other_base(name, family, f"it changes a {part}, which this model does not have")
    if part != "unet" and not hasattr(network, "text_model"):
        pairs = {key.removeprefix("text_model."): tensor for key, tensor in pairs.items()}
    anything: Any = network  # what it yields has no complete type
    modules: dict[str, nn.Module] = dict(anything.named_modules())
    found: dict[str, LowRank] = {}
    for key, down in pairs.items():
        layer = key.removesuffix(ENDINGS[0])
        if layer == key:
            if not key.endswith(ENDINGS[1]):
                raise LoraUnusable(f"the layout of the LoRA {name} is not known: it has the key {part}.{key[:80]}")
            if key.removesuffix(ENDINGS[1]) + ENDINGS[0] not in pairs:
                raise LoraUnusable(f"the LoRA {name} lacks a half: {part}.{key[:80]} stands alone")
            continue
        up = pairs.get(layer + ENDINGS[1])
        if up is None:
            raise LoraUnusable(f"the LoRA {name} lacks a half: {part}.{key[:80]} stands alone")
        module = modules.get(layer)
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise _other_base(name, family, f"this model has no layer {part}.{layer[:80]}", pairs)
        _check_shapes(module.weight, down, up, f"{part}.{layer}", name, family, pairs)
        found[f"{layer}.weight"] = LowRank(down, up * scales.of(layer, up.shape[1]))
    return found


def _check_shapes(
    weight: torch.Tensor,
    down: torch.Tensor,
    up: torch.Tensor,
    layer: str,
    name: str,
    family: Family,
    pairs: Mapping[str, torch.Tensor],
) -> None:
    given = (up.shape[0], down[0].numel()) if down.ndim >= 2 and up.ndim >= 2 else (0, 0)
    wanted = (weight.shape[0], weight[0].numel())
    whole = up.ndim >= 2 and up[0].numel() == down.shape[0]
    if given != wanted or not whole:
        shapes = f"{given[0]}x{given[1]} where this model has {wanted[0]}x{wanted[1]}"
        raise _other_base(name, family, f"{layer[:80]} is {shapes}", pairs)


def _other_base(
    name: str, family: Family, because: str, pairs: Mapping[str, torch.Tensor] | None = None
) -> LoraUnusable:
    widths = {tensor.shape[1] for key, tensor in (pairs or {}).items() if "attn2.to_k.lora_A" in key}
    made_for = next((text for width, text in CONTEXT_WIDTHS.items() if widths == {width}), "")
    kind = f"for {made_for}" if made_for else "for another base model"
    return LoraUnusable(f"the LoRA {name} was made {kind} and not for this {family}: {because}")


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return (" ".join(lines[:3]) or type(error).__name__)[:160]


__all__ = ["PARTS", "Lora", "LowRank", "read_lora"]
