"""Trying the ways to compute one shape of convolution on a card."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.shapes import EIGHT_BIT, Shape
from sdstream.diffusion.convolving.tilings import AnyTiling
from sdstream.diffusion.convolving.twins import own_convolution, plain_convolution, prepare_kernels
from sdstream.diffusion.trials import ways
from sdstream.diffusion.trials.session import card_turn
from sdstream.diffusion.trials.stopwatch import Stopwatch
from sdstream.diffusion.trials.ways import Sample

Own = Callable[[Arguments, str], torch.Tensor]


def arguments_of(shape: Shape, device: torch.device) -> Arguments:
    """Random values for a convolution of this shape, the same each time; answers are about 1."""
    generator = torch.Generator(device).manual_seed(0)
    small = shape.dtype == EIGHT_BIT
    dtype: torch.dtype = torch.float16 if small else getattr(torch, shape.dtype)

    def noise(*size: int, scale: float = 1.0) -> torch.Tensor:
        made = torch.randn(size, generator=generator, device=device, dtype=dtype).mul_(scale)
        return made.contiguous(memory_format=torch.channels_last) if len(size) == 4 else made

    def source(*size: int, scale: float = 1.0) -> torch.Tensor:
        return noise(*size).to(torch.float8_e4m3fn) if small else noise(*size, scale=scale)

    picture = (shape.height, shape.width)
    channels = shape.channels + shape.other_channels
    return Arguments(
        source(shape.batch, shape.channels, *picture),
        source(shape.batch, shape.other_channels, *picture) if shape.other_channels else None,
        source(shape.columns, channels, shape.side, shape.side, scale=shape.depth**-0.5),
        noise(shape.columns) if shape.biases > 0 else None,
        noise(shape.columns) if shape.biases > 1 else None,
        noise(shape.batch, shape.columns, shape.out_height, shape.out_width) if shape.residual else None,
        shape.stride,
        shape.padding,
        shape.out_height,
        shape.out_width,
        shape.doubled,
        shape.activation,
        noise(shape.columns).float().abs().add(0.5).mul(shape.depth**-0.5) if small else None,
    )


def answers_rightly(
    shape: Shape,
    tiling: AnyTiling,
    device: torch.device,
    own: Own = own_convolution,
    prepare: Callable[[Arguments, Sequence[str]], None] = prepare_kernels,
) -> bool:
    """Whether a tiling gives the answers of torch's own way here. Raises as `ways.try_ways` does."""
    with card_turn():
        arguments = arguments_of(shape, device)
        wanted = plain_convolution(arguments)
    prepare(arguments, [tiling.name])  # without the card, which frames go on with meanwhile
    return ways.answers_rightly(lambda: own(arguments, tiling.name), wanted)


def try_tilings(
    shape: Shape,
    tilings: Sequence[AnyTiling],
    device: torch.device,
    stopwatch: Stopwatch,
    is_over: Callable[[], bool] = lambda: False,
    own: Own = own_convolution,
    prepare: Callable[[Arguments, Sequence[str]], None] = prepare_kernels,
) -> list[Sample] | None:
    """See `ways.try_ways`; the ways are the names of the tilings."""
    with card_turn():
        arguments = arguments_of(shape, device)
    names = [tiling.name for tiling in tilings]
    prepare(arguments, names)
    calls = {name: partial(own, arguments, name) for name in names}
    return ways.try_ways(lambda: plain_convolution(arguments), calls, stopwatch, is_over)


__all__ = ["answers_rightly", "arguments_of", "try_tilings"]
