"""The gateway is held to the contract tests of the local server, in front of two workers behind the fake platform.

Each test of `CONTRACT` runs here once more with the gateway in the place of the server. Statements that do not are in a
table of docs/serverless.md, with the reason.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from sdstream.api.keys import FILE_NAME, KeyRing
from tests.browser import test_daydream_browser
from tests.browser.conftest import context, origin, page
from tests.contract import (
    test_bad_input,
    test_hot_and_cold,
    test_http,
    test_lenient,
    test_outputs,
    test_rest,
    test_sessions,
    test_status,
    test_update,
)
from tests.contract.conftest import SdkOnServer, node_sdk
from tests.contract.test_numbering import STATEMENTS
from tests.jobs.platform import API_KEY, ENDPOINT, FakePlatform
from tests.jobs.redis_server import RedisServer
from tests.jobs.worker import ROOT, JobWorker
from tests.support.events import event_log
from tests.support.peers import Publisher, Viewer
from tests.support.pictures import Picture
from tests.support.rest import SMALL, Rest, block, check_error
from tests.support.sdks import NodeSdk, PythonSdk
from tests.support.server import LiveServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

ALL = re.compile("")
CONTRACT: dict[ModuleType, re.Pattern[str]] = {
    test_rest: ALL,
    test_lenient: ALL,
    test_update: ALL,
    test_hot_and_cold: ALL,
    test_status: ALL,
    test_sessions: ALL,
    test_http: ALL,
    test_outputs: ALL,
    test_bad_input: re.compile("oversized_body|length_is_cut_off|unknown_streams|another_streams_url"),
    test_daydream_browser: re.compile("goes_live"),
}
"""The tests of the contract, and which of a module are run here."""
NOT_HERE = {
    "test_the_typescript_sdk_runs_on_the_zod_it_claims": "about the client",
    "test_43_vp8_is_accepted_from_clients_without_h264": "nine seconds of VP8 in the worker's media",
    "test_48_whip_and_whep_answer_within_three_seconds_with_a_cold_worker": "told with 50 and 51 below",
    "test_50_whep_while_loading_is_answered_and_shows_a_placard": "told with 48 and 51 below",
    "test_51_the_viewer_that_came_early_sees_the_first_real_picture_at_once": "told with 48 and 50 below",
    "test_54_a_killed_publisher_frees_its_place_within_sixty_seconds": "in the documentation's table",
}

__all__ = ["context", "node_sdk", "origin", "page"]
"""Fixtures."""

for _module, _wanted in CONTRACT.items():
    for _name, _member in list(vars(_module).items()):
        if _name.startswith("test_") and _wanted.search(_name) and _name not in NOT_HERE:
            if _module is test_daydream_browser:  # a module's marks stay behind
                for _mark in test_daydream_browser.pytestmark:
                    _member = _mark(_member)  # noqa: PLW2901
            globals()[_name] = _member


@pytest.fixture(scope="module")
def own_platform() -> Iterator[FakePlatform]:
    """A platform of the module's own, so that starts meet its two workers only."""
    fake = FakePlatform().start()
    yield fake
    fake.stop()
    assert fake.violations == []


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def workers(
    own_platform: FakePlatform, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[JobWorker]]:
    folder = tmp_path_factory.mktemp("workers")
    settings = {"redis_url": redis_server.url, "worker_sessions": 12, "max_streams": 40}
    made = [JobWorker(folder, own_platform, name, **settings).start() for name in ("left", "right")]
    yield [worker.wait_ready() for worker in made]
    for worker in made:
        worker.stop()


def make_gateway(folder: Path, platform: FakePlatform, redis_url: str | None) -> LiveServer:
    return LiveServer(
        folder,
        placement="runpod",
        endpoint=ENDPOINT,
        runpod_api_key=API_KEY,
        runpod_api_url=platform.url,
        redis_url=redis_url,
        create_rate=500,
    )


@pytest.fixture(scope="module")
def server(
    own_platform: FakePlatform,
    redis_server: RedisServer,
    workers: list[JobWorker],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiveServer]:
    """The gateway, in the place of the server that the contract tests are written for."""
    gateway = make_gateway(tmp_path_factory.mktemp("gateway"), own_platform, redis_server.url).start()
    yield gateway
    gateway.stop()


@pytest.fixture(params=["python", pytest.param("sdk-with-zod-newest", id="zod-newest", marks=pytest.mark.node)])
def sdk(request: pytest.FixtureRequest, server: LiveServer, node_sdk: Callable[[str], NodeSdk]) -> SdkOnServer:  # noqa: F811
    """The Python SDK, and the TypeScript one with the zod that refuses most."""
    return SdkOnServer(PythonSdk() if request.param == "python" else node_sdk(request.param), server)


def test_every_statement_is_run_here_or_has_its_reason_in_the_documentation() -> None:
    names = [name.split("_") for name in globals() if name.startswith("test_")]
    run = {int(part) for name in names for part in name[1:4] if part.isdigit()}
    section = (ROOT / "docs/serverless.md").read_text("utf-8").partition("## Gateway")[2].partition("\n## ")[0]
    told = {int(number) for number in re.findall(r"^\| (\d+) \| \S", section, re.MULTILINE)}
    assert set(STATEMENTS) - run == told


