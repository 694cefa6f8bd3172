"""What persons put into the page's fields, and what it keeps of that and shows; without a stream."""

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from sdstream.api.pages import PLAYGROUND
from tests.playground.browser import PlaygroundPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]

KEPT = "() => localStorage.getItem('sdstream.settings.1')"
SNIPPET = """async ([language, params]) => {
  const { snippet } = await import("/assets/snippets.js");
  return snippet(language, { base: "http://[::1]:8080", params });
}"""


@pytest.mark.parametrize("keys", ["", "-", "e"])
def test_half_a_number_changes_nothing_and_does_not_stay(playground: PlaygroundPage, keys: str) -> None:
    playground.open_sections()
    low = playground.page.get_by_role("spinbutton", name="Low threshold, as a number")
    seed = playground.page.get_by_role("spinbutton", name="Seed")
    for box, shown in ((low, "100"), (seed, "789")):
        box.click()
        box.press("Control+a")
        box.press("Delete")
        playground.page.keyboard.type(keys)
        box.press("Enter")
        box.press("Tab")
        assert box.input_value() == shown
    assert playground.page.evaluate(KEPT) is None


def test_an_emptied_prompt_is_an_empty_prompt(playground: PlaygroundPage) -> None:
    playground.element("diffusion").check()
    prompt = playground.page.get_by_role("textbox", name="Prompt", exact=True)
    prompt.fill("a fox")
    prompt.fill("")
    assert playground.settings()["prompt"] == ""


def test_a_prompt_that_is_taken_out_of_a_blend_leaves_the_keyboard_there(playground: PlaygroundPage) -> None:
    playground.element("diffusion").check()
    playground.page.get_by_role("button", name="Blend with another prompt").click()
    playground.page.get_by_role("button", name="Remove prompt 2").press("Enter")
    prompt = playground.page.get_by_role("textbox", name="Prompt", exact=True)
    assert prompt.evaluate("(area) => area === document.activeElement")


def test_an_emptied_address_takes_the_style_image_away(playground: PlaygroundPage) -> None:
    playground.element("model").select_option("Lykon/dreamshaper-8")
    playground.open_sections()
    address = playground.page.locator('[data-name="ip_adapter_style_image_url"]').get_by_role("textbox")
    for text in ("https://pictures.example/style.jpg", ""):
        address.fill(text)
        address.press("Tab")
        assert playground.settings()["ip_adapter_style_image_url"] == text


def test_a_style_image_is_kept_apart_from_what_changes_often(playground: PlaygroundPage, tmp_path: Path) -> None:
    picture = tmp_path / "style.png"
    Image.effect_noise((400, 400), 90).save(picture)
    playground.element("model").select_option("Lykon/dreamshaper-8")
    playground.open_sections()
    style = playground.page.locator('[data-name="ip_adapter_style_image_url"]')
    style.locator('input[type="file"]').set_input_files(picture)
    style.locator("img").wait_for()
    playground.page.get_by_role("slider", name="Low threshold").fill("33")
    assert "data:" not in playground.page.evaluate(KEPT)
    playground.page.reload()
    playground.page.get_by_role("slider", name="Low threshold").wait_for()
    playground.open_sections()
    assert style.locator("img").is_visible()
    style.get_by_role("button", name="Remove the style image").click()
    playground.page.reload()
    playground.page.get_by_role("slider", name="Low threshold").wait_for()
    assert style.locator("img").is_hidden()


def test_what_there_is_no_room_for_does_not_keep_the_rest_from_being_kept(playground: PlaygroundPage) -> None:
    kept = playground.page.evaluate(
        """async () => {
          const { loadSettings, saveSettings } = await import("/assets/store.js");
          const save = (low, ip_adapter_style_image_url) =>
            saveSettings({ params: { model_id: "m", low, ip_adapter_style_image_url } });
          save(1, "data:image/png;base64,AAAA");
          save(2, `data:image/png;base64,${"A".repeat(12_000_000)}`);
          return loadSettings().params;
        }"""
    )
    assert kept == {"model_id": "m", "low": 2}


