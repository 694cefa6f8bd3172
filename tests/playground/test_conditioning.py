"""What steers the picture besides the prompt, clicked through: ControlNets, live pictures, style image; and outputs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Locator

from tests.playground.browser import PlaygroundPage
from tests.support.server import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOWHERE = f"{'x' * 64}.example.org"
"""A name that cannot be looked up: its first part is too long."""
SD15 = "Lykon/dreamshaper-8"
CANNY, DEPTH, TILE = (
    "lllyasviel/control_v11p_sd15_canny",
    "lllyasviel/control_v11f1p_sd15_depth",
    "lllyasviel/control_v11f1e_sd15_tile",
)
OPEN = """(titles) => document.querySelectorAll("details.section").forEach(
  (each) => (each.open = titles.includes(each.querySelector("h2").textContent)))"""
PIXELS = """(image) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 32;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, 32, 32);
  return Array.from(context.getImageData(0, 0, 32, 32).data).filter((_, index) => index % 4 < 3);
}"""


def steer(playground: PlaygroundPage, model: str = SD15) -> None:
    """Diffusion on, with the section of this file open alone."""
    playground.element("model").select_option(model)
    playground.element("diffusion").check()
    playground.page.evaluate(OPEN, ["Guidance by picture", "Processors", "Outputs"])


def nets(playground: PlaygroundPage) -> list[dict[str, Any]]:
    return playground.settings()["controlnets"]


def net_row(playground: PlaygroundPage, name: str) -> Locator:
    return playground.page.locator(f'[data-net="{name}"]')


def shows_a_picture(picture: Locator) -> bool:
    return picture.is_visible() and picture.evaluate("(image) => image.complete && image.naturalWidth > 0")


def test_controlnets_of_the_family_alone_are_offered_with_what_they_usually_use(playground: PlaygroundPage) -> None:
    steer(playground)
    adder = playground.page.get_by_label("Add a ControlNet")
    answer = httpx.get(f"{playground.server.url}/v1/models", headers=playground.headers).json()
    own = {net["id"] for net in answer["controlnets"] if net["family"] == "sd15"}
    offered = adder.evaluate("(select) => [...select.options].map((each) => each.value).filter(Boolean)")
    assert set(offered) == own
    adder.select_option(CANNY)
    adder.select_option(DEPTH)
    assert [(net["model_id"], net["preprocessor"]) for net in nets(playground)] == [
        (CANNY, "canny"),
        (DEPTH, "depth_tensorrt"),
    ]
    row = net_row(playground, CANNY)
    row.locator("summary").click()
    row.get_by_role("slider", name="Low threshold").fill("44")
    row.get_by_role("slider", name="Starts after").fill("0.5")
    row.get_by_role("slider", name="Ends after").fill("0.25")  # the start gives way, as no window ends before it starts
    canny = nets(playground)[0]
    assert canny["preprocessor_params"] == {"low_threshold": 44}
    assert (canny["control_guidance_start"], canny["control_guidance_end"]) == (0.25, 0.25)
    net_row(playground, DEPTH).get_by_role("button", name="Remove Depth").press("Enter")
    assert [net["model_id"] for net in nets(playground)] == [CANNY]
    # Another family has a net of the same kind; one of no kind of its own goes.
    adder.select_option(TILE)
    playground.element("model").select_option("stabilityai/sd-turbo")
    assert [net["model_id"] for net in nets(playground)] == ["thibaud/controlnet-sd21-canny-diffusers"]


def test_faces_are_offered_where_the_family_has_them(playground: PlaygroundPage) -> None:
    steer(playground)
    group = playground.page.get_by_role("group", name="IP-Adapter")
    kinds = "(select) => [...select.options].map((each) => each.textContent)"
    assert group.get_by_label("Type", exact=True).evaluate(kinds) == ["regular"]
    steer(playground, "stabilityai/sdxl-turbo")
    assert group.get_by_label("Type", exact=True).evaluate(kinds) == ["regular", "faceid"]


def test_a_style_image_is_shown_sent_and_taken_away(playground: PlaygroundPage, tmp_path: Path) -> None:
    steer(playground)
    picture = tmp_path / "style.png"
    Image.new("RGB", (40, 40), "teal").save(picture)
    style = playground.page.locator('[data-name="ip_adapter_style_image_url"]')
    style.locator('input[type="file"]').set_input_files(picture)
    playground.until(lambda: shows_a_picture(style.locator("img")), what="the style image")
    assert playground.settings()["ip_adapter_style_image_url"].startswith("data:image/png;base64,")
    style.get_by_role("button", name="Remove the style image").click()
    assert playground.settings()["ip_adapter_style_image_url"] == ""
    assert style.locator("img").is_hidden()
    style.get_by_role("textbox").fill("https://pictures.example/style.jpg")
    style.get_by_role("textbox").press("Tab")
    assert playground.settings()["ip_adapter_style_image_url"] == "https://pictures.example/style.jpg"
    assert "server fetches it" in (style.text_content() or "")
    # And nothing of it was asked for by the page itself: the fixture looks at every address.


def test_a_style_image_that_is_no_picture_is_told_until_there_is_another(
    playground: PlaygroundPage, tmp_path: Path
) -> None:
    playground.element("model").select_option(SD15)
    playground.choose_source("test")
    playground.start()
    whole, spoilt = tmp_path / "whole.png", tmp_path / "spoilt.png"
    Image.new("RGB", (40, 40), "teal").save(whole)
    content = whole.read_bytes()
    data = content.index(b"IDAT") + 4
    spoilt.write_bytes(content[:data] + bytes(8) + content[data + 8 :])  # whole by its frame
    chosen = playground.page.locator('[data-name="ip_adapter_style_image_url"] input[type="file"]')
    chosen.set_input_files(spoilt)
    told = playground.page.locator('.message[data-topic="params"]')
    playground.until(lambda: told.is_visible(), what="what is wrong with the picture")
    assert "is not a picture that can be read" in (told.text_content() or "")
    chosen.set_input_files(whole)
    playground.until(lambda: told.count() == 0, what="the words to go")


def test_a_style_image_that_is_cut_off_is_refused_in_words(playground: PlaygroundPage, tmp_path: Path) -> None:
    playground.element("model").select_option(SD15)
    playground.choose_source("test")
    playground.start()
    cut = tmp_path / "cut.png"
    Image.new("RGB", (40, 40), "teal").save(cut)
    cut.write_bytes(cut.read_bytes()[:40])
    playground.page.locator('[data-name="ip_adapter_style_image_url"] input[type="file"]').set_input_files(cut)
    told = playground.page.locator(".message")
    playground.until(lambda: "cut off" in " ".join(told.all_text_contents()), what="why the picture is refused")
    assert playground.stream()["params"]["ip_adapter_style_image_url"] is None
    playground.complaints.clear()  # the browser's own note of the refusal


def test_a_processor_shows_what_it_makes_while_the_stream_runs(playground: PlaygroundPage) -> None:
    playground.choose_source("test")
    playground.start()
    before = playground.page.get_by_role("group", name="Before diffusion")
    tap = before.locator('[data-type="canny"] .tap img')
    playground.until(lambda: shows_a_picture(tap), what="canny's picture")
    pixels = tap.evaluate(PIXELS)
    assert sum(value < 60 for value in pixels) > len(pixels) / 2, "white lines on black"
    button = before.get_by_role("button", name="Live picture of Canny")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    first = tap.get_attribute("src")
    playground.until(lambda: tap.get_attribute("src") != first, what="another picture")
    before.get_by_label("Add a processor").select_option("hed")
    left_out = before.locator('[data-type="hed"] .tap-state')
    playground.until(lambda: "Left out: hed needs" in (left_out.text_content() or ""), what="why hed is left out")
    playground.stop()
    playground.until(lambda: tap.is_hidden(), what="no picture without a stream")


def test_a_controlnet_steers_a_stream_and_shows_its_control_picture(
    open_context: Callable[..., BrowserContext], conditioned: LiveServer, artifacts: Path
) -> None:
    playground = PlaygroundPage(open_context(color_scheme="dark"), conditioned).open()
    steer(playground)
    for side in ("width", "height"):
        playground.page.locator(f'[data-name="{side}"] input[type="range"]').evaluate(
            "(slider) => { slider.value = 384; slider.dispatchEvent(new Event('input')); }"
        )
    playground.choose_source("test")
    adder = playground.page.get_by_label("Add a ControlNet")
    adder.select_option(CANNY)
    playground.start()
    tap = net_row(playground, CANNY).locator(".tap img")
    playground.until(lambda: shows_a_picture(tap), seconds=60, what="the control picture")
    net_row(playground, CANNY).get_by_role("slider", name="Scale").fill("0.9")
    playground.until(
        lambda: "applied live" in playground.text("applied") or "in force" in playground.text("applied"),
        what="the scale applied",
    )
    assert playground.stream()["params"]["controlnets"][0]["conditioning_scale"] == 0.9
    net_row(playground, CANNY).scroll_into_view_if_needed()
    playground.page.screenshot(path=artifacts / "playground-controlnet.png")
    playground.stop()
    assert playground.complaints == []


def test_the_hls_address_is_copied(playground: PlaygroundPage, artifacts: Path) -> None:
    playground.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    playground.page.evaluate(OPEN, ["Outputs"])
    playground.choose_source("test")
    playground.start()
    copy = playground.element("outputs").get_by_role("button", name="Copy the HLS address")

    def copied() -> bool:
        copy.click()  # each time, as the word is there for a moment only
        return copy.text_content() == "Copied"

    playground.until(copied, what="the word on the button")
    assert playground.page.evaluate("navigator.clipboard.readText()") == playground.stream()["hls_url"]
    copy.scroll_into_view_if_needed()
    playground.page.screenshot(path=artifacts / "playground-outputs.png")


def test_a_stream_is_recorded_and_the_recording_fetched_and_deleted(playground: PlaygroundPage) -> None:
    playground.page.evaluate(OPEN, ["Outputs"])
    playground.choose_source("test")
    playground.start()
    record = playground.page.get_by_role("switch", name="Record")
    record.check()
    outputs = playground.element("outputs")
    second = re.compile(r"\.mp4: [1-9]")
    playground.until(lambda: second.search(outputs.text_content() or ""), seconds=60, what="a second of recording")
    record.uncheck()
    playground.until(lambda: outputs.locator(".recordings li").count() == 1, what="the recording in the list")
    with playground.page.expect_download() as download:
        outputs.get_by_role("button", name="Download").click()
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    outputs.get_by_role("button", name="Delete").click()
    playground.until(lambda: outputs.locator(".recordings li").count() == 0, what="the recording gone")
    recordings = f"{playground.server.url}/v1/streams/{playground.stream()['id']}/recordings"
    assert httpx.get(recordings, headers=playground.headers).json()["data"] == []


def test_a_recording_can_be_fetched_after_stop_and_its_stream_is_gone_with_the_next(playground: PlaygroundPage) -> None:
    playground.page.evaluate(OPEN, ["Outputs"])
    playground.choose_source("test")
    playground.start()
    playground.page.get_by_role("switch", name="Record").check()
    outputs = playground.element("outputs")
    second = re.compile(r"\.mp4: [1-9]")
    playground.until(lambda: second.search(outputs.text_content() or ""), seconds=60, what="a second of recording")
    recorded = playground.stream()["id"]
    playground.stop()
    playground.until(lambda: outputs.locator(".recordings li").count() == 1, what="the recording in the list")
    with playground.page.expect_download() as download:
        outputs.get_by_role("button", name="Download").click()
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    playground.page.get_by_role("switch", name="Record").uncheck()
    playground.start()
    assert playground.stream()["id"] != recorded
    assert outputs.locator(".recordings li").count() == 0


def test_rtmp_servers_are_added_refused_and_taken_away(playground: PlaygroundPage) -> None:
    playground.page.evaluate(OPEN, ["Outputs"])
    playground.choose_source("test")
    playground.start()
    outputs = playground.element("outputs")
    outputs.get_by_role("button", name="Push to an RTMP server").click()
    first = outputs.get_by_role("textbox", name="RTMP server 1")
    first.fill(f"rtmp://{NOWHERE}/live/secret-key")
    first.press("Tab")
    playground.until(lambda: playground.stream()["outputs"] == [f"rtmp://{NOWHERE}/live/***"], what="the target")
    first.fill("rtmp://127.0.0.1/live/secret-key")
    first.press("Tab")
    playground.until(lambda: "private network" in playground.text("messages"), what="the refusal")
    assert first.input_value() == f"rtmp://{NOWHERE}/live/secret-key"  # so that it can be sent again, as by Start
    outputs.get_by_role("button", name="Remove RTMP server 1").click()
    playground.until(lambda: playground.stream()["outputs"] == [], what="no target")
    assert "secret-key" not in playground.page.evaluate("() => JSON.stringify(localStorage)")
    playground.complaints.clear()  # the browser's own note of the refusal


def test_everything_that_steers_fits_a_small_phone(
    open_context: Callable[..., BrowserContext], server: LiveServer, artifacts: Path
) -> None:
    playground = PlaygroundPage(open_context(viewport={"width": 320, "height": 568}), server).open()
    steer(playground)
    for name in (CANNY, DEPTH):
        playground.page.get_by_label("Add a ControlNet").select_option(name)
    playground.open_sections()
    outputs = playground.element("outputs")
    outputs.get_by_role("button", name="Push to an RTMP server").click()
    playground.page.screenshot(path=artifacts / "playground-steering-phone.png", full_page=True)
    wide = playground.page.evaluate(
        "() => [...document.querySelectorAll('.net, .net *, #outputs *, .style-row')]"
        ".filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5).map((each) => each.className)"
    )
    assert wide == []
    assert playground.complaints == []
