"""Small operations that follow each other, in one step each on a GPU, and their plain twins.

For frames that are captured as they are: torch.compile joins torch's own operations by itself, and with more around
them, so it is given those.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sdstream.diffusion.fused.switch import are_steps_joined

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


def are_stepped(x: torch.Tensor) -> bool:
    """Whether pictures like `x` are doubled, and get their biases, in a step of this project's: on devices where that
    was tried, beside a frame's other steps (`sdstream.diffusion.fused.steps_trial`)."""
    return are_joined(x) and are_steps_joined(x)


def doubled(x: torch.Tensor) -> torch.Tensor:
    """A picture [B, C, H, W] of twice the height and the width: each pixel counts as four."""
    if are_stepped(x) and _is_channels_last(x):
        return doubled_in_one(x)
    return plain_doubled(x)


def doubled_in_one(x: torch.Tensor) -> torch.Tensor:
    """The same in one step, wherever there are kernels. Answers channels last."""
    made: torch.Tensor = _kernels.doubled(x)
    return made


def plain_doubled(x: torch.Tensor) -> torch.Tensor:
    """The plain twin."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def add_bias(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A picture `x` [B, C, H, W], into which `bias` [C] is added."""
    if are_stepped(x) and _is_channels_last(x):
        return add_bias_in_one(x, bias)
    return plain_add_bias(x, bias)


def add_bias_in_one(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The same in one step, wherever there are kernels, of a picture that lies channels last."""
    _kernels.add_bias(x, bias)
    return x


def plain_add_bias(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The plain twin."""
    return x.add_(bias.view(-1, 1, 1))


def _is_channels_last(x: torch.Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def add_product(total: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`total` [B, tokens, out], into which `x` [B, tokens, in] times `weight` [out, in] is added, in one step: a
    product begins with what lies where it writes."""
    total.view(-1, total.shape[-1]).addmm_(x.flatten(0, 1), weight.t())
    return total


__all__ = [
    "add_bias",
    "add_bias_in_one",
    "add_product",
    "are_joined",
    "are_stepped",
    "biased_sum",
    "doubled",
    "doubled_in_one",
    "gated",
    "normed",
    "plain_add_bias",
    "plain_biased_sum",
    "plain_doubled",
    "plain_gated",
    "plain_normed",
    "plain_summed_norm",
    "summed_norm",
]
