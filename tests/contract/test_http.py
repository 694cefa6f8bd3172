"""Acceptance statements 57 to 59 of the contract: methods, content types, CORS, and no redirect."""

from typing import Any

import httpx
import pytest

from tests.support.mediamtx import on_both
from tests.support.peers import Publisher, Viewer, bare_offer
from tests.support.rest import Rest, check_error, whep_of

ORIGIN = {"Origin": "https://studio.example.org"}
SDP = {"Content-Type": "application/sdp"}


def listed(header: str) -> set[str]:
    return {part.strip().lower() for part in header.split(",")}


@on_both
async def test_57_wrong_type_broken_sdp_and_head(rest: Rest) -> None:
    stream = await rest.create()
    offer = await bare_offer()
    check_error(await rest.http.post(stream["whip_url"], content=offer, headers={"Content-Type": "text/plain"}), 415)
    check_error(await rest.http.post(stream["whip_url"], content=offer), 415)
    check_error(await rest.http.post(stream["whip_url"], content=b"", headers=SDP), 400)
    check_error(await rest.http.post(stream["whip_url"], content=b"hello", headers=SDP), 400)
    assert (await rest.http.head(stream["whip_url"])).status_code == 405
    async with Publisher(stream["whip_url"]) as publisher:
        whep = publisher.whep_url
        check_error(await rest.http.post(whep, content=offer, headers={"Content-Type": "text/plain"}), 415)
        check_error(await rest.http.post(whep, content=b"", headers=SDP), 400)
        check_error(await rest.http.post(whep, content=b"v=0\r\n", headers=SDP), 400)
        assert (await rest.http.head(whep)).status_code == 405
        async with Viewer(whep) as viewer:
            await viewer.wait_kind("card")


def addresses(rest: Rest, stream: dict[str, Any]) -> list[tuple[str, str]]:
    """E1 to E9 as pairs of method and path."""
    one = f"/v1/streams/{stream['id']}"
    whip = httpx.URL(stream["whip_url"]).path
    whep = httpx.URL(whep_of(rest, stream)).path
    return [
        ("POST", "/v1/streams"),
        ("GET", "/v1/streams"),
        ("DELETE", "/v1/streams"),
        ("GET", one),
        ("PATCH", one),
        ("DELETE", one),
        ("GET", f"{one}/status"),
        ("POST", whip),
        ("DELETE", f"{whip}/some-session"),
        ("PATCH", f"{whip}/some-session"),
        ("POST", whep),
        ("DELETE", f"{whep}/some-session"),
    ]


@pytest.mark.parametrize(
    "origin", ["https://studio.example.org", "null", "http://localhost:3000", "chrome-extension://abc"]
)
async def test_58_preflights_of_every_endpoint(rest: Rest, origin: str) -> None:
    stream = await rest.create()
    for method, path in addresses(rest, stream):
        response = await rest.anonymous.options(
            path,
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": "authorization,content-type,x-client-source",
                "Access-Control-Request-Private-Network": "true",
            },
        )
        assert response.status_code == 204, f"{method} {path}: {response.status_code}"
        headers = response.headers
        assert headers["access-control-allow-origin"] in ("*", origin)
        assert method.lower() in listed(headers["access-control-allow-methods"]), f"{method} {path}"
        assert {"authorization", "content-type", "x-client-source", "if-match"} <= listed(
            headers["access-control-allow-headers"]
        )
        assert headers["access-control-allow-private-network"] == "true"
        if headers["access-control-allow-origin"] == "*":
            assert "access-control-allow-credentials" not in headers


async def test_58_errors_carry_cors_headers_too(rest: Rest) -> None:
    stream = await rest.create()
    for method, path in [*addresses(rest, stream), ("GET", "/v1/no/such/path"), ("PUT", "/v1/streams")]:
        if method == "GET" and path.endswith("/status"):
            path = "/v1/streams/str_nobody/status"
        response = await rest.anonymous.request(method, path, headers=ORIGIN)
        assert response.status_code >= 400, f"{method} {path}: {response.status_code}"
        assert response.headers["access-control-allow-origin"] in ("*", ORIGIN["Origin"]), f"{method} {path}"


async def documented(rest: Rest, stream: dict[str, Any]) -> list[tuple[str, str]]:
    """Every further GET and POST of the OpenAPI document, but the endless events, as pairs of method and path."""
    paths: dict[str, Any] = (await rest.anonymous.get("/openapi.json")).json()["paths"]
    known = {"id": stream["id"], "playback_id": stream["output_playback_id"], "processor": "canny", "name": "x"}
    return [
        (method.upper(), path.format_map(known))
        for path, entries in paths.items()
        for method in entries
        if method in ("get", "post") and not path.startswith(("/live/", "/playback/")) and not path.endswith("/events")
    ]


async def test_59_no_endpoint_redirects(rest: Rest) -> None:
    stream = await rest.create()
    for client in (rest.http, rest.anonymous):
        for method, path in [*addresses(rest, stream), *await documented(rest, stream)]:
            for variant in (path, f"{path}/", f"/{path}"):
                if method == "DELETE" and client is rest.http and stream["id"] in path:
                    continue
                response = await client.request(method, rest.server.url + variant)
                assert response.status_code // 100 != 3, f"{method} {variant}: {response.status_code}"
