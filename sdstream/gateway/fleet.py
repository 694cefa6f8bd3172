"""The sessions of an endpoint as the gateway sees them: started by jobs, found in the directory, called at their owner.

With Redis the directory holds all sessions, whoever started them, and calls go through it. Without, the gateway knows
those that it has started itself, and calls them at their control URL.
"""

import asyncio
import contextlib
import secrets
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx
import structlog

from sdstream.client import EndpointHealth, RunPodClient
from sdstream.clock import Clock
from sdstream.errors import CapacityReached, ConfigurationError, NoPictureYet, StreamNotFound
from sdstream.gateway.direct import LongAnswer, call_owner, follow_owner
from sdstream.gateway.lines import SHUT_DOWN, Line, open_line
from sdstream.gateway.patience import CALL_SECONDS, OPEN_SECONDS, Patience
from sdstream.job_errors import (
    DirectoryUnavailable,
    EndpointFailed,
    JobFailed,
    NoEndpointWorker,
    OwnerAsleep,
    OwnerSilent,
    OwnerUnreachable,
)
from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.directory import Directory, MemoryDirectory, SessionEntry
from sdstream.jobs.inputs import LONGEST_SESSION_SECONDS
from sdstream.jobs.outputs import error_of
from sdstream.settings import Settings
from sdstream.streams.names import new_stream_id

if TYPE_CHECKING:  # it needs the redis package, which the base installation does not have
    from sdstream.jobs.post import PostOffice

LOOK_SECONDS = 0.05
"""How often the directory is asked for a session that is starting."""
JOB_LOOK_SECONDS = 1.0
AGAIN_SECONDS = 0.3
"""Pause before a start that met a full worker is submitted again."""
HEALTH_SECONDS = 10.0
KEPT_SECONDS = 2.0
"""How long a connection to a worker is kept unused. A worker ends one after 5 s, and a call must not meet that."""
GRACE_SECONDS = 60.0
"""How much longer the platform lets a session's job live than the session lives by itself."""

logger = structlog.get_logger(__name__)