@pytest.mark.parametrize(
    "params", ["null", "5", '{"model_id": "stabilityai/sd-turbo", "t_index_list": 5}', '{"controlnets": "x"}']
)
def test_settings_of_another_shape_do_not_keep_the_page_shut(playground: PlaygroundPage, params: str) -> None:
    playground.page.evaluate(
        "(params) => localStorage.setItem('sdstream.settings.1', `{\"params\": ${params}}`)", params
    )
    playground.page.reload()
    playground.page.get_by_role("slider", name="Low threshold").wait_for()


def test_a_link_that_is_opened_in_an_open_page_signs_in(playground: PlaygroundPage) -> None:
    playground.element("sign-out").click()
    playground.element("sign-in").wait_for()
    playground.page.goto(f"{playground.server.url}/#key={playground.server.key}")
    playground.element("start").wait_for()
    assert playground.server.key not in playground.page.url
    playground.complaints.clear()  # the browser's own note of the 401


def test_a_file_without_pictures_is_told(playground: PlaygroundPage, tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    sound.write_bytes(
        b"RIFF\x24\x3f\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00"
        b"data\x00\x3f\x00\x00" + bytes(16128)
    )
    playground.choose_source("file")
    playground.element("file").set_input_files(sound)
    playground.element("start").click()
    playground.until(lambda: "has no pictures" in playground.text("messages"), what="the words")
    assert playground.streams() == []


@pytest.mark.parametrize(
    "prompt",
    ["it's `id` $(id) ${HOME} \\ !!", 'a "fox"\nand\r\nmore \u2028', "\U0001f98a \u0627\u0644 \u202e", "'''\nEOF"],
)
def test_the_code_for_a_shell_is_read_as_it_is_meant(playground: PlaygroundPage, prompt: str) -> None:
    code = playground.page.evaluate(SNIPPET, ["curl", {"model_id": "m", "prompt": prompt}])
    told = "curl() { for each; do printf '%s\\0' \"$each\"; done; }\n"
    words = subprocess.run(["bash", "-c", told + code], capture_output=True, check=True).stdout.decode().split("\0")
    bodies = [body for flag, body in pairwise(words) if flag == "-d"]
    read = "(bodies) => bodies.map((body) => JSON.parse(body).params.prompt)"
    assert playground.page.evaluate(read, bodies) == [prompt, prompt]
    assert [word for word in words if word.startswith("http")][2] == "http://[::1]:8080/v1/streams/<id>"


@pytest.mark.parametrize("language", ["python", "typescript"])
def test_the_code_for_an_sdk_says_that_loras_are_lost(playground: PlaygroundPage, language: str) -> None:
    words = "does not send what lora_dict has"
    assert words in playground.page.evaluate(SNIPPET, [language, {"model_id": "m", "lora_dict": {"a/b": 1}}])
    assert words not in playground.page.evaluate(SNIPPET, [language, {"model_id": "m", "lora_dict": {}}])


def test_words_stand_out_from_what_is_behind_them() -> None:
    """4.5 to 1, as WCAG 2 has it for text; a badge's ground is an eighth of its own colour."""
    sheet = (PLAYGROUND / "assets" / "style.css").read_text("utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part)) for part in sheet.split("@media", 2)[:2])
    for colours in (light, light | dark):
        for tone in ("soft", "good", "poor", "bad", "busy"):
            for ground in (colours["paper"], colours["surface"], mixed(colours[tone], colours["paper"], 0.12)):
                assert contrast(colours[tone], ground) >= 4.5, (tone, ground)


def channels(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def mixed(over: str, under: str, share: float) -> str:
    pairs = zip(channels(over), channels(under), strict=True)
    return "#" + "".join(f"{round(share * one + (1 - share) * other):02x}" for one, other in pairs)


def contrast(left: str, right: str) -> float:
    """The ratio of two colours as WCAG 2 defines it, 1 to 21."""

    def luminance(colour: str) -> float:
        shares = [part / 255 for part in channels(colour)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(left), luminance(right)))
    return (high + 0.05) / (low + 0.05)
