"""How long every endpoint takes, with 1 and with 50 concurrent callers, while two 30-fps no-op streams run.

    python -m bench.api [--calls 20] [--pace 10] [--only update_stream] [--json FILE]

The server, the two publishers and this program are separate processes. Callers keep their connection and send the
next request when the answer is there (`closed`), or `--pace` times a second each as Daydream's plugins do (`paced`).
A closed loop of 50 callers measures throughput: its latency is 50 times the service time whatever the server does.
Rate and stream limits are lifted by settings; nothing else differs from a default server.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiortc import RTCPeerConnection
from rich.console import Console
from rich.table import Table

from bench.support.caller import Caller, Reply
from bench.support.targets import conditions, run_sdstream

NO_OP = {"model_id": "stabilityai/sd-turbo", "skip_diffusion": True}
GOAL_UPDATE_P99_MS = 20.0
GOAL_MAXIMUM_MS = 250.0
SETTINGS = {
    "max_streams": "5000",
    "max_viewers": "5000",
    "create_rate": "100000",
    "update_rate": "100000",
    "api_key_endpoint": "true",
}


@dataclass(frozen=True)
class Result:
    """Latencies of one endpoint under one load, in milliseconds."""

    endpoint: str
    callers: int
    load: str
    calls: int
    errors: int
    per_second: float
    p50: float
    p99: float
    maximum: float


Call = Callable[[Caller], Awaitable[Reply]]


@dataclass(frozen=True)
class Endpoint:
    """One measured call; `prepare` and `restore` run around each, outside the measured time."""

    name: str
    status: int
    call: Call
    prepare: Call | None = None
    restore: Call | None = None
    most: int | None = None
    """Calls of one caller, where each costs more than an answer."""
    fastest: float | None = None
    """Paced calls a second of one caller, where `--pace` would be more than 50 callers ever ask for."""


def endpoints(offer: bytes, live: dict[str, Any]) -> list[Endpoint]:
    """Every operation of the OpenAPI document, under its operation id."""
    sdp = "application/sdp"
    fragment = (
        b"a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n"
    )

    def plain(method: str, path: str) -> Call:
        return lambda caller: caller.call(method, path.format(id=caller.stream["id"]))

    async def create(caller: Caller) -> Reply:
        reply = await caller.call("POST", "/v1/streams", json.dumps({"params": NO_OP}).encode())
        caller.stream = json.loads(reply.body) if reply.status == 201 else caller.stream
        return reply

    async def update(caller: Caller) -> Reply:
        caller.count += 1
        body = json.dumps({"pipeline": "streamdiffusion", "params": {"prompt": f"prompt {caller.count}"}}).encode()
        return await caller.call("PATCH", f"/v1/streams/{caller.stream['id']}", body)

    async def update_live(caller: Caller) -> Reply:
        caller.count += 1
        value = 0.5 + (caller.count % 20) / 10
        params = {"image_postprocessing": {"processors": [{"type": "sharpen", "params": {"sharpen_intensity": value}}]}}
        return await caller.call("PATCH", f"/v1/streams/{live['id']}", json.dumps({"params": params}).encode())

    async def update_prompts(caller: Caller) -> Reply:
        caller.count += 1
        body = json.dumps({"params": {"prompt": f"prompt {caller.count}"}}).encode()
        return await caller.call("POST", f"/beta/streams/{caller.stream['id']}/prompts", body)

    async def publish(caller: Caller) -> Reply:
        return _remember(caller, await caller.call("POST", _path(caller.stream["whip_url"]), offer, sdp))

    async def watch(caller: Caller) -> Reply:
        receive = offer.replace(b"a=sendonly", b"a=recvonly")
        return _remember(caller, await caller.call("POST", _path(live["whep_url"]), receive, sdp))

    async def end(caller: Caller) -> Reply:
        return await caller.call("DELETE", caller.stream["location"])

    async def trickle(caller: Caller) -> Reply:
        return await caller.call("PATCH", caller.stream["location"], fragment, "application/trickle-ice-sdpfrag")

    delete = plain("DELETE", "/v1/streams/{id}")
    return [
        Endpoint("get_version", 200, plain("GET", "/v1/version")),
        Endpoint("get_health", 200, plain("GET", "/health")),
        Endpoint("get_readiness", 200, plain("GET", "/ready")),
        Endpoint("ping", 200, plain("GET", "/ping")),
        Endpoint("get_metrics", 200, plain("GET", "/metrics"), fastest=1.0),
        Endpoint("list_models", 200, plain("GET", "/v1/models")),
        Endpoint("list_parameters", 200, plain("GET", "/v1/parameters")),
        Endpoint("get_capacity", 200, plain("GET", "/v1/capacity")),
        Endpoint("get_stream", 200, plain("GET", "/v1/streams/{id}")),
        Endpoint("get_stream_status", 200, plain("GET", "/v1/streams/{id}/status")),
        Endpoint(
            "get_stream_status (live)", 200, lambda caller: caller.call("GET", f"/v1/streams/{live['id']}/status")
        ),
        Endpoint("update_stream", 200, update),
        Endpoint("update_stream (live)", 200, update_live, fastest=1.0),
        Endpoint("update_prompts", 200, update_prompts),
        Endpoint("list_streams (52 of them)", 200, plain("GET", "/v1/streams"), most=10, fastest=1.0),
        Endpoint("create_stream", 201, create, prepare=delete),
        Endpoint("delete_stream_by_path", 200, delete, restore=create),
        Endpoint("delete_stream", 200, plain("DELETE", "/v1/streams?id={id}"), restore=create),
        Endpoint(
            "get_snapshot",
            200,
            lambda caller: caller.call("GET", f"/v1/streams/{live['id']}/snapshot.jpg"),
            most=10,
            fastest=1.0,
        ),
        Endpoint(
            "follow_events (first byte)",
            200,
            lambda caller: caller.call("GET", f"/v1/streams/{caller.stream['id']}/events", endless=True),
        ),
        Endpoint(
            "create_api_key",
            201,
            lambda caller: caller.call("POST", "/v1/api-key", b'{"name": "x"}'),
            most=1,
            fastest=0.5,
        ),
        Endpoint("publish", 201, publish, restore=end, most=2, fastest=0.5),
        Endpoint("trickle_publish", 204, trickle, prepare=publish, restore=end, most=2, fastest=0.5),
        Endpoint("end_publish_session", 200, end, prepare=publish, most=2, fastest=0.5),
        Endpoint("watch", 201, watch, restore=end, most=2, fastest=0.5),
        Endpoint("trickle_watch", 204, trickle, prepare=watch, restore=end, most=2, fastest=0.5),
        Endpoint("end_watch_session", 200, end, prepare=watch, most=2, fastest=0.5),
        Endpoint("openapi.json", 200, plain("GET", "/openapi.json"), most=10),
        Endpoint("playground", 200, plain("GET", "/")),
    ]


async def measure(endpoint: Endpoint, callers: list[Caller], calls: int, pace: float | None) -> Result:
    """Let every caller make `calls` calls; with `pace`, that many a second each, spread evenly."""
    gc.collect()  # now, and not within a call
    count = min(calls, endpoint.most or calls)
    latencies: list[float] = []
    errors = 0
    start = time.perf_counter()

    async def work(caller: Caller) -> None:
        nonlocal errors
        due = start + (caller.number / len(callers) / pace if pace else 0)
        for _ in range(count):
            if endpoint.prepare is not None:
                await endpoint.prepare(caller)
            if pace:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += 1 / pace
            began = time.perf_counter()
            reply = await endpoint.call(caller)
            latencies.append(1000 * (time.perf_counter() - began))
            errors += reply.status != endpoint.status
            if endpoint.restore is not None:
                await endpoint.restore(caller)

    await asyncio.gather(*(work(caller) for caller in callers))
    seconds = time.perf_counter() - start
    ordered = sorted(latencies)
    return Result(
        endpoint=endpoint.name,
        callers=len(callers),
        load="paced" if pace else "closed",
        calls=len(ordered),
        errors=errors,
        per_second=round(len(ordered) / seconds, 1),
        p50=round(statistics.median(ordered), 2),
        p99=round(ordered[-1 - len(ordered) // 100], 2),
        maximum=round(ordered[-1], 2),
    )


async def measure_all(host: str, port: int, arguments: argparse.Namespace) -> list[Result]:
    """Start the two streams, then measure every endpoint."""
    console = Console(stderr=True)
    results: list[Result] = []
    async with contextlib.AsyncExitStack() as stack:
        live = [await _create(stack, host, port, number) for number in range(2)]
        for stream in live:
            stack.enter_context(_publisher(stream["whip_url"]))
        await _wait_online(host, port, live)
        callers = [Caller(host, port, number) for number in range(arguments.callers)]
        for caller in callers:
            caller.stream = await _create(stack, host, port, caller.number)
        for endpoint in endpoints(await _offer(), live[0]):
            if arguments.only and arguments.only not in endpoint.name:
                continue
            loads = [(callers[:1], arguments.calls * 5, None), (callers, arguments.calls, None)]
            if arguments.pace:
                loads.append((callers, arguments.calls, min(arguments.pace, endpoint.fastest or arguments.pace)))
            for group, calls, pace in loads:
                result = await measure(endpoint, group, calls, pace)
                results.append(result)
                console.print(f"{result.endpoint}: {result.callers} {result.load}: p99 {result.p99} ms", style="dim")
        for caller in callers:
            await caller.close()
        fps = [await _input_fps(host, port, stream) for stream in live]
        console.print(f"input rate of the two streams at the end: {fps[0]:.1f} and {fps[1]:.1f} a second")
    return results


def _remember(caller: Caller, reply: Reply) -> Reply:
    if reply.status == 201:
        caller.stream["location"] = _path(reply.headers["location"])
    return reply


def _path(url: str) -> str:
    return "/" + url.split("/", 3)[3]


async def _create(stack: contextlib.AsyncExitStack, host: str, port: int, number: int) -> dict[str, Any]:
    caller = Caller(host, port, number)
    reply = await caller.call("POST", "/v1/streams", json.dumps({"params": NO_OP}).encode())
    stack.push_async_callback(caller.close)
    if reply.status != 201:
        raise SystemExit(f"a stream could not be created: {reply.status} {reply.body[:300]!r}")
    return json.loads(reply.body)


async def _wait_online(host: str, port: int, streams: list[dict[str, Any]]) -> None:
    async with asyncio.timeout(60):
        for stream in streams:
            while (await _status(host, port, stream))["state"] != "ONLINE":  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.2)


async def _status(host: str, port: int, stream: dict[str, Any]) -> dict[str, Any]:
    caller = Caller(host, port, 0)
    reply = await caller.call("GET", f"/v1/streams/{stream['id']}/status")
    await caller.close()
    return json.loads(reply.body)["data"]


async def _input_fps(host: str, port: int, stream: dict[str, Any]) -> float:
    return float((await _status(host, port, stream))["input_status"]["fps"])


async def _offer() -> bytes:
    """An offer to send video, as a browser makes it: no candidates."""
    peer = RTCPeerConnection()
    peer.addTransceiver("video", direction="sendonly")
    await peer.setLocalDescription(await peer.createOffer())
    lines = [line for line in peer.localDescription.sdp.splitlines() if "candidate" not in line]
    await peer.close()
    return "\r\n".join([*lines, ""]).encode()


@contextlib.contextmanager
def _publisher(url: str) -> Iterator[None]:
    command = [sys.executable, "-m", "sdstream", "publish", "testsrc", "--url", url, "--fps", "30"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def show(results: list[Result]) -> None:
    """The table, slowest columns marked where a goal is missed."""
    table = Table("endpoint", "callers", "load", "calls", "errors", "calls/s", "p50 ms", "p99 ms", "max ms")
    for result in results:
        late = _is_judged_update(result) and result.p99 > GOAL_UPDATE_P99_MS
        table.add_row(
            result.endpoint,
            str(result.callers),
            result.load,
            str(result.calls),
            f"[red]{result.errors}[/]" if result.errors else "0",
            f"{result.per_second:.0f}",
            f"{result.p50:.2f}",
            f"[red]{result.p99:.2f}[/]" if late else f"{result.p99:.2f}",
            f"[red]{result.maximum:.1f}[/]" if result.maximum > GOAL_MAXIMUM_MS else f"{result.maximum:.1f}",
        )
    Console(width=120).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument(
        "--calls", type=int, default=20, help="calls of each caller; a single one makes five times more"
    )
    parser.add_argument("--pace", type=float, default=10.0, help="calls a second of each paced caller; 0: none")
    parser.add_argument("--only", help="only endpoints with this in their name")
    parser.add_argument("--json", type=Path, help="write the results here too")
    arguments = parser.parse_args()
    gc.freeze()
    gc.disable()
    with run_sdstream(**SETTINGS) as server:
        address = urlsplit(server.url)
        assert address.hostname is not None
        assert address.port is not None
        results = asyncio.run(measure_all(address.hostname, address.port, arguments))
    show(results)
    if arguments.json:
        content = {**conditions(), "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")
    missed = missed_goals(results)
    print("goals met" if not missed else "goals missed:\n  " + "\n  ".join(missed))
    return 1 if missed else 0


def missed_goals(results: list[Result]) -> list[str]:
    """What the results fall short of, a line each: errors, a slow PATCH, any call that took too long."""
    missed: list[str] = []
    for result in results:
        name = f"{result.endpoint}, {result.callers} callers, {result.load}"
        if result.errors:
            missed.append(f"{name}: {result.errors} of {result.calls} calls failed")
        if _is_judged_update(result) and result.p99 > GOAL_UPDATE_P99_MS:
            missed.append(f"{name}: p99 {result.p99:.1f} ms > {GOAL_UPDATE_P99_MS:g}")
        if result.maximum > GOAL_MAXIMUM_MS:
            missed.append(f"{name}: slowest {result.maximum:.0f} ms > {GOAL_MAXIMUM_MS:g}")
    return missed


def _is_judged_update(result: Result) -> bool:
    return result.endpoint.startswith("update_stream") and result.load == "paced"


if __name__ == "__main__":
    raise SystemExit(main())
