"""A headless Chromium with a fake camera, and a page on an origin of its own that holds the browser package."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import BrowserContext, Page, async_playwright

from tests.support.browser import FLAGS, NO_CHROMIUM, chromium
from tests.support.sdks import CLIENTS, missing_clients

PACKAGE = CLIENTS / "node_modules" / "@daydreamlive" / "browser" / "dist"
HLS_PACKAGE = CLIENTS / "node_modules" / "hls.js" / "dist"


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[BrowserContext]:
    """A fresh browser profile."""
    path = chromium()
    if path is None:
        pytest.skip(NO_CHROMIUM)
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=path, headless=True, args=list(FLAGS), timeout=120_000
        )
        yield context
        await context.close()


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    """Serves the test page and the untouched package; another origin than the server's, so CORS is real."""
    if reason := missing_clients():
        pytest.skip(reason)
    application = web.Application()
    application.router.add_get("/", _page)
    application.router.add_static("/daydream", PACKAGE)
    application.router.add_static("/hls", HLS_PACKAGE)
    application.router.add_get("/hls.html", _hls_page)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def _hls_page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(__file__).parent / "hls.html")


async def _page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(__file__).parent / "page.html")


@pytest.fixture
async def page(context: BrowserContext, origin: str) -> AsyncIterator[Page]:
    """The loaded test page. Fails the test for errors of the page itself."""
    page = context.pages[0]
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.goto(origin)
    await page.wait_for_function("window.loaded === true")
    yield page
    assert errors == []
