"""The gateway where things are missing: no worker, no Redis, a worker that is full or gone."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from starlette.requests import Request

from sdstream.api.context import LOCAL_CALLER
from sdstream.client import RunPodClient
from sdstream.clock import SystemClock
from sdstream.commands.checks import Verdict
from sdstream.commands.doctor import run_checks
from sdstream.commands.gateway_checks import check_directory, check_endpoint
from sdstream.errors import CapacityReached, InvalidParams, StreamNotFound
from sdstream.gateway.fleet import Fleet
from sdstream.gateway.routes import GatewayRoutes
from sdstream.gateway.streams import GatewayStreams
from sdstream.job_errors import DirectoryUnavailable, EndpointFailed, NoEndpointWorker, OwnerUnreachable
from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.directory import MemoryDirectory, SessionEntry
from sdstream.settings import Settings
from tests.jobs.conftest import PLACES
from tests.jobs.platform import API_KEY, ENDPOINT, FakeJob, FakePlatform
from tests.jobs.test_parts import entry as entry_of
from tests.project.test_doctor import BARE
from tests.support.rest import SMALL
from tests.support.waiting import eventually


def settings(platform: FakePlatform, **members: Any) -> Settings:
    return Settings(placement="runpod", endpoint=ENDPOINT, runpod_api_url=platform.url, **members)


@pytest.fixture
def empty_platform() -> Iterator[FakePlatform]:
    """A platform that no worker asks for jobs."""
    fake = FakePlatform().start()
    yield fake
    fake.stop()


@pytest.fixture
async def fleet(platform: FakePlatform, client: RunPodClient) -> AsyncIterator[Fleet]:
    """A fleet without Redis, in front of the shared worker."""
    made = Fleet(settings(platform, endpoint_start_timeout=30), API_KEY, SystemClock())
    await made.open()
    yield made
    for entry in await made.directory.entries():
        await made.client.cancel(entry.job_id)
    await made.close()


async def begin(fleet: Fleet) -> SessionEntry:
    return await fleet.begin({"params": SMALL}, "usr_tester", from_playground=False)


def read(entry: SessionEntry, method: str = "GET") -> OwnerCall:
    return OwnerCall(method=method, path=f"/v1/streams/{entry.session_id}", author="usr_tester")


async def test_without_redis_the_owner_is_called_at_its_control_url(fleet: Fleet) -> None:
    entry = await begin(fleet)
    stream = (await fleet.call(entry, read(entry))).json()
    assert (stream["id"], stream["author"]) == (entry.session_id, "usr_tester")
    assert await fleet.find_by_token(stream["stream_key"]) == entry
    call = OwnerCall(method="GET", path=f"/v1/streams/{entry.session_id}", author="usr_tester", base="https://gateway")
    moved = (await fleet.call(entry, call)).json()
    assert moved["whip_url"] == stream["whip_url"].replace(entry.control_url, "https://gateway")
    assert (await fleet.call(entry, read(entry, "DELETE"))).status == 200
    with pytest.raises(StreamNotFound):
        await fleet.find(entry.session_id)


async def test_a_session_whose_job_has_ended_is_forgotten(fleet: Fleet) -> None:
    entry = await begin(fleet)
    await fleet.client.stop(entry.session_id)

    async def has_ended() -> bool:
        return (await fleet.client.status(entry.job_id)).is_final

    await eventually(has_ended, what="the end of the session's job")
    with pytest.raises(StreamNotFound):
        await fleet.call(entry, read(entry))
    assert list(await fleet.directory.entries()) == []


async def test_what_the_worker_finds_wrong_is_its_own_error_again(fleet: Fleet) -> None:
    with pytest.raises(InvalidParams, match="width"):
        await fleet.begin({"params": SMALL | {"width": 500}}, "usr_tester", from_playground=False)


async def test_full_workers_are_tried_until_the_time_is_over(fleet: Fleet, platform: FakePlatform) -> None:
    for _ in range(PLACES):
        await begin(fleet)
    fleet._settings = settings(platform, endpoint_start_timeout=2)
    with pytest.raises(CapacityReached):
        await begin(fleet)


async def test_a_start_that_no_worker_takes_is_taken_back(empty_platform: FakePlatform) -> None:
    fleet = Fleet(settings(empty_platform, endpoint_start_timeout=0.5), API_KEY, SystemClock())
    try:
        with pytest.raises(NoEndpointWorker):
            await begin(fleet)
    finally:
        await fleet.close()
    (job,) = empty_platform.jobs.values()
    assert job.state == "CANCELLED"
    assert job.body["policy"]["executionTimeout"] >= 3_600_000


async def test_a_job_never_asks_for_more_time_than_runpod_gives(empty_platform: FakePlatform) -> None:
    most = 7 * 24 * 3600
    given = settings(empty_platform, endpoint_start_timeout=0.5, session_max_seconds=float(most))
    fleet = Fleet(given, API_KEY, SystemClock())
    try:
        with pytest.raises(NoEndpointWorker):
            await begin(fleet)
    finally:
        await fleet.close()
    (job,) = empty_platform.jobs.values()
    assert job.body["policy"] == {"executionTimeout": most * 1000, "ttl": most * 1000}


async def test_a_wrong_key_for_the_platform_is_told(empty_platform: FakePlatform) -> None:
    fleet = Fleet(settings(empty_platform), "wrong", SystemClock())
    await fleet.open()
    try:
        with pytest.raises(EndpointFailed, match="401"):
            await begin(fleet)
        await eventually(lambda: "401" in (GatewayStreams(fleet).worker_health().last_error or ""), what="the reason")
    finally:
        await fleet.close()


async def test_the_doctor_of_a_gateway_asks_the_endpoint_and_the_directory(
    empty_platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    assert "needs a key" in (await check_endpoint(settings(empty_platform))).finding
    good = await check_endpoint(settings(empty_platform, runpod_api_key=API_KEY))
    assert (good.verdict, ENDPOINT in good.finding) == (Verdict.GOOD, True)
    wrong = await check_endpoint(settings(empty_platform, runpod_api_key="wrong"))
    assert (wrong.verdict, "401" in wrong.finding) == (Verdict.BAD, True)
    assert (await check_directory(settings(empty_platform))).verdict is Verdict.NOTE
    assert (await check_directory(settings(empty_platform, redis_url="redis://127.0.0.1:1/0"))).verdict is Verdict.BAD
    found = await run_checks(settings(empty_platform, runpod_api_key=API_KEY), BARE)
    assert [check.subject for check in found] == ["port", "access", "endpoint", "directory", "data", "keys"]


async def test_a_gateway_whose_redis_is_gone_says_that_it_takes_no_streams(empty_platform: FakePlatform) -> None:
    class GoneDirectory(MemoryDirectory):
        async def check(self) -> None:
            raise DirectoryUnavailable("Redis does not answer")

    fleet = Fleet(settings(empty_platform), API_KEY, SystemClock())
    streams = GatewayStreams(fleet)
    await fleet.open()
    try:
        await eventually(lambda: streams.capacity().accepting, what="an endpoint that answers")
        fleet.directory = GoneDirectory()
        await fleet._count()
        assert (streams.capacity().accepting, streams.capacity().reason) == (False, "Redis does not answer")
        with pytest.raises(DirectoryUnavailable):
            await begin(fleet)
        assert empty_platform.jobs == {}, "no worker is started in vain"
        fleet.directory = MemoryDirectory()
        await fleet._count()
        assert streams.capacity().accepting
    finally:
        await fleet.close()


async def first_job(platform: FakePlatform) -> FakeJob:
    return await eventually(lambda: next(iter(platform.jobs.values()), None), what="the start job")


async def test_a_start_whose_caller_is_gone_is_taken_back(empty_platform: FakePlatform) -> None:
    fleet = Fleet(settings(empty_platform), API_KEY, SystemClock())
    try:
        beginning = asyncio.create_task(begin(fleet))
        job = await first_job(empty_platform)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        assert job.state == "CANCELLED"
    finally:
        await fleet.close()


async def test_a_start_that_cannot_be_watched_is_taken_back(
    empty_platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(settings(empty_platform), API_KEY, SystemClock())

    async def wait(session_id: str, job_id: str) -> SessionEntry:
        raise DirectoryUnavailable("Redis does not answer")

    monkeypatch.setattr(fleet, "_wait", wait)
    try:
        with pytest.raises(DirectoryUnavailable):
            await begin(fleet)
    finally:
        await fleet.close()
    assert (await first_job(empty_platform)).state == "CANCELLED"


async def test_a_stream_that_nobody_hears_of_is_abandoned(empty_platform: FakePlatform) -> None:
    fleet = Fleet(settings(empty_platform), API_KEY, SystemClock())
    entry = msgspec.structs.replace(entry_of("one"), job_id=await fleet.client.submit({"action": "start"}))
    await fleet.directory.claim(entry)
    begun: list[Any] = []

    async def start(*given: Any, **members: Any) -> SessionEntry:
        begun.append(given)
        return entry

    async def call(*given: Any) -> OwnerAnswer:
        raise OwnerUnreachable("the worker died in between")

    async def read_object(request: Request) -> dict[str, Any]:
        return {}

    async def caller(request: Request) -> Any:
        return LOCAL_CALLER

    fleet.begin, fleet.call = start, call  # pyright: ignore[reportAttributeAccessIssue]
    limit = SimpleNamespace(take=lambda key: None)
    context: Any = SimpleNamespace(settings=Settings(), caller=caller, create_limit=limit, read_object=read_object)
    try:
        with pytest.raises(OwnerUnreachable):
            await GatewayRoutes(context, fleet).create(Request({"type": "http", "query_string": b"", "headers": []}))
        assert await fleet.directory.find(entry.session_id) is None
    finally:
        await fleet.close()
    assert begun
    assert (await first_job(empty_platform)).state == "CANCELLED"


async def test_a_stream_whose_job_is_forgotten_is_deleted_or_found_no_more(
    empty_platform: FakePlatform,
) -> None:
    """RunPod keeps a job for half an hour after its end: its worker died that long ago."""
    fleet = Fleet(settings(empty_platform), API_KEY, SystemClock())
    gone = msgspec.structs.replace(entry_of("one"), control_url="http://127.0.0.1:1")
    try:
        await fleet.directory.claim(gone)
        await fleet.end(gone)
        assert await fleet.directory.find(gone.session_id) is None
        await fleet.directory.claim(gone)
        with pytest.raises(StreamNotFound):
            await fleet.call(gone, read(gone))
        assert await fleet.directory.find(gone.session_id) is None
    finally:
        await fleet.close()


@pytest.mark.parametrize(
    "changes",
    [{"control_url": "http://a\x00b"}, {"control_url": "http://["}, {"control_url": ""}, {"token": "sds_\u20ac"}],
)
async def test_an_address_that_is_none_is_an_owner_that_cannot_be_reached(
    empty_platform: FakePlatform, changes: dict[str, str]
) -> None:
    fleet = Fleet(settings(empty_platform), API_KEY, SystemClock())
    job_id = await fleet.client.submit({"action": "start"})
    wrong = msgspec.structs.replace(entry_of("one"), job_id=job_id, **changes)
    try:
        with pytest.raises(OwnerUnreachable):
            await fleet.call(wrong, read(wrong))
        with pytest.raises(OwnerUnreachable):
            await fleet.follow(wrong, "/v1/streams/session-1/events", {})
        with pytest.raises(OwnerUnreachable):
            await fleet.connect(wrong, "/playback/pb/pictures", {})
    finally:
        await fleet.close()


async def test_an_api_that_hangs_holds_a_create_no_longer_than_a_start_may_take(empty_platform: FakePlatform) -> None:
    fleet = Fleet(settings(empty_platform, endpoint_start_timeout=0.2), API_KEY, SystemClock())

    async def hang(request: httpx.Request) -> httpx.Response:
        return await asyncio.Event().wait()  # pyright: ignore[reportReturnType]

    await fleet.client.aclose()
    fleet.client._http = httpx.AsyncClient(base_url="http://runpod", transport=httpx.MockTransport(hang))
    try:
        async with asyncio.timeout(20):
            with pytest.raises(EndpointFailed, match="took no job in time"):
                await begin(fleet)
    finally:
        await fleet.close()


async def test_any_number_of_long_answers_keeps_no_call_waiting(empty_platform: FakePlatform) -> None:
    lines: list[asyncio.StreamWriter] = []

    async def begin_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    fleet = Fleet(settings(empty_platform), API_KEY, SystemClock())
    server = await asyncio.start_server(begin_answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    entry = msgspec.structs.replace(entry_of("one"), control_url=url)
    try:
        async with asyncio.timeout(60):
            answers = [await fleet.follow(entry, "/playback/pb/pictures.mjpeg", {}) for _ in range(120)]
        assert [answer.status for answer in answers] == [200] * 120
    finally:
        await fleet.close()
        server.close()
        for line in lines:
            line.close()
            await line.wait_closed()
