"""Several streams in one pass of the networks: each has a seat in a table whose tensors never move."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from sdstream.diffusion.runners import Runner
from sdstream.diffusion.state import (
    Knobs,
    Memory,
    copy_into,
    count,
    empty,
    fits,
    make_memory,
    row,
    unprepared,
)


class Finished(NamedTuple):
    """One stream's picture, as in `Result`."""

    image: torch.Tensor
    planes: torch.Tensor | None
    finite: torch.Tensor | None


class StreamTable:
    """The knobs and the memory of up to `capacity` streams that can ride together. Used by one thread.

    Streams ride together when they have the same model, size, number of slots and kind of guidance. A seat is a row
    of each tensor; storages are made once and again when the table grows, so turning a knob, joining and leaving are
    copies in place. A stream that is not in a call of `run` is not touched by it.
    """

    def __init__(self, runner: Runner, like: Knobs, capacity: int) -> None:
        """`like` are the knobs of one stream of the kind that will sit here; only its shapes count."""
        if capacity < 1:
            raise ValueError(f"a table has at least one seat, not {capacity}")
        self.runner = runner
        self._knobs: Knobs = empty(runner.complete(like), capacity)
        self._memory: Memory = make_memory(self._knobs)
        self._free = list(range(capacity))[::-1]
        self._taken: set[int] = set()

    @property
    def like(self) -> Knobs:
        """The knobs of the first seat, where they lie: their shapes are those of all."""
        return row(self._knobs, 0)

    @property
    def seats(self) -> frozenset[int]:
        """The seats that are taken."""
        return frozenset(self._taken)

    @property
    def capacity(self) -> int:
        """How many seats there are."""
        return count(self._knobs)

    @property
    def bytes_per_stream(self) -> int:
        """Memory that one seat takes on the device."""
        whole = sum(tensor.numel() * tensor.element_size() for tensor in (*self._knobs, *self._memory))
        return whole // self.capacity

    def grow(self, capacity: int) -> None:
        """Have `capacity` seats from now on, in new storage; who sits keeps seat, knobs and memory, bit for bit.

        Raises `ValueError` for fewer seats than there are; nothing has changed then, nor when memory runs out.
        """
        before = self.capacity
        if capacity < before:
            raise ValueError(f"a table of {before} seats does not shrink to {capacity}")
        knobs, memory = empty(self._knobs, capacity), empty(self._memory, capacity)
        for new, old in zip((*knobs, *memory), (*self._knobs, *self._memory), strict=True):
            new[:before].copy_(old)
        self._knobs, self._memory = knobs, memory
        self._free = [*range(capacity - 1, before - 1, -1), *self._free]

    def join(self, knobs: Knobs, memory: Memory | None = None) -> int:
        """Seat a stream, by its knobs and what it remembers, if anything; returns its seat.

        Raises `ValueError` when the table is full or the stream is of another kind; nothing has changed then.
        """
        if not self._free:
            raise ValueError(f"all {len(self._taken)} seats are taken")
        knobs = self._completed(knobs)
        memory = make_memory(knobs) if memory is None else memory
        if count(memory) != 1 or not fits(memory, self._memory):
            raise ValueError("the memory is of another kind of stream than this table's")
        seat = self._free[-1]
        copy_into(row(self._knobs, seat), knobs)
        copy_into(row(self._memory, seat), memory)
        self._taken.add(self._free.pop())
        return seat

    def leave(self, seat: int) -> Memory:
        """Free a seat; returns what its stream remembers, to go on elsewhere."""
        memory = self.memory(seat)
        self._taken.remove(seat)
        self._free.append(seat)
        return memory

    def memory(self, seat: int) -> Memory:
        """A copy of what the stream in a seat remembers."""
        self._refuse_free(seat)
        return type(self._memory)(*(tensor.clone() for tensor in row(self._memory, seat)))

    def turn(self, seat: int, knobs: Knobs) -> None:
        """Put new knobs into force from the next run on. Raises `ValueError` when they do not fit; the old stay."""
        self._refuse_free(seat)
        copy_into(row(self._knobs, seat), self._completed(knobs))

    def refresh(self) -> None:
        """Make anew what was made of weights, which have changed in place.

        Banks begin anew, as in `carry_over`: keys and values mean nothing to other weights than those that made them.
        """
        for seat in self._taken:
            knobs = row(self._knobs, seat)
            copy_into(knobs, self.runner.complete(knobs))
        self._memory.recalled.zero_()
        self._memory.age.zero_()

    def run(self, images: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        """`make`, and of it the pictures alone, float32 [1, 3, H, W], about 0 to 1."""
        return {seat: finished.image for seat, finished in self.make(images).items()}

    def make(self, images: Mapping[int, torch.Tensor]) -> dict[int, Finished]:
        """One frame of the streams that have a picture now, all of one form of those that `Frame` takes.

        What is given is valid until the next run.
        """
        for seat in images:
            self._refuse_free(seat)
        if not images:
            return {}
        seats = sorted(images)
        made = self.runner.run_rows(torch.cat([images[seat] for seat in seats]), self._knobs, self._memory, seats)
        return {
            seat: Finished(
                made.image[index : index + 1],
                None if made.planes is None else made.planes[index : index + 1],
                None if made.finite is None else made.finite[index : index + 1],
            )
            for index, seat in enumerate(seats)
        }

    def _completed(self, knobs: Knobs) -> Knobs:
        if count(knobs) != 1 or not fits(unprepared(knobs), unprepared(self._knobs)):
            raise ValueError("the knobs are of another kind of stream than this table's")
        return self.runner.complete(knobs)

    def _refuse_free(self, seat: int) -> None:
        if seat not in self._taken:
            raise ValueError(f"nobody sits at {seat}")


__all__ = ["Finished", "StreamTable"]
