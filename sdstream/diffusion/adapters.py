"""IP-Adapters: what a style image or a face becomes, and how its strength is spread over the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.attention import cross_layers, share
from sdstream.params.vocabulary import WeightType

WEAK = 0.2
FLOOR = 0.05
AWAY = 0.25
"""By what share of the strength the precise types push the layers away that they are not about."""
_MODULES = {"sd15": 16, "sdxl-turbo": 11}
"""Attention modules of a full network, which the numbers below count, in the order of the picture's way."""
_STYLE: Mapping[str, tuple[int, ...]] = {"sd15": (0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15), "sdxl-turbo": (6,)}
_COMPOSITION: Mapping[str, Mapping[int, float]] = {"sd15": {4: 0.25, 5: 1.0}, "sdxl-turbo": {3: 1.0}}
_STRONG: Mapping[str, tuple[int, ...]] = {
    "sd15": (0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    "sdxl-turbo": (0, 1, 2, 4, 5, 6, 7, 8, 9, 10),
}


@dataclass(frozen=True, slots=True, eq=False)
class ImageAdapter:
    """A loaded IP-Adapter for one UNet: the projection of an image's embedding, and keys and values for each layer."""

    projection: nn.Module
    layers: tuple[tuple[nn.Module, nn.Module], ...]
    layer_names: tuple[str, ...]
    embedding: int
    """How many numbers the embedding of an image has."""
    file: Path | None = None
    """Where it was read from."""
    changes: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict[str, tuple[torch.Tensor, torch.Tensor]]
    )
    """What adapters of faces add to layers of the UNet itself, by their names: the product of the two."""

    @property
    def token_shape(self) -> tuple[int, int]:
        """The number and the width of the tokens of an image."""
        tokens, _ = self.tokens(torch.zeros(self.embedding))
        return len(tokens), tokens.shape[1]

    @torch.no_grad()
    def tokens(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens of an image's embedding [embedding], and those of no image, [tokens, width] each.

        No image is an embedding of zeros, as the adapters were trained. Done once for each image.
        """
        weight = next(self.projection.parameters())
        both = torch.stack((embedding.flatten(), torch.zeros_like(embedding.flatten()))).to(weight.device, weight.dtype)
        tokens: torch.Tensor = self.projection(both)
        return tokens[0].flatten(0, -2), tokens[1].flatten(0, -2)


def make_adapter(unet: Any, state: Mapping[str, Mapping[str, torch.Tensor]]) -> ImageAdapter:
    """From the tensors of an IP-Adapter's file, `image_proj` and `ip_adapter`; regular or of faces.

    `unet` is left as it is. Raises `KeyError`, `RuntimeError` or `ValueError` when the tensors are not for it.
    """
    parameter = next(unet.parameters())
    other = share(unet)
    other._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    names = tuple(cross_layers(other))
    layers: list[tuple[nn.Module, nn.Module]] = []
    for name in names:
        processor = other.get_submodule(name).processor
        layers.append((processor.to_k_ip[0], processor.to_v_ip[0]))
    projection: nn.Module = other.encoder_hid_proj.image_projection_layers[0]
    for module in (projection, *(part for pair in layers for part in pair)):
        module.requires_grad_(False).eval().to(parameter.device, parameter.dtype)
    first = state["image_proj"].get("proj.weight", state["image_proj"].get("proj.0.weight"))
    if first is None:
        raise ValueError("this kind of IP-Adapter is not known: neither regular nor of faces")
    changes = _changes(other, state["ip_adapter"])
    return ImageAdapter(projection, tuple(layers), names, int(first.shape[1]), changes=changes)


def _changes(unet: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The LoRAs that files of face adapters bring along, numbered by all attentions in diffusers' order.

    Raises `KeyError` when one half is missing, `ValueError` when a layer is of other sizes.
    """
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for index, processor in enumerate(unet.attn_processors):
        attention = processor.removesuffix(".processor")
        for layer in ("to_q", "to_k", "to_v", "to_out"):
            down = tensors.get(f"{index}.{layer}_lora.down.weight")
            if down is None:
                continue
            up = tensors[f"{index}.{layer}_lora.up.weight"]
            name = f"{attention}.{layer}.0" if layer == "to_out" else f"{attention}.{layer}"
            shape = tuple(unet.get_submodule(name).weight.shape)
            if (up.shape[0], down.shape[1]) != shape or up.shape[1] != down.shape[0]:
                raise ValueError(f"what it adds to {name} is of other sizes")
            found[name] = (up, down)
    return found


def layer_strengths(names: Sequence[str], weight_type: WeightType, scale: float, family: str) -> torch.Tensor:
    """How strongly each cross attention looks at the image: float32 [layers], for `names` from `cross_layers`.

    The attentions of one module share their strength. Types that name single modules of a full network mean the ones
    at the same place in a smaller one.
    """
    modules = list(dict.fromkeys(_module(name) for name in names))
    count = len(modules)
    of_module = {
        module: scale * _factor(index, count, module.split(".")[0], weight_type, family)
        for index, module in enumerate(modules)
    }
    return torch.tensor([of_module[_module(name)] for name in names], dtype=torch.float32)


def _factor(index: int, count: int, part: str, weight_type: WeightType, family: str) -> float:
    """The strength of module `index` of `count` at scale 1."""
    inside, middle, outside = part == "down_blocks", part == "mid_block", part == "up_blocks"
    half = count / 2
    match weight_type:
        case "linear":
            return 1.0
        case "ease in":
            return FLOOR + (1 - FLOOR) * (1 - index / count)
        case "ease out":
            return FLOOR + (1 - FLOOR) * index / count
        case "ease in-out":
            return FLOOR + (1 - FLOOR) * (1 - abs(index - half) / half)
        case "reverse in-out":
            return FLOOR + (1 - FLOOR) * abs(index - half) / half
        case "weak input":
            return WEAK if inside else 1.0
        case "weak middle":
            return WEAK if middle else 1.0
        case "weak output":
            return WEAK if outside else 1.0
        case "strong middle":
            return 1.0 if middle else WEAK
        case _:
            return _named_factor(index, count, weight_type, family)


def _named_factor(index: int, count: int, weight_type: WeightType, family: str) -> float:
    """Of the types that name modules by what they are about."""
    full = _MODULES[family]
    first = index * full // count
    places = range(first, max(first + 1, (index + 1) * full // count))  # of a smaller network one stands for several
    style = 1.0 if any(place in _STYLE[family] for place in places) else 0.0
    composition = max(_COMPOSITION[family].get(place, 0.0) for place in places)
    match weight_type:
        case "style transfer":
            return style
        case "composition":
            return composition
        case "strong style transfer":
            return 1.0 if any(place in _STRONG[family] for place in places) else 0.0
        case "style and composition":
            return max(style, composition)
        case "style transfer precise":
            return style - AWAY * composition
        case _:  # composition precise
            return composition - AWAY * style


def _module(name: str) -> str:
    """The attention module that an attention is in: `down_blocks.1.attentions.0` and the like."""
    return name.partition(".transformer_blocks")[0]


__all__ = ["ImageAdapter", "layer_strengths", "make_adapter"]