class Fleet:
    """Starts, finds and calls sessions. `start` and `close` once, on one event loop."""

    def __init__(self, settings: Settings, api_key: str, clock: Clock) -> None:
        assert settings.endpoint is not None
        self.endpoint = settings.endpoint
        self.client = RunPodClient(settings.endpoint, api_key, url=settings.runpod_api_url, clock=clock)
        self.directory: Directory = MemoryDirectory()
        self.health: EndpointHealth | None = None
        """The endpoint's counters, None until its API has answered, and again when it does not."""
        self.problem: str | None = "RunPod's API has not answered yet"
        """Why there is no `health`."""
        self.sessions = 0
        """Sessions that the directory had when it was asked last."""
        self.directory_problem: str | None = None
        """Why the directory did not answer when it was asked last, None when it did."""
        self._settings = settings
        self._clock = clock
        self._patience = Patience(clock)
        self._post: PostOffice | None = None
        self._redis: Any = None
        # Each viewer of motion JPEG and of events holds a connection, and must keep nobody waiting for another.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=KEPT_SECONDS)
        self._http = httpx.AsyncClient(timeout=CALL_SECONDS, trust_env=False, limits=limits)
        self._lines: weakref.WeakSet[Line] = weakref.WeakSet()
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect. Raises `ConfigurationError` when Redis is asked for and its package is not installed."""
        url = self._settings.redis_url
        if url is not None:
            try:
                from sdstream.jobs.post import PostOffice
                from sdstream.jobs.redis_directory import RedisDirectory, connect
            except ImportError:
                raise ConfigurationError(
                    "redis_url is set, but the redis package is not installed",
                    hint="pip install -c constraints.txt -e '.[runpod]'",
                ) from None
            self._redis = connect(url.get_secret_value())
            self.directory = RedisDirectory(self._redis, self.endpoint, self._settings.session_lease)
            self._post = PostOffice(self._redis, self.endpoint, f"gateway-{secrets.token_hex(6)}")
            await self._post.start()
        self._watching = asyncio.create_task(self._watch(), name="endpoint-health")

    async def close(self) -> None:
        """Sessions go on. Idempotent."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*(line.close(*SHUT_DOWN) for line in self._lines))
        if self._post is not None:
            await self._post.close()
        if self._redis is not None:
            await self._redis.aclose()
        await self._http.aclose()
        await self.client.aclose()

    async def begin(self, members: Mapping[str, Any], author: str, *, from_playground: bool) -> SessionEntry:
        """Start a session and wait until a worker has it.

        Raises `CapacityReached` when only full workers were met, `NoEndpointWorker` when none took the job in time,
        `EndpointFailed`, `DirectoryUnavailable`, or what the worker found wrong.
        """
        await self.directory.check()  # before a job is there: it would start a worker in vain
        session_id = new_stream_id()
        job_input = {
            "action": "start",
            "session_id": session_id,
            "author": author,
            "from_playground": from_playground,
            **members,
        }
        deadline = self._clock.monotonic() + self._settings.endpoint_start_timeout
        full: CapacityReached | None = None
        job_id = ""
        while (left := deadline - self._clock.monotonic()) > 0:
            job_id = ""
            try:
                async with asyncio.timeout(left):
                    job_id = await self.client.submit(job_input, policy=self._policy())
                    return await self._wait(session_id, job_id)
            except TimeoutError:
                break
            except JobFailed as failed:
                error = error_of(failed)
                if not isinstance(error, CapacityReached):
                    raise error if error is not failed else EndpointFailed(failed.message) from failed
                full = error
                await asyncio.sleep(AGAIN_SECONDS)
            except BaseException:  # whatever it was, it goes on: nobody would know of the session, which costs money
                await self._take_back(job_id)
                raise
        await self._take_back(job_id)
        if full is not None:
            raise full
        if not job_id:
            raise EndpointFailed("RunPod's API took no job in time")
        raise NoEndpointWorker(f"no worker took the stream within {self._settings.endpoint_start_timeout:g} s")

    async def abandon(self, entry: SessionEntry) -> None:
        """End a session that nobody will hear of, as far as that can be done. Raises nothing."""
        await self._take_back(entry.job_id)
        with contextlib.suppress(DirectoryUnavailable):
            await self.directory.release(entry)

    async def find(self, session_id: str) -> SessionEntry:
        """Raises `StreamNotFound` or `DirectoryUnavailable`."""
        return _existing(await self.directory.find(session_id))

    async def find_by_token(self, token: str) -> SessionEntry:
        """By stream key or playback id. Raises as `find`."""
        return _existing(await self.directory.find_by_token(token))

    async def call(self, entry: SessionEntry, call: OwnerCall) -> OwnerAnswer:
        """Have the owner carry out a call. Raises `OwnerUnreachable`, or `StreamNotFound` once its job has ended."""
        seconds = self._patience.seconds(entry.mailbox)
        try:
            answer = await self._ask(entry, call, seconds)
        except (OwnerAsleep, OwnerSilent):
            if seconds == CALL_SECONDS:
                self._patience.silent(entry.mailbox)
            raise
        self._patience.answered(entry.mailbox)
        return answer

    async def _ask(self, entry: SessionEntry, call: OwnerCall, seconds: float) -> OwnerAnswer:
        if self._post is not None:
            return await self._post.ask(entry.mailbox, call, seconds)
        try:
            answer = await call_owner(self._http, entry, call, seconds)
        except OwnerUnreachable:
            await self._forget_if_ended(entry)
            raise
        if call.method == "DELETE" and answer.status < 300 and call.path == f"/v1/streams/{entry.session_id}":
            await self.directory.release(entry)
        return await self._checked(entry, answer)

    async def end(self, entry: SessionEntry) -> None:
        """End a session whose owner does not answer: its job is cancelled, if it has one still, and the directory
        forgets it."""
        try:
            await self.client.cancel(entry.job_id)
        except EndpointFailed as error:
            if not error.knows_no_job:
                raise
        await self.directory.release(entry)

    async def follow(self, entry: SessionEntry, path: str, headers: Mapping[str, str]) -> LongAnswer | OwnerAnswer:
        """A GET whose answer is long: its body as it comes, from the owner's control URL. An error comes whole.

        Raises `OwnerUnreachable`, or `StreamNotFound` once the session has ended.
        """
        try:
            answer = await follow_owner(self._http, entry, path, headers, self._seconds_to_open(entry))
        except OwnerUnreachable:
            await self._forget_if_ended(entry)
            raise
        self._patience.answered(entry.mailbox)
        return answer if answer.status < 400 else await self._checked(entry, await answer.whole())

    async def connect(self, entry: SessionEntry, path: str, headers: Mapping[str, str]) -> Line | OwnerAnswer:
        """A WebSocket to the owner's control URL, to be closed by the caller; the answer where the owner refuses one.

        Raises as `follow`.
        """
        given = {**headers, "Authorization": f"Bearer {entry.token}"}
        try:
            found = await open_line(entry.control_url + path, given, entry.session_id, self._seconds_to_open(entry))
        except OwnerUnreachable:
            await self._forget_if_ended(entry)
            raise
        self._patience.answered(entry.mailbox)
        if isinstance(found, OwnerAnswer):
            return await self._checked(entry, found)
        self._lines.add(found)
        return found

    def _seconds_to_open(self, entry: SessionEntry) -> float:
        return min(OPEN_SECONDS, self._patience.seconds(entry.mailbox))

    async def _take_back(self, job_id: str) -> None:
        if not job_id:
            return
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self.client.cancel(job_id)
        except (EndpointFailed, TimeoutError) as error:
            logger.warning("job could not be taken back", job_id=job_id, problem=str(error) or "no answer")

    async def _wait(self, session_id: str, job_id: str) -> SessionEntry:
        """The entry of a session that is starting. Raises `JobFailed` when its job ends instead."""
        if self._post is None:
            return await self._wait_for_ready(job_id)
        looked_at = self._clock.monotonic()
        while True:
            entry = await self.directory.find(session_id)
            if entry is not None:
                return entry
            await asyncio.sleep(LOOK_SECONDS)
            if self._clock.monotonic() - looked_at < JOB_LOOK_SECONDS:
                continue
            looked_at = self._clock.monotonic()
            view = await self.client.status(job_id)
            if view.is_final:
                await self.client.result(job_id)
                raise JobFailed("the session ended at once", job_id=job_id, error_code=view.state)

    async def _wait_for_ready(self, job_id: str) -> SessionEntry:
        async for event in self.client.events(job_id):
            if event.get("event") == "ready":
                entry = _entry_of(event, self._clock)
                await self.directory.claim(entry)
                return entry
        raise JobFailed("the session ended at once", job_id=job_id, error_code="COMPLETED")

    async def _checked(self, entry: SessionEntry, answer: OwnerAnswer) -> OwnerAnswer:
        """An answer of a control URL. Raises `StreamNotFound` when it says that the session has ended."""
        if answer.status in (401, 404) and not isinstance(answer.error(), NoPictureYet):
            await self._forget_if_ended(entry)
        if answer.status == 401:  # a session's key goes with it, a moment before its job ends
            raise StreamNotFound("this stream is just ending")
        return answer

    async def _forget_if_ended(self, entry: SessionEntry) -> None:
        """Raises `StreamNotFound` when the session's job has ended, and no directory but this one would notice."""
        try:
            ended = (await self.client.status(entry.job_id)).is_final
        except EndpointFailed as error:
            ended = error.knows_no_job
        if ended:
            await self.directory.release(entry)
            raise StreamNotFound("this stream has ended")

    def _policy(self) -> dict[str, int]:
        """The platform's own limits end a job after ten minutes, and forget it after a day, unless they are given."""
        seconds = self._settings.session_max_seconds + GRACE_SECONDS
        limits = {"executionTimeout": seconds, "ttl": seconds + self._settings.endpoint_start_timeout}
        return {name: round(1000 * min(limit, LONGEST_SESSION_SECONDS)) for name, limit in limits.items()}

    async def _watch(self) -> None:
        while True:
            try:
                self.health = await self.client.health()
                if self.problem is not None:
                    logger.info("endpoint answers", jobs=self.health.jobs, workers=self.health.workers)
                self.problem = None
                await self._count()
            except EndpointFailed as error:
                if self.problem != error.message:
                    logger.warning("endpoint does not answer", problem=error.message, hint=error.hint)
                self.problem = error.message
                self.health = None
            await asyncio.sleep(HEALTH_SECONDS if self.health is not None else 1.0)

    async def _count(self) -> None:
        try:
            self.sessions = len(await self.directory.entries())
            await self.directory.check()
        except DirectoryUnavailable as error:
            self.directory_problem = error.message
        else:
            self.directory_problem = None


def _existing(entry: SessionEntry | None) -> SessionEntry:
    if entry is None:
        raise StreamNotFound("There is no such stream.")
    return entry


def _entry_of(ready: Mapping[str, Any], clock: Clock) -> SessionEntry:
    stream: Mapping[str, Any] = ready["stream"]
    return SessionEntry(
        session_id=ready["session_id"],
        mailbox=ready["worker_id"],
        worker_id=ready["worker_id"],
        job_id=ready["job_id"],
        control_url=ready["control"]["url"],
        token=ready["control"]["token"],
        author=stream["author"],
        stream_key=stream["stream_key"],
        playback_id=stream["output_playback_id"],
        created_at=clock.now().timestamp(),
    )


__all__ = ["Fleet"]
