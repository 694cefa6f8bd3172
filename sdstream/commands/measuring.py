"""How many pictures a second a worker makes of so many streams, each of which always has another one to be made."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy
import structlog

from sdstream.clock import Clock
from sdstream.frames import I420Frame, PictureSize
from sdstream.jobs.side_by_side import UNDER_WAY, UNDER_WAY_EACH
from sdstream.params import StreamParams
from sdstream.worker.ports import Lane, LaneStatus, ProcessedPicture, WorkerClient, kind_of

FIRST_PICTURES = 3
"""Of each stream that are not counted: the first call of a kind warms up what later ones find."""
LEAST_PICTURES = 3
"""Of each stream that are counted, however long they take."""
KINDS_OF_PICTURES = 8
LOOK = 0.05
"""Seconds between two looks at the streams."""
CLOCK = 90_000

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rates:
    """What `streams` streams got in `seconds`: `pictures` together.

    `call_seconds` is the mean of a call that all of them rode in, by the worker's own measure; None where there was
    none. `longest_seconds` is how long the next picture of a stream took at most, 99 times of 100. Memory is the
    device's, in bytes, None where nothing tells.
    """

    streams: int
    pictures: int
    seconds: float
    call_seconds: float | None
    longest_seconds: float
    memory_used: int | None
    memory_total: int | None
    status: LaneStatus

    @property
    def rate(self) -> float:
        """Pictures a second, of all streams together."""
        return self.pictures / self.seconds

    @property
    def rate_each(self) -> float:
        """Pictures a second of one stream."""
        return self.rate / self.streams


class Stream:
    """A lane that is given pictures as fast as it takes them."""

    def __init__(self, clock: Clock, under_way: int, tell: Callable[[LaneStatus], None]) -> None:
        self._clock = clock
        self._under_way = under_way
        self._tell = tell
        self.status: LaneStatus | None = None
        self.times: list[float] = []
        """When each picture was back: monotonic seconds."""

    def on_picture(self, picture: ProcessedPicture) -> None:
        logger.warning("picture_nobody_waits_for", sequence=picture.frame.sequence)

    def on_lane_status(self, status: LaneStatus) -> None:
        self.status = status
        self._tell(status)

    async def run(self, lane: Lane, pictures: Sequence[I420Frame]) -> None:
        """Until it is cancelled. Raises what `Lane.process` raises."""
        waiting: deque[asyncio.Task[None]] = deque()
        try:
            for number in itertools.count():
                picture = pictures[number % len(pictures)].at(number * CLOCK // 30, sequence=number)
                waiting.append(asyncio.create_task(self._pass(lane, picture)))
                if len(waiting) == self._under_way:
                    await waiting.popleft()
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _pass(self, lane: Lane, picture: I420Frame) -> None:
        await lane.process(picture)
        self.times.append(self._clock.monotonic())


async def measure(
    worker: WorkerClient,
    params: StreamParams,
    streams: int,
    seconds: float,
    clock: Clock,
    *,
    warm_up: float = 0.0,
    tell: Callable[[LaneStatus], None] = lambda status: None,
) -> Rates:
    """Supply `streams` streams of these params for `seconds`, after `warm_up` more than their first pictures take.

    `tell` hears how they load. Raises what `Lane.process` raises, such as `ModelUnavailable`.
    """
    params = params.model_copy(update={"enable_similar_image_filter": False})  # every picture is to be made
    pictures = noisy_pictures(PictureSize(params.width, params.height))
    under_way = UNDER_WAY if streams == 1 else UNDER_WAY_EACH
    fed = [Stream(clock, under_way, tell) for _ in range(streams)]
    tasks: list[asyncio.Task[None]] = []
    async with AsyncExitStack() as stack:
        try:
            for number, stream in enumerate(fed):
                lane = await worker.open_lane(f"bench {number + 1}", params, 1, stream)
                stack.push_async_callback(lane.close)
                tasks.append(asyncio.create_task(stream.run(lane, pictures)))
            await _until(lambda: all(len(stream.times) >= FIRST_PICTURES for stream in fed), tasks)
            warm_until = clock.monotonic() + warm_up
            await _until(lambda: clock.monotonic() >= warm_until, tasks)
            began = clock.monotonic()
            before = [len(stream.times) for stream in fed]

            def is_enough() -> bool:
                least = min(len(stream.times) - count for stream, count in zip(fed, before, strict=True))
                return clock.monotonic() - began >= seconds and least >= LEAST_PICTURES

            await _until(is_enough, tasks)
            passed = clock.monotonic() - began
            counted = [stream.times[count:] for stream, count in zip(fed, before, strict=True)]
            health = worker.health()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    costs = [cost for cost in health.costs if cost.kind == kind_of(params)]
    status = fed[0].status
    assert status is not None, "it has made pictures"
    return Rates(
        streams,
        sum(len(times) for times in counted),
        passed,
        costs[0].seconds.get(streams) if costs else None,
        longest_of([later - earlier for times in counted for earlier, later in itertools.pairwise(times)]),
        health.memory_used,
        health.memory_total,
        status,
    )


async def _until(condition: Callable[[], bool], tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Wait for it. Raises what one of `tasks` raises before."""
    while not condition():
        done, _ = await asyncio.wait(tasks, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


def longest_of(gaps: Sequence[float]) -> float:
    """That of which 99 of 100 are no longer; the longest of fewer."""
    return sorted(gaps)[-1 - len(gaps) // 100]


def noisy_pictures(size: PictureSize) -> list[I420Frame]:
    """Pictures of coarse and fine noise, none like another."""
    random = numpy.random.default_rng(7)

    def plane(height: int, width: int) -> numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint8]]:
        coarse = random.integers(40, 200, (height // 32, width // 32), numpy.uint8)
        return coarse.repeat(32, 0).repeat(32, 1) + random.integers(0, 16, (height, width), numpy.uint8)

    half = (size.height // 2, size.width // 2)
    return [I420Frame(plane(size.height, size.width), plane(*half), plane(*half)) for _ in range(KINDS_OF_PICTURES)]


__all__ = ["Rates", "Stream", "longest_of", "measure", "noisy_pictures"]
