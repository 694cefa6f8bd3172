"""Group norm with what stands around it, in one step: a shift before, SiLU behind. The plain twin and the fast way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

FastGroupNorm = Callable[..., torch.Tensor]

_fast: FastGroupNorm | None = None
kernel_failures: tuple[type[Exception], ...] = ()
"""What the operation raises besides torch's errors where it cannot be made."""
try:
    from sdstream.diffusion import group_norm_kernels as _kernels
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _made: Any = _kernels
    _fast, kernel_failures = _made.group_norm, (_made.TritonError,)


def group_norm(
    norm: nn.GroupNorm, x: torch.Tensor, shift: torch.Tensor | None = None, *, silu: bool = False
) -> torch.Tensor:
    """`norm` of `x` [N, C, H, W] + `shift` [N, C] or [C], and SiLU of that if asked for.

    On a GPU where Triton is installed this is a kernel of this project's, which answers channels last.
    """
    fast = fast_group_norm() if x.is_cuda else None
    if fast is None:
        return plain_group_norm(norm, x, shift, silu=silu)
    return fast(x, shift, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)


def plain_group_norm(
    norm: nn.GroupNorm, x: torch.Tensor, shift: torch.Tensor | None = None, *, silu: bool = False
) -> torch.Tensor:
    """The plain twin, of torch's own operations."""
    if shift is not None:
        x = x + shift.view(-1, shift.shape[-1], 1, 1)
    made = functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return functional.silu(made) if silu else made


def fast_group_norm() -> FastGroupNorm | None:
    """The operation in Triton; None where that is not installed."""
    return _fast


__all__ = ["fast_group_norm", "group_norm", "kernel_failures", "plain_group_norm"]
