"""Recordings in a bucket: moved when they are whole, listed, read and thrown away there, kept here while it fails."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from sdstream.api.routes.outputs import OutputRoutes
from sdstream.buckets import BucketAccess, make_bucket_client
from sdstream.clock import ManualClock
from sdstream.errors import NotFound, RecordingsUnavailable
from sdstream.file_errors import RangeNotSatisfiable
from sdstream.streams.recordings import RecordingShelf
from tests.engines.buckets import running_server
from tests.media.clients import make_settings

BUCKET = "films"
CONTENT = bytes(range(256)) * 2000
Moved = list[tuple[str, str, str | None]]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with running_server() as (host, port):
            address = f"http://{host}:{port}"
            client: Any = make_bucket_client(BucketAccess(address, "eu-cz-1"))
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-cz-1"})
            yield address


@pytest.fixture
def open_shelf(endpoint: str, tmp_path: Path) -> Callable[..., tuple[RecordingShelf, Moved, ManualClock]]:
    def make(bucket: str = BUCKET, **settings: Any) -> tuple[RecordingShelf, Moved, ManualClock]:
        moved: Moved = []
        clock = ManualClock()
        values = {
            "recording_bucket": f"s3://{bucket}/{tmp_path.name}",
            "recording_bucket_endpoint": endpoint,
            "recording_bucket_region": "eu-cz-1",
        }
        shelf = RecordingShelf(tmp_path, make_settings(**(values | settings)), clock, lambda *told: moved.append(told))
        return shelf, moved, clock

    return make


async def record(shelf: RecordingShelf, stream_id: str = "str_1") -> Path:
    file = await shelf.new_file(stream_id)
    file.write_bytes(CONTENT)
    return file


async def read(shelf: RecordingShelf, name: str, byte_range: str | None = None) -> tuple[bytes, str | None]:
    download = await shelf.download(await shelf.find("str_1", name), byte_range)
    return await asyncio.to_thread(lambda: b"".join(download.chunks)), download.content_range


async def test_what_is_whole_is_moved_listed_read_and_removed(open_shelf: Any) -> None:
    shelf, moved, clock = open_shelf()
    file = await record(shelf)
    clock.advance(60)
    growing = await shelf.new_file("str_1")
    growing.with_name(f"{growing.name}.recording").write_bytes(b"begun")
    other = await record(shelf, "str_2")
    assert not await shelf.move()
    assert sorted(moved) == [("str_1", file.name, None), ("str_2", other.name, None)]
    assert not file.exists()
    listed = await shelf.list("str_1")
    assert [(item.name, item.path is None, item.finished) for item in listed] == [
        (file.name, True, True),
        (growing.name, False, False),
    ]
    assert listed[0].byte_count == len(CONTENT)
    assert await read(shelf, file.name) == (CONTENT, None)
    assert await read(shelf, file.name, "bytes=10-19") == (CONTENT[10:20], f"bytes 10-19/{len(CONTENT)}")
    assert (await read(shelf, file.name, "bytes=99999999-"))[0] == CONTENT
    await shelf.delete("str_1", file.name)
    with pytest.raises(NotFound):
        await shelf.find("str_1", file.name)
    assert [item.name for item in await shelf.list("str_2")] == [other.name]


async def test_a_bucket_that_refuses_leaves_the_file_here_and_is_told_once(open_shelf: Any) -> None:
    shelf, moved, _ = open_shelf(bucket="no-such-bucket")
    file = await record(shelf)
    assert await shelf.move()
    assert await shelf.move()
    assert [(name, problem is None) for _, name, problem in moved] == [(file.name, False)]
    assert "NoSuchBucket" in str(moved[0][2])
    assert file.read_bytes() == CONTENT
    with pytest.raises(RecordingsUnavailable):
        await shelf.list("str_1")


async def test_age_and_size_count_what_lies_in_the_bucket(open_shelf: Any) -> None:
    shelf, _, clock = open_shelf(recording_max_days=2.0, recording_max_bytes=2 * len(CONTENT))
    names: list[str] = []
    for _ in range(4):
        names.append((await record(shelf)).name)
        await shelf.move()
        clock.advance(0.9 * 86_400)
    await shelf.prune()
    assert [item.name for item in await shelf.list("str_1")] == names[2:]


async def test_the_api_gives_ranges_of_what_lies_in_the_bucket(open_shelf: Any) -> None:
    shelf, _, _ = open_shelf()
    file = await record(shelf)
    await shelf.move()

    class Streams:
        recordings = shelf

    class Owned:
        streams = Streams()

        async def owned(self, request: Request, stream_id: str) -> Any:
            return type("Record", (), {"id": stream_id})

    routes: Any = OutputRoutes(Owned())  # type: ignore[arg-type]

    async def get(request: Request) -> Response:
        return await routes.get_recording(request)

    application = Starlette(routes=[Route("/{id}/{name}", get)])

    def ask() -> None:
        with TestClient(application) as client:
            whole = client.get(f"/str_1/{file.name}")
            assert (whole.status_code, whole.content) == (200, CONTENT)
            assert whole.headers["content-type"] == "video/mp4"
            part = client.get(f"/str_1/{file.name}", headers={"Range": "bytes=-5"})
            assert (part.status_code, part.content) == (206, CONTENT[-5:])
            assert part.headers["content-range"].endswith(f"/{len(CONTENT)}")
            with pytest.raises(RangeNotSatisfiable):
                client.get(f"/str_1/{file.name}", headers={"Range": f"bytes={len(CONTENT)}-"})

    await asyncio.to_thread(ask)
