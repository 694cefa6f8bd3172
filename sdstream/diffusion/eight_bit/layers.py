"""Which layers of a UNet or a ControlNet multiply in eight bits, and making them do so.

Products are those of the transformers over the picture: queries, keys and values of the self attention as one product,
the queries of the cross attention, what both answer, both of the feed-forward net, and the layers into and out of a
transformer. Never what is made of the text or of the time: those are small, are made once for each change, and steer
all the rest.

Convolutions are both of each residual block, which stand behind a norm.
"""

# What diffusers' classes give has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.eight_bit.convolution_trial import convolution_problem
from sdstream.diffusion.eight_bit.copies import EightBitCopy, source_of
from sdstream.diffusion.eight_bit.filters import EightBitFilter, bound_of, factor_of, has_eight_bit_form
from sdstream.diffusion.eight_bit.products import EightBitLinear, EightBitWeight, Terms
from sdstream.diffusion.eight_bit.trial import can_win, choice_of, kernel_problem, lacking
from sdstream.diffusion.libraries import activations, residual_blocks, transformer_blocks
from sdstream.diffusion.prepared import TakesShifts

MOST_WEIGHT_ERROR = 0.04
"""Of a weight, relative (`EightBitWeight.error`); rounding to e4m3 alone makes 0.027. Weights whose channels hold
numbers of very different sizes stay in half precision."""

Choose = Callable[[int, int], Terms | None]
"""How a weight [out, in] is to multiply; None for half precision."""


def products_of(network: nn.Module) -> Iterator[nn.Module]:
    """The layers that can multiply in eight bits, and the self attentions whose joined weights can."""
    for module in network.modules():
        part: Any = module
        if isinstance(module, transformer_blocks.Transformer2DModel) and part.is_input_continuous:
            yield from (part.proj_in, part.proj_out)
        elif isinstance(module, transformer_blocks.BasicTransformerBlock):
            for attention in (part.attn1, part.attn2):
                if attention is not None:
                    yield from _attention_products(attention, crosses=attention is part.attn2)
            gate, last = part.ff.net[0], part.ff.net[-1]
            if isinstance(gate, activations.GEGLU) and isinstance(last, nn.Linear):
                yield from (gate.proj, last)


def _attention_products(attention: Any, *, crosses: bool) -> Iterator[nn.Module]:
    if getattr(attention, "joined", None) is not None:
        yield attention
    elif crosses:
        yield attention.to_q
    yield attention.to_out[0]


def make_eight_bit(network: nn.Module, choose: Choose) -> int:
    """Have the products of `network` that `choose` gives terms for be in eight bits, in place; how many are.

    `network` is to be fused and joined before (`sdstream.diffusion.placing`). Weights and their names stay what they
    are.
    """
    made: list[tuple[nn.Module, EightBitCopy]] = []
    for layer in products_of(network):
        source = source_of(layer)
        terms = choose(*source.shape)
        if terms is not None:
            made.append((layer, EightBitWeight(source, terms)))
    return _keep(made)


def convolutions_of(network: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.GroupNorm]]:
    """The convolutions that can be in eight bits, and the norm before each."""
    for module in network.modules():
        block: Any = module
        if isinstance(module, residual_blocks.ResnetBlock2D) and isinstance(module, TakesShifts):  # a fused one
            pairs = ((block.conv1, block.norm1), (block.conv2, block.norm2))
            yield from (pair for pair in pairs if has_eight_bit_form(pair[0]))


def make_eight_bit_convolutions(network: nn.Module) -> int:
    """Have the convolutions of `network` that can be in eight bits be so, in place; how many are. It is to be fused,
    and to lie channels last."""
    found = list(convolutions_of(network))
    if not found:
        return 0
    looked: Any = torch.stack([bound_of(norm) for _, norm in found])
    bounds: list[float] = looked.tolist()
    return _keep(
        [
            (layer, EightBitFilter(source_of(layer), factor_of(bound)))
            for (layer, _), bound in zip(found, bounds, strict=True)
            if math.isfinite(bound)
        ]
    )


def _keep(made: Sequence[tuple[nn.Module, EightBitCopy]]) -> int:
    """Give layers their copies, where these are near enough; to how many."""
    if not made:
        return 0
    looked: Any = torch.stack([copy.error() for _, copy in made])  # at once: each look waits for the device
    errors: list[float] = looked.tolist()
    kept = [pair for pair, error in zip(made, errors, strict=True) if error <= MOST_WEIGHT_ERROR]
    for layer, copy in kept:
        owner: Any = layer
        if type(layer) is nn.Linear:
            owner.__class__ = EightBitLinear
        owner.eight_bit = copy
    return len(kept)


def place_eight_bit(network: nn.Module, device: torch.device, *, convolutions: bool = False) -> None:
    """As `make_eight_bit`, for whatever wins on `device`, and `make_eight_bit_convolutions` if asked for; where nothing
    can, `network` says why (`eight_bit_note`).

    Warns of that, once for each device.
    """
    owner: Any = network
    if convolutions:
        problem = convolution_problem(device)
        if not problem and make_eight_bit_convolutions(network) == 0:
            problem = "none of its convolutions can be"
        if problem:
            owner.eight_bit_note = f"convolutions in eight bits were asked for and are not in force: {problem}"
            warnings.warn(owner.eight_bit_note, RuntimeWarning, stacklevel=2)
    problem = lacking(device) or kernel_problem(device)
    if not problem:

        def choose(out: int, width: int) -> Terms | None:
            dtype = next(network.parameters()).dtype
            return choice_of(device, dtype, out, width).terms if can_win(out, width) else None

        if make_eight_bit(network, choose):
            return
        problem = f"none of its layers wins by them on {device}"
    note = f"products in eight bits were asked for and are not in force: {problem}"
    before: str = getattr(network, "eight_bit_note", "")
    owner.eight_bit_note = f"{before}; {note}" if before else note
    warnings.warn(note, RuntimeWarning, stacklevel=2)


__all__ = [
    "MOST_WEIGHT_ERROR",
    "convolutions_of",
    "make_eight_bit",
    "make_eight_bit_convolutions",
    "place_eight_bit",
    "products_of",
]
