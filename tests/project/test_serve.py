"""Starting and ending the server: what it prints, what it waits for, how it ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdstream.cli import EXIT_USAGE
from sdstream.errors import ConfigurationError
from sdstream.media.embedded.encoding import choose_h264_encoder
from sdstream.serve import bind, url_of
from tests.project.commands import environment, sdstream
from tests.support.ports import free_port
from tests.support.server import LiveServer
from tests.support.waiting import eventually_sync

OFFER = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"


class Serving:
    """`sdstream serve` on a free port, whose printed lines are read one by one."""

    def __init__(self, data_dir: Path, *arguments: str, program: Sequence[str] = ("-m", "sdstream")) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *program, "serve", "--port", "0", *arguments],
            env=environment(data_dir, worker_spare=False),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.log: list[str] = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()), daemon=True)
        self._reader.start()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def release(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    made: list[Serving] = []

    def begin(*arguments: str, **more: Any) -> Serving:
        made.append(Serving(tmp_path / "data", *arguments, **more))
        return made[-1]

    yield begin
    for serving in made:
        serving.release()


def test_the_first_start_prints_a_link_that_signs_in_and_the_next_one_none(start: Callable[..., Serving]) -> None:
    first = start()
    url = first.line().removeprefix("sdstream is listening on ")
    opened = first.line()
    assert opened.startswith(f"Open {url}/#key=sds_")
    key = opened.partition("#key=")[2]
    answer = httpx.get(f"{url}/v1/streams", headers={"Authorization": f"Bearer {key}"}, timeout=20)
    assert answer.status_code == 200
    assert first.end() == 0

    second = start()
    second.line()
    assert "#key=" not in second.line()
    assert second.end() == 0


def test_rest_answers_while_the_worker_is_still_starting(start: Callable[..., Serving]) -> None:
    serving = start("--no-authentication")
    url = serving.line().removeprefix("sdstream is listening on ")
    health = httpx.get(f"{url}/health", timeout=20).json()
    assert health["worker"]["phase"] == "starting"
    assert httpx.get(f"{url}/v1/streams", timeout=20).status_code == 200
    eventually_sync(lambda: httpx.get(f"{url}/ready", timeout=20).status_code == 200, seconds=60, what="/ready")


def test_it_says_what_it_does_and_why(start: Callable[..., Serving]) -> None:
    serving = start("--worker-device", "cpu")  # which is slow everywhere
    lines = [serving.line() for _ in range(10)]
    subjects = [line.split(":")[0].strip() for line in lines[2:]]
    assert subjects == ["device", "speed", "encoder", "WebRTC", "addresses", "URLs", "access", "data"]


@pytest.mark.parametrize(
    "refused",
    [
        ["--default-model", "no/such"],
        ["--models", '{"me/mine": "/nowhere"}'],
        ["--media-backend", "mediamtx", "--mediamtx-program", "nowhere"],
        ["--webrtc-ice-servers", "nowhere"],
        ["--webrtc-mode", "turn-local", "--turn-program", "nowhere"],
        ["--placement", "runpod", "--endpoint", "abc"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_settings_that_are_refused_leave_nothing_behind(tmp_path: Path, refused: list[str]) -> None:
    done = sdstream("serve", "--port", "0", *refused, environment=environment(tmp_path / "data"))
    assert done.returncode == EXIT_USAGE, done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(choose_h264_encoder("auto") == "nvenc", reason="the machine has NVENC")
def test_an_encoder_that_is_not_here_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = sdstream("serve", "--port", "0", "--video-encoder", "nvenc", environment=environment(tmp_path / "data"))
    assert "video_encoder is nvenc" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_second_signal_ends_at_once(start: Callable[..., Serving]) -> None:
    serving = start("--no-authentication")
    url = serving.line().removeprefix("sdstream is listening on ")
    stream = httpx.post(f"{url}/v1/streams", json={"params": {"skip_diffusion": True}}, timeout=20).json()
    with httpx.stream("GET", f"{url}/v1/streams/{stream['id']}/events", timeout=20) as events:
        assert events.status_code == 200
        serving.process.send_signal(signal.SIGTERM)
        eventually_sync(lambda: any("draining" in line for line in serving.log) or None, seconds=30, what="draining")
        serving.process.send_signal(signal.SIGINT)
        assert serving.process.wait(5) in (0, 128 + signal.SIGINT)


HANGING = """
import asyncio, sys, threading
from sdstream import cli, serve
from sdstream.streams.store import StreamStore

async def hang(self):
    await asyncio.to_thread(threading.Event().wait)

