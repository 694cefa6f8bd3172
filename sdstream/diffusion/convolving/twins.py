"""The two ways to compute a convolution with all that goes along with it: torch's and cuDNN's, and this project's."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import functional

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.hopper.tilings import is_for_hopper
from sdstream.diffusion.convolving.shapes import RELU, SILU
from sdstream.diffusion.fused.pointwise import add_bias, are_stepped, biased_sum, doubled

_kernels: Any = None
_hopper: Any = None
try:
    from sdstream.diffusion.convolving import kernels as _made
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _kernels = _made
    try:
        from sdstream.diffusion.convolving.hopper import kernels as _made_for_hopper
    except ImportError:  # and so do NVIDIA's bindings, with newer ones
        pass
    else:
        _hopper = _made_for_hopper


def plain_convolution(arguments: Arguments) -> torch.Tensor:
    """The plain twin, of as few of torch's operations as there can be."""
    if arguments.scales is not None:
        return _plain_eight_bit(arguments, arguments.scales)
    x, other, weight, bias, more, residual, stride, padding, out_height, out_width, twice, activation, _ = arguments
    if other is not None:
        x = torch.cat((x, other), 1)
    if twice:
        x = doubled(x)
    side = weight.shape[2]
    below = (out_height - 1) * stride + side - padding - x.shape[2]
    right = (out_width - 1) * stride + side - padding - x.shape[3]
    if below > padding or right > padding:
        x = functional.pad(x, (0, max(0, right - padding), 0, max(0, below - padding)))
    if activation == RELU and bias is not None and more is None and x.is_cuda:
        library: Any = torch
        where = (bias, (stride, stride), (padding, padding), (1, 1), 1)
        if residual is None:
            return library.cudnn_convolution_relu(x, weight, *where)
        return library.cudnn_convolution_add_relu(x, weight, residual, 1.0, *where)
    if residual is not None and bias is not None:  # cuDNN adds a bias in a step of its own
        made = functional.conv2d(x, weight, None, stride, padding)
        made = biased_sum(residual, made, bias, more)
    else:
        if bias is not None and are_stepped(x):
            made = add_bias(functional.conv2d(x, weight, None, stride, padding), bias)
        else:
            made = functional.conv2d(x, weight, bias, stride, padding)
        if more is not None:
            made = made + more.view(-1, 1, 1)
        if residual is not None:
            made = made + residual
    if activation == RELU:
        return functional.relu(made)
    return functional.silu(made) if activation == SILU else made


def _plain_eight_bit(arguments: Arguments, scales: torch.Tensor) -> torch.Tensor:
    """Of the same size as its picture. In float32, in which both sides and their products are what they are; sums go
    beyond half precision before they are scaled."""
    made = functional.conv2d(arguments.x.float(), arguments.weight.float(), None, 1, arguments.padding)
    made = made * scales.view(-1, 1, 1)
    for term in (arguments.bias, arguments.more):
        if term is not None:
            made = made + term.float().view(-1, 1, 1)
    if arguments.residual is not None:
        made = made + arguments.residual.float()
    return made.to(arguments.dtype)


def own_convolution(arguments: Arguments, tiling: str) -> torch.Tensor:
    """The same by a kernel of this project's, cut up as the tiling of that name says. Needs Triton, and NVIDIA's
    bindings (cuda-bindings) where the tiling is for Hopper."""
    if is_for_hopper(tiling):
        assert _hopper is not None, "NVIDIA's bindings are not installed"
        by_hopper: torch.Tensor = _hopper.hopper_convolution(*arguments, tiling)
        return by_hopper
    assert _kernels is not None, "Triton is not installed"
    made: torch.Tensor = _kernels.convolution(*arguments[:-1], tiling)  # these know no scales
    return made


def has_kernels() -> bool:
    """Whether `own_convolution` can be called: Triton comes with torch for CUDA only."""
    return _kernels is not None


def has_hopper_kernels() -> bool:
    """Whether `own_convolution` can be called with a tiling for Hopper: NVIDIA's bindings are there."""
    return _hopper is not None


def prepare_kernels(arguments: Arguments, tilings: Iterable[str]) -> None:
    """Compile what several tilings need at the same time, as far as Triton can; what fails fails again when called."""
    assert _kernels is not None, "Triton is not installed"
    names = list(tilings)
    _kernels.compile_ahead(arguments, [name for name in names if not is_for_hopper(name)])
    if _hopper is not None:
        _hopper.compile_ahead(arguments, [name for name in names if is_for_hopper(name)])


__all__ = [
    "has_hopper_kernels",
    "has_kernels",
    "own_convolution",
    "plain_convolution",
    "prepare_kernels",
]