@pytest.mark.slow
async def test_48_50_51_a_viewer_of_a_cold_worker_waits_for_nothing_but_pictures(tmp_path: Path) -> None:
    platform = FakePlatform().start()
    worker = JobWorker(tmp_path, platform, "cold").start()
    gateway = make_gateway(tmp_path, platform, None)
    try:
        async with Rest(gateway.start()) as rest:
            stream = await rest.create()
            asked = time.monotonic()
            async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
                assert time.monotonic() - asked < 6, "each of the two may take three seconds"
                placards: list[float] = []
                cards: list[float] = []

                def note(picture: Picture) -> None:
                    (placards if picture.is_placard() else cards if picture.is_card() else []).append(picture.at)

                viewer.on_picture = note
                await eventually(lambda: len(cards) >= 10, seconds=30, what="ten cards")
                assert placards[0] < cards[0], "no placard came before the worker was ready"
                assert cards[9] - cards[0] < 2.0
    finally:
        gateway.stop()
        worker.stop()
        platform.stop()


async def test_media_goes_to_the_worker_and_signalling_may_go_through_the_gateway(
    rest: Rest, server: LiveServer
) -> None:
    stream = await rest.create()
    assert not stream["whip_url"].startswith(server.url)
    through = f"{server.url}/live/video-to-video/{stream['stream_key']}/whip"
    async with Publisher(through) as publisher:
        assert publisher.whep_url.startswith(server.url)
        assert publisher.session_url.startswith(server.url)
        async with Viewer(publisher.whep_url) as viewer:
            await viewer.wait_kind("card")
            assert (await viewer.delete()).status_code == 200


async def test_pictures_and_files_of_a_stream_come_through_the_gateway(rest: Rest, server: LiveServer) -> None:
    stream = await rest.create(SMALL | {"image_preprocessing": block("canny")}, recording={"enabled": True})
    path = f"/v1/streams/{stream['id']}"
    check_error(await rest.http.get(f"{path}/tap/canny.jpg"), 404)
    hls = f"{server.url}/hls/{stream['output_playback_id']}"
    check_error(await rest.anonymous.get(f"{hls}/index.m3u8"), 404, "STREAMS/NO_PICTURE_YET")
    async with event_log(rest, stream["id"]) as log, Publisher(stream["whip_url"]):
        name = (await log.wait("recording", state="started"))["name"]
        index = await rest.anonymous.get(f"{hls}/index.m3u8")
        assert (index.status_code, index.headers["content-type"]) == (200, "application/vnd.apple.mpegurl")
        assert index.headers["cache-control"] == "no-cache"
        (playlist,) = [line for line in index.text.splitlines() if line and not line.startswith("#")]

        async def segments() -> list[str]:
            text = (await rest.anonymous.get(f"{hls}/{playlist}")).text
            return [line for line in text.splitlines() if line.endswith(".m4s")]

        first = (await eventually(segments, what="a segment"))[0]
        segment = await rest.anonymous.get(f"{hls}/{first}")
        assert segment.status_code == 200
        assert segment.content[4:8] in (b"styp", b"moof")
        assert "immutable" in segment.headers["cache-control"]
        for file in ("snapshot.jpg", "tap/canny.jpg"):
            picture = await rest.http.get(f"{path}/{file}")
            assert picture.status_code == 200, picture.text
            assert (picture.headers["content-type"], picture.content[:3]) == ("image/jpeg", b"\xff\xd8\xff")
        check_error(await rest.anonymous.get(f"{path}/tap/canny.jpg"), 401)
        await rest.patch(stream["id"], {}, recording={"enabled": False})

        async def finished() -> Any:
            (entry,) = (await rest.http.get(f"{path}/recordings")).json()["data"]
            return entry["finished"] and entry

        recorded = await eventually(finished, what="the end of the recording")
    assert recorded["url"] == f"{server.url}{path}/recordings/{name}", "a worker knows no key of the gateway's"
    head = await rest.http.head(recorded["url"])
    assert (head.status_code, int(head.headers["content-length"])) == (200, recorded["bytes"])
    part = await rest.http.get(recorded["url"], headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert part.headers["content-range"] == f"bytes 4-7/{recorded['bytes']}"
    assert (await rest.http.delete(recorded["url"])).status_code == 200
    check_error(await rest.http.get(recorded["url"]), 404)


async def test_events_come_through_the_gateway(rest: Rest) -> None:
    stream = await rest.create()
    async with rest.http.stream("GET", f"/v1/streams/{stream['id']}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        await rest.change(stream["id"], {"prompt": "seen"})
        async for line in response.aiter_lines():
            if line == "event: updated":
                break


async def test_a_stream_of_another_key_is_forbidden_and_not_listed(rest: Rest, server: LiveServer) -> None:
    stream = await rest.create()
    guest = KeyRing(server.data_dir / FILE_NAME).create("guest", operator=False)
    async with Rest(server, guest) as other:
        check_error(await other.http.get(f"/v1/streams/{stream['id']}"), 403, "AUTH/FORBIDDEN")
        check_error(await other.patch(stream["id"], {"prompt": "x"}), 403, "AUTH/FORBIDDEN")
        own = await other.create()
        listed = (await other.http.get("/v1/streams")).json()["data"]
        assert {entry["id"] for entry in listed} == {own["id"]}
