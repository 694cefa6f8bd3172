"""What a convolution is asked for, as far as its speed goes, and what of a card matters to it."""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["", "relu", "silu"]
NOTHING, RELU, SILU = "", "relu", "silu"
ACTIVATIONS = {NOTHING: 0, RELU: 1, SILU: 2}
"""By the numbers that kernels know."""
HALVES = ("float16", "bfloat16")
EIGHT_BIT = "float8_e4m3fn"
"""Dtypes of shapes: answers are in half precision whatever pictures and filters are."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A convolution as far as its speed goes: filters of `side` times `side`, square, over all channels.

    `batch` pictures of `height` times `width` pixels, of `channels` and of `other_channels` more from a second source,
    become `columns` channels. `doubled` pictures are first made twice as high and wide. What follows in the same step:
    `biases` vectors of the columns (0 to 2), a sum with a picture if `residual`, and an activation. `dtype` is that of
    pictures and filters.
    """

    batch: int
    height: int
    width: int
    channels: int
    other_channels: int
    columns: int
    side: int
    stride: int
    padding: int
    out_height: int
    out_width: int
    doubled: bool
    biases: int
    residual: bool
    activation: Activation
    dtype: str

    @property
    def name(self) -> str:
        """What it is remembered by: every field is in it."""
        source = f"{self.channels}" + (f"+{self.other_channels}" if self.other_channels else "")
        words = [
            f"{self.batch}x{self.height}x{self.width}x{source}",
            f"to {self.out_height}x{self.out_width}x{self.columns}",
            f"by {self.side}x{self.side} stride {self.stride} padding {self.padding}",
            self.dtype,
        ]
        words += ["doubled"] * self.doubled + [f"biases {self.biases}"] + ["sum"] * self.residual
        return " ".join([*words, self.activation]).strip()

    @property
    def rows(self) -> int:
        """Pixels of the answers."""
        return self.batch * self.out_height * self.out_width

    @property
    def depth(self) -> int:
        """Products that each value is the sum of."""
        return self.side * self.side * (self.channels + self.other_channels)

    @property
    def operations(self) -> int:
        """Multiplications and additions; those with the picture's border count."""
        return 2 * self.rows * self.columns * self.depth


@dataclass(frozen=True, slots=True)
class Card:
    """What of a GPU matters to the choice of a tiling."""

    capability: tuple[int, int]
    processors: int


__all__ = ["ACTIVATIONS", "EIGHT_BIT", "HALVES", "NOTHING", "RELU", "SILU", "Activation", "Card", "Shape"]
