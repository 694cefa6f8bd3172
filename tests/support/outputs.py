"""When the worker made pictures, as the stream's status tells it, and how long it was held up.

No viewer can tell that: the encoder sends a picture that nothing follows again and again, so a worker that stands still
leaves no gap. And what a viewer misses may have been lost on the way to it.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from tests.support.cores import CoreWaits
from tests.support.rest import Rest

INTERVAL = 0.1
"""Seconds between two looks."""


@dataclass(frozen=True)
class Look:
    """The status was asked for at `asked_at` (monotonic seconds), when the newest picture was `age` seconds old.

    That picture came at `made_at` (milliseconds since 1970); what the worker had waited for cores were `waits`.
    """

    asked_at: float
    made_at: int
    age: float
    waits: CoreWaits


def stops(looks: Sequence[Look]) -> list[float]:
    """For each picture that was seen, how long the worker certainly made no other though it had a core, in seconds.

    Certain is what a look saw that was asked for so long after the picture came: a test that looks too rarely sees
    shorter stops, never longer ones. What the worker waited for a core is taken off, and what it waited since the last
    look before the picture came with it.
    """
    found: list[float] = []
    before = None
    for _, group in groupby(looks, lambda look: look.made_at):
        same = list(group)
        waits = (before or same[0]).waits
        found.append(max(look.age - look.waits.since(waits) for look in same))
        before = same[-1]
    return found


@dataclass
class OutputLog:
    """What was seen of a stream's pictures since the log was opened."""

    looks: list[Look] = field(default_factory=list[Look])

    def held_up(self, since: float) -> float:
        """By how much the longest stop from the monotonic second `since` on exceeds a usual one before, in seconds.

        Fails where pictures were not seen before and after.
        """
        first = sum(look.asked_at < since for look in self.looks)
        usual, later = stops(self.looks[:first]), stops(self.looks[max(0, first - 1) :])
        assert min(len(usual), len(later)) > 1, f"{len(usual)} pictures before and {len(later)} after"
        return max(later) - statistics.median(usual)


@contextlib.asynccontextmanager
async def output_log(rest: Rest, stream_id: str) -> AsyncIterator[OutputLog]:
    """Look at the stream's pictures from now on. The worker must not be another one meanwhile."""
    log = OutputLog()
    worker = rest.server.worker_pid()

    async def watch() -> None:
        while True:
            asked_at, now = time.monotonic(), time.time()
            made_at = (await rest.status(stream_id))["inference_status"]["last_output_time"]
            if made_at is not None:
                log.looks.append(Look(asked_at, made_at, now - made_at / 1000, CoreWaits.of(worker)))
            await asyncio.sleep(INTERVAL)

    task = asyncio.get_running_loop().create_task(watch())
    try:
        yield log
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


__all__ = ["Look", "OutputLog", "output_log", "stops"]
