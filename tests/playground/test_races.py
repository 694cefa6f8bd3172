"""Persons who are faster than browser or server: what they want last happens, and nothing stays open behind it."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Route

from tests.playground.browser import REFUSAL, PlaygroundPage
from tests.support.server import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HELD_CAMERA = """(() => {
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  const asked = [];
  window.tracks = [];
  window.answer = () => asked.splice(0).forEach((resolve) => resolve());
  navigator.mediaDevices.getUserMedia = async (constraints) => {
    await new Promise((resolve) => asked.push(resolve));
    const stream = await open(constraints);
    window.tracks.push(...stream.getTracks());
    return stream;
  };
  window.asks = () => asked.length;
})();"""
"""The browser asks for the camera until `answer()` is called, as a person may let it."""
STATES = "() => window.tracks.map((track) => track.readyState)"


@pytest.fixture
def asking(playground: PlaygroundPage) -> PlaygroundPage:
    """The page in a browser that asks for the camera until it is answered."""
    playground.page.evaluate(HELD_CAMERA)
    return playground


def is_asked(playground: PlaygroundPage) -> bool:
    return playground.page.evaluate("() => window.asks()") > 0


def answer(playground: PlaygroundPage) -> None:
    """The camera is allowed, and open."""
    playground.page.evaluate("() => window.answer()")
    playground.until(lambda: playground.page.evaluate(STATES), what="the camera to open")


def holds_creation(playground: PlaygroundPage) -> list[Route]:
    """Requests that create a stream wait in this list."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method == "POST":
            held.append(route)
        else:
            route.fallback()

    playground.page.route("**/v1/streams", hold)
    return held


def sent_label(playground: PlaygroundPage) -> str:
    return playground.text("input-facts").split(" \u00b7 ")[0]


def test_a_stream_that_is_stopped_while_it_is_created_is_deleted(playground: PlaygroundPage) -> None:
    held = holds_creation(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: held, what="the request")
    playground.stop()
    with playground.page.expect_response(lambda answer: answer.request.method == "DELETE"):
        held[0].continue_()
    assert playground.streams() == []


def test_of_two_sources_the_later_choice_is_sent(asking: PlaygroundPage) -> None:
    asking.choose_source("test")
    asking.start()
    asking.choose_source("camera")
    asking.until(lambda: is_asked(asking), what="the question")
    asking.choose_source("test")
    asking.page.wait_for_function("() => document.querySelector('[name=source]:checked').value === 'test'")
    answer(asking)
    asking.until(lambda: asking.page.evaluate(STATES) == ["ended"], what="the camera to be let go")
    asking.until(lambda: sent_label(asking) == "Test picture", what="the test picture")


def test_a_camera_that_is_allowed_after_stop_is_let_go(asking: PlaygroundPage) -> None:
    asking.choose_source("test")
    asking.start()
    asking.choose_source("camera")
    asking.until(lambda: is_asked(asking), what="the question")
    asking.stop()
    answer(asking)
    asking.until(lambda: asking.page.evaluate(STATES) == ["ended"], what="the camera to be let go")
    assert "has-picture" not in (asking.element("view-input").get_attribute("class") or "")
    assert asking.text("messages") == ""


def test_start_works_again_while_the_browser_still_asks_for_the_camera(asking: PlaygroundPage) -> None:
    asking.choose_source("camera")
    asking.element("start").click()
    asking.until(lambda: is_asked(asking), what="the question")
    asking.stop()
    asking.choose_source("test")
    asking.start()
    answer(asking)
    asking.until(lambda: asking.page.evaluate(STATES) == ["ended"], what="the camera to be let go")
    asking.until(lambda: sent_label(asking) == "Test picture", what="the test picture")
    assert len(asking.streams()) == 1


def test_another_source_is_taken_while_the_browser_asks_for_the_first(asking: PlaygroundPage) -> None:
    asking.choose_source("camera")
    asking.element("start").click()
    asking.until(lambda: is_asked(asking), what="the question")
    asking.choose_source("test")
    asking.wait_for_output()
    assert len(asking.streams()) == 1


def test_another_source_is_taken_while_the_stream_is_created(playground: PlaygroundPage) -> None:
    held = holds_creation(playground)
    playground.choose_source("camera")
    playground.element("start").click()
    playground.until(lambda: held, what="the request")
    playground.choose_source("test")
    playground.element("mirror-option").wait_for(state="hidden")
    playground.until(
        lambda: (
            "fake"
            not in playground.page.evaluate("() => document.getElementById('input').srcObject.getTracks()[0].label")
        ),
        what="the test picture to be shown",
    )
    held[0].continue_()
    playground.wait_for_output()
    playground.until(lambda: sent_label(playground) == "Test picture", what="the test picture")
    sent = playground.page.evaluate("() => document.getElementById('input').srcObject.getTracks()[0].readyState")
    assert sent == "live"


