"""What surrounds every answer: CORS, preflight, HEAD, no redirects, prefixes."""

from collections.abc import Callable

import pytest

from sdstream.errors import TurnUnavailable
from sdstream.media.ports import IceServer
from tests.api.conftest import CREATE, Site

PATHS = [
    "/v1/streams",
    "/v1/streams/x",
    "/v1/streams/x/status",
    "/v1/api-key",
    "/beta/streams/x/prompts",
    "/live/video-to-video/x/whip",
    "/live/video-to-video/x/whip/y",
    "/playback/x/whep",
    "/playback/x/whep/y",
]


@pytest.mark.parametrize("path", PATHS)
async def test_preflight_is_204_with_everything_allowed(site: Site, path: str) -> None:
    answer = await site.client_with(None).options(
        path,
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
            "Access-Control-Request-Private-Network": "true",
        },
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-private-network"] == "true"
    methods = {name.strip() for name in answer.headers["access-control-allow-methods"].split(",")}
    assert {"OPTIONS", "GET", "POST", "PATCH", "DELETE"} <= methods
    headers = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "content-type", "if-match", "x-client-source"} <= headers
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/streams", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("/live/video-to-video/x/whip", "OPTIONS, POST"),
        ("/live/video-to-video/x/whip/y", "DELETE, OPTIONS, PATCH"),
        ("/nothing", "OPTIONS"),
    ],
)
async def test_options_tells_the_methods_of_the_path(site: Site, path: str, allowed: str) -> None:
    assert (await site.client.options(path)).headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/live/video-to-video/x/whip", "/playback/x/whep"])
async def test_options_tells_the_ice_servers(site: Site, path: str) -> None:
    site.streams.ice = (IceServer(("stun:a.example",)),)
    assert (await site.client.options(path)).headers["link"] == '<stun:a.example>; rel="ice-server"'


async def test_a_preflight_of_a_browser_asks_no_turn_service(site: Site) -> None:
    answer = await site.client.options(
        "/live/video-to-video/x/whip",
        headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST"},
    )
    assert answer.status_code == 204
    assert "link" not in answer.headers
    assert site.streams.ice_hosts == []


async def test_options_says_when_a_turn_service_fails(site: Site) -> None:
    site.streams.ice_problem = TurnUnavailable("Cloudflare did not answer")
    answer = await site.client.options("/live/video-to-video/x/whip")
    assert answer.status_code == 503
    assert answer.json()["code"] == "WEBRTC/TURN_UNAVAILABLE"
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/streams", 401),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/streams", 405),
        ("POST", "/playback/x/whep", 415),
        ("GET", "/health", 200),
    ],
)
async def test_every_answer_has_cors_headers(site: Site, method: str, path: str, status: int) -> None:
    answer = await site.client_with(None).request(method, path, headers={"Origin": "https://app.example"})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Livepeer-Playback-URL" in answer.headers["access-control-expose-headers"]


async def test_413_and_500_have_cors_headers(make_site: Callable[..., Site]) -> None:
    site = make_site(max_body_bytes=10_000)
    large = await site.client.post("/v1/streams", content=b" " * 20_000)
    site.streams.failure = ZeroDivisionError()
    defect = await site.client.get("/v1/streams")
    assert [large.status_code, defect.status_code] == [413, 500]
    assert large.headers["access-control-allow-origin"] == defect.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["/v1/streams/", "/v1/streams/x/", "//v1/streams", "/docs/", "/playback/x/whep/"])
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
async def test_nothing_redirects(site: Site, path: str, method: str) -> None:
    answer = await site.client.request(method, f"http://media.example{path}")
    assert answer.status_code in (400, 404, 405, 415)


async def test_head_is_get_without_a_body(site: Site) -> None:
    stream = await site.create()
    answer = await site.client.head(f"/v1/streams/{stream['id']}")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) > 1000


async def test_head_of_the_events_ends(site: Site) -> None:
    stream = await site.create()
    answer = await site.client.head(f"/v1/streams/{stream['id']}/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert site.streams.followers == 0


@pytest.mark.parametrize("path", ["/v1/streams", "/base/v1/streams"])
async def test_a_prefix_may_be_stripped_by_the_proxy_or_not(make_site: Callable[..., Site], path: str) -> None:
    site = make_site(public_url="https://video.example/base")
    stream = (await site.client.post(path, json=CREATE)).json()
    assert stream["whip_url"] == f"https://video.example/base/live/video-to-video/{stream['stream_key']}/whip"
    assert stream["gateway_host"] == "video.example"


async def test_a_location_keeps_the_prefix(make_site: Callable[..., Site]) -> None:
    site = make_site(public_url="https://video.example/base")
    stream = await site.create()
    answer = await site.publish(stream)
    assert answer.headers["location"].startswith(stream["whip_url"] + "/")
    assert (await site.client.delete(answer.headers["location"])).status_code == 200
