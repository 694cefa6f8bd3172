"""A real Firefox: the unmodified @daydreamlive/browser, with sound, and the playground, by either way."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.firefox import NO_FIREFOX, Firefox, firefox, running
from tests.support.peers import Publisher
from tests.support.rest import Rest, block
from tests.support.server import LiveServer
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(firefox() is None, reason=NO_FIREFOX),
]


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Firefox]:
    async with running(tmp_path / "profile") as browser:
        yield browser
    assert browser.complaints == []


@pytest.mark.node
async def test_daydreams_client_goes_live_with_sound_and_plays(rest: Rest, browser: Firefox, origin: str) -> None:
    stream = await rest.create()
    await browser.goto(origin)
    await browser.wait("window.loaded")
    started = await browser.evaluate(f"startBroadcast({stream['whip_url']!r})")
    assert started["state"] == "live"
    assert await browser.evaluate(f"startPlayer({started['whepUrl']!r})") == "playing"
    await browser.wait("look().width === 384 && look().grey < 0.5")
    await rest.change(stream["id"], {"image_preprocessing": block("canny")})
    await browser.wait("look().dark > 0.7 && look().grey > 0.9")

    async def heard() -> bool:
        return (await rest.status(stream["id"]))["media"]["sound"]["packets"] > 20

    await eventually(heard, what="the microphone")
    await browser.wait("window.player.stream.getAudioTracks().length === 1")
    await browser.evaluate("window.player.stop()")
    await browser.evaluate("window.broadcast.stop()")
    await rest.wait_state(stream["id"], "OFFLINE")


@pytest.mark.node
async def test_hls_js_plays(rest: Rest, browser: Firefox, origin: str) -> None:
    stream = await rest.create()
    await browser.goto(f"{origin}/hls.html")
    async with Publisher(stream["whip_url"]):
        await rest.wait_state(stream["id"], "ONLINE")
        await browser.evaluate(f"window.play({stream['hls_url']!r})")
        await browser.wait("facts().time > 2 || facts().problems.length", seconds=60)
        facts = await browser.evaluate("facts()")
    assert facts["problems"] == []
    assert (facts["width"], facts["height"]) == (384, 384)


@pytest.mark.parametrize(("way", "codec"), [("webrtc", "VP8|H264"), ("websocket", "JPEG")])
async def test_the_playground_plays(server: LiveServer, browser: Firefox, way: str, codec: str) -> None:
    await browser.goto(f"{server.url}/#key={server.key}")
    await browser.wait("document.querySelector('#controls .control') !== null")
    await browser.evaluate("document.querySelector('input[name=source][value=camera]').click()")
    await browser.evaluate(f"Object.assign(document.getElementById('connection'), {{ value: {way!r} }}).value")
    await browser.evaluate("document.getElementById('connection').dispatchEvent(new Event('change'))")
    await browser.evaluate("document.getElementById('start').click()")
    await browser.wait("document.getElementById('output').currentTime > 1", seconds=60)
    await browser.wait("document.getElementById('state-badge').textContent === 'Online'")
    await browser.wait(f"/{codec}/.test(document.getElementById('output-facts').textContent)")
    await browser.evaluate("document.getElementById('stop').click()")
    await browser.wait("document.getElementById('state-badge').textContent === 'Idle'")
