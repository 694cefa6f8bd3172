"""The directory in a Redis in which other things lie, too."""

import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from sdstream.errors import ConfigurationError
from sdstream.job_errors import DirectoryUnavailable
from sdstream.jobs.redis_directory import RedisDirectory, connect
from tests.jobs.redis_server import RedisServer
from tests.jobs.test_parts import entry

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
PLACE = "sdstream:ours"


@pytest.mark.parametrize("url", ["http://:s3cret@h", "redis://[s3cret", "redis://:s3cret@h/0?db=x"])
def test_an_address_that_redis_does_not_take_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SDSTREAM_REDIS_URL") as refused:
        connect(url)
    assert "s3cret" not in str(refused.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield made
    made.stop()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Any]:
    """Our own entry, and junk beside it under names like its own."""
    made: Any = connect(server.url)
    await RedisDirectory(made, "ours", 60).claim(entry("one"))
    await made.set(f"{PLACE}:session:a-text", "x")
    await made.hset(f"{PLACE}:session:no-entry", "owner", "x")
    await made.hset(f"{PLACE}:session:junk", "entry", b"\xff\x00")
    await made.set(f"{PLACE}:token:junk", b"\xff\xfe")
    yield made
    await made.flushall()
    await made.aclose()


async def test_junk_keeps_no_session_from_being_listed(redis: Any) -> None:
    assert list(await RedisDirectory(redis, "ours", 60).entries()) == [entry("one")]


async def test_junk_is_no_session(redis: Any) -> None:
    directory = RedisDirectory(redis, "ours", 60)
    assert [await directory.find(name) for name in ("no-entry", "junk")] == [None, None]
    assert await directory.find_by_token("junk") is None


async def test_a_redis_that_refuses_says_why(redis: Any) -> None:
    with pytest.raises(DirectoryUnavailable, match="Redis refuses: WRONGTYPE"):
        await RedisDirectory(redis, "ours", 60).find("a-text")


async def test_a_redis_that_lets_nothing_be_written_is_told_before_a_session_begins(redis: Any) -> None:
    directory = RedisDirectory(redis, "ours", 60)
    await directory.check()
    try:
        await redis.replicaof("127.0.0.1", 1)
        assert await directory.find("session-1") == entry("one"), "it answers"
        with pytest.raises(DirectoryUnavailable, match="Redis refuses"):
            await directory.check()
    finally:
        await redis.replicaof("NO", "ONE")
