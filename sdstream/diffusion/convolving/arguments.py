"""What a convolution is computed from, with all that goes along with it."""

from typing import Any, NamedTuple

import torch

from sdstream.diffusion.convolving.shapes import Activation


class Arguments(NamedTuple):
    """Of the pictures `x` [B, C, H, W], with the channels of `other` [B, D, H, W] behind their own if given, and of
    `weight` [O, C + D, side, side] the answer is [B, O, `out_height`, `out_width`].

    `padding` is that of the left and the top; what is beyond the right and the bottom is zero as far as the answer's
    size needs it. With `doubled` each pixel counts as four. To the answer are added `bias` [O], `more` [O] and
    `residual` of its own shape, as far as they are given; then comes the activation.

    With `scales` float32 [O] `x` and `weight` are e4m3, sums are multiplied by these first, and the answer is of the
    dtype of `bias`, which is given then.
    """

    x: torch.Tensor
    other: torch.Tensor | None
    weight: torch.Tensor
    bias: torch.Tensor | None
    more: torch.Tensor | None
    residual: torch.Tensor | None
    stride: int
    padding: int
    out_height: int
    out_width: int
    doubled: bool
    activation: Activation
    scales: torch.Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the answer."""
        if self.scales is None:
            return self.x.dtype
        assert self.bias is not None
        return self.bias.dtype

    @property
    def sizes(self) -> tuple[Any, ...]:
        """The fields of its `Shape` up to the dtype."""
        batch, channels, height, width = self.x.shape
        columns, _, side, _ = self.weight.shape
        return (
            *(batch, height, width, channels, 0 if self.other is None else self.other.shape[1], columns),
            *(side, self.stride, self.padding, self.out_height, self.out_width, self.doubled),
            (self.bias is not None) + (self.more is not None),
            self.residual is not None,
            self.activation,
        )


__all__ = ["Arguments"]
