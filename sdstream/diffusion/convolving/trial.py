"""Trying the ways to compute one shape of convolution on a card: answers first, then times, by turns."""

import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from sdstream.diffusion.capture import CudaCapture, Recording
from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.choices import TOLERANCE, Sample
from sdstream.diffusion.convolving.tilings import Shape, Tiling
from sdstream.diffusion.convolving.twins import kernel_failures, own_convolution, plain_convolution, prepare_kernels
from sdstream.diffusion.trials.session import card_turn

ROUNDS = 7
"""Times that each way is timed, by turns."""
LEAST_FLUSH = 256 * 2**20
"""Bytes that are written between two calls where a card does not say how large its cache is."""
FAILURES = (RuntimeError, OSError, ValueError, subprocess.SubprocessError, *kernel_failures)
"""A way that raises one of these is not taken."""

Call = Callable[[], torch.Tensor]
Own = Callable[[Arguments, str], torch.Tensor]


class Stopwatch(Protocol):
    """How long calls take on a device."""

    def time(self, calls: Sequence[Call]) -> list[tuple[float, ...]]:
        """The milliseconds of each call, several times, by turns."""
        ...


class CudaStopwatch:
    """Times calls as a captured frame makes them, each from a cache that holds nothing of it. A round of all calls is
    one turn at the card."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def time(self, calls: Sequence[Call]) -> list[tuple[float, ...]]:
        cuda: Any = torch.cuda
        capture = CudaCapture(self._device)
        recordings: list[Recording[torch.Tensor]] = []
        for call in calls:
            with card_turn():
                recordings.append(capture.record(call))
        size = max(LEAST_FLUSH, 2 * int(getattr(cuda.get_device_properties(self._device), "L2_cache_size", 0)))
        times: list[list[float]] = [[] for _ in calls]
        flush = torch.empty(size, dtype=torch.uint8, device=self._device)
        for _ in range(ROUNDS):
            with card_turn(), cuda.device(self._device):
                marks: list[tuple[Any, Any]] = []
                for recording in recordings:
                    begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
                    flush.zero_()  # long enough that all that follows is queued before it is done
                    begin.record()
                    recording.replay()
                    end.record()
                    marks.append((begin, end))
                cuda.synchronize()
                for took, (begin, end) in zip(times, marks, strict=True):
                    took.append(float(begin.elapsed_time(end)))
        for recording in recordings:
            recording.forget()
        return [tuple(took) for took in times]


def arguments_of(shape: Shape, device: torch.device) -> Arguments:
    """Random values for a convolution of this shape, the same each time; answers are about 1."""
    generator = torch.Generator(device).manual_seed(0)
    dtype: torch.dtype = getattr(torch, shape.dtype)

    def noise(*size: int, scale: float = 1.0) -> torch.Tensor:
        made = torch.randn(size, generator=generator, device=device, dtype=dtype).mul_(scale)
        return made.contiguous(memory_format=torch.channels_last) if len(size) == 4 else made

    picture = (shape.height, shape.width)
    channels = shape.channels + shape.other_channels
    return Arguments(
        noise(shape.batch, shape.channels, *picture),
        noise(shape.batch, shape.other_channels, *picture) if shape.other_channels else None,
        noise(shape.columns, channels, shape.side, shape.side, scale=shape.depth**-0.5),
        noise(shape.columns) if shape.biases > 0 else None,
        noise(shape.columns) if shape.biases > 1 else None,
        noise(shape.batch, shape.columns, shape.out_height, shape.out_width) if shape.residual else None,
        shape.stride,
        shape.padding,
        shape.out_height,
        shape.out_width,
        shape.doubled,
        shape.activation,
    )


def answers_rightly(
    shape: Shape,
    tiling: Tiling,
    device: torch.device,
    own: Own = own_convolution,
    prepare: Callable[[Arguments, Sequence[str]], None] = prepare_kernels,
) -> bool:
    """Whether a tiling gives the answers of torch's own way here. Raises as `try_ways` does."""
    with card_turn():
        arguments = arguments_of(shape, device)
        wanted = plain_convolution(arguments).float()
    prepare(arguments, [tiling.name])  # without the card, which frames go on with meanwhile
    distance = _distance(lambda: own(arguments, tiling.name), wanted)
    return distance is not None and distance <= TOLERANCE


def _distance(call: Call, wanted: torch.Tensor) -> float | None:
    """How far an answer is from that wanted, of the largest value; None when there is none."""
    try:
        with card_turn():
            return float((call().float() - wanted).abs().max() / wanted.abs().max())
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise  # the device is lost, or full
    except FAILURES:
        return None


def try_ways(
    shape: Shape,
    tilings: Sequence[Tiling],
    device: torch.device,
    stopwatch: Stopwatch,
    is_over: Callable[[], bool] = lambda: False,
    own: Own = own_convolution,
    prepare: Callable[[Arguments, Sequence[str]], None] = prepare_kernels,
) -> list[Sample] | None:
    """What torch's own way and each of the tilings take, the tilings that answer wrongly or not at all left out; None
    when `is_over` said in between that there is no time left.

    Raises what tells of a lost or full device (`torch.AcceleratorError`, `torch.OutOfMemoryError`).
    """
    with card_turn():
        arguments = arguments_of(shape, device)
        wanted = plain_convolution(arguments).float()
    prepare(arguments, [tiling.name for tiling in tilings])
    calls: list[Call] = [lambda: plain_convolution(arguments)]
    found = [Sample("", ())]
    for tiling in tilings:
        if is_over():
            return None

        def call(name: str = tiling.name) -> torch.Tensor:
            return own(arguments, name)

        distance = _distance(call, wanted)
        if distance is not None and distance <= TOLERANCE:
            calls.append(call)
            found.append(Sample(tiling.name, (), distance))
    if is_over():
        return None
    times = stopwatch.time(calls)
    return [Sample(each.tiling, took, each.distance) for each, took in zip(found, times, strict=True)]


__all__ = ["FAILURES", "ROUNDS", "CudaStopwatch", "Stopwatch", "answers_rightly", "arguments_of", "try_ways"]
