"""Who is let in."""

from collections.abc import Callable

import httpx
import pytest
import structlog

from sdstream.errors import ConfigurationError
from tests.api.conftest import CREATE, KEY, Site

LOCAL = "http://127.0.0.1:8080"


async def test_a_doubled_bearer_is_tolerated(site: Site) -> None:
    headers = {"Authorization": f"Bearer Bearer {KEY}"}
    assert (await site.client_with(None).get("/v1/streams", headers=headers)).status_code == 200


async def test_without_authentication_everybody_is_the_local_author(make_site: Callable[..., Site]) -> None:
    site = make_site(authentication=False)
    answer = await site.client_with(None, LOCAL).post("/v1/streams", json=CREATE)
    assert (answer.status_code, answer.json()["author"]) == (201, "local")


@pytest.mark.parametrize(
    ("base", "origin", "status"),
    [
        (LOCAL, None, 200),
        (LOCAL, LOCAL, 200),
        (LOCAL, "http://localhost:5173", 200),
        (LOCAL, "chrome-extension://abcdef", 200),
        ("http://[::1]:8080", None, 200),
        ("http://studio.example", "https://studio.example", 200),
        (LOCAL, "https://pages.example", 403),
        (LOCAL, "HTTPS://pages.example", 403),
        (LOCAL, "https://localhost.pages.example", 403),
        (LOCAL, "http://[", 403),
        (LOCAL, "null", 403),
        ("http://rebound.example:8080", None, 403),
        ("http://rebound.example:8080", "http://rebound.example:8080", 403),
    ],
)
async def test_without_authentication_pages_of_the_web_are_kept_out(
    make_site: Callable[..., Site], base: str, origin: str | None, status: int
) -> None:
    site = make_site(authentication=False, public_url="https://studio.example")
    headers = {} if origin is None else {"Origin": origin}
    client = site.client_with(None, base)
    answers = [
        await client.get("/v1/streams", headers=headers),
        await client.get("/v1/capacity", headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [status, status]
    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {"*"}


async def test_with_authentication_any_page_may_call(site: Site) -> None:
    answer = await site.client.get("/v1/streams", headers={"Origin": "https://pages.example"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/streams"),
        ("GET", "/v1/streams"),
        ("DELETE", "/v1/streams?id=x"),
        ("GET", "/v1/streams/x"),
        ("PATCH", "/v1/streams/x"),
        ("DELETE", "/v1/streams/x"),
        ("GET", "/v1/streams/x/snapshot.jpg"),
        ("GET", "/v1/streams/x/tap/canny.jpg"),
        ("GET", "/v1/streams/x/events"),
        ("POST", "/beta/streams/x/prompts"),
        ("GET", "/v1/models"),
        ("GET", "/v1/capacity"),
    ],
)
async def test_these_need_a_key(site: Site, method: str, path: str) -> None:
    assert (await site.client_with("wrong").request(method, path, json=CREATE)).status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/ping", "/metrics", "/v1/version", "/v1/parameters", "/docs"])
async def test_these_need_none(site: Site, path: str) -> None:
    assert (await site.client_with(None).get(path)).status_code == 200


async def test_the_key_endpoint_is_off_by_default(site: Site) -> None:
    assert (await site.client.post("/v1/api-key", json={"name": "OBS Studio"})).status_code == 404


async def make_key(site: Site, client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/v1/api-key", json={"name": "OBS Studio", "user_type": "obs"})


async def test_a_key_from_the_endpoint_has_the_callers_author_and_is_no_operators(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(api_key_endpoint=True)
    answer = await make_key(site, site.client)
    assert answer.status_code == 201
    assert answer.text.startswith('{"apiKey":"')
    entry = site.keys.find(answer.json()["apiKey"])
    assert entry is not None
    assert (entry.author, entry.name, entry.operator) == (site.keys.check(KEY), "OBS Studio", False)


async def test_the_key_endpoint_wants_a_good_key(make_site: Callable[..., Site]) -> None:
    site = make_site(api_key_endpoint=True)
    assert (await make_key(site, site.client_with("wrong"))).status_code == 401


async def test_a_key_that_the_disk_refuses_is_no_mistake_of_the_server(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(api_key_endpoint=True)

    def refuse(*_: object, **__: object) -> str:
        raise ConfigurationError("cannot write the keys to /secret/place/keys.json: No space left on device")

    monkeypatch.setattr(site.keys, "create", refuse)
    with structlog.testing.capture_logs() as said:
        answer = await make_key(site, site.client)
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert "/secret" not in answer.text
    assert [line["problem"] for line in said if "not stored" in line["event"]] == [
        "cannot write the keys to /secret/place/keys.json: No space left on device"
    ]


async def test_a_key_name_must_be_a_string(make_site: Callable[..., Site]) -> None:
    site = make_site(api_key_endpoint=True)
    answer = await site.client.post("/v1/api-key", json={"name": 5})
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "name")
