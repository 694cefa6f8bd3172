"""The gateway is held to the contract tests of the local server, in front of two workers behind the fake platform.

Each test of `CONTRACT` runs here once more with the gateway in the place of the server. Statements that do not are in a
table of docs/serverless.md, with the reason.
"""

import asyncio
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
    "test_31_thirty_patches_a_second_for_ten_seconds": "told anew below, in two seconds",
    "test_40_parameters_of_the_content_type_are_accepted": "between the client and the worker alone",
    "test_42_offers_with_candidates_connect_too": "between the client and the worker alone",
    "test_43_h264_is_selected_even_when_vp8_is_offered_first": "between the client and the worker alone",
    "test_43_vp8_is_accepted_from_clients_without_h264": "between the client and the worker alone",
    "test_48_whip_and_whep_answer_within_three_seconds_with_a_cold_worker": "told anew below",
    "test_50_whep_while_loading_is_answered_and_shows_a_placard": "told anew below",
    "test_51_the_viewer_that_came_early_sees_the_first_real_picture_at_once": "told anew below",
    "test_54_a_killed_publisher_frees_its_place_within_sixty_seconds": "in the documentation's table",
    "test_60_a_camera_of_another_shape_fills_the_output_undistorted": "between the client and the worker alone",
    "test_60_the_size_stays_when_the_camera_changes_its_own": "between the client and the worker alone",
}

__all__ = ["context", "node_sdk", "origin", "page"]
"""Fixtures."""

for _module, _wanted in CONTRACT.items():
    for _name, _member in list(vars(_module).items()):
        if _name.startswith("test_") and _wanted.search(_name) and _name not in NOT_HERE:
            if _module is test_daydream_browser:  # a module's marks stay behind
                for _mark in test_daydream_browser.pytestmark:
                    _member = _mark(_member)
            globals()[_name] = _member


@dataclass
class ColdStart:
    """What was seen of the first stream, while no worker had its torch yet."""

    answered_after: list[float] = field(default_factory=list[float])
    placards: list[float] = field(default_factory=list[float])
    cards: list[float] = field(default_factory=list[float])
    problem: BaseException | None = None

    async def look(self, gateway: LiveServer, wake: Callable[[], None]) -> None:
        async with Rest(gateway) as rest:
            stream = await rest.create()
            started = time.monotonic()
            async with Publisher(stream["whip_url"]) as publisher:
                self.answered_after.append(time.monotonic() - started)
                started = time.monotonic()
                async with Viewer(publisher.whep_url) as viewer:
                    self.answered_after.append(time.monotonic() - started)
                    viewer.on_picture = self.note
                    await eventually(lambda: self.placards, what="a placard")
                    wake()
                    await eventually(lambda: len(self.cards) >= 10, seconds=60, what="ten cards")

    def note(self, picture: Picture) -> None:
        if picture.is_placard():
            self.placards.append(picture.at)
        elif picture.is_card():
            self.cards.append(picture.at)


@dataclass
class Fleet:
    """The gateway with what is behind it, as it was when everything was just starting."""

    gateway: LiveServer
    cold_start: ColdStart


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One gateway and two workers for all tests here; their platform and Redis are their own, too."""
    folder = tmp_path_factory.mktemp("fleet")
    platform, redis = FakePlatform().start(), RedisServer(folder).start()
    gateway = LiveServer(
        folder,
        placement="runpod",
        endpoint=ENDPOINT,
        runpod_api_key=API_KEY,
        runpod_api_url=platform.url,
        redis_url=redis.url,
        create_rate=500,
    )
    settings = {"redis_url": redis.url, "worker_sessions": 12, "max_streams": 40}
    workers = [JobWorker(folder, platform, name, **settings) for name in ("left", "right")]
    try:
        gateway.start()
        for worker in workers:
            worker.start()
        children = [worker.suspend_child() for worker in workers]
        cold_start = ColdStart()

        def wake() -> None:
            for child in children:
                child.resume()

        with ThreadPoolExecutor(1) as pool:  # the loop of the tests is not disturbed
            cold_start.problem = pool.submit(lambda: asyncio.run(cold_start.look(gateway, wake))).exception()
        wake()
        for worker in workers:
            worker.wait_ready()
        yield Fleet(gateway, cold_start)
    finally:
        gateway.stop()
        for worker in workers:
            worker.stop()
        redis.stop()
        platform.stop()
    assert platform.violations == []


@pytest.fixture(scope="module")
def server(fleet: Fleet) -> LiveServer:
    """The gateway, in the place of the server that the contract tests are written for."""
    return fleet.gateway


@pytest.fixture(scope="module")
def cold_start(fleet: Fleet) -> ColdStart:
    if fleet.cold_start.problem is not None:
        raise fleet.cold_start.problem
    return fleet.cold_start


@pytest.fixture(params=["python", pytest.param("sdk-with-zod-newest", id="zod-newest", marks=pytest.mark.node)])
def sdk(request: pytest.FixtureRequest, server: LiveServer, node_sdk: Callable[[str], NodeSdk]) -> SdkOnServer:
    """The Python SDK, and the TypeScript one with the zod that refuses most."""
    return SdkOnServer(PythonSdk() if request.param == "python" else node_sdk(request.param), server)


def test_every_statement_is_run_here_or_has_its_reason_in_the_documentation() -> None:
    run = {int(name[5:7]) for name in globals() if re.match(r"test_\d\d_", name)}
    section = (ROOT / "docs/serverless.md").read_text("utf-8").partition("## Gateway")[2].partition("\n## ")[0]
    told = {int(number) for number in re.findall(r"^\| (\d+) \| \S", section, re.MULTILINE)}
    assert set(STATEMENTS) - run == told


async def test_31_thirty_patches_a_second_are_answered_and_the_last_one_wins(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        started = time.monotonic()
        for number in range(60):
            await asyncio.sleep(max(0.0, started + number / 30 - time.monotonic()))
            processor = "canny" if number == 59 else "passthrough"
            await rest.change(stream["id"], {"prompt": f"prompt {number}", "image_preprocessing": block(processor)})
        assert (await rest.get(stream["id"]))["params"]["prompt"] == "prompt 59"
        await viewer.wait_kind("edges")


@pytest.mark.alone
def test_48_whip_and_whep_of_a_cold_worker_are_answered_at_once(cold_start: ColdStart) -> None:
    assert max(cold_start.answered_after) < 3


def test_50_a_viewer_of_a_cold_worker_sees_a_placard(cold_start: ColdStart) -> None:
    assert cold_start.placards[0] < cold_start.cards[0]


@pytest.mark.alone
def test_51_the_viewer_that_came_early_sees_the_first_real_pictures_at_once(cold_start: ColdStart) -> None:
    assert cold_start.cards[9] - cold_start.cards[0] < 2


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

        async def first_index() -> httpx.Response | None:  # on a slow machine the first segment takes its time
            answer = await rest.anonymous.get(f"{hls}/index.m3u8")
            return answer if answer.status_code == 200 else None

        index = await eventually(first_index, seconds=30, what="the playlist of HLS")
        assert index.headers["content-type"] == "application/vnd.apple.mpegurl"
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
    beyond = {"Range": f"bytes={recorded['bytes']}-"}
    nothing = await rest.http.get(recorded["url"], headers=beyond)
    check_error(nothing, 416)
    assert nothing.headers["content-range"] == f"bytes */{recorded['bytes']}"
    assert (await rest.http.head(recorded["url"], headers=beyond)).status_code == 200
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
