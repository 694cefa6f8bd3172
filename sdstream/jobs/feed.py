"""How a worker asks for jobs while its queue fails: ever more rarely, and not for ever.

RunPod's SDK (1.12.0) asks again at once whatever went wrong. A refused connection costs a whole core then, and
thousands of lines of log a second; nothing in its configuration changes that.
"""

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from sdstream.clock import Clock

FIRST_DELAY = 0.25
LONGEST_DELAY = 10.0
"""Seconds, as between two heartbeats of the SDK. The delay is part of the 90 s that the SDK gives a poll."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Outage:
    """Polls that failed one after another up to now; none is the ordinary case."""

    failures: int = 0
    unreachable_since: float | None = None
    """By the monotonic clock; None where the last one was answered, if only by an error."""

    def after(self, error: Exception, now: float) -> "Outage":
        """With one more failure. `OSError`, of which aiohttp's failures to connect are, is no answer."""
        since = None
        if isinstance(error, OSError):
            since = now if self.unreachable_since is None else self.unreachable_since
        return dataclasses.replace(self, failures=self.failures + 1, unreachable_since=since)


def delay_after(outage: Outage, chance: float) -> float:
    """Seconds until the next poll, doubled each time. `chance` in 0..1 keeps the workers of an endpoint, all of which
    lost it at one moment, from coming back at one moment."""
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(max(outage.failures - 1, 0), 16))
    return longest * (0.5 + 0.5 * chance)


def decide_give_up(outage: Outage, now: float, limit: float, jobs: int) -> bool:
    """Whether the worker is of no use any more: for `limit` seconds (0: never) nobody was there, and it runs no job.

    A session outlives any outage: its pictures do not pass the queue, and it has limits of its own.
    """
    if not limit or jobs or outage.unreachable_since is None:
        return False
    return now - outage.unreachable_since >= limit


class JobFeed:
    """The SDK's own poll for jobs, `take`, with pauses. `give_up` is called once, with the seconds that it took."""

    def __init__(
        self,
        take: Callable[..., Awaitable[Any]],
        clock: Clock,
        limit: float,
        count_jobs: Callable[[], int],
        give_up: Callable[[float], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._take = take
        self._clock = clock
        self._limit = limit
        self._count_jobs = count_jobs
        self._give_up = give_up
        self._sleep = sleep
        self._chance = chance
        self._outage = Outage()
        self._gave_up = False
        self._closed = asyncio.Event()

    def close(self) -> None:
        """Take no more jobs: a worker that ends would lose them. Idempotent."""
        self._closed.set()

    async def take(self, *arguments: Any) -> Any:
        """What the SDK's poll gives. What that raises is raised, after the pause.

        Closed meanwhile, nothing is given, and no later call returns: the SDK would ask again at once.
        """
        if self._closed.is_set():
            await asyncio.Event().wait()
        try:
            jobs = await self._poll(*arguments)
        except asyncio.CancelledError:
            self._outage = Outage()  # held open until the SDK cut it off: no sign that anybody is missing
            raise
        except Exception as error:  # supervisor of polls: none is swallowed, the SDK tells it
            await self._pause(error)
            raise
        if self._outage.unreachable_since is not None:
            logger.info("the queue is back", failures=self._outage.failures)
        self._outage = Outage()
        return jobs

    async def _poll(self, *arguments: Any) -> Any:
        polling = asyncio.ensure_future(self._take(*arguments))
        closing = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((polling, closing), return_when=asyncio.FIRST_COMPLETED)
            return polling.result() if polling.done() else None
        finally:
            for task in (polling, closing):
                task.cancel()
            await asyncio.gather(polling, closing, return_exceptions=True)

    async def _pause(self, error: Exception) -> None:
        now = self._clock.monotonic()
        before, self._outage = self._outage, self._outage.after(error, now)
        since = self._outage.unreachable_since
        if since is not None and before.unreachable_since is None:
            logger.warning("the queue cannot be reached", problem=str(error))
        if since is not None and not self._gave_up:
            self._gave_up = decide_give_up(self._outage, now, self._limit, self._count_jobs())
            if self._gave_up:
                self._give_up(now - since)
        await self._sleep(delay_after(self._outage, self._chance()))


__all__ = ["FIRST_DELAY", "LONGEST_DELAY", "JobFeed", "Outage", "decide_give_up", "delay_after"]
