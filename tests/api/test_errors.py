"""The envelope: seven members for every error there is."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import sdstream.job_errors
import sdstream.model_errors  # noqa: F401 -- their classes are leaves, too
from sdstream import errors
from sdstream.errors import RequestError
from tests.api.conftest import CREATE, Site

MEMBERS = ["success", "error", "code", "status", "details", "requestId", "traceId"]
DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"


def leaves(root: type[RequestError] = RequestError) -> Iterator[type[RequestError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from leaves(kind)


def check(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == MEMBERS
    assert (body["success"], body["status"]) == (False, status)
    assert body["requestId"] == answer.headers["x-request-id"]
    if code is not None:
        assert body["code"] == code
    return body


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in leaves()])
async def test_every_error_class_is_an_envelope(site: Site, kind: type[RequestError]) -> None:
    site.streams.failure = kind("it went wrong", details=[{"field": "a", "problem": "b", "suggestion": None}])
    body = check(await site.client.get("/v1/streams/x"), kind.status, kind.code)
    assert body["error"] == "it went wrong"
    assert body["details"] == [{"field": "a", "problem": "b", "suggestion": None}]


@pytest.mark.parametrize("kind", [errors.TooManyRequests, errors.CapacityReached, errors.RateLimited])
async def test_429_says_when_to_come_back(site: Site, kind: type[RequestError]) -> None:
    site.streams.failure = kind("no")
    assert int((await site.client.get("/v1/streams/x")).headers["retry-after"]) >= 1


async def test_an_unknown_path_is_404(site: Site) -> None:
    check(await site.client.get("/v1/nothing"), 404, "NOT_FOUND")


async def test_a_wrong_method_is_405_and_lists_all_methods(site: Site) -> None:
    answer = await site.client.put("/v1/streams/x", json={})
    check(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"


async def test_a_defect_is_500_and_keeps_its_text_to_itself(site: Site) -> None:
    site.streams.failure = ZeroDivisionError("a secret of the code")
    answer = await site.client.get("/v1/streams/x")
    check(answer, 500, "INTERNAL/ERROR")
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({}, "no bearer key"),
        ({"Authorization": "Basic abc"}, "not `Bearer KEY`"),
        ({"Authorization": "Bearer"}, "not `Bearer KEY`"),
        ({"Authorization": "Bearer wrong"}, "not known"),
        ({"Authorization": "wrong"}, "not `Bearer KEY`"),
    ],
)
async def test_each_bad_key_is_401(site: Site, headers: dict[str, str], problem: str) -> None:
    answer = await site.client_with(None).get("/v1/streams", headers=headers)
    assert problem in check(answer, 401, "AUTH/UNAUTHORIZED")["error"]
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_missing_key_comes_before_an_unknown_stream(site: Site) -> None:
    check(await site.client_with(None).get("/v1/streams/unknown"), 401)


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_unknown_stream_is_404(site: Site, method: str) -> None:
    check(await site.client.request(method, "/v1/streams/unknown", json={"params": {}}), 404, "STREAMS/NOT_FOUND")


async def test_bad_params_are_400_and_named(site: Site) -> None:
    body = {"params": {"model_id": "stabilityai/sd-turbo", "width": 100}}
    details = check(await site.client.post("/v1/streams", json=body), 400, "STREAMS/INVALID_PARAMS")["details"]
    assert [detail["field"] for detail in details] == ["params.width"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"   ",
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b'"text"',
        b"1",
        b"{} {}",
        b"\xff\xfe",
        b'{"params": {"prompt": "\xff"}}',
        b'{"params": {"delta": NaN}}',
        b'{"params": {"delta": Infinity}}',
        b'{"params": {"delta": 1e999}}',
        b'{"params": {"seed": ' + b"9" * 5000 + b"}}",
        b'{"params": {}, "params": {}}',
        b'{"params": {"prompt": "a", "prompt": "b"}}',
        b'{"params": {"prompt": "\\ud800"}}',
        b'{"params": {"\\ud800": 1}}',
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" * 100_000,
    ],
    ids=lambda content: content[:30].decode("latin-1"),
)
async def test_what_is_no_json_object_is_400(site: Site, content: bytes) -> None:
    check(await site.client.post("/v1/streams", content=content), 400)
    assert site.streams.records == {}


async def test_line_breaks_of_a_prompt_need_not_be_escaped(site: Site) -> None:
    answer = await site.client.post("/v1/streams", content=b'{"params": {"prompt": "a fox,\n\tin the snow"}}')
    assert answer.json()["params"]["prompt"] == "a fox,\n\tin the snow"


async def test_a_duplicate_member_is_named(site: Site) -> None:
    answer = await site.client.post("/v1/streams", content=b'{"name": "a", "name": "b"}')
    assert check(answer, 400)["details"][0]["field"] == "name"


async def test_an_announced_long_body_is_413(make_site: Callable[..., Site]) -> None:
    site = make_site(max_body_bytes=10_000)
    check(await site.client.post("/v1/streams", content=b" " * 10_001), 413, "BODY_TOO_LARGE")


async def test_a_long_body_without_length_is_413(make_site: Callable[..., Site]) -> None:
    site = make_site(max_body_bytes=10_000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 1000

    check(await site.client.post("/v1/streams", content=chunks()), 413, "BODY_TOO_LARGE")


async def test_a_body_at_the_limit_passes(make_site: Callable[..., Site]) -> None:
    site = make_site(max_body_bytes=10_000)
    content = json.dumps(CREATE).encode().ljust(10_000)
    assert (await site.client.post("/v1/streams", content=content)).status_code == 201


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "text/plain", "", "application/x-www-form-urlencoded"]
)
async def test_json_is_read_whatever_its_content_type(site: Site, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await site.client.post("/v1/streams", content=json.dumps(CREATE), headers=headers)
    assert answer.status_code == 201


async def test_a_byte_order_mark_is_no_fault(site: Site) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(CREATE).encode()
    assert (await site.client.post("/v1/streams", content=content)).status_code == 201


async def test_the_callers_request_id_comes_back(site: Site) -> None:
    answer = await site.client.get("/v1/streams/x", headers={"X-Request-Id": "my-request-1"})
    assert check(answer, 404)["requestId"] == "my-request-1"


async def test_a_strange_request_id_is_replaced(site: Site) -> None:
    answer = await site.client.get("/v1/streams/x", headers={"X-Request-Id": "a b\tc<script>"})
    assert check(answer, 404)["requestId"].startswith("req_")


async def test_the_trace_id_comes_from_traceparent(site: Site) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    assert check(await site.client.get("/v1/streams/x", headers=headers), 404)["traceId"] == trace


def test_every_code_is_in_the_documentation() -> None:
    text = DOCUMENT.read_text("utf-8")
    missing = {kind.code for kind in leaves() if f"`{kind.code}`" not in text}
    assert missing == set()


def test_the_documentation_names_no_other_codes() -> None:
    rows = [
        line.split("|")[1].strip().strip("`") for line in DOCUMENT.read_text("utf-8").splitlines() if line[:3] == "| `"
    ]
    assert set(rows) == {kind.code for kind in leaves()}
