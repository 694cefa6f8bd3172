"""The directory in Redis: one hash a session, with a lease that its worker renews."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from sdstream.errors import ConfigurationError
from sdstream.job_errors import DirectoryUnavailable
from sdstream.jobs.directory import SessionEntry

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 2.0

# KEYS: the hash, then the two aliases. Whoever has the session keeps it; its owner may write again, which renews.
_CLAIM = """
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then return redis.call('HGET', KEYS[1], 'entry') end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'entry', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[4], 'PX', ARGV[3]) end
return false
"""
_RELEASE = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
return redis.call('DEL', unpack(KEYS))
"""


def connect(url: str) -> Redis:
    """A client of the Redis at `url`, not connected yet; every command has a time limit.

    Raises `ConfigurationError` for an address that redis-py does not take.
    """
    try:
        return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            health_check_interval=15,
            retry=Retry(NoBackoff(), 1),  # its default tries for many seconds, for which a start would wait
        )
    except (ValueError, TypeError):  # not shown: it may hold a password
        raise ConfigurationError("SDSTREAM_REDIS_URL is no address such as redis://:password@host:6379/0") from None


class RedisDirectory:
    """Implements `directory.Directory`. `namespace` keeps endpoints apart that share a Redis."""

    def __init__(self, redis: Redis, namespace: str, lease_seconds: float) -> None:
        self._redis = redis
        self._prefix = f"sdstream:{namespace}"
        self._lease = round(1000 * lease_seconds)
        self._claim: Any = redis.register_script(_CLAIM)
        self._release: Any = redis.register_script(_RELEASE)

    async def claim(self, entry: SessionEntry) -> SessionEntry | None:
        arguments = [entry.mailbox, msgspec.json.encode(entry), self._lease, entry.session_id]
        with answering():
            found = await self._claim(keys=self._keys(entry), args=arguments)
        return _decode(found)

    async def release(self, entry: SessionEntry) -> None:
        with answering():
            await self._release(keys=self._keys(entry), args=[entry.mailbox])

    async def find(self, session_id: str) -> SessionEntry | None:
        with answering():
            return _decode(await cast("Any", self._redis).hget(self._session(session_id), "entry"))

    async def find_by_token(self, token: str) -> SessionEntry | None:
        with answering():
            session_id = await cast("Any", self._redis).get(f"{self._prefix}:token:{token}")
        return None if session_id is None else await self.find(session_id.decode("utf-8", "replace"))

    async def entries(self) -> Sequence[SessionEntry]:
        redis = cast("Any", self._redis)
        with answering():
            names = [name async for name in redis.scan_iter(match=self._session("*"), count=500)]
            pipeline = redis.pipeline(transaction=False)
            for name in names:
                pipeline.hget(name, "entry")
            # Whatever else lies under such a name is no entry, and keeps no other from being found.
            found = [_decode(raw) for raw in await pipeline.execute(raise_on_error=False)]
        return [entry for entry in found if entry is not None]

    async def check(self) -> None:
        """A Redis that is full, or has become a replica of another, answers and lets nothing be written."""
        with answering():
            await cast("Any", self._redis).set(f"{self._prefix}:check", b"1", px=self._lease)

    def _session(self, session_id: str) -> str:
        return f"{self._prefix}:session:{session_id}"

    def _keys(self, entry: SessionEntry) -> list[str]:
        tokens = (entry.stream_key, entry.playback_id)
        return [self._session(entry.session_id), *(f"{self._prefix}:token:{token}" for token in tokens)]


@contextmanager
def answering() -> Generator[None]:
    """What Redis or the way to it raises becomes `DirectoryUnavailable`."""
    try:
        yield
    except (ResponseError, AuthenticationError) as error:
        raise DirectoryUnavailable(f"Redis refuses: {str(error)[:100]}") from error
    except (RedisError, OSError) as error:  # redis-py lets some errors of the socket through
        raise DirectoryUnavailable(f"Redis does not answer: {type(error).__name__}") from error


def _decode(raw: object) -> SessionEntry | None:
    """What the directory holds as an entry, None for anything else."""
    try:
        return msgspec.json.decode(raw, type=SessionEntry) if isinstance(raw, bytes) else None
    except msgspec.DecodeError:  # of another version of sdstream: not ours to understand
        return None


__all__ = ["RedisDirectory", "answering", "connect"]