def test_a_double_click_on_start_starts(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.element("start").dblclick()
    playground.wait_for_output()
    playground.element("stop").dblclick()
    playground.until(lambda: playground.streams() == [], what="the end")
    playground.until(lambda: playground.element("start").is_visible(), what="the end, told")


def test_a_source_that_cannot_be_had_leaves_the_choice_at_the_one_that_is_sent(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    playground.page.evaluate(
        """() => {
          navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("no", "NotAllowedError"); };
        }"""
    )
    playground.page.locator('input[name="source"][value="camera"]').click(force=True)
    playground.until(lambda: "The camera was not allowed" in playground.text("messages"), what="the words")
    assert playground.page.evaluate("() => document.querySelector('[name=source]:checked').value") == "test"


def test_a_camera_that_is_unplugged_is_told(playground: PlaygroundPage) -> None:
    playground.choose_source("camera")
    playground.start()
    playground.page.evaluate(
        "() => document.getElementById('input').srcObject.getTracks()[0].dispatchEvent(new Event('ended'))"
    )
    playground.element("start").wait_for()
    assert "The camera gives no more pictures" in playground.text("messages")
    assert playground.streams() == []


def test_the_snapshot_waits_for_a_stream(asking: PlaygroundPage) -> None:
    asking.choose_source("camera")
    asking.element("start").click()
    asking.until(lambda: is_asked(asking), what="the question")
    assert asking.element("snapshot").is_disabled()
    answer(asking)
    asking.wait_for_output()
    assert asking.element("snapshot").is_enabled()


def test_the_camera_goes_out_though_the_server_does_not_answer(playground: PlaygroundPage) -> None:
    playground.choose_source("camera")
    playground.start()
    playground.page.evaluate("() => { window.sent = document.getElementById('input').srcObject.getTracks()[0]; }")
    held: list[Route] = []
    playground.page.route("**/v1/streams/*", lambda route: held.append(route))
    playground.element("stop").click()
    playground.until(lambda: held, what="the request")
    assert playground.page.evaluate("() => window.sent.readyState") == "ended"
    held[0].continue_()
    playground.element("start").wait_for()


def test_a_refusal_does_not_take_back_what_was_changed_since(playground: PlaygroundPage) -> None:
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if route.request.method == "PATCH" and not held:
            held.append(route)
        else:
            route.fallback()

    playground.page.route("**/v1/streams/*", hold_first)
    playground.choose_source("test")
    playground.start()
    low = playground.page.get_by_role("slider", name="Low threshold")
    low.fill("40")
    playground.until(lambda: held, what="the first update")
    low.fill("50")
    held[0].fulfill(status=429, json=REFUSAL)
    playground.until(
        lambda: (
            playground.stream()["params"]["image_preprocessing"]["processors"][0]["params"].get("low_threshold") == 50
        ),
        what="the second update",
    )
    assert low.input_value() == "50"
    playground.complaints.clear()  # the browser's own note of the refusal


def test_a_refused_model_takes_its_controls_back(
    open_context: Callable[..., BrowserContext], server: LiveServer
) -> None:
    playground = PlaygroundPage(open_context(), server).open()
    playground.refuse_updates()
    playground.choose_source("test")
    playground.start()
    playground.element("model").select_option("Lykon/dreamshaper-8")
    playground.until(lambda: "Refused for this test" in playground.text("messages"), what="the refusal")
    assert playground.element("model").input_value() == "stabilityai/sd-turbo"
    assert playground.page.locator('.control[data-name="ip_adapter"]').count() == 0
    playground.stop()


def test_a_refusal_leaves_the_keyboard_and_opened_sections_where_they_are(playground: PlaygroundPage) -> None:
    playground.refuse_updates()
    playground.choose_source("test")
    playground.start()
    idle = playground.page.locator("details.section", has=playground.page.locator("h2", has_text="Latent processors"))
    idle.locator("summary").first.click()
    low = playground.page.get_by_role("slider", name="Low threshold")
    low.press("ArrowRight")
    playground.until(lambda: "Refused for this test" in playground.text("messages"), what="the refusal")
    assert low.input_value() == "100"
    assert low.evaluate("(slider) => slider === document.activeElement")
    assert idle.get_attribute("open") is not None
    playground.complaints.clear()  # the browser's own note of the refusal


def test_the_facts_of_a_picture_go_with_it(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    playground.page.evaluate(
        """() => {
          const ask = RTCPeerConnection.prototype.getStats;
          window.asked = 0;
          window.answered = 0;
          RTCPeerConnection.prototype.getStats = async function () {
            const report = await ask.call(this);
            window.asked += 1;
            await new Promise((resolve) => (window.answer = resolve));
            window.answered += 1;
            return report;
          };
        }"""
    )
    playground.until(lambda: playground.page.evaluate("() => window.asked") > 0, what="a question for facts")
    playground.stop()
    playground.page.evaluate(
        "async () => { window.answer(); await new Promise((resolve) => setTimeout(resolve, 50)); }"
    )
    assert playground.text("input-facts") == ""


def test_a_page_that_goes_while_its_stream_is_created_leaves_none(playground: PlaygroundPage) -> None:
    held = holds_creation(playground)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: held, what="the request")
    # The browser keeps the page as it is, for a person who goes back.
    playground.page.evaluate("() => dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    with playground.page.expect_response(lambda answer: answer.request.method == "DELETE"):
        held[0].continue_()
    assert playground.streams() == []
    assert playground.element("start").is_visible()
