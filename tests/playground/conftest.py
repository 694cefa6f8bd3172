"""One Chromium for each module of these tests, a profile and a page of its own for each test."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.playground.browser import PlaygroundPage, launched
from tests.support.server import LiveServer

DESKTOP = {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # The module is the longest scope in which no asynchronous test can run: Playwright keeps a running event loop here.
    with launched() as browser:
        yield browser


@pytest.fixture
def open_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Opens a fresh profile: `open_context(viewport={...}, color_scheme="dark")`."""
    opened: list[BrowserContext] = []

    def start(**options: object) -> BrowserContext:
        context = browser.new_context(**{"viewport": DESKTOP} | options)  # pyright: ignore[reportArgumentType]
        opened.append(context)
        return context

    yield start
    for context in opened:
        context.close()


@pytest.fixture
def playground(open_context: Callable[..., BrowserContext], server: LiveServer) -> Iterator[PlaygroundPage]:
    """The page, signed in on a desktop; its streams are gone afterwards and it must not have complained."""
    page = PlaygroundPage(open_context(), server).open()
    yield page
    if not page.page.is_closed() and page.element("stop").is_visible():
        page.stop()
    assert page.complaints == []
    assert [address for address in page.addresses if not address.startswith(server.url)] == []
