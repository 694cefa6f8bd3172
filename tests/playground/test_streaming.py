"""The whole page, clicked through against a real server with a real browser and a camera that Chromium makes up."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Response, Route

from tests.playground.browser import PlaygroundPage, difference
from tests.support.server import LiveServer
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_camera_comes_back_processed(playground: PlaygroundPage, artifacts: Path) -> None:
    playground.choose_source("camera")
    playground.start()
    begun = playground.output_time()
    playground.until(lambda: playground.output_time() > begun + 0.5, what="the output to go on playing")
    assert playground.page.evaluate("() => document.getElementById('input').videoWidth") > 0
    playground.until(lambda: "512 \u00d7 512" in playground.text("output-facts"), what="the output's size")
    playground.until(
        lambda: float(playground.page.locator(".reading-input b").text_content() or "nan") > 5, what="the input rate"
    )
    playground.page.screenshot(path=artifacts / "playground.png")
    assert playground.stream()["from_playground"] is True
    playground.stop()
    assert playground.streams() == []


def test_changed_processor_changes_pixels(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    # Canny's outlines are bright lines on black; a passed picture has the colours of the input.
    playground.until(lambda: difference(playground.picture("input"), playground.picture()) > 60, what="outlines")
    playground.page.get_by_role("switch", name="Canny").uncheck()
    playground.until(
        lambda: difference(playground.picture("input"), playground.picture()) < 30, what="the plain picture"
    )
    assert playground.stream()["params"]["image_preprocessing"]["processors"][0]["enabled"] is False


def test_slider_patches_the_stream_and_says_when_it_is_in_force(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    playground.page.get_by_role("slider", name="Low threshold").fill("40")
    playground.until(lambda: "in force" in playground.text("applied"), what="the words that it is in force")
    processor = playground.stream()["params"]["image_preprocessing"]["processors"][0]
    assert processor["params"]["low_threshold"] == 40


def test_dragging_sends_the_last_value_and_few_requests(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    patches: list[str] = []
    playground.page.route("**/v1/streams/*", lambda route: (patches.append(route.request.method), route.continue_())[1])
    playground.page.evaluate(
        """() => {
          const slider = document.querySelector('[data-parameter="low_threshold"] input[type="range"]');
          for (let value = 20; value <= 120; value += 1) {
            slider.value = value;
            slider.dispatchEvent(new Event("input"));
          }
        }"""
    )

    def low() -> int:
        return playground.stream()["params"]["image_preprocessing"]["processors"][0]["params"]["low_threshold"]

    playground.until(lambda: low() == 120, what="the last value")
    assert 1 <= patches.count("PATCH") <= 3


def test_processors_are_added_moved_and_removed(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    before = playground.page.get_by_role("group", name="Before diffusion")

    def order() -> list[str]:
        return [each["type"] for each in playground.stream()["params"]["image_preprocessing"]["processors"]]

    before.get_by_label("Add a processor").select_option("blur")
    playground.until(lambda: order() == ["canny", "blur"], what="blur at the end")
    before.get_by_role("button", name="Move up Blur").press("Enter")
    playground.until(lambda: order() == ["blur", "canny"], what="blur at the front")
    before.get_by_role("button", name="Remove Canny").press("Enter")
    playground.until(lambda: order() == ["blur"], what="canny gone")


def test_snapshot_is_a_picture_of_the_stream_size(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    with playground.page.expect_download() as download:
        playground.element("snapshot").click()
    assert download.value.suggested_filename.startswith("sdstream-")
    with Image.open(io.BytesIO(Path(download.value.path()).read_bytes())) as picture:
        assert (picture.format, picture.size) == ("JPEG", (512, 512))


def test_refused_change_is_told_and_taken_back(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    size = playground.page.locator("details", has_text="Width")
    size.locator("summary").click()
    after = playground.page.get_by_role("group", name="After diffusion")
    # The page does not offer what it knows to be refused.
    after.locator('option[value="upscale"]').evaluate("(option) => { option.disabled = false; }")
    after.get_by_label("Add a processor").select_option("upscale")
    playground.until(lambda: "Not changed." in playground.text("messages"), what="the message")
    assert "409" in playground.text("messages")
    assert after.locator("li").count() == 0
    assert size.get_attribute("open") is not None, "the panel was drawn anew"
    assert playground.stream()["params"]["image_postprocessing"] in (None, {"enabled": True, "processors": []})
    # The browser itself notes each answer of 400 and above in the console; here it is the point of the test.
    playground.complaints.clear()


def test_that_the_server_did_not_answer_is_told_until_it_answers_again(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    playground.page.route(
        "**/v1/streams/*", lambda route: route.abort() if route.request.method == "PATCH" else route.fallback()
    )
    playground.page.get_by_role("slider", name="Low threshold").fill("40")
    playground.until(lambda: "did not answer" in playground.text("messages"), what="the message")
    playground.until(lambda: playground.text("messages") == "", what="that it is gone")
    playground.page.unroute_all(behavior="wait")
    playground.complaints.clear()  # the browser's own note of the failed request


def test_a_refusal_is_seen_on_a_phone_wherever_the_page_stands(
    open_context: Callable[..., BrowserContext], server: LiveServer, artifacts: Path
) -> None:
    playground = PlaygroundPage(open_context(viewport={"width": 390, "height": 844}), server).open()
    playground.choose_source("test")
    playground.start()
    seed = playground.page.locator('[data-name="seed"] input')
    playground.page.locator("details", has=seed).locator("summary").first.click()
    seed.scroll_into_view_if_needed()
    seed.fill("1.5")
    seed.press("Tab")
    playground.until(lambda: "Seed: must be an integer" in playground.text("messages"), what="the message")
    assert playground.page.evaluate("() => scrollY") > 0, "the message is not where the page begins"
    playground.page.screenshot(path=artifacts / "playground-refusal-phone.png")
    on_top = playground.page.evaluate(
        "() => { const box = document.querySelector('.message').getBoundingClientRect();"
        " const seen = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);"
        " return Boolean(seen?.closest('.message')); }"
    )
    playground.stop()
    assert on_top
    playground.complaints.clear()  # the browser's own note of the refusal


def test_a_long_word_in_the_prompt_stays_in_its_field(playground: PlaygroundPage) -> None:
    area = playground.page.locator('[data-name="prompt"] textarea')
    playground.open_sections()
    area.fill("x" * 400)
    assert area.evaluate("(area) => area.offsetWidth <= document.getElementById('panel').clientWidth")


def test_fixed_parameters_cannot_be_moved_while_live(playground: PlaygroundPage) -> None:
    width = playground.page.locator('[data-name="width"] input[type="range"]')
    assert width.is_enabled()
    playground.choose_source("test")
    playground.start()
    assert width.is_disabled()
    playground.stop()
    assert width.is_enabled()


def test_what_changes_the_size_is_not_offered_while_live(playground: PlaygroundPage) -> None:
    block = playground.page.get_by_role("group", name="After diffusion")
    adder = block.get_by_label("Add a processor after diffusion")
    upscale = adder.locator('option[value="upscale"]')
    before = playground.page.get_by_label("Add a processor before diffusion").locator('option[value="upscale"]')
    adder.select_option("upscale")
    row = block.locator('[data-type="upscale"]')
    playground.choose_source("test")
    playground.start()
    assert (upscale.is_disabled(), before.is_disabled()) == (True, False)
    assert "fixed while live" in (upscale.text_content() or "")
    assert row.get_by_text("fixed while live").is_visible()
    assert row.get_by_role("switch").is_disabled()
    assert row.get_by_role("button", name="Remove").is_disabled()
    playground.stop()
    assert upscale.is_enabled()
    row.get_by_role("button", name="Remove").click()
    assert row.count() == 0


@pytest.mark.parametrize("width", [1280, 1100, 360])
def test_growing_figures_move_nothing(playground: PlaygroundPage, width: int) -> None:
    playground.page.set_viewport_size({"width": width, "height": 800})
    tops: list[float] = []
    for figures in ("\u2013", "9.9", "58.7", "1234"):
        playground.page.evaluate(
            """(text) => {
              for (const each of document.querySelectorAll('.reading b')) each.textContent = text;
              for (const each of document.querySelectorAll('.hop-figures')) each.textContent = `${text} / ${text}`;
            }""",
            figures,
        )
        place = playground.element("activity-drawer").bounding_box()
        assert place is not None
        tops.append(place["y"])
    assert len(set(tops)) == 1


def test_video_file_is_sent_in_a_loop(playground: PlaygroundPage, tmp_path: Path) -> None:
    clip = tmp_path / "clip.webm"
    write_clip(clip)
    playground.choose_source("file")
    playground.element("file").set_input_files(clip)
    playground.start()
    begun = playground.output_time()
    playground.until(lambda: playground.output_time() > begun + 2, what="more pictures than the clip of a second has")
    assert "clip.webm" in playground.text("input-facts")


def test_screen_is_sent(playground: PlaygroundPage) -> None:
    playground.choose_source("screen")
    playground.start()
    settings = playground.page.evaluate(
        "() => document.getElementById('input').srcObject.getVideoTracks()[0].getSettings()"
    )
    assert settings["displaySurface"] in ("monitor", "window", "browser")


def test_source_is_changed_without_a_new_stream(playground: PlaygroundPage) -> None:
    playground.choose_source("camera")
    playground.start()
    stream = playground.stream()["id"]
    playground.choose_source("test")
    playground.until(lambda: "Test picture" in playground.text("input-facts"), what="the test picture")
    playground.element("mirror-option").wait_for(state="hidden")
    assert playground.stream()["id"] == stream


def test_mirrored_camera_is_sent_mirrored(playground: PlaygroundPage) -> None:
    playground.choose_source("camera")
    playground.element("mirror").check()
    playground.start()
    playground.until(lambda: "mirrored" in playground.text("input-facts"), what="the mirrored camera")


def test_closing_the_page_ends_the_stream(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    assert len(playground.streams()) == 1
    other = playground.page.context.new_page()  # keeps the browser open, which sends the last requests
    playground.page.close()

    def gone() -> bool:
        other.wait_for_timeout(20)
        return playground.streams() == []

    eventually_sync(gone, what="the stream to go")


def test_stream_deleted_elsewhere_is_told(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    httpx.delete(f"{playground.server.url}/v1/streams/{playground.stream()['id']}", headers=playground.headers)
    playground.element("start").wait_for()
    assert "The stream ended" in playground.text("messages")
    playground.complaints.clear()  # a status that was under way may have met the 404


def test_lost_session_is_made_again(playground: PlaygroundPage) -> None:
    sessions: list[str] = []

    def note_session(response: Response) -> None:
        if response.url.endswith("/whip") and response.status == 201:
            sessions.append(response.headers["location"])

    playground.page.on("response", note_session)
    playground.element("connection").select_option("webrtc")  # however long it takes
    playground.choose_source("test")
    playground.start()
    stream = playground.stream()["id"]
    httpx.delete(sessions[0]).raise_for_status()
    playground.until(lambda: len(sessions) > 1, what="a second offer")
    playground.until(lambda: playground.text("state-badge") not in ("Offline", "Poor input"), what="pictures again")
    begun = playground.output_time()
    playground.until(lambda: playground.output_time() > begun + 0.5, what="the output to go on")
    assert playground.stream()["id"] == stream
    playground.complaints.clear()  # the browser's own note of a session that was not there to be ended


def test_streaming_phone_shows_every_figure_whole(
    open_context: Callable[..., BrowserContext], server: LiveServer, artifacts: Path
) -> None:
    context = open_context(viewport={"width": 360, "height": 780}, has_touch=True, is_mobile=True)
    playground = PlaygroundPage(context, server).open()
    playground.choose_source("test")
    playground.start()
    playground.until(lambda: "\u2013" not in playground.text("plots"), what="a value in every plot")
    playground.page.screenshot(path=artifacts / "playground-phone.png")
    cut = playground.page.evaluate(
        "() => [...document.querySelectorAll('.plot-head, .bar, .transport, figcaption')]"
        ".filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.className)"
    )
    wide = playground.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    playground.stop()
    assert cut == []
    assert wide <= 0
    assert playground.complaints == []


def test_player_tries_again_while_there_is_nothing_to_see(playground: PlaygroundPage) -> None:
    refusals: list[str] = []

    def refuse_twice(route: Route) -> None:
        if len(refusals) < 2:
            refusals.append(route.request.url)
            route.fulfill(status=404, body='{"error": "nobody publishes"}')
        else:
            route.continue_()

    playground.page.route("**/playback/*/whep", refuse_twice)
    playground.element("connection").select_option("webrtc")  # however long it takes
    playground.choose_source("test")
    playground.start()
    assert len(refusals) == 2
    assert playground.text("messages") == ""
    playground.complaints.clear()


def test_page_lives_without_the_event_stream(playground: PlaygroundPage) -> None:
    playground.page.route("**/events", lambda route: route.abort())
    playground.choose_source("test")
    playground.start()
    playground.page.get_by_role("slider", name="High threshold").fill("150")
    playground.until(lambda: "in force" in playground.text("applied"), what="the update in force, by polling")
    playground.complaints.clear()


def write_clip(path: Path, pictures: int = 30, side: int = 320) -> None:
    """A second of VP8 with a bright square that moves."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libvpx", rate=30)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for number in range(pictures):
            picture = np.full((side, side, 3), 60, np.uint8)
            picture[100:180, number * 6 : number * 6 + 80] = (240, 200, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
