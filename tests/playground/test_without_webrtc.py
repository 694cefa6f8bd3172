"""The page against a real server where no WebRTC gets through: camera in and picture out, whole, over WebSockets."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext

from tests.playground.browser import PlaygroundPage, difference, launched
from tests.support.server import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NO_UDP = "--webrtc-ip-handling-policy=disable_non_proxied_udp"
"""How an administrator keeps WebRTC from using the network: Chromium offers no candidate and dials none."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched(NO_UDP) as browser:
        yield browser


@pytest.fixture
def sockets(playground: PlaygroundPage) -> list[str]:
    """The addresses of the page's WebSockets, as they are opened."""
    opened: list[str] = []
    playground.page.on("websocket", lambda socket: opened.append(socket.url))
    return opened


def test_the_camera_comes_back_changed(playground: PlaygroundPage, sockets: list[str], artifacts: Path) -> None:
    playground.choose_source("camera")
    playground.start()
    # Canny's outlines are bright lines on black.
    playground.until(lambda: difference(playground.picture("input"), playground.picture()) > 40, what="outlines")
    assert (
        playground.text("way")
        == "No WebRTC gets through here, so pictures travel over a WebSocket: no sound, more delay."
    )
    assert [address.rsplit("/", 3)[1] for address in sockets] == ["video-to-video", "playback"]
    playground.until(lambda: "512 \u00d7 512 \u00b7 JPEG" in playground.text("output-facts"), what="the output's facts")
    playground.until(
        lambda: float(playground.page.locator(".reading-input b").text_content() or "nan") > 5, what="the input rate"
    )
    playground.page.screenshot(path=artifacts / "playground-without-webrtc.png")
    playground.page.get_by_role("switch", name="Canny").uncheck()
    playground.until(
        lambda: difference(playground.picture("input"), playground.picture()) < 30, what="the plain picture"
    )
    playground.stop()
    assert playground.streams() == []


def test_snapshot_is_of_the_stream(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    with playground.page.expect_download() as download:
        playground.element("snapshot").click()
    with Image.open(io.BytesIO(Path(download.value.path()).read_bytes())) as picture:
        assert (picture.format, picture.size) == ("JPEG", (512, 512))


def test_all_comes_back_after_the_server_was_started_again(
    make_server: Callable[..., LiveServer], open_context: Callable[..., BrowserContext]
) -> None:
    server = make_server(webrtc_mode="off")
    playground = PlaygroundPage(open_context(), server).open()
    playground.choose_source("test")
    playground.start()
    stream = playground.stream()["id"]
    server.kill()  # no closing frame: 1006
    playground.until(lambda: "Connection lost." in playground.text("activity"), what="that it is noticed")
    server.start()
    playground.until(
        lambda: playground.text("state-badge") not in ("Offline", "Poor input", "Loading"), seconds=60, what="pictures"
    )
    playground.until(lambda: difference(playground.picture("input"), playground.picture()) > 60, what="outlines again")
    assert playground.stream()["id"] == stream
    playground.stop()


def test_another_publisher_takes_over_and_keeps_the_stream(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    stream = playground.stream()
    address = httpx.URL(stream["whip_url"]).path.replace("/whip", "/pictures")
    playground.page.evaluate(
        "(path) => new Promise((resolve) => { const socket = new WebSocket(path); socket.onopen = resolve; })", address
    )
    playground.element("start").wait_for()
    assert "Another publisher took over the stream." in playground.text("messages")
    assert playground.stream()["id"] == stream["id"]
    httpx.delete(f"{playground.server.url}/v1/streams/{stream['id']}", headers=playground.headers).raise_for_status()
