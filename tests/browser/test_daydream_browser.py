"""Acceptance statements 55 and 56: the unmodified @daydreamlive/browser in a real Chromium."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route

from tests.support.goes import best_below
from tests.support.mediamtx import on_both
from tests.support.peers import Publisher
from tests.support.relay import Network
from tests.support.rest import SMALL, Rest, block
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.node, pytest.mark.slow]


async def look(page: Page) -> dict[str, Any]:
    return await page.evaluate("look()")


async def wait_picture(page: Page, what: str, wanted: Any, seconds: float = 30.0) -> dict[str, Any]:
    """Wait for a picture that is `wanted`, a function of what `look` returns."""
    last: dict[str, Any] = {}

    async def probe() -> bool:
        last.update(await look(page))
        return last["width"] > 0 and wanted(last)

    await eventually(probe, seconds=seconds, interval=0.1, what=lambda: f"{what}; it looks like {last}")
    return last


async def state(page: Page, which: str) -> str:
    return await page.evaluate(f"{which}.state")


@on_both
async def test_55_broadcast_goes_live_and_the_player_plays(rest: Rest, page: Page, artifacts: Path) -> None:
    stream = await rest.create()
    started = await page.evaluate("url => startBroadcast(url)", stream["whip_url"])
    assert started["state"] == "live"
    assert started["whepUrl"]
    assert await page.evaluate("url => startPlayer(url)", started["whepUrl"]) == "playing"
    # Chromium's fake camera is a green picture with a moving wedge.
    colourful = await wait_picture(page, "the camera", lambda seen: seen["grey"] < 0.5)
    assert (colourful["width"], colourful["height"]) == (384, 384)
    await page.screenshot(path=artifacts / "browser-camera.png")
    await rest.wait_state(stream["id"], "ONLINE")
    await rest.change(stream["id"], {"image_preprocessing": block("canny")})
    edges = await wait_picture(page, "edges on black", lambda seen: seen["dark"] > 0.7 and seen["grey"] > 0.9)
    await page.screenshot(path=artifacts / "browser-canny.png")
    later = await wait_picture(page, "play on", lambda seen: seen["time"] > edges["time"] + 0.5)
    assert later["time"] > edges["time"]
    assert await state(page, "broadcast") == "live"
    assert await state(page, "player") == "playing"

    await page.evaluate("player.stop()")
    await page.evaluate("broadcast.stop()")
    status = await rest.wait_state(stream["id"], "OFFLINE")
    assert (status["viewers"], status["publisher"]) == (0, "absent")


@pytest.mark.alone
async def test_55_a_player_that_came_before_the_camera_plays_soon_after(rest: Rest, page: Page) -> None:

    async def watch(go: int) -> float:
        stream = await rest.create()
        assert stream["whep_url"]
        if go:
            await page.reload()
            await page.wait_for_function("window.loaded === true")
        await page.evaluate("url => { startPlayer(url) }", stream["whep_url"])
        await page.wait_for_function("window.states.player.includes('buffering') || window.player")
        async with Publisher(stream["whip_url"]) as publisher:
            await publisher.wait_connected()
            start = time.monotonic()
            await wait_picture(page, "the card", lambda seen: seen["grey"] < 0.9)
            took = time.monotonic() - start
            await eventually(plays, what="a player that says that it plays")
            await page.evaluate("player.stop()")
        return took

    async def plays() -> bool:
        return await state(page, "player") == "playing"

    await best_below(watch, 3.0, "from the camera to the player's picture")


async def test_55_the_player_goes_on_when_another_publisher_takes_over(rest: Rest, page: Page) -> None:
    stream = await rest.create()
    started = await page.evaluate("url => startBroadcast(url)", stream["whip_url"])
    await page.evaluate("url => startPlayer(url)", started["whepUrl"])
    await wait_picture(page, "the camera", lambda seen: seen["grey"] < 0.5)
    await page.evaluate("broadcast.stop()")
    async with Publisher(stream["whip_url"]) as publisher:
        assert publisher.whep_url == started["whepUrl"]
        before = await look(page)
        await wait_picture(
            page, "the card", lambda seen: seen["time"] > before["time"] + 0.3 and 0.3 < seen["grey"] < 0.95
        )
        assert await state(page, "player") == "playing"
        assert await page.evaluate("states.player") == ["playing"]
        await page.evaluate("player.stop()")


@pytest.mark.alone
async def test_56_a_lost_network_leads_to_reconnecting_and_back(rest: Rest, page: Page, artifacts: Path) -> None:
    stream = await rest.create(SMALL)
    network = Network()

    async def through_the_relay(route: Route) -> None:
        if route.request.method != "POST":
            await route.continue_()
            return
        response = await route.fetch()
        if response.status == 201:
            await route.fulfill(response=response, body=await network.put_into(await response.text()))
        else:
            await route.fulfill(response=response)

    await page.route("**/whip", through_the_relay)
    await page.route("**/whep", through_the_relay)
    try:
        started = await page.evaluate("url => startBroadcast(url)", stream["whip_url"])
        await page.evaluate("url => startPlayer(url)", started["whepUrl"])
        await wait_picture(page, "the camera", lambda seen: seen["grey"] < 0.5)
        network.down = True
        lost = time.monotonic()
        # Five seconds at least, and until the client has noticed: how soon Chromium calls a silent pair
        # disconnected is its own affair.
        await asyncio.sleep(5)
        await eventually(
            lambda: page.evaluate("states.broadcast.includes('reconnecting')"), seconds=60, what="reconnecting"
        )
        noticed = time.monotonic() - lost
        network.down = False

        async def both_back() -> bool:
            return (await state(page, "broadcast"), await state(page, "player")) == ("live", "playing")

        await eventually(both_back, seconds=60, what="live and playing")
        before = await look(page)
        await wait_picture(
            page, "the camera again", lambda seen: seen["grey"] < 0.5 and seen["time"] != before["time"], seconds=30
        )
        await page.screenshot(path=artifacts / "browser-reconnected.png")
        states = await page.evaluate("states.broadcast")
        assert states[-1] == "live", f"{states}, noticed after {noticed:.1f} s"
        await page.evaluate("player.stop()")
        await page.evaluate("broadcast.stop()")
        await rest.wait_state(stream["id"], "OFFLINE")
    finally:
        network.close()
