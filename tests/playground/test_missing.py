"""What a stream asks for and cannot have is said where the person looks: below the picture, and at the control."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from tests.playground.browser import PlaygroundPage
from tests.playground.test_conditioning import OPEN, net_row, steer
from tests.support.server import LiveServer
from tests.support.transparent import write_transparent_model

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MODEL = "stabilityai/sd-turbo"
CANNY = "thibaud/controlnet-sd21-canny-diffusers"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("missing")
    write_transparent_model(folder / "model")
    live = LiveServer(folder, models=json.dumps({MODEL: str(folder / "model")}), offline="true")
    live.start()
    yield live
    live.stop()


@pytest.mark.parametrize(
    ("name", "size"), [("desktop", {"width": 1280, "height": 800}), ("phone", {"width": 390, "height": 844})]
)
def test_a_missing_controlnet_is_told_beside_the_picture_and_at_its_control(
    open_context: Callable[..., BrowserContext], server: LiveServer, artifacts: Path, name: str, size: dict[str, int]
) -> None:
    playground = PlaygroundPage(open_context(viewport=size), server).open()
    steer(playground, MODEL)
    playground.choose_source("test")
    playground.start()
    # What is missing while the model itself is still loaded is the whole stream's, and not its ControlNet's.
    working = ("Online", "Poor input", "Poor output")
    playground.until(lambda: playground.text("state-badge") in working, seconds=60, what="pictures")
    playground.page.get_by_label("Add a ControlNet").select_option(CANNY)
    here = net_row(playground, CANNY).locator(".missing-here")
    playground.until(lambda: here.is_visible(), what="the reason at the ControlNet")
    assert "is not on this machine" in (here.text_content() or "")
    note = playground.element("missing")
    assert note.is_visible()
    assert CANNY in (note.text_content() or "")
    playground.page.evaluate(OPEN, ["Prompt", "Guidance by picture"])
    playground.page.locator('[data-name="prompt"] textarea').fill("a harbour at night")
    playground.until(lambda: "in force" in playground.text("applied"), what="the prompt in force")
    assert here.is_visible()
    playground.page.screenshot(path=artifacts / f"playground-missing-{name}.png")
    wide = playground.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    net_row(playground, CANNY).get_by_role("button", name="Remove").click()
    playground.until(lambda: note.is_hidden(), what="the words to go")
    assert playground.page.locator(".missing-here").count() == 0
    playground.stop()
    assert (wide, playground.complaints) == (0, [])


@pytest.mark.parametrize("width", [1280, 360])
def test_what_the_model_does_not_read_of_a_prompt_is_told_at_the_prompt_while_it_is_so(
    open_context: Callable[..., BrowserContext], server: LiveServer, artifacts: Path, width: int
) -> None:
    playground = PlaygroundPage(open_context(viewport={"width": width, "height": 800}), server).open()
    steer(playground, MODEL)
    playground.choose_source("test")
    playground.start()
    playground.page.evaluate(OPEN, ["Prompt"])
    prompt = playground.page.locator('[data-name="prompt"] textarea')
    words = playground.page.locator('[data-name="prompt"] > .remark-here')
    prompt.fill("the cat " * 60 + "and a dog")
    playground.until(lambda: words.is_visible(), seconds=60, what="the words at the prompt")
    assert "the model reads 75; not used: " in (words.text_content() or "")
    words.scroll_into_view_if_needed()
    playground.page.screenshot(path=artifacts / f"playground-long-prompt-{width}.png")
    wide = playground.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    prompt.fill("the cat")
    playground.until(lambda: words.count() == 0, what="the words to go")
    playground.stop()
    assert (wide, playground.complaints) == (0, [])


def test_why_diffusion_cannot_be_switched_on_is_told_at_its_switch(
    open_context: Callable[..., BrowserContext], server: LiveServer
) -> None:
    playground = PlaygroundPage(open_context(), server).open()
    playground.element("model").select_option("stabilityai/sdxl-turbo")
    playground.choose_source("test")
    playground.start()
    playground.element("diffusion").check()
    playground.until(lambda: playground.text("applied").startswith("Diffusion: "), what="what was sent")
    words = playground.page.locator(".diffusion-box .missing-here")
    playground.until(lambda: words.is_visible(), what="the reason at the switch")
    playground.element("diffusion").uncheck()
    playground.until(lambda: words.count() == 0, what="the words to go")
    playground.stop()
    assert playground.complaints == []


def test_why_a_stream_runs_nothing_is_told_beside_the_picture(
    open_context: Callable[..., BrowserContext], server: LiveServer
) -> None:
    playground = PlaygroundPage(open_context(), server).open()
    steer(playground, "stabilityai/sdxl-turbo")
    playground.choose_source("test")
    playground.element("start").click()
    note = playground.element("missing")
    playground.until(lambda: note.is_visible(), seconds=60, what="the reason")
    assert "is not on this machine" in (note.text_content() or "")
    playground.stop()
    assert note.is_hidden()
