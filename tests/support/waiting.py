"""Waiting for a condition with a time limit, instead of sleeping for luck."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")


async def eventually(
    probe: Callable[[], Awaitable[Value | None] | Value | None],
    *,
    seconds: float = 30.0,
    interval: float = 0.05,
    what: str | Callable[[], object] = "the condition",
) -> Value:
    """The first truthy result of `probe`, asked every `interval` seconds.

    Fails after `seconds` with `what` (or its result, when it is a function) and the last value seen.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value  # pyright: ignore[reportReturnType]
        if time.monotonic() > deadline:
            words = what() if callable(what) else what
            raise AssertionError(f"{words} did not happen within {seconds} s; the last value was {value!r}")
        await asyncio.sleep(interval)


def eventually_sync(
    probe: Callable[[], Value | None], *, seconds: float = 30.0, interval: float = 0.05, what: str = "the condition"
) -> Value:
    """`eventually` for code outside an event loop."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds} s; the last value was {value!r}")
        time.sleep(interval)


@contextlib.asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have `work` done until the end of the context, which cancels it. Raises what it failed with before that."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
