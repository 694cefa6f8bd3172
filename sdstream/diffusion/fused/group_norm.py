"""Group norm with what stands around it, in one step: a shift before, SiLU behind, two pictures in place of one. The
plain twins and the fast way."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

FastGroupNorm = Callable[..., torch.Tensor]
LARGEST = 448.0
"""Of e4m3. Larger numbers would become NaN."""

_fast: FastGroupNorm | None = None
_kept: Any = None
_of_two: Any = None
try:
    from sdstream.diffusion.fused import group_norm_kernels as _kernels
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _made: Any = _kernels
    _fast = _made.group_norm
    _kept, _of_two = _made.group_norm_kept, _made.group_norm_of_two


class Two(NamedTuple):
    """Two pictures [N, C, H, W] and [N, D, H, W] in place of one of the channels of both, which nobody put together."""

    one: torch.Tensor
    other: torch.Tensor

    def together(self) -> torch.Tensor:
        """[N, C + D, H, W]."""
        return torch.cat((self.one, self.other), 1)


def group_norm(
    norm: nn.GroupNorm, x: torch.Tensor, shift: torch.Tensor | None = None, *, silu: bool = False, factor: float = 0.0
) -> torch.Tensor:
    """`norm` of `x` [N, C, H, W] + `shift` [N, C] or [C], and SiLU of that if asked for; times `factor` in eight bits
    (e4m3, within its limits) where that is not 0.

    On a GPU where Triton is installed this is a kernel of this project's, which answers channels last.
    """
    fast = fast_group_norm() if x.is_cuda else None
    if fast is None:
        return plain_group_norm(norm, x, shift, silu=silu, factor=factor)
    return fast(x, shift, *_told(norm, silu, factor))


def plain_group_norm(
    norm: nn.GroupNorm, x: torch.Tensor, shift: torch.Tensor | None = None, *, silu: bool = False, factor: float = 0.0
) -> torch.Tensor:
    """The plain twin, of torch's own operations."""
    if shift is not None:
        x = x + shift.view(-1, shift.shape[-1], 1, 1)
    made = functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    made = functional.silu(made) if silu else made
    return plain_small(made, factor) if factor else made


def plain_small(values: torch.Tensor, factor: float) -> torch.Tensor:
    """`values` times `factor` in eight bits, e4m3; what is beyond its limits becomes these."""
    return (values.float() * factor).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def group_norm_of_two(norm: nn.GroupNorm, two: Two, *, silu: bool = False, factor: float = 0.0) -> torch.Tensor:
    """As `group_norm`, of both pictures as one. With a kernel they are read where they lie."""
    if not two.one.is_cuda or _of_two is None:
        return plain_group_norm(norm, two.together(), silu=silu, factor=factor)
    made: torch.Tensor = _of_two(*two, *_told(norm, silu, factor))
    return made


def group_norm_kept(
    norm: nn.GroupNorm,
    x: torch.Tensor | Two,
    bias: torch.Tensor | None = None,
    *,
    silu: bool = False,
    factor: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `group_norm`; and `x` as one picture plus `bias` [C], which is the caller's alone and may be written into,
    channels last."""
    one, other = x if isinstance(x, Two) else (x, None)
    if not one.is_cuda or _kept is None:
        return plain_group_norm_kept(norm, x, bias, silu=silu, factor=factor)
    made: tuple[torch.Tensor, torch.Tensor] = _kept(one, other, bias, *_told(norm, silu, factor))
    return made


def plain_group_norm_kept(
    norm: nn.GroupNorm,
    x: torch.Tensor | Two,
    bias: torch.Tensor | None = None,
    *,
    silu: bool = False,
    factor: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain twin."""
    whole = x.together() if isinstance(x, Two) else x
    kept = whole.clone() if bias is None else whole + bias.view(-1, 1, 1)
    return plain_group_norm(norm, whole, silu=silu, factor=factor), kept.contiguous(memory_format=torch.channels_last)


def _told(norm: nn.GroupNorm, silu: bool, factor: float) -> tuple[torch.Tensor, torch.Tensor, int, float, bool, float]:
    """How an operation in Triton is to norm."""
    return norm.weight, norm.bias, norm.num_groups, norm.eps, silu, factor


def fast_group_norm() -> FastGroupNorm | None:
    """The operation in Triton; None where that is not installed."""
    return _fast


__all__ = [
    "LARGEST",
    "Two",
    "fast_group_norm",
    "group_norm",
    "group_norm_kept",
    "group_norm_of_two",
    "plain_group_norm",
    "plain_group_norm_kept",
    "plain_small",
]
