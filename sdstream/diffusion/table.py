"""Several streams in one pass of the networks: each has a seat in a table whose tensors never move."""

from collections.abc import Mapping

import torch

from sdstream.diffusion.frame import Frame
from sdstream.diffusion.state import (
    Knobs,
    Memory,
    copy_into,
    count,
    empty,
    fits,
    gather,
    make_memory,
    row,
    scatter,
)


class StreamTable:
    """The knobs and the memory of up to `capacity` streams that can ride together. Used by one thread.

    Streams ride together when they have the same model, size, number of slots and kind of guidance. A seat is a row
    of each tensor; storages are made once, so turning a knob, joining and leaving are copies in place. A stream that
    is not in a call of `run` is not touched by it.
    """

    def __init__(self, frame: Frame, like: Knobs, capacity: int) -> None:
        """`like` are the knobs of one stream of the kind that will sit here; only its shapes count."""
        if capacity < 1:
            raise ValueError(f"a table has at least one seat, not {capacity}")
        self._frame = frame
        self._knobs: Knobs = empty(like, capacity)
        self._memory: Memory = make_memory(self._knobs)
        self._free = list(range(capacity))[::-1]
        self._taken: set[int] = set()
        self._order = torch.arange(capacity, device=like.noise.device)

    @property
    def seats(self) -> frozenset[int]:
        """The seats that are taken."""
        return frozenset(self._taken)

    def join(self, knobs: Knobs, memory: Memory | None = None) -> int:
        """Seat a stream, by its knobs and what it remembers, if anything; returns its seat.

        Raises `ValueError` when the table is full or the stream is of another kind; nothing has changed then.
        """
        if not self._free:
            raise ValueError(f"all {len(self._taken)} seats are taken")
        self._check(knobs)
        memory = make_memory(knobs) if memory is None else memory
        if not fits(memory, self._memory):
            raise ValueError("the memory is of another kind of stream than this table's")
        seat = self._free.pop()
        self._taken.add(seat)
        copy_into(row(self._knobs, seat), knobs)
        copy_into(row(self._memory, seat), memory)
        return seat

    def leave(self, seat: int) -> Memory:
        """Free a seat; returns what its stream remembers, to go on elsewhere."""
        self._refuse_free(seat)
        self._taken.remove(seat)
        self._free.append(seat)
        return gather(self._memory, self._order[seat : seat + 1])

    def turn(self, seat: int, knobs: Knobs) -> None:
        """Put new knobs into force from the next run on. Raises `ValueError` when they do not fit; the old stay."""
        self._refuse_free(seat)
        self._check(knobs)
        copy_into(row(self._knobs, seat), knobs)

    def run(self, images: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        """One frame of the streams that have a picture now: seat to picture, float [1, 3, H, W], 0 to 1.

        Returns the finished picture of each, float32 [1, 3, H, W], about 0 to 1.
        """
        for seat in images:
            self._refuse_free(seat)
        if not images:
            return {}
        seats = sorted(images)
        rows = torch.tensor(seats, device=self._order.device)
        whole = len(seats) == len(self._order)
        knobs = self._knobs if whole else gather(self._knobs, rows)
        memory = self._memory if whole else gather(self._memory, rows)
        result = self._frame(torch.cat([images[seat] for seat in seats]), knobs, memory)
        scatter(self._memory, rows, result.memory)
        return dict(zip(seats, result.image.split(1), strict=True))

    def _check(self, knobs: Knobs) -> None:
        if count(knobs) != 1 or not fits(knobs, self._knobs):
            raise ValueError("the knobs are of another kind of stream than this table's")

    def _refuse_free(self, seat: int) -> None:
        if seat not in self._taken:
            raise ValueError(f"nobody sits at {seat}")


__all__ = ["StreamTable"]
