"""`sdstream publish --codec jpeg`: whole pictures over a WebSocket, against a live server."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sdstream.commands.picture_session import socket_url
from tests.project.commands import environment, sdstream, started
from tests.support.picture_sockets import decoded
from tests.support.server import LiveServer
from tests.support.waiting import eventually_sync

SMALL = {"skip_diffusion": True, "width": 384, "height": 384}


@pytest.fixture
def api(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=10) as client:
        yield client


@pytest.mark.slow
def test_every_picture_is_sent_and_answered_and_the_session_ended(api: httpx.Client, tmp_path: Path) -> None:
    stream = api.post("/v1/streams", json={"params": SMALL}).json()
    words = ["publish", "testsrc", "--url", stream["whip_url"], "--codec", "jpeg", "--duration", "2", "--fps", "20"]
    done = sdstream(*words, "--report", "json", environment=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["frames"], report["packets"], report["packets_lost"]) == (40, 40, 0)
    assert (report["codec"], report["width"]) == ("jpeg", 512)
    assert 0 < report["round_trip"] < 5
    status = api.get(f"/v1/streams/{stream['id']}/status").json()["data"]
    assert status["state"] == "OFFLINE"


@pytest.mark.slow
def test_whoever_takes_over_ends_it_with_the_servers_words(api: httpx.Client, tmp_path: Path) -> None:
    stream = api.post("/v1/streams", json={"params": SMALL}).json()
    words = ("publish", "testsrc", "--url", stream["whip_url"], "--codec", "jpeg")

    def shows_magenta() -> bool:
        answer = api.get(f"/v1/streams/{stream['id']}/snapshot.jpg")
        bar = decoded(answer.content).colour(0.64, 0.3) if answer.status_code == 200 else None
        return bar == pytest.approx((180, 16, 180), abs=25)

    with started(*words, environment=environment(tmp_path / "first")) as first:
        eventually_sync(shows_magenta, seconds=40, what="the fifth bar of the test picture")
        second = sdstream(*words, "--duration", "1", environment=environment(tmp_path / "second"))
        _, complaints = first.communicate(timeout=40)
    assert second.returncode == 0, second.stderr
    assert first.returncode == 1
    assert "the server ended the session after" in complaints
    assert "another publisher took over" in complaints
    assert "Traceback" not in complaints


def test_a_refusal_is_told_in_the_servers_words(server: LiveServer, tmp_path: Path) -> None:
    url = f"{server.url}/live/video-to-video/stk_unknown/whip"
    done = sdstream("publish", "testsrc", "--url", url, "--codec", "jpeg", environment=environment(tmp_path))
    assert done.returncode == 1
    assert "the server refused the stream: 404, There is no such stream." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    words = ("publish", "testsrc", "--url", "http://127.0.0.1:1/a/whip", "--codec", "jpeg")
    done = sdstream(*words, environment=environment(tmp_path))
    assert done.returncode == 1
    assert "no answer from ws://127.0.0.1:1/a/pictures" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host:8080/live/video-to-video/stk/whip", "ws://host:8080/live/video-to-video/stk/pictures"),
        ("HTTP://host:8080/live/stk/whip", "ws://host:8080/live/stk/pictures"),
        ("https://host/live/stk/whip?by=a/proxy", "wss://host/live/stk/pictures?by=a/proxy"),
        ("https://host/http/live/video-to-video/stk/whip", "wss://host/http/live/video-to-video/stk/pictures"),
    ],
)
def test_the_socket_is_beside_the_whip_url(url: str, expected: str) -> None:
    assert socket_url(url) == expected
