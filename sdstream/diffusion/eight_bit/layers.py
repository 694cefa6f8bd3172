"""Which layers of a UNet or a ControlNet multiply in eight bits, and making them do so.

Those of the transformers over the picture: queries, keys and values of the self attention as one product, the queries
of the cross attention, what both answer, both of the feed-forward net, and the layers into and out of a transformer.
Never what is made of the text or of the time: those are small, are made once for each change, and steer all the rest.
"""

# What diffusers' classes give has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.eight_bit.products import EightBitLinear, EightBitWeight, Terms, source_of
from sdstream.diffusion.eight_bit.trial import can_win, choice_of, kernel_problem, lacking
from sdstream.diffusion.libraries import activations, transformer_blocks

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
    """Have the layers of `network` that `choose` gives terms for multiply in eight bits, in place; how many do.

    `network` is to be fused and joined before (`sdstream.diffusion.placing`). Weights and their names stay what they
    are.
    """
    made: list[tuple[nn.Module, EightBitWeight]] = []
    for layer in products_of(network):
        source = source_of(layer)
        terms = choose(*source.shape)
        if terms is not None:
            made.append((layer, EightBitWeight(source, terms)))
    if not made:
        return 0
    looked: Any = torch.stack([weight.error() for _, weight in made])  # at once: each look waits for the device
    errors: list[float] = looked.tolist()
    kept = [pair for pair, error in zip(made, errors, strict=True) if error <= MOST_WEIGHT_ERROR]
    for layer, weight in kept:
        owner: Any = layer
        if type(layer) is nn.Linear:
            owner.__class__ = EightBitLinear
        owner.eight_bit = weight
    return len(kept)


def place_eight_bit(network: nn.Module, device: torch.device) -> None:
    """As `make_eight_bit`, for whatever wins on `device`; where nothing can, `network` says why (`eight_bit_note`).

    Warns of that, once for each device.
    """
    owner: Any = network
    problem = lacking(device) or kernel_problem(device)
    if not problem:

        def choose(out: int, width: int) -> Terms | None:
            dtype = next(network.parameters()).dtype
            return choice_of(device, dtype, out, width).terms if can_win(out, width) else None

        if make_eight_bit(network, choose):
            return
        problem = f"none of its layers wins by them on {device}"
    owner.eight_bit_note = f"products in eight bits were asked for and are not in force: {problem}"
    warnings.warn(owner.eight_bit_note, RuntimeWarning, stacklevel=2)


__all__ = [
    "MOST_WEIGHT_ERROR",
    "make_eight_bit",
    "place_eight_bit",
    "products_of",
]
