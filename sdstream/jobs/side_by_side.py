"""Lanes of the same params, which a file's pictures are dealt to in turn: those of several lanes ride in one call."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from sdstream.frames import I420Frame
from sdstream.params import StreamParams
from sdstream.worker.ports import Lane, LaneListener

MOST_LANES = 8
"""The largest call that the worker makes by itself."""
UNDER_WAY = 6
"""Pictures of one lane alone that the worker holds at a time: enough that reading, processing and writing overlap."""
UNDER_WAY_EACH = 2
"""The same of each of several lanes: while one call is made, the next one's pictures wait."""


class OpensLanes(Protocol):
    """The part of the worker's handle that this needs."""

    async def open_lane(self, stream_id: str, params: StreamParams, revision: int, listener: LaneListener) -> Lane: ...


class SideBySide:
    """Takes a file's pictures in order and gives each its own result. Belongs to the event loop."""

    def __init__(self, lanes: Sequence[Lane], late: int) -> None:
        """Each lane gives a picture's result `late` pictures of its own later. Raises `ValueError` without lanes."""
        if not lanes:
            raise ValueError("pictures need a lane")
        self._lines = [_Line(lane, late) for lane in lanes]
        self._next = 0
        self._late = late

    @property
    def room(self) -> int:
        """How many pictures may be under way: more would only wait, fewer would keep results from coming."""
        lanes = len(self._lines)
        return self._late * lanes + max(UNDER_WAY, UNDER_WAY_EACH * lanes)

    def process(self, picture: I420Frame) -> "asyncio.Future[I420Frame]":
        """Its own result, when that comes. It fails with what `Lane.process` raises."""
        line = self._lines[self._next]
        self._next = (self._next + 1) % len(self._lines)
        return line.process(picture)

    def finish(self) -> None:
        """No more pictures come: each lane is given its last one again until the results of all are out."""
        for line in self._lines:
            line.finish()

    async def give_up(self) -> None:
        """Let go of all that is under way."""
        for line in self._lines:
            await line.give_up()


class _Line:
    """One lane, whose n-th result belongs to the n-th picture less `late`."""

    def __init__(self, lane: Lane, late: int) -> None:
        self._lane = lane
        self._late = late
        self._early = late
        """Results yet to come that belong to no picture."""
        self._last: I420Frame | None = None
        self._tasks: set[asyncio.Future[I420Frame]] = set()
        self._owed: deque[asyncio.Future[I420Frame]] = deque()

    def process(self, picture: I420Frame) -> "asyncio.Future[I420Frame]":
        own: asyncio.Future[I420Frame] = asyncio.get_running_loop().create_future()
        self._owed.append(own)
        self._last = picture
        self._hand_over(picture)
        return own

    def finish(self) -> None:
        for _ in range(0 if self._last is None else self._late):
            assert self._last is not None
            self._hand_over(self._last)

    async def give_up(self) -> None:
        tasks, self._tasks = self._tasks, set()
        for future in (*tasks, *self._owed):
            future.cancel()
        await asyncio.gather(*tasks, *self._owed, return_exceptions=True)

    def _hand_over(self, picture: I420Frame) -> None:
        task = asyncio.ensure_future(self._lane.process(picture))
        self._tasks.add(task)
        task.add_done_callback(self._take)

    def _take(self, task: "asyncio.Future[I420Frame]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None and self._early > 0:
            self._early -= 1
            return
        own = self._owed.popleft() if self._owed else None
        if own is None or own.done():
            return
        if error is None:
            own.set_result(task.result())
        else:
            own.set_exception(error)
            own.exception()  # when all fail only the oldest is awaited: asyncio need not complain of the others


@contextlib.asynccontextmanager
async def open_lanes(
    worker: OpensLanes, name: str, params: StreamParams, count: int, listener: LaneListener
) -> AsyncGenerator[SideBySide]:
    """`count` lanes of `params`, closed at the end. They must make each picture of itself alone when there are several
    (`params.independence`). Raises what `open_lane` raises."""
    async with contextlib.AsyncExitStack() as stack:
        lanes: list[Lane] = []
        for number in range(count):
            lane = await worker.open_lane(f"{name} {number + 1}" if number else name, params, 1, listener)
            stack.push_async_callback(lane.close)
            lanes.append(lane)
        yield SideBySide(lanes, params.pictures_late)


__all__ = ["MOST_LANES", "OpensLanes", "SideBySide", "open_lanes"]
