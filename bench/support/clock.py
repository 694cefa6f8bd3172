"""How long contenders take for a picture of every stream, by turns, and what memory that takes."""

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
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


def working_memory(contender: Contender, work: Work) -> float | None:
    """Megabytes that pictures take beyond the weights, at the peak. On a CPU in a child of this process, on Linux."""
    if work.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        for _ in range(3):
            contender.run(work.images[0])
        torch.cuda.synchronize()
        return round((torch.cuda.memory_reserved() - before) / 1e6, 1)
    if not hasattr(os, "fork") or not Path("/proc/self/status").exists():
        return None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        before = resident_kilobytes()
        for _ in range(3):
            contender.run(work.images[0])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(writing, str(max(0, peak - before)).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    answer = os.read(reading, 64)
    os.close(reading)
    return round(int(answer) * 1024 / 1e6, 1) if answer else None


def resident_kilobytes() -> int:
    """What of this process is in memory now."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


__all__ = ["Clock", "own_milliseconds", "take_turns", "working_memory"]
