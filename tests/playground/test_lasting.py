"""A page that is left on or loses its server: nothing piles up or is given up; what is said is true, and said once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Route

from tests.playground.browser import PlaygroundPage
from tests.support.server import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]

COUNTS = """(() => {
  const open = (window.open_ = { peers: 0, sockets: 0, urls: 0, waits: 0, ticks: new Set(), tracks: [] });
  const around = (home, name, before) => {
    const own = home[name];
    home[name] = function (...given) {
      before.call(this, ...given);
      return own.apply(this, given);
    };
  };
  window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(...given) { super(...given); open.peers += 1; }
    close() { open.peers -= this.signalingState !== "closed"; super.close(); }
  };
  window.WebSocket = class extends WebSocket {
    constructor(...given) {
      super(...given);
      open.sockets += 1;
      this.addEventListener("close", () => (open.sockets -= 1));
    }
  };
  around(URL, "createObjectURL", () => (open.urls += 1));
  around(URL, "revokeObjectURL", () => (open.urls -= 1));
  const [tick, untick] = [setInterval, clearInterval];
  window.setInterval = (...given) => {
    const number = tick(...given);
    open.ticks.add(number);
    return number;
  };
  window.clearInterval = (number) => (open.ticks.delete(number), untick(number));
  const [see, shoot] = [navigator.mediaDevices.getUserMedia, HTMLCanvasElement.prototype.captureStream];
  const noted = (stream) => (open.tracks.push(...stream.getTracks()), stream);
  navigator.mediaDevices.getUserMedia = async function (wish) { return noted(await see.call(this, wish)); };
  HTMLCanvasElement.prototype.captureStream = function (...given) { return noted(shoot.apply(this, given)); };
  const { addEventListener: add, removeEventListener: remove } = EventTarget.prototype;
  AbortSignal.prototype.addEventListener = function (...given) { open.waits += 1; add.apply(this, given); };
  AbortSignal.prototype.removeEventListener = function (...given) { open.waits -= 1; remove.apply(this, given); };
  window.leftOpen = () => ({
    peers: open.peers, sockets: open.sockets, urls: open.urls, ticks: open.ticks.size,
    tracks: open.tracks.filter((track) => track.readyState === "live").length,
  });
})();"""
"""Counts what a page opens and closes. What waits for the end of a session is `open_.waits`."""
HASTE = """(() => {
  const later = setTimeout;
  window.setTimeout = (act, pause = 0, ...rest) => later(act, pause >= 1000 && pause <= 15_000 ? 20 : pause, ...rest);
})();"""
"""Pauses of some seconds are short ones."""
SHORT_LIMITS = """(() => {
  const limit = AbortSignal.timeout.bind(AbortSignal);
  AbortSignal.timeout = (milliseconds) => limit(milliseconds / 20);
})();"""


@pytest.mark.parametrize(("connection", "source"), [("webrtc", "test"), ("websocket", "camera")])
def test_nothing_stays_open_after_stop(
    open_context: Callable[..., BrowserContext], server: LiveServer, connection: str, source: str
) -> None:
    context = open_context()
    context.add_init_script(COUNTS)
    playground = PlaygroundPage(context, server).open()
    playground.element("connection").select_option(connection)
    playground.choose_source(source)
    if source == "camera":
        playground.element("mirror").check()
    for _ in range(3):
        playground.start()
        playground.stop()
    nothing = {"peers": 0, "sockets": 0, "urls": 0, "ticks": 0, "tracks": 0}
    playground.until(lambda: playground.page.evaluate("() => window.leftOpen()") == nothing, what="the end of all")
    assert playground.complaints == []


def test_what_waits_for_the_end_of_a_session_does_not_pile_up(
    open_context: Callable[..., BrowserContext], server: LiveServer
) -> None:
    context = open_context()
    context.add_init_script(COUNTS)
    playground = PlaygroundPage(context, server).open()
    asked: list[str] = []
    playground.page.on("request", lambda request: asked.append(request.url) if "/status" in request.url else None)
    playground.choose_source("test")
    playground.start()
    before, seen = playground.page.evaluate("() => window.open_.waits"), len(asked)
    playground.until(lambda: len(asked) >= seen + 8, seconds=60, what="further questions for the status")
    assert playground.page.evaluate("() => window.open_.waits") <= before + 4
    playground.stop()


def test_a_status_that_does_not_come_is_told(open_context: Callable[..., BrowserContext], server: LiveServer) -> None:
    context = open_context()
    context.add_init_script(SHORT_LIMITS)
    playground = PlaygroundPage(context, server).open()
    held: list[Route] = []
    playground.choose_source("test")
    playground.start()
    playground.page.route("**/status", lambda route: held.append(route))
    playground.until(lambda: "did not answer" in playground.text("messages"), what="the words")
    playground.page.unroute_all(behavior="ignoreErrors")
    playground.until(lambda: playground.text("messages") == "", what="that it is well again")
    playground.stop()


def test_what_stays_wrong_is_told_once(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    failed: list[str] = []

    def fail(route: Route) -> None:
        failed.append(route.request.url)
        route.fulfill(status=500, body="no")

    playground.page.route("**/status", fail)
    message = playground.element("messages").locator(".message")
    message.wait_for()
    message.evaluate("(node) => { node.dataset.first = 'yes'; }")
    seen = len(failed)
    playground.until(lambda: len(failed) > seen + 1, what="further failures")
    assert message.get_attribute("data-first") == "yes"
    playground.page.unroute_all(behavior="wait")
    playground.complaints.clear()  # the browser's own notes of the failures


def test_events_are_asked_for_however_long_they_were_away(
    open_context: Callable[..., BrowserContext], server: LiveServer
) -> None:
    context = open_context()
    context.add_init_script(HASTE)
    playground = PlaygroundPage(context, server).open()
    refused: list[str] = []

    def refuse(route: Route) -> None:
        if len(refused) < 12:
            refused.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    playground.page.route("**/events", refuse)
    with playground.page.expect_response("**/events", timeout=60_000):
        playground.choose_source("test")
        playground.element("start").click()
    assert len(refused) == 12
    playground.stop()


def test_events_that_fall_silent_have_ended(playground: PlaygroundPage) -> None:
    ended = playground.page.evaluate(
        """async () => {
          const { Api } = await import("/assets/api.js");
          const later = setTimeout;
          window.setTimeout = (act, pause, ...rest) => later(act, pause === 30_000 ? 50 : pause, ...rest);
          const comment = { start: (stream) => stream.enqueue(new Uint8Array([58, 10])) };
          window.fetch = async () => new Response(new ReadableStream(comment));
          try {
            for await (const event of new Api().events("id", new AbortController().signal)) throw new Error(event);
          } catch (error) {
            return error.message;
          }
        }"""
    )
    assert ended == "The event stream ended."


def test_a_refused_style_image_leaves_the_whole_one_before_it(playground: PlaygroundPage, tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    Image.effect_noise((40, 40), 90).save(first)
    Image.effect_noise((40, 40), 90).save(second)
    playground.element("model").select_option("Lykon/dreamshaper-8")
    playground.open_sections()
    style = playground.page.locator('[data-name="ip_adapter_style_image_url"]')
    style.locator('input[type="file"]').set_input_files(first)
    playground.until(lambda: "ip_adapter_style_image_url" in playground.settings(), what="the image")
    whole = playground.settings()["ip_adapter_style_image_url"]
    playground.choose_source("test")
    playground.start()
    playground.page.get_by_role("slider", name="Low threshold").fill("40")
    playground.until(lambda: playground.text("applied").startswith("Before diffusion: in force"), what="an update")

    playground.refuse_updates()
    style.locator('input[type="file"]').set_input_files(second)
    playground.until(lambda: "Refused" in playground.text("messages"), what="the refusal")
    assert playground.settings()["ip_adapter_style_image_url"] == whole
    playground.complaints.clear()  # the browser's own note of the refusal


def test_a_refused_target_leaves_the_keys_of_the_others(playground: PlaygroundPage) -> None:
    playground.open_sections()
    add = playground.page.get_by_role("button", name="Push to an RTMP server")
    kept = f"rtmp://{'x' * 64}.example.org/app/key"  # a name that cannot be looked up: its first part is too long
    targets = playground.page.locator(".targets input")
    add.click()
    targets.nth(0).fill(kept)
    playground.choose_source("test")
    playground.start()
    add.click()
    targets.nth(1).fill("http://nonsense")
    targets.nth(1).press("Tab")
    playground.until(lambda: "Not changed." in playground.text("messages"), what="the refusal")
    assert [target.input_value() for target in targets.all()] == [kept]
    playground.stop()
    playground.complaints.clear()  # the browser's own note of the refusal


RECORDINGS = """async () => {
  const { OutputPanel } = await import("/assets/outputs.js");
  let answer = async () => ({ data: [{ name: "a.mp4", bytes: 1, finished: true }] });
  const panel = new OutputPanel({ api: { recordings: () => answer() }, changed: () => {}, failed: () => {} });
  panel.follow({ id: "str_1" });
  await panel.showRecordings();
  answer = async () => { throw new Error("no"); };
  await panel.showRecordings();
  return panel.hasRecordings;
}"""


def test_a_list_of_recordings_that_is_not_answered_does_not_empty_the_one_that_is_shown(
    playground: PlaygroundPage,
) -> None:
    kept: Any = playground.page.evaluate(RECORDINGS)
    assert kept is True