StreamStore.close = hang
serve.DRAIN_SECONDS, serve.LEAVE_SECONDS = 0.2, 1.5
sys.exit(cli.run())
"""
"""A server whose disk never answers again when the store is closed."""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_server_with_something_that_hangs_ends_all_the_same(start: Callable[..., Serving]) -> None:
    serving = start("--no-authentication", program=("-c", HANGING))
    serving.line()
    assert serving.end() == 1
    eventually_sync(
        lambda: any("not ended after 1.5 s" in line for line in serving.log) or None, seconds=30, what="the last words"
    )


def test_ending_it_leaves_no_process_and_closes_open_event_streams(make_server: Callable[..., LiveServer]) -> None:
    live = make_server()
    headers = {"Authorization": f"Bearer {live.key}"}
    body = {"params": {"skip_diffusion": True}}
    stream = httpx.post(f"{live.url}/v1/streams", json=body, headers=headers, timeout=20).json()
    with httpx.stream("GET", f"{live.url}/v1/streams/{stream['id']}/events", headers=headers, timeout=20) as events:
        assert events.status_code == 200
        assert live.stop() == 0


def test_a_port_in_use_is_told_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = sdstream("serve", "--port", str(port), environment=environment(tmp_path))
    assert done.returncode == 2
    assert f"port: {port} on 127.0.0.1 is in use by another program" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_free_port_is_taken_and_shown(host: str) -> None:
    with bind(host, 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_wildcard_host_is_shown_as_an_address_one_can_open() -> None:
    with bind("0.0.0.0", 0) as listener:
        assert url_of(listener).startswith("http://127.0.0.1:")


def test_a_name_that_is_none_is_told() -> None:
    with pytest.raises(ConfigurationError, match="is not an address of this machine"):
        bind("no-such-name.invalid", 0)


@pytest.mark.slow
def test_a_second_server_with_the_same_data_is_refused_and_the_first_goes_on(
    start: Callable[..., Serving], tmp_path: Path
) -> None:
    first = start("--no-authentication")
    url = first.line().removeprefix("sdstream is listening on ")
    second = sdstream("serve", "--port", "0", environment=environment(tmp_path / "data"))
    assert second.returncode == 2
    assert "is in use by another sdstream server; one data directory serves one server" in second.stderr
    assert "Traceback" not in second.stderr
    assert "listening" not in second.stdout
    answer = httpx.post(f"{url}/v1/streams", json={"params": {"skip_diffusion": True}}, timeout=20)
    assert answer.status_code == 201


@pytest.mark.slow
def test_a_load_balancer_asks_on_a_port_that_answers_nothing_else(make_server: Callable[..., LiveServer]) -> None:
    port = free_port()
    variables = {"RUNPOD_POD_ID": "worker1", "RUNPOD_ENDPOINT_ID": "end1", "PORT_HEALTH": str(port)}
    live = make_server(environment=variables, host="0.0.0.0")
    for path in ("/ping", "/health", "/ready"):
        assert httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20).status_code == 200
        assert httpx.get(f"{live.url}{path}", timeout=20).status_code == 200
    headers = {"Authorization": f"Bearer {live.key}", "Host": "end1.api.runpod.ai"}
    closed = httpx.get(f"http://127.0.0.1:{port}/v1/streams", headers=headers, timeout=20)
    assert (closed.status_code, closed.json()["code"]) == (404, "NOT_FOUND")
    made = httpx.post(f"{live.url}/v1/streams", headers=headers, json={"params": {"skip_diffusion": True}}, timeout=20)
    url = made.json()["whip_url"]
    assert url.startswith("https://end1.api.runpod.ai/live/")
    # and, as nothing leads in for media, that is what the client hears
    sdp = {"Content-Type": "application/sdp"}
    answer = httpx.post(f"{live.url}{httpx.URL(url).path}", headers=sdp, content=OFFER, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (503, "WEBRTC/OFF")
    assert any(line.split()[:2] == ["WebRTC:", "off"] for line in live.lines)


def test_a_health_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = sdstream("serve", "--port", "0", "--health-port", str(port), environment=environment(tmp_path))
    assert done.returncode == 2
    assert f"health_port: {port} on 127.0.0.1 is in use" in done.stderr


def test_two_servers_cannot_have_one_port() -> None:
    with bind("127.0.0.1", 0) as first, pytest.raises(ConfigurationError, match="in use"):
        bind("127.0.0.1", first.getsockname()[1])


async def test_the_bound_socket_takes_connections_before_the_server_runs() -> None:
    with bind("127.0.0.1", 0) as listener:
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.close()
        await writer.wait_closed()
