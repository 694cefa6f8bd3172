"""Attention that takes more than the picture itself and its text: a style image's tokens, and earlier pictures.

The tokens' strengths are tensors, one for each row and layer, so they are turned without a new graph; where they are 0
nothing is added. Earlier pictures are keys and values given in and out, so that nothing is kept between two calls.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Exchange:
    """What the layers of one network are given in a call, and what they give. For the time of that call only."""

    def __init__(self) -> None:
        self.tokens: torch.Tensor | None = None
        """[B, tokens, width]."""
        self.strengths: torch.Tensor | None = None
        """[B, layers]: of each layer that looks at the tokens."""
        self.bank: torch.Tensor | None = None
        """[B, earlier pictures, all keys and values]."""
        self.fresh: torch.Tensor | None = None
        """bool [B]: rows that have no earlier pictures yet and are given their own for them."""
        self.own: list[torch.Tensor] = []
        """Keys and values of this call, [B, ...] in the order of the layers."""


class TextAndImageAttention(nn.Module):
    """Cross attention to the text and, with its own keys and values, to a style image. A processor of diffusers."""

    def __init__(self, exchange: Exchange, layer: int, keys: nn.Module, values: nn.Module) -> None:
        super().__init__()
        self._exchange = exchange
        self._layer = layer
        self.keys = keys
        self.values = values

    def forward(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert encoder_hidden_states is not None
        query = _heads(attn, attn.to_q(hidden_states))
        seen = _attend(query, attn, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        tokens, strengths = self._exchange.tokens, self._exchange.strengths
        if tokens is not None and strengths is not None:
            image = _attend(query, attn, self.keys(tokens), self.values(tokens))
            seen = seen + strengths[:, self._layer].to(seen.dtype).view(-1, 1, 1, 1) * image
        return _close(attn, seen)


class RecallingAttention:
    """Self attention to this picture and to earlier ones at the same step. A processor of diffusers."""

    def __init__(self, exchange: Exchange, start: int, tokens: int, width: int) -> None:
        """Its keys and values lie at `start` in the bank: `tokens` of `width` each, keys first."""
        self._exchange = exchange
        self._start = start
        self._tokens = tokens
        self._width = width

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        query = _heads(attn, attn.to_q(hidden_states))
        key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        bank, fresh = self._exchange.bank, self._exchange.fresh
        if bank is not None and fresh is not None:
            own = torch.stack((key, value), 1)
            self._exchange.own.append(own.flatten(1))
            end = self._start + 2 * self._tokens * self._width
            earlier = bank[:, :, self._start : end].reshape(*bank.shape[:2], 2, self._tokens, self._width)
            # A bank of nothing would draw everything to grey; one of copies changes nothing.
            earlier = torch.where(fresh.view(-1, 1, 1, 1, 1), own[:, None], earlier.to(own.dtype))
            key = torch.cat((key, earlier[:, :, 0].flatten(1, 2)), 1)
            value = torch.cat((value, earlier[:, :, 1].flatten(1, 2)), 1)
        return _close(attn, _attend(query, attn, key, value))


def share(module: nn.Module) -> Any:
    """The same network with the same weights, in storage they share, but layers of its own to be exchanged."""
    kept = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in kept})


def cross_layers(unet: Any) -> list[str]:
    """The names of the cross attentions, in the order in which they are passed: down, middle, up."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    return sorted((name for name in names if name.endswith("attn2")), key=_order)


def self_layers(unet: Any, height: int, width: int) -> list[tuple[str, int, int]]:
    """The name, tokens and width of each self attention, in the same order, for latents of `height` and `width`."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    sizes = [(height, width)]
    for _ in range(len(unet.down_blocks) - 1):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    found: list[tuple[str, int, int]] = []
    for name in sorted((name for name in names if name.endswith("attn1")), key=_order):
        part, index, _ = _order(name)
        level = (index, len(sizes) - 1, len(sizes) - 1 - index)[part]
        rows, columns = sizes[level]
        found.append((name, rows * columns, unet.get_submodule(name).to_k.out_features))
    return found


def bank_length(layers: Sequence[tuple[str, int, int]]) -> int:
    """How many numbers the keys and values of one picture are."""
    return sum(2 * tokens * width for _, tokens, width in layers)


def install(
    unet: Any,
    exchange: Exchange,
    *,
    image_layers: Sequence[tuple[nn.Module, nn.Module]] = (),
    recalling: Sequence[tuple[str, int, int]] = (),
) -> None:
    """Exchange the attention of `unet`, which must be nobody else's: see `share`.

    `image_layers` are the keys and values of the style image, one pair for each of `cross_layers`; `recalling` is what
    `self_layers` gave.
    """
    if image_layers:
        names = cross_layers(unet)
        if len(names) != len(image_layers):
            raise ValueError(f"{len(image_layers)} layers for a network with {len(names)} cross attentions")
        for layer, (name, (keys, values)) in enumerate(zip(names, image_layers, strict=True)):
            unet.get_submodule(name).set_processor(TextAndImageAttention(exchange, layer, keys, values))
    start = 0
    for name, tokens, width in recalling:
        unet.get_submodule(name).set_processor(RecallingAttention(exchange, start, tokens, width))
        start += 2 * tokens * width


def change(unet: Any, changes: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Add the product of two matrices to each named layer of `unet`, which must be nobody else's: see `share`.

    The layers get weights of their own, computed in float32; those that they shared are left as they are.
    """
    for name, (up, down) in changes.items():
        layer: Any = unet.get_submodule(name)
        weight: torch.Tensor = layer.weight
        more = up.to(weight.device, torch.float32) @ down.to(weight.device, torch.float32)
        layer.weight = nn.Parameter((weight.detach().float() + more).to(weight.dtype), requires_grad=False)


def _order(name: str) -> tuple[int, int, tuple[int, ...]]:
    """Down blocks, the middle, up blocks, and the numbers within each."""
    parts = name.split(".")
    numbers = [int(part) for part in parts if part.isdigit()]
    if parts[0] == "mid_block":
        return 1, 0, tuple(numbers)
    return (0 if parts[0] == "down_blocks" else 2), numbers[0], tuple(numbers[1:])


def _heads(attn: Any, values: torch.Tensor) -> torch.Tensor:
    heads: int = attn.heads
    return values.view(*values.shape[:2], heads, -1).transpose(1, 2)


def _attend(query: torch.Tensor, attn: Any, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(query, _heads(attn, key), _heads(attn, value))


def _close(attn: Any, seen: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = attn.to_out[0](seen.transpose(1, 2).flatten(2))
    factor: float = attn.rescale_output_factor
    return result / factor


__all__ = [
    "Exchange",
    "RecallingAttention",
    "TextAndImageAttention",
    "bank_length",
    "change",
    "cross_layers",
    "install",
    "self_layers",
    "share",
]
