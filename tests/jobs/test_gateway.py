"""The gateway is held to the contract tests of the local server, in front of two workers behind the fake platform."""

import shutil
from collections.abc import Iterator

import pytest

from sdstream.api.keys import FILE_NAME, KeyRing
from tests.contract.conftest import SdkOnServer
from tests.contract.test_rest import *  # noqa: F403
from tests.contract.test_status import *  # noqa: F403
from tests.contract.test_update import *  # noqa: F403
from tests.jobs.platform import API_KEY, ENDPOINT, FakePlatform
from tests.jobs.redis_server import RedisServer
from tests.jobs.worker import JobWorker
from tests.support.peers import Publisher, Viewer
from tests.support.rest import Rest, check_error
from tests.support.sdks import PythonSdk
from tests.support.server import LiveServer

# About the client and not the server, or ten seconds long; the second passes here, too.
del test_the_typescript_sdk_runs_on_the_zod_it_claims, test_31_thirty_patches_a_second_for_ten_seconds  # noqa: F821

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


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


@pytest.fixture(scope="module")
def server(
    own_platform: FakePlatform,
    redis_server: RedisServer,
    workers: list[JobWorker],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiveServer]:
    """The gateway, in the place of the server that the contract tests are written for."""
    gateway = LiveServer(
        tmp_path_factory.mktemp("gateway"),
        placement="runpod",
        endpoint=ENDPOINT,
        runpod_api_key=API_KEY,
        runpod_api_url=own_platform.url,
        redis_url=redis_server.url,
        create_rate=500,
    )
    gateway.start()
    yield gateway
    gateway.stop()


@pytest.fixture
def sdk(server: LiveServer) -> SdkOnServer:
    return SdkOnServer(PythonSdk(), server)


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
