"""HLS in a real player: the unmodified hls.js in headless Chromium, on a page of another origin."""

from typing import Any

import pytest
from playwright.async_api import BrowserContext

from sdstream.clock import SystemClock
from tests.support.goes import best_below
from tests.support.peers import Publisher
from tests.support.rest import SMALL, Rest
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.node]


@pytest.mark.slow
@pytest.mark.alone
async def test_hls_js_plays_pictures_and_sound(context: BrowserContext, origin: str, rest: Rest) -> None:
    clock = SystemClock()
    page = context.pages[0]

    async def plays(seconds: float) -> dict[str, Any] | None:
        now: dict[str, Any] = await page.evaluate("window.facts()")
        return now if now["time"] > seconds or now["problems"] else None

    async def play(go: int) -> float:
        """Seconds until the first picture is seen."""
        stream = await rest.create(params=SMALL)
        async with Publisher(stream["whip_url"], fps=20):
            await page.goto(f"{origin}/hls.html")
            await page.wait_for_function("window.loaded === true")
            began = clock.monotonic()
            await page.evaluate("url => window.play(url)", stream["hls_url"])
            first = await eventually(lambda: plays(0), what="the first picture of HLS")
            assert first["problems"] == []
            waited = clock.monotonic() - began
            later = await eventually(lambda: plays(first["time"] + 3), what="three seconds of HLS")
        assert later["problems"] == []
        assert (later["width"], later["height"]) == (384, 384)
        assert later["frames"] > 30
        assert later["sound"] > 0
        assert later["levels"][0].startswith("avc1.42")
        return waited

    await best_below(play, 8, "until the first picture of HLS")
