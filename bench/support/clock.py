"""How long contenders take for a picture of every stream, by turns."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from bench.support.contenders import Contender, InstantNetworks, Ours, Work


class Clock:
    """Times calls; on a GPU until the picture is there."""

    def __init__(self, device: torch.device) -> None:
        self._host = time.perf_counter if device.type == "cuda" else time.process_time
        self._wait: Callable[[], Any] = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def time(self, contender: Contender, images: torch.Tensor) -> tuple[float, float]:
        """Milliseconds until the picture was there, and of the host."""
        self._wait()
        host, began = self._host(), time.perf_counter()
        contender.run(images)
        host = self._host() - host
        self._wait()
        return (time.perf_counter() - began) * 1000, host * 1000


def take_turns(
    contenders: Sequence[Contender], work: Work, clock: Clock, seconds: float
) -> Iterator[Mapping[str, tuple[float, float]]]:
    """Let each make a picture of every stream in turn, until `seconds` are over; the order moves on each time."""
    end = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < end or turn < 8:
        shift = turn % len(contenders)
        images = work.images[turn % len(work.images)]
        yield {each.name: clock.time(each, images) for each in (*contenders[shift:], *contenders[:shift])}
        turn += 1


def own_milliseconds(work: Work, clock: Clock) -> float:
    """What this engine takes with networks that answer at once."""
    ours = Ours(work, "own", InstantNetworks(work), graphs=False)
    for _ in range(20):
        ours.run(work.images[0])
    return statistics.median(clock.time(ours, work.images[0])[1] for _ in range(200))


__all__ = ["Clock", "own_milliseconds", "take_turns"]
