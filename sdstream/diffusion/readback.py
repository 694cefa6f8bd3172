"""Single numbers of the device that the host wants to know, without waiting for the device."""

from collections import deque
from typing import Any, Protocol

import torch

PLACES = 8
"""Numbers that may be on their way at a time."""


class Readback(Protocol):
    """The way of a number from the device to the host."""

    def put(self, value: torch.Tensor) -> None:
        """Send a tensor of one number on its way. One that finds no place is not sent: the host is far behind."""
        ...

    def take(self) -> float | None:
        """The newest number that has arrived since the last call, None when none has."""
        ...


class ImmediateReadback:
    """Where host and device are the same: a number is there at once."""

    def __init__(self) -> None:
        self._newest: float | None = None

    def put(self, value: torch.Tensor) -> None:
        self._newest = float(value)

    def take(self) -> float | None:
        newest, self._newest = self._newest, None
        return newest


class CudaReadback:
    """Copies into pinned memory behind the work that makes the number; an event tells when it is there."""

    def __init__(self) -> None:
        cuda: Any = torch.cuda
        self._memory = torch.zeros(PLACES, dtype=torch.float32, pin_memory=True)
        self._free = deque((place, cuda.Event()) for place in range(PLACES))
        self._under_way: deque[tuple[int, Any]] = deque()

    def put(self, value: torch.Tensor) -> None:
        if not self._free:
            return
        place, event = self._free.popleft()
        self._memory[place : place + 1].copy_(value.detach().reshape(1), non_blocking=True)
        event.record()
        self._under_way.append((place, event))

    def take(self) -> float | None:
        newest: float | None = None
        while self._under_way and self._under_way[0][1].query():
            place, event = self._under_way.popleft()
            newest = float(self._memory[place])
            self._free.append((place, event))
        return newest


def make_readback(device: torch.device) -> Readback:
    """The way from `device` to the host. Apple's GPU has no events of this kind: there a number is waited for."""
    return CudaReadback() if device.type == "cuda" else ImmediateReadback()


__all__ = ["CudaReadback", "ImmediateReadback", "Readback", "make_readback"]
