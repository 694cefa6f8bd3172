"""RunPod's API with answers that are none: every one is `EndpointFailed`, and a watcher goes on."""

from typing import Any

import httpx
import pytest

from sdstream.client import RunPodClient
from sdstream.client.runpod import API_URL
from sdstream.errors import ConfigurationError
from sdstream.job_errors import EndpointFailed


def client(status: int = 200, **answer: Any) -> RunPodClient:
    made = RunPodClient("endpoint", "rpa_secret", poll_seconds=0)
    made._http = httpx.AsyncClient(
        base_url="http://runpod", transport=httpx.MockTransport(lambda request: httpx.Response(status, **answer))
    )
    return made


@pytest.mark.parametrize("answer", [{}, {"id": None}, {"id": ""}, {"id": 5}, {"status": "IN_QUEUE"}])
async def test_a_job_without_an_id_is_no_job(answer: dict[str, Any]) -> None:
    async with client(json=answer) as made:
        with pytest.raises(EndpointFailed, match="no id"):
            await made.submit({"action": "list"})
        with pytest.raises(EndpointFailed, match="no id"):
            await made.run({"action": "list"})


@pytest.mark.parametrize("answer", [{"jobs": "x", "workers": [1]}, {"jobs": 5}, {"jobs": {"inQueue": "many"}}])
async def test_counters_that_are_none_are_left_out(answer: dict[str, Any]) -> None:
    async with client(json=answer) as made:
        health = await made.health()
    assert (health.jobs, health.workers) == ({}, {})


@pytest.mark.parametrize("stream", ["x", [5, None, "x", {"output": 5}], {"a": 1}])
async def test_chunks_that_are_none_are_passed_over(stream: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        more = {"stream": stream if len(seen) == 1 else []}
        return httpx.Response(200, json={"id": "1", "status": "COMPLETED", "output": []} | more)

    seen: list[str] = []
    async with RunPodClient("endpoint", "rpa_secret") as made:
        made._http = httpx.AsyncClient(base_url="http://runpod", transport=httpx.MockTransport(answer))
        assert [event async for event in made.events("1")] == []


@pytest.mark.parametrize(
    "answer", [{"text": "<html>"}, {"json": []}, {"status": 500, "text": "x"}, {"status": 429}, {"status": 401}]
)
async def test_no_answer_tells_the_key(answer: dict[str, Any]) -> None:
    async with client(**answer) as made:
        with pytest.raises(EndpointFailed) as failed:
            await made.health()
    assert "rpa_secret" not in str(failed.value)


async def test_the_line_break_of_a_keys_file_is_not_sent() -> None:
    async with RunPodClient("endpoint", "rpa_secret\n") as made:
        assert made._http.headers["Authorization"] == "Bearer rpa_secret"


@pytest.mark.parametrize(
    ("endpoint", "key", "url"),
    [
        ("endpoint", "rpa_secret\nrpa_secret", API_URL),
        ("endpoint", "rpa_secr\u00e9t", API_URL),
        ("endpoint", " ", API_URL),
        ("end\npoint", "rpa_secret", API_URL),
        ("endpoint", "rpa_secret", "localhost:8000"),
        ("endpoint", "rpa_secret", "http://[::1"),
    ],
)
def test_what_can_be_no_key_and_no_address_is_refused_and_no_key_is_told(endpoint: str, key: str, url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RunPodClient(endpoint, key, url=url)
    assert "rpa_" not in str(refused.value)


def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://me:secret@127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="SOCKS") as refused:
        RunPodClient("endpoint", "rpa_secret")
    assert "secret" not in f"{refused.value} {refused.value.hint}"


async def test_only_what_the_platform_holds_is_waited_for_longer() -> None:
    """A gateway's DELETE hangs as long as this when RunPod's API does."""
    waits: dict[str, float] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        waits[request.url.path.split("/")[1]] = request.extensions["timeout"]["read"]
        return httpx.Response(200, json={"id": "1", "status": "COMPLETED", "output": [{"event": "x"}]})

    async with RunPodClient("endpoint", "rpa_secret", timeout=30) as made:
        made._http = httpx.AsyncClient(base_url="http://runpod", transport=httpx.MockTransport(answer), timeout=30)
        await made.submit({"action": "list"})
        await made.run({"action": "list"})
        await made.status("1")
        await made.cancel("1")
        await made.health()
        _ = [event async for event in made.events("1")]
    assert waits == {"run": 30, "runsync": 90, "status": 30, "cancel": 30, "health": 30, "stream": 90}
