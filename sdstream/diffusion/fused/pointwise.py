"""Small operations that follow each other, in one step each on a GPU, and their plain twins.

For frames that are captured as they are: torch.compile joins torch's own operations by itself, and with more around
them, so it is given those.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

_kernels: Any = None
try:
    from sdstream.diffusion.fused import pointwise_kernels as _made
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _kernels = _made


def are_joined(x: torch.Tensor) -> bool:
    """Whether these operations are one step each for a tensor like `x`, so that it is worth to ask for them."""
    return _kernels is not None and x.is_cuda and not torch.compiler.is_compiling()


def biased_sum(
    one: torch.Tensor, other: torch.Tensor, bias: torch.Tensor, more: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum of two pictures [B, C, H, W] and of biases [C]."""
    if are_joined(one):
        made: torch.Tensor = _kernels.biased_sum(one, other, bias, more)
        return made
    return plain_biased_sum(one, other, bias, more)


def plain_biased_sum(
    one: torch.Tensor, other: torch.Tensor, bias: torch.Tensor, more: torch.Tensor | None = None
) -> torch.Tensor:
    """The plain twin."""
    whole = bias if more is None else bias + more
    return one + (other + whole.view(-1, 1, 1))


def gated(x: torch.Tensor) -> torch.Tensor:
    """The first half of the last axis of `x` times GELU of the second: the one by erf, within 1e-7 of it."""
    if are_joined(x):
        made: torch.Tensor = _kernels.gated(x)
        return made
    return plain_gated(x)


def plain_gated(x: torch.Tensor) -> torch.Tensor:
    """The plain twin."""
    value, gate = x.chunk(2, -1)
    return value * functional.gelu(gate)


def normed(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    """`norm` of [..., width]."""
    if are_joined(x):
        made: torch.Tensor = _kernels.normed(x, norm.weight, norm.bias, norm.eps)
        return made
    return plain_normed(x, norm)


def plain_normed(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    """The plain twin."""
    made: torch.Tensor = norm(x)
    return made


def summed_norm(
    one: torch.Tensor, other: torch.Tensor, bias: torch.Tensor, norm: nn.LayerNorm, after: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`one` + `other` + `bias`, [B, tokens, width] and [width], and `norm` of that. What `norm` does not see, `after`
    [width], is added to the sum besides."""
    if are_joined(one):
        made: tuple[torch.Tensor, torch.Tensor] = _kernels.summed_norm(
            one, other, bias, norm.weight, norm.bias, norm.eps, after
        )
        return made
    return plain_summed_norm(one, other, bias, norm, after)


def plain_summed_norm(
    one: torch.Tensor, other: torch.Tensor, bias: torch.Tensor, norm: nn.LayerNorm, after: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain twin."""
    whole = one + (other + bias)
    return (whole if after is None else whole + after), norm(whole)


def add_product(total: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`total` [B, tokens, out], into which `x` [B, tokens, in] times `weight` [out, in] is added, in one step: a
    product begins with what lies where it writes."""
    total.view(-1, total.shape[-1]).addmm_(x.flatten(0, 1), weight.t())
    return total


__all__ = [
    "add_product",
    "are_joined",
    "biased_sum",
    "gated",
    "normed",
    "plain_biased_sum",
    "plain_gated",
    "plain_normed",
    "plain_summed_norm",
    "summed_norm",
]
