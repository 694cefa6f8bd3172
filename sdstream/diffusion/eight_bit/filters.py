"""Convolutions behind a group norm in eight bits: filters of three times three places, and what stands before them.

Filters have one scale for each output channel. The picture has one, the layer's own for good, and needs no look at the
picture: what a norm answers lies within bounds that its weights set. e4m3 is a floating-point number, so room above
costs nothing below. What a picture becomes does not depend on the pictures beside it.
"""

from typing import Any

import torch
from torch import nn

from sdstream.diffusion.convolving.hopper.tilings import can_be_eight_bit
from sdstream.diffusion.convolving.operation import convolve, convolve_eight_bit
from sdstream.diffusion.eight_bit.copies import EightBitCopy, copy_of
from sdstream.diffusion.fused.group_norm import LARGEST

MOST_DEVIATIONS = 256.0
"""Of a group's standard deviation that there is room for. None of n numbers is further from their mean than by the
root of n - 1, so that nothing of a group of 65 536 is ever cut; of a larger one what no picture has is."""


class EightBitFilter(EightBitCopy):
    """The 8-bit copy of a convolution's filters, for pictures whose numbers come `factor` times as large."""

    def __init__(self, source: torch.Tensor, factor: float) -> None:
        """`source` [O, 9 C], places first, as `source_of` gives it."""
        self.factor = factor
        self.answers = torch.empty(source.shape[0], dtype=torch.float32, device=source.device)
        """[O]: what sums are multiplied by."""
        super().__init__(source)

    def of(self, source: torch.Tensor) -> "EightBitFilter":
        return EightBitFilter(source, self.factor)

    def write(self) -> None:
        super().write()
        self.answers.copy_(self.scales[0] / self.factor)

    @property
    def filters(self) -> torch.Tensor:
        """[O, C, 3, 3], channels last."""
        out, width = self.values.shape
        return self.values.view(out, 3, 3, width // 9).permute(0, 3, 1, 2)


def has_eight_bit_form(layer: nn.Conv2d) -> bool:
    """Whether there is a way in eight bits for a convolution of this kind."""
    sides = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    return sides == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and can_be_eight_bit(layer.in_channels, layer.out_channels)


def bound_of(norm: nn.GroupNorm) -> torch.Tensor:
    """The largest number that a norm's answer has room for, with SiLU behind it or not: float32, without dimensions."""
    return norm.weight.detach().float().abs().max() * MOST_DEVIATIONS + norm.bias.detach().float().abs().max()


def factor_of(bound: float) -> float:
    """That of a picture with such a bound; of one where all is zero anything does."""
    return LARGEST / bound if bound > 0 else 1.0


def filter_of(layer: nn.Module) -> EightBitFilter | None:
    """The 8-bit copy of a convolution's filters; None where there is none."""
    found = copy_of(layer)
    return found if isinstance(found, EightBitFilter) else None


def factor_for(layer: nn.Module) -> float:
    """What the numbers of a picture for a convolution are to be multiplied by, to be given in eight bits; 0 where it
    takes them in half precision."""
    small = filter_of(layer)
    return 0.0 if small is None else small.factor


def convolve_normed(
    layer: nn.Conv2d,
    x: torch.Tensor,
    *,
    bias: bool = True,
    more: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """`convolve` of what a norm gave for `layer`: in eight bits where it has such filters (`factor_for`)."""
    small = filter_of(layer)
    if small is None:
        return convolve(layer, x, bias=bias, more=more, residual=residual)
    own: Any = layer.bias if bias else None
    terms = small.zeros if own is None else own
    return convolve_eight_bit(x, small.filters, small.answers, terms, more=more, residual=residual)


__all__ = [
    "MOST_DEVIATIONS",
    "EightBitFilter",
    "bound_of",
    "convolve_normed",
    "factor_for",
    "factor_of",
    "filter_of",
    "has_eight_bit_form",
]
