"""The playground and the reference: right types, asked for again, nothing from outside."""

import re
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from sdstream.api.pages import Pages
from sdstream.settings import Settings
from tests.api.conftest import Site

SETTINGS = Settings.model_validate({})


@pytest.fixture
def client(tmp_path: Path) -> httpx.AsyncClient:
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "main.js").write_text("export {}")
    (tmp_path / "notes.txt").write_text("not served")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "style.css").write_text("body {}")
    app = Starlette(routes=Pages(SETTINGS, tmp_path).routes())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page")


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/main.js", "text/javascript; charset=utf-8"),
        ("/parts/style.css", "text/css; charset=utf-8"),
    ],
)
async def test_files_have_their_types(client: httpx.AsyncClient, path: str, content_type: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/notes.txt", "/parts", "/parts/", "/../settings.py", "/%2e%2e/settings.py"])
async def test_other_files_are_not_served(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_an_unchanged_file_is_not_sent_twice(client: httpx.AsyncClient) -> None:
    first = await client.get("/main.js")
    second = await client.get("/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (first.headers["cache-control"], second.status_code, second.content) == ("no-cache", 304, b"")


async def test_the_policy_allows_no_outside_host(site: Site) -> None:
    for path in ("/", "/docs"):
        answer = await site.client_with(None).get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert not re.search(r"https?:|unsafe|\*", policy)


async def test_the_policy_allows_the_public_url(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("x")
    settings = Settings.model_validate({"public_url": "https://video.example/base"})
    app = Starlette(routes=Pages(settings, tmp_path).routes())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as client:
        policy = (await client.get("/")).headers["content-security-policy"]
    assert "connect-src 'self' ws://page wss://page https://video.example wss://video.example;" in policy


async def test_no_more_of_a_host_header_than_a_host_reaches_the_policy(client: httpx.AsyncClient) -> None:
    for host in ("page; script-src *", "page *", "page/path"):
        policy = (await client.get("/", headers={"Host": host})).headers["content-security-policy"]
        assert "connect-src 'self';" in policy


async def test_the_reference_shows_every_operation(site: Site) -> None:
    page = (await site.client_with(None).get("/docs")).text
    document = (await site.client_with(None).get("/openapi.json")).json()
    operations = [entry for path in document["paths"].values() for entry in path.values()]
    assert all(f'id="{operation["operationId"]}"' in page for operation in operations)
    assert "<script" not in page
