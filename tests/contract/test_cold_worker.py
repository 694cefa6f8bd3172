"""Acceptance statements 48, 50 and 51 of the contract: WHIP and WHEP while the worker is not there yet."""

import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.cold import HeldWorker
from tests.support.goes import best_below
from tests.support.peers import Publisher, Viewer
from tests.support.rest import Rest
from tests.support.server import LiveServer
from tests.support.waiting import eventually


@pytest.fixture
def held(tmp_path: Path) -> HeldWorker:
    return HeldWorker(tmp_path)


@pytest.fixture
async def rest(make_server: Callable[..., LiveServer], held: HeldWorker) -> AsyncIterator[Rest]:
    """The API of a server whose worker is held."""
    async with Rest(make_server(ready=False, environment=held.environment)) as made:
        yield made


@pytest.mark.slow
@pytest.mark.alone
async def test_48_whip_and_whep_answer_within_three_seconds_with_a_cold_worker(rest: Rest, held: HeldWorker) -> None:
    async def longest(go: int) -> float:
        stream = await rest.create({"model_id": "stabilityai/sdxl-turbo", "width": 384, "height": 384})
        moments = [time.monotonic()]
        async with Publisher(stream["whip_url"]) as publisher:
            moments.append(time.monotonic())
            async with Viewer(publisher.whep_url) as viewer:
                await viewer.wait_kind("placard")
                moments.append(time.monotonic())
        return max(after - before for before, after in itertools.pairwise(moments))

    await best_below(longest, 3, "the answer to WHIP, and WHEP until the placard is seen")
    assert not rest.server.is_ready()
    held.let_go()


async def test_50_whep_while_loading_is_answered_and_shows_a_placard(rest: Rest, held: HeldWorker) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("placard")
        held.let_go()
        await viewer.wait_kind("card", seconds=60)


@pytest.mark.slow
@pytest.mark.alone
async def test_51_the_viewer_that_came_early_sees_the_first_real_picture_at_once(rest: Rest, held: HeldWorker) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as early:
        await early.wait_kind("placard")
        seen: list[float] = []
        early.on_picture = lambda picture: seen.append(picture.at) if picture.is_card() else None
        held.let_go()
        # No session was opened anew for it, and pictures flow from the first on, as fast as the machine has them.
        await eventually(lambda: seen, seconds=60, what="the first card")

        def flow() -> bool:
            return any(after - before < 2.0 for before, after in zip(seen, seen[9:], strict=False))

        await eventually(flow, what=lambda: f"ten cards within two seconds; {len(seen)} came")
