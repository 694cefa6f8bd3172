"""Bounds of the contract on times and gaps, judged by the best of three goes.

A machine that is busy with something else holds up the camera, the server and the test alike, for a while. What the
server itself does too slowly, it does too slowly in each go.
"""

import time
from collections.abc import Awaitable, Callable

from tests.support.peers import Viewer

GOES = 3


async def best_below(act: Callable[[int], Awaitable[float]], seconds: float, what: str) -> None:
    """Insist that one of the goes is judged to be below `seconds`; `act` is given its number, from 0 on."""
    judged: list[float] = []
    for go in range(GOES):
        judged.append(await act(go))
        if judged[-1] < seconds:
            return
    raise AssertionError(f"{what}: {', '.join(f'{each:.2f}' for each in judged)} s, none of them below {seconds} s")


async def in_time(act: Callable[[int], Awaitable[object]], seconds: float, what: str) -> None:
    """Insist that `act` takes less than `seconds` in one of the goes."""

    async def take(go: int) -> float:
        start = time.monotonic()
        await act(go)
        return time.monotonic() - start

    await best_below(take, seconds, what)


async def without_a_gap(viewer: Viewer, act: Callable[[int], Awaitable[object]], seconds: float = 1.0) -> None:
    """Insist that in one of the goes the viewer is never without a picture for `seconds` while `act` is done."""

    async def look(go: int) -> float:
        start = time.monotonic()
        await act(go)
        return viewer.longest_gap(start)

    await best_below(look, seconds, "the longest time without a picture")


__all__ = ["best_below", "in_time", "without_a_gap"]
