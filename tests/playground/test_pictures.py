"""Where no WebRTC gets through, the page has whole pictures over WebSockets; their other end is made up here."""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, WebSocketRoute

from tests.playground.browser import PlaygroundPage, difference
from tests.support.server import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BLOCK = """(() => {
  let made = 0;
  const later = setTimeout;
  // Connections that are not blocked may take as long as they need; the page would try the other way after so long.
  window.setTimeout = (act, pause, ...rest) => later(act, [3000, 6000].includes(pause) ? 60_000 : pause, ...rest);
  const Real = RTCPeerConnection;
  window.RTCPeerConnection = class extends Real {
    constructor(settings) {
      const blocked = BLOCKED(made++);
      super({ ...settings, ...(blocked ? { iceTransportPolicy: "relay" } : {}) }); // without a relay nothing connects
    }
  };
})();"""
NO_WAITS = """(() => {
  const later = setTimeout;
  window.setTimeout = (act, pause = 0, ...rest) => (pause < 1000 ? later(act, pause, ...rest) : 0);
})();"""
"""What the page would do a second later or more, it never does: what it needs no wait for is done all the same."""
NOTE = "No WebRTC gets through here, so pictures travel over a WebSocket: no sound, more delay."
SERVER_NOTE = "This server takes no WebRTC, so pictures travel over a WebSocket: no sound, more delay."


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that takes no WebRTC."""
    live = LiveServer(tmp_path_factory.mktemp("off"), webrtc_mode="off")
    live.start()
    yield live
    live.stop()


class OtherEnd:
    """What the server is to the page: takes pictures, and shows a plain red one to viewers."""

    def __init__(self, playground: PlaygroundPage) -> None:
        self.taken: list[Image.Image] = []
        self.answers = 0
        self.publishers: list[WebSocketRoute] = []
        self.viewers: list[WebSocketRoute] = []
        self.open = True
        self._picture = io.BytesIO()
        Image.new("RGB", (512, 512), (200, 0, 0)).save(self._picture, "JPEG")
        playground.page.route_web_socket(re.compile(r"/live/video-to-video/[^/]+/pictures$"), self._publish)
        playground.page.route_web_socket(re.compile(r"/playback/[^/]+/pictures$"), self._watch)

    def _publish(self, socket: WebSocketRoute) -> None:
        self.publishers.append(socket)

        def take(message: str | bytes) -> None:
            assert isinstance(message, bytes)
            with Image.open(io.BytesIO(message)) as picture:
                picture.load()
            self.taken.append(picture)
            socket.send("taken")

        socket.on_message(take)

    def _watch(self, socket: WebSocketRoute) -> None:
        self.viewers.append(socket)

        def show(_: str | bytes) -> None:
            self.answers += 1
            if self.answers < 20:
                socket.send(self._picture.getvalue())

        socket.on_message(show)
        socket.send(self._picture.getvalue())


@pytest.fixture
def open_blocked(
    open_context: Callable[..., BrowserContext], server: LiveServer
) -> Iterator[Callable[[str], PlaygroundPage]]:
    """Opens the page where those connections are not made for which a function is true of their number."""
    pages: list[PlaygroundPage] = []

    def start(which: str) -> PlaygroundPage:
        context = open_context()
        context.add_init_script(BLOCK.replace("BLOCKED", f"({which})"))
        pages.append(PlaygroundPage(context, server).open())
        return pages[-1]

    yield start
    for page in pages:
        if page.element("stop").is_visible():
            page.stop()
        assert page.complaints == []


def is_red(playground: PlaygroundPage) -> bool:
    red, green, blue = playground.picture()[:3]
    return red > 150 and green < 50 and blue < 50


def colours(picture: Image.Image) -> list[int]:
    """As `PlaygroundPage.picture` tells them."""
    return list(picture.resize((32, 32)).tobytes())


def test_pictures_take_over_where_webrtc_does_not_connect(
    open_blocked: Callable[[str], PlaygroundPage], artifacts: Path
) -> None:
    blocked = open_blocked("() => true")
    other = OtherEnd(blocked)
    blocked.choose_source("camera")
    blocked.element("start").click()
    blocked.until(lambda: is_red(blocked), what="the picture of the other end")
    blocked.until(lambda: len(other.taken) > 5, what="pictures of the camera")
    assert {(picture.format, picture.mode) for picture in other.taken} == {("JPEG", "RGB")}
    assert other.taken[-1].size[1] == 512
    assert blocked.text("way") == NOTE
    blocked.until(lambda: "JPEG" in blocked.text("input-facts"), what="the facts of what is sent")
    blocked.until(lambda: "512 \u00d7 512" in blocked.text("output-facts"), what="the facts of what is shown")
    assert blocked.text("messages") == ""
    blocked.page.screenshot(path=artifacts / "playground-pictures.png")
    blocked.stop()
    assert blocked.text("way") == ""
    assert blocked.streams() == []


def test_a_server_without_webrtc_is_told_at_once(open_context: Callable[..., BrowserContext], off: LiveServer) -> None:
    context = open_context()
    context.add_init_script(NO_WAITS)
    playground = PlaygroundPage(context, off).open()
    other = OtherEnd(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: is_red(playground), what="the picture, without a wait for WebRTC")
    assert (len(other.publishers), len(other.viewers)) == (1, 1)
    assert playground.text("way") == SERVER_NOTE
    playground.stop()


def test_watching_goes_by_webrtc_where_only_publishing_cannot(open_blocked: Callable[[str], PlaygroundPage]) -> None:
    playground = open_blocked("(number) => number === 0")
    other = OtherEnd(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: playground.output_time() > 0, what="the server's placard by WebRTC")
    assert other.viewers == []
    playground.until(lambda: len(other.taken) > 0, what="a picture of the source")
    assert playground.text("way").startswith("No WebRTC gets out of here, so your picture travels")


def test_publishing_goes_by_webrtc_where_only_watching_cannot(open_blocked: Callable[[str], PlaygroundPage]) -> None:
    playground = open_blocked("(number) => number > 0")
    other = OtherEnd(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: is_red(playground), what="the picture of the other end")
    assert other.publishers == []
    assert playground.text("way").startswith("No WebRTC gets in here, so the output travels")


def test_the_choice_of_a_websocket_is_kept_and_makes_no_offer(playground: PlaygroundPage) -> None:
    playground.element("connection").select_option("websocket")
    playground.page.reload()
    playground.element("controls").locator(".control").first.wait_for()
    assert playground.element("connection").input_value() == "websocket"
    other = OtherEnd(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: is_red(playground), what="the picture of the other end")
    assert playground.element("connection").is_disabled()
    assert playground.text("way").startswith("As chosen, pictures travel over a WebSocket")
    playground.until(lambda: len(other.taken) > 0, what="a picture of the source")
    assert [address for address in playground.addresses if address.endswith(("whip", "whep"))] == []


def test_the_choice_of_webrtc_opens_no_websocket(open_context: Callable[..., BrowserContext], off: LiveServer) -> None:
    playground = PlaygroundPage(open_context(), off).open()
    other = OtherEnd(playground)
    playground.element("connection").select_option("webrtc")
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: "Not started." in playground.text("messages"), what="the refusal")
    assert (other.publishers, other.viewers) == ([], [])


def test_a_lost_websocket_is_opened_again(playground: PlaygroundPage) -> None:
    playground.element("connection").select_option("websocket")
    other = OtherEnd(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: is_red(playground), what="the picture of the other end")
    other.publishers[0].close(code=1001)
    other.viewers[0].close(code=1001)
    playground.until(lambda: "has deleted the stream. Attempt 1 of 5" in playground.text("activity"), what="the words")
    before = len(other.taken)
    playground.until(lambda: len(other.taken) > before + 3, what="pictures again")
    playground.until(lambda: len(other.viewers) > 1, what="another viewer")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (4001, "Another publisher took over the stream."),
        (1003, "could not read"),
        (1009, "larger than the server takes"),
    ],
)
def test_an_end_that_is_to_stay_is_told_in_words(playground: PlaygroundPage, code: int, words: str) -> None:
    playground.element("connection").select_option("websocket")
    other = OtherEnd(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: is_red(playground), what="the picture of the other end")
    stream = playground.stream()["id"]
    other.publishers[0].close(code=code)
    playground.element("start").wait_for()
    assert words in playground.text("messages")
    assert len(other.publishers) == 1
    # Another publisher may be at it.
    httpx.delete(f"{playground.server.url}/v1/streams/{stream}", headers=playground.headers).raise_for_status()


def test_another_source_goes_into_the_same_websocket(playground: PlaygroundPage) -> None:
    playground.element("connection").select_option("websocket")
    other = OtherEnd(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: len(other.taken) > 3, what="the test picture")
    before = colours(other.taken[-1])
    playground.choose_source("camera")
    playground.until(lambda: difference(before, colours(other.taken[-1])) > 30, what="the camera")
    assert len(other.publishers) == 1


def test_the_newest_of_many_pictures_is_shown_and_each_is_answered(playground: PlaygroundPage) -> None:
    playground.element("connection").select_option("websocket")
    other = OtherEnd(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: other.answers == 20, what="that the other end has no more to send")
    for colour in ((0, 200, 0), (0, 0, 200)):
        picture = io.BytesIO()
        Image.new("RGB", (256, 256), colour).save(picture, "JPEG")
        for _ in range(20):
            other.viewers[0].send(picture.getvalue())
    playground.until(lambda: other.answers == 60, what="every answer")
    playground.until(lambda: playground.picture()[2] > 150, what="the newest")
    playground.until(lambda: "256 \u00d7 256" in playground.text("output-facts"), what="its size")


@pytest.mark.parametrize(
    "lacks", ["MediaStreamTrackProcessor", "OffscreenCanvas", "HTMLVideoElement.prototype.requestVideoFrameCallback"]
)
def test_browsers_that_can_less_send_pictures_too(
    open_context: Callable[..., BrowserContext], server: LiveServer, lacks: str
) -> None:
    context = open_context()
    context.add_init_script(f"delete window.MediaStreamTrackProcessor; delete {lacks};")
    playground = PlaygroundPage(context, server).open()
    playground.element("connection").select_option("websocket")
    other = OtherEnd(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: len(other.taken) > 10, what="pictures")
    playground.until(lambda: difference(colours(other.taken[-1]), playground.picture("input")) < 20, what="the source")
    playground.stop()
    assert playground.complaints == []


def test_a_browser_without_webrtc_goes_by_websockets(
    open_context: Callable[..., BrowserContext], server: LiveServer
) -> None:
    context = open_context()
    context.add_init_script(f"delete window.RTCPeerConnection; {NO_WAITS}")
    playground = PlaygroundPage(context, server).open()
    other = OtherEnd(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: is_red(playground), what="the picture, without a wait")
    playground.until(lambda: len(other.taken) > 0, what="a picture of the source")
    assert playground.text("way") == NOTE
    playground.stop()
    assert playground.complaints == []


def test_where_nothing_gets_through_both_reasons_are_told(
    open_context: Callable[..., BrowserContext], off: LiveServer
) -> None:
    playground = PlaygroundPage(open_context(), off).open()
    playground.page.evaluate("() => { window.WebSocket = class { constructor() { throw new Error('no'); } }; }")
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: "No WebSocket for pictures" in playground.text("messages"), what="the reasons")
    assert "WebRTC" in playground.text("messages")
    assert playground.streams() == []


def test_where_neither_way_opens_the_stream_ends_with_words(open_blocked: Callable[[str], PlaygroundPage]) -> None:
    playground = open_blocked("() => true")
    playground.page.evaluate("() => { window.WebSocket = class { constructor() { throw new Error('no'); } }; }")
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: "No WebSocket for pictures" in playground.text("activity"), what="what fails")
    playground.until(lambda: "Neither WebRTC nor" in playground.text("messages"), seconds=60, what="the end, in words")
    assert playground.streams() == []


def test_pictures_are_sent_no_larger_than_fills_the_stream(playground: PlaygroundPage) -> None:
    sizes = playground.page.evaluate(
        """async () => {
          const { sizeToSend } = await import("/assets/pictures.js");
          const stream = { width: 512, height: 512 };
          return [[1280, 720], [320, 240], [512, 512], [4000, 10]].map(([width, height]) =>
            Object.values(sizeToSend(width, height, stream))).concat([
            Object.values(sizeToSend(8000, 8000, { width: 6000, height: 6000 }))]);
        }"""
    )
    assert sizes == [[910, 512], [320, 240], [512, 512], [4000, 10], [4096, 4096]]


def test_pictures_go_beside_the_offers_of_this_host(playground: PlaygroundPage) -> None:
    addresses = playground.page.evaluate(
        """async () => {
          const { picturesUrl } = await import("/assets/pictures.js");
          return ["https://elsewhere.example/live/video-to-video/whep/whip", "http://x/playback/pb/whep"].map(picturesUrl);
        }"""
    )
    base = playground.server.url.replace("http", "ws", 1)
    assert addresses == [f"{base}/live/video-to-video/whep/pictures", f"{base}/playback/pb/pictures"]


SWAPPED = """async () => {
  const { PicturePublisher } = await import("/assets/pictures.js");
  const opened = [];
  window.WebSocket = class extends EventTarget {
    constructor() { super(); this.sent = []; opened.push(this); }
    send(data) { this.sent.push(data); this.dispatchEvent(new MessageEvent("message", { data: "taken" })); }
    close() {}
  };
  const source = (colour) => {
    const context = Object.assign(document.createElement("canvas"), { width: 64, height: 64 }).getContext("2d");
    context.fillStyle = colour;
    setInterval(() => context.fillRect(0, 0, 64, 64), 30);
    return context.canvas.captureStream(30).getVideoTracks()[0];
  };
  const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  const publisher = new PicturePublisher("/live/video-to-video/key/whip", { width: 64, height: 64 });
  const connecting = publisher.connect(source("red"), new AbortController().signal);
  publisher.replaceTrack(source("blue"));
  const [socket] = opened;
  socket.dispatchEvent(new Event("open"));
  await connecting;
  while (socket.sent.length < 3) await pause(20);
  publisher.close();
  const count = socket.sent.length; // a picture that was being made is not sent any more
  const camera = source("red");
  const reader = new MediaStreamTrackProcessor({ track: camera.clone() }).readable.getReader();
  publisher.replaceTrack(camera);
  for (let seen = 0; seen < 10; seen += 1) (await reader.read()).value.close();
  const first = await createImageBitmap(socket.sent[0]);
  const context = Object.assign(document.createElement("canvas"), { width: 64, height: 64 }).getContext("2d");
  context.drawImage(first, 0, 0);
  return { colour: [...context.getImageData(32, 32, 1, 1).data], late: socket.sent.length - count };
}"""


def test_a_source_chosen_while_the_websocket_opens_is_the_one_that_is_sent(playground: PlaygroundPage) -> None:
    seen = playground.page.evaluate(SWAPPED)
    red, _, blue, _ = seen["colour"]
    assert blue > 200 > 50 > red
    assert seen["late"] == 0
