"""A convolution with what stands around it, in one step: two sources or a doubled picture before, sums behind.

The plain twin is torch's and cuDNN's. This project's kernel runs where a trial on the card found it faster
(`sdstream.diffusion.convolving.tuning`), for pictures of half precision that lie channels last.
"""

import torch
from torch import nn

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.shapes import NOTHING, Activation
from sdstream.diffusion.convolving.tuning import known_tiling, settled_tiling
from sdstream.diffusion.convolving.twins import own_convolution, plain_convolution

MOST_VALUES = 2**31 - 1
"""Of a picture that the kernel can number."""


def convolve(
    layer: nn.Conv2d,
    x: torch.Tensor,
    other: torch.Tensor | None = None,
    *,
    bias: bool = True,
    more: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    doubled: bool = False,
    beyond: bool = False,
    activation: Activation = NOTHING,
) -> torch.Tensor:
    """`layer` (see `can_convolve`) of `x` [B, C, H, W], with the channels of `other` [B, D, H, W] behind its own.

    With `doubled` each pixel counts as four, and with `beyond` a row and a column of zeros follow the last ones. To the
    answer [B, O, H', W'] are added the layer's bias unless told otherwise, `more` [O] and `residual` of the answer's
    shape; then comes the activation. Answers channels last where a network lies so.
    """
    side, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    factor, zeros = 2 if doubled else 1, 2 * padding + (1 if beyond else 0)
    height = (x.shape[2] * factor + zeros - side) // stride + 1
    width = (x.shape[3] * factor + zeros - side) // stride + 1
    weight, own_bias = layer.weight, layer.bias if bias else None
    sizes = (stride, padding, height, width, doubled)
    arguments = Arguments(x, other, weight, own_bias, more, residual, *sizes, activation)
    tiling = _tiling_of(arguments)
    return own_convolution(arguments, tiling) if tiling else plain_convolution(arguments)


def convolve_eight_bit(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor,
    *,
    more: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """`x` e4m3 [B, C, H, W] by the filters `weight` e4m3 [O, C, 3, 3], which keep its size, times `scales` float32 [O].

    To the answer [B, O, H, W], of the dtype of `bias` [O], are added that, `more` [O] and `residual` of its own shape.
    """
    height, width = x.shape[2:]
    arguments = Arguments(x, None, weight, bias, more, residual, 1, 1, height, width, False, NOTHING, scales)
    tiling = _tiling_of(arguments)
    return own_convolution(arguments, tiling) if tiling else plain_convolution(arguments)


def reads_two(layer: nn.Conv2d, one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether `convolve` would read the channels of both pictures where they lie, for a layer that keeps their size and
    gives no bias; else it puts them together first."""
    height, width = one.shape[2], one.shape[3]
    padding = int(layer.padding[0])
    sizes = (layer.stride[0], padding, height, width, False)
    return bool(_tiling_of(Arguments(one, other, layer.weight, None, None, None, *sizes, NOTHING)))


def are_convolved(x: torch.Tensor) -> bool:
    """Whether convolutions of a tensor like `x` may have another way than torch's, so that it is worth to ask."""
    return x.is_cuda


def can_convolve(layer: nn.Conv2d) -> bool:
    """Whether `convolve` knows a layer of this kind: square filters of one or three pixels."""
    side, stride, padding = layer.kernel_size, layer.stride, layer.padding
    return (
        side in ((1, 1), (3, 3))
        and stride in ((1, 1), (2, 2))
        and padding in ((0, 0), (1, 1))
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
    )


def _tiling_of(arguments: Arguments) -> str:
    """The tiling to take; empty for the plain twin."""
    x, weight = arguments.x, arguments.weight
    if not (are_convolved(x) and weight.is_contiguous(memory_format=torch.channels_last)):
        return ""
    sources, terms = (arguments.other, weight), (arguments.bias, arguments.more, arguments.residual)
    if any(each is not None and each.dtype != x.dtype for each in sources):
        return ""
    if any(each is not None and each.dtype != arguments.dtype for each in terms):
        return ""
    answer = weight.shape[0] * arguments.out_height * arguments.out_width
    size = x.shape[0] * max(x.shape[1] * x.shape[2] * x.shape[3], answer)
    if size > MOST_VALUES:
        return ""
    find = known_tiling if torch.compiler.is_compiling() else settled_tiling
    return find(x.device.index, str(x.dtype), *arguments.sizes)


__all__ = ["are_convolved", "can_convolve", "convolve", "convolve_eight_bit", "reads_two"]
