"""The page without a stream: signing in, shapes of screens, names of controls, code, and what it never does."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Route

from sdstream.params.strength import spread_steps
from tests.playground.browser import PlaygroundPage
from tests.support.server import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE = {"width": 390, "height": 844}
SMALL_PHONE = {"width": 320, "height": 568}
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_printed_link_signs_in_and_hides_the_key(
    make_server: Callable[..., LiveServer], open_context: Callable[..., BrowserContext]
) -> None:
    server = make_server(api_keys=None, ready=False)
    assert server.first_key is not None
    playground = PlaygroundPage(open_context(), server).open(server.first_key)
    assert server.first_key not in playground.page.url
    playground.page.reload()
    playground.element("controls").locator(".control").first.wait_for()
    assert playground.element("gate").is_hidden()
    assert playground.complaints == []


def test_wrong_key_is_told_and_the_right_one_let_in(
    open_context: Callable[..., BrowserContext], server: LiveServer
) -> None:
    playground = PlaygroundPage(open_context(), server)
    playground.page.goto(f"{server.url}/#key=wrong")
    playground.until(lambda: "401" in playground.text("key-error"), what="the words of the 401")
    assert "not known" in playground.text("key-error")
    assert playground.element("page").is_hidden()
    playground.element("key").fill(server.key)
    playground.element("key").press("Enter")
    playground.element("controls").locator(".control").first.wait_for()
    assert playground.element("gate").is_hidden()


def test_no_key_asks_for_one_without_a_reproach(
    open_context: Callable[..., BrowserContext], server: LiveServer
) -> None:
    playground = PlaygroundPage(open_context(), server)
    playground.page.goto(server.url)
    playground.element("sign-in").wait_for()
    assert playground.text("key-error") == ""


def test_signing_out_forgets_the_key(playground: PlaygroundPage) -> None:
    playground.element("sign-out").click()
    playground.element("sign-in").wait_for()
    playground.page.reload()
    playground.element("sign-in").wait_for()
    playground.complaints.clear()  # the browser's own note of the 401


@pytest.mark.parametrize(
    "viewport", [PHONE, SMALL_PHONE, {"width": 820, "height": 1180}], ids=["phone", "small", "tablet"]
)
def test_nothing_is_wider_than_the_screen(
    viewport: dict[str, int], open_context: Callable[..., BrowserContext], server: LiveServer
) -> None:
    playground = PlaygroundPage(open_context(viewport=viewport), server).open()
    playground.element("diffusion").check()
    playground.open_sections()
    assert playground.page.evaluate(OVERFLOW) <= 0
    start = playground.element("start").bounding_box()
    assert start is not None
    assert start["x"] >= 0
    assert start["x"] + start["width"] <= viewport["width"]


def test_every_control_has_a_name(playground: PlaygroundPage) -> None:
    playground.element("diffusion").check()
    playground.open_sections()
    session = playground.page.context.new_cdp_session(playground.page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "switch", "checkbox", "combobox", "textbox", "spinbutton", "tab", "radio", "image"}
    controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(controls) > 40
    nameless = [node for node in controls if not node["name"]["value"].strip()]
    assert [(node["role"]["value"], node.get("backendDOMNodeId")) for node in nameless] == []


def test_every_top_level_parameter_has_a_control(playground: PlaygroundPage) -> None:
    catalogue = httpx.get(f"{playground.server.url}/v1/parameters").json()["data"]
    family = "sd-turbo"
    expected = {
        entry["name"] for entry in catalogue if not re.search(r"[.\[]", entry["name"]) and family in entry["families"]
    } - {"model_id", "skip_diffusion"}
    shown = playground.page.evaluate(
        "() => [...document.querySelectorAll('.control')].map((each) => each.dataset.name)"
    )
    assert set(shown) == expected
    assert len(shown) == len(set(shown))


def test_reload_parameters_are_marked(playground: PlaygroundPage) -> None:
    catalogue = httpx.get(f"{playground.server.url}/v1/parameters").json()["data"]
    cold = {entry["name"] for entry in catalogue if entry["update"] == "reload"}
    marked = playground.page.evaluate(
        "() => [...document.querySelectorAll('.mark-reload')].map((mark) => mark.closest('.control').dataset.name)"
    )
    shown = playground.page.evaluate(
        "() => [...document.querySelectorAll('.control')].map((each) => each.dataset.name)"
    )
    assert set(marked) == cold & set(shown) != set()


def test_settings_are_there_again_after_a_reload(playground: PlaygroundPage) -> None:
    playground.page.get_by_role("slider", name="Low threshold").fill("33")
    playground.page.reload()
    low = playground.page.get_by_role("slider", name="Low threshold")
    low.wait_for()
    assert low.input_value() == "33"


def test_code_holds_the_present_settings(playground: PlaygroundPage) -> None:
    playground.element("diffusion").check()
    playground.page.get_by_role("textbox", name="Prompt", exact=True).fill('a "quoted" cat\'s dream')
    playground.page.get_by_role("slider", name="Low threshold").fill("77")
    playground.element("code-drawer").locator("summary").click()
    settings = playground.settings()
    assert settings["prompt"] == 'a "quoted" cat\'s dream'
    for language, read in (
        ("curl", params_of_curl),
        ("Python", params_of_python),
        ("TypeScript", params_of_typescript),
    ):
        playground.page.get_by_role("tab", name=language).click()
        code = playground.text("code")
        assert playground.server.url in code
        assert playground.server.key not in code
        assert read(code) == settings, language


def test_shorter_schedule_takes_the_steps_along(playground: PlaygroundPage) -> None:
    playground.element("diffusion").check()
    schedule = playground.page.get_by_role("slider", name="Schedule length")
    schedule.fill("15")
    assert playground.settings()["t_index_list"] == [12, 15, 15]
    schedule.press("ArrowRight")  # still the same slider: it was not drawn anew under the hand
    assert playground.settings()["num_inference_steps"] == 16
    playground.page.get_by_role("slider", name="Step 1").fill("14")
    playground.page.get_by_role("slider", name="Step 3").fill("9")
    assert playground.settings()["t_index_list"] == [9, 9, 9]


def test_one_slider_moves_all_steps_as_the_server_would(playground: PlaygroundPage) -> None:
    playground.element("diffusion").check()
    strength = playground.page.get_by_role("slider", name="Strength", exact=True)
    assert strength.input_value() == "0.76"  # the default steps begin at 12 of 50
    for value in ("0.55", "1", "0"):
        strength.fill(value)
        assert playground.settings()["t_index_list"] == spread_steps(float(value), 50, 3)
    playground.page.get_by_role("slider", name="Step 1").fill("40")
    assert strength.input_value() == "0.2"


def test_a_longer_schedule_brings_the_steps_back_that_a_shorter_one_held(playground: PlaygroundPage) -> None:
    playground.element("diffusion").check()
    playground.page.get_by_role("slider", name="Step 1").fill("13")
    chosen = playground.settings()["t_index_list"]
    schedule = playground.page.get_by_role("slider", name="Schedule length")
    schedule.fill("2")
    assert playground.settings()["t_index_list"] == [2] * len(chosen)
    schedule.fill("50")
    assert playground.settings()["t_index_list"] == chosen


def test_python_code_runs_as_it_is(playground: PlaygroundPage) -> None:
    playground.element("code-drawer").locator("summary").click()
    playground.page.get_by_role("tab", name="Python").click()
    code = playground.text("code").replace(
        "    daydream.streams.delete_stream", "    print(stream)\n    daydream.streams.delete_stream"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DAYDREAM_BEARER": playground.server.key},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "send a camera to http" in done.stdout
    assert "canny" in done.stdout


def test_tabs_move_with_the_arrow_keys(playground: PlaygroundPage) -> None:
    playground.element("code-drawer").locator("summary").click()
    playground.page.get_by_role("tab", name="curl").press("ArrowRight")
    assert playground.page.get_by_role("tab", name="Python").get_attribute("aria-selected") == "true"
    assert "from daydream import Daydream" in playground.text("code")


def test_page_allows_no_script_but_its_own(server: LiveServer) -> None:
    answer = httpx.get(f"{server.url}/")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", answer.text)
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", answer.text)


def test_processors_have_names_for_people(playground: PlaygroundPage) -> None:
    offered = playground.page.locator(".adder option").all_text_contents()
    assert len(offered) > 20
    assert [text for text in offered if re.search(r"tensorrt|_trt|Hed\b|Mediapipe", text)] == []


def test_stream_that_cannot_work_shows_why(playground: PlaygroundPage) -> None:
    reason = "The model somebody/nowhere cannot be loaded here."

    def fail(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        body["data"] |= {"state": "ERROR", "reason": reason}
        route.fulfill(response=answer, json=body)

    playground.page.route("**/status", fail)
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: playground.text("state-badge") == "Error", what="the state ERROR")
    assert playground.text("state-reason") == reason
    playground.page.unroute_all(behavior="wait")
    playground.stop()
    assert playground.text("state-badge") == "Idle"


def test_server_that_does_not_answer_is_told_in_words(playground: PlaygroundPage) -> None:
    playground.page.route("**/v1/streams", lambda route: route.abort())
    playground.choose_source("test")
    playground.element("start").click()
    playground.until(lambda: "did not answer" in playground.text("messages"), what="the message")
    assert playground.element("start").is_enabled()
    playground.complaints.clear()  # the browser's own note of the failed request


def test_capacity_reached_is_told_with_the_words_of_the_server(playground: PlaygroundPage) -> None:
    refusal = {
        "success": False,
        "error": "this server carries 16 streams already",
        "code": "STREAMS/CAPACITY",
        "status": 429,
        "details": [{"field": "params.width", "problem": "too wide", "suggestion": "512"}],
        "requestId": "req_1234",
        "traceId": None,
    }
    playground.page.route("**/v1/streams", lambda route: route.fulfill(status=429, json=refusal))
    playground.element("start").click()
    playground.element("messages").locator(".message").wait_for()
    words = playground.text("messages")
    assert "This server carries 16 streams already." in words
    assert "width: too wide (did you mean 512?)" in words
    assert "req_1234" in words
    playground.complaints.clear()


EVENTS = """async () => {
  const { EventParser } = await import("/assets/api.js");
  const parser = new EventParser();
  const text = "retry: 2000\\n\\nid: 7\\nevent: state\\ndata: {\\"a\\":1}\\n\\n"
    + ": still here\\n\\ndata: one\\r\\ndata: two\\r\\n\\r\\n";
  const whole = new EventParser().push(text);
  const pieces = [...text].flatMap((letter) => parser.push(letter));
  return [whole, pieces];
}"""


def test_events_are_read_whole_or_in_pieces(playground: PlaygroundPage) -> None:
    whole, pieces = playground.page.evaluate(EVENTS)
    assert whole == pieces
    assert [event["event"] for event in whole] == ["state", "message"]
    assert whole[0] == {"id": "7", "event": "state", "data": {"a": 1}}
    assert whole[1]["data"] == "one\ntwo"


def test_scale_of_a_plot_ends_on_a_round_number(playground: PlaygroundPage) -> None:
    tops = playground.page.evaluate(
        """async () => {
          const { roundUp } = await import("/assets/plots.js");
          return [0, 0.3, 1, 29.9, 30, 30.1, 61, 950, 1001].map(roundUp);
        }"""
    )
    assert tops == pytest.approx([1, 0.3, 1, 30, 30, 40, 80, 1000, 1500])


def params_of_curl(code: str) -> dict[str, Any]:
    """The params in the first body, as the shell would pass it."""
    body = code.split("-d '", 1)[1].split("}'\n", 1)[0] + "}"
    return json.loads(body.replace("'\\''", "'"))["params"]


def params_of_python(code: str) -> dict[str, Any]:
    """The value that Python gives `params`."""
    tree = ast.parse(code)
    assignment = next(node for node in tree.body if isinstance(node, ast.Assign))
    return ast.literal_eval(assignment.value)


def params_of_typescript(code: str) -> dict[str, Any]:
    """The params in the create call, with the wire's names again."""
    literal = code.split("  params: ", 1)[1].split(",\n});", 1)[0]
    return snake(json.loads(re.sub(r"^(\s*)([A-Za-z_$][\w$]*):", r'\1"\2":', literal, flags=re.MULTILINE)))


def snake(value: Any) -> Any:
    if isinstance(value, list):
        return [snake(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {re.sub(r"[A-Z]", lambda match: "_" + match[0].lower(), name): snake(each) for name, each in value.items()}
