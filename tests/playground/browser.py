"""A real Chromium that looks at the playground, with everything it complained about and every address it asked for."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Route,
    sync_playwright,
)

from tests.support.browser import FLAGS, NO_CHROMIUM, chromium
from tests.support.plain_http import NO_TLS
from tests.support.server import LiveServer
from tests.support.waiting import eventually_sync

READ_PICTURE = """(id) => {
  const video = document.getElementById(id);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 32;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(video, 0, 0, 32, 32);
  return Array.from(context.getImageData(0, 0, 32, 32).data).filter((_, index) => index % 4 < 3);
}"""


@contextlib.contextmanager
def launched(*flags: str) -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none. Not for a whole session: a loop runs meanwhile."""
    path = chromium()
    if path is None:
        pytest.skip(NO_CHROMIUM)
    with sync_playwright() as playwright:
        arguments = [*FLAGS, *flags]
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=arguments, timeout=120_000)
        yield browser
        browser.close()


REFUSAL = {
    "success": False,
    "error": "Refused for this test",
    "code": "STREAMS/CAPACITY",
    "status": 429,
    "details": None,
    "requestId": "req_1234",
    "traceId": None,
}
"""What a server answers that refuses."""


class PlaygroundPage:
    """The playground as a person uses it. `complaints` are console errors and uncaught faults."""

    def __init__(self, context: BrowserContext, server: LiveServer) -> None:
        self.server = server
        self.complaints: list[str] = []
        self.addresses: list[str] = []
        context.on("request", self._note_request)
        self.page: Page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note_message(self, message: ConsoleMessage) -> None:
        # A worker at a long call has no picture of a processor in time (404), which the browser notes by itself.
        if message.type == "error" and "/tap/" not in message.location["url"]:
            self.complaints.append(message.text)

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith(("data:", "blob:", "about:")):
            self.addresses.append(request.url)

    def open_sections(self) -> None:
        """Every section of the page that folds."""
        self.page.evaluate("() => document.querySelectorAll('details').forEach((each) => (each.open = true))")

    def refuse_updates(self) -> None:
        """From now on no update of a stream is taken."""

        def refuse(route: Route) -> None:
            if route.request.method == "PATCH":
                route.fulfill(status=429, json=REFUSAL)
            else:
                route.fallback()

        self.page.route("**/v1/streams/*", refuse)

    def open(self, key: str | None = None) -> "PlaygroundPage":
        """Open the page signed in, as by the printed link."""
        self.page.goto(f"{self.server.url}/#key={key or self.server.key}")
        self.element("controls").locator(".control").first.wait_for()
        return self

    def element(self, name: str) -> Locator:
        return self.page.locator(f"#{name}")

    def text(self, name: str) -> str:
        return self.element(name).text_content() or ""

    def choose_source(self, kind: str) -> None:
        self.page.locator(f'input[name="source"][value="{kind}"]').check(force=True)

    def start(self) -> None:
        """Press Start and wait for moving pictures from the server."""
        self.element("start").click()
        self.wait_for_output()

    def wait_for_output(self) -> None:
        def moving() -> bool:
            before = self.output_time()
            return self.text("state-badge") not in ("Idle", "Loading") and before > 0

        self.until(moving, seconds=60, what="the output to play")

    def output_time(self) -> float:
        """Seconds that the output element has played; 0 without a picture."""
        return self.page.evaluate(
            "() => { const v = document.getElementById('output'); return v.videoWidth ? v.currentTime : 0 }"
        )

    def picture(self, name: str = "output") -> list[int]:
        """The picture that an element shows, as 32 x 32 RGB values 0 to 255."""
        return self.page.evaluate(READ_PICTURE, name)

    def stop(self) -> None:
        self.element("stop").click()
        self.element("start").wait_for()

    def settings(self) -> dict[str, Any]:
        """The params that the page keeps for next time."""
        params = json.loads(self.page.evaluate("() => localStorage.getItem('sdstream.settings.1')"))["params"]
        image = self.page.evaluate("() => localStorage.getItem('sdstream.settings.1.image')")
        return params | ({"ip_adapter_style_image_url": image} if image else {})

    def streams(self) -> list[dict[str, Any]]:
        """The playground's streams that the server has."""
        answer = httpx.get(f"{self.server.url}/v1/streams", headers=self.headers, verify=NO_TLS)
        return [stream for stream in answer.raise_for_status().json()["data"] if stream["name"] == "playground"]

    def stream(self) -> dict[str, Any]:
        """The one stream that the page runs."""
        (stream,) = self.streams()
        return stream

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.server.key}"}

    def until(self, probe: Any, *, seconds: float = 30, what: str) -> Any:
        """Wait for `probe` while the page goes on living."""

        def ask() -> Any:
            self.page.wait_for_timeout(20)  # lets Playwright hand out the page's events
            return probe()

        return eventually_sync(ask, seconds=seconds, what=what)


def difference(left: list[int], right: list[int]) -> float:
    """Mean absolute difference of two pictures, 0 to 255."""
    assert len(left) == len(right) > 0
    return sum(abs(one - other) for one, other in zip(left, right, strict=True)) / len(left)
