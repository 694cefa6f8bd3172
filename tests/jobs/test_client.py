"""RunPod's API with answers that are none: every one is `EndpointFailed`, and a watcher goes on."""

from typing import Any

import httpx
import pytest

from sdstream.client import RunPodClient
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
