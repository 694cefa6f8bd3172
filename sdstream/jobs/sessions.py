"""Sessions: streams that a `start` job holds open. A session ends by itself, whether or not anybody reads its job."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from sdstream.errors import CapacityReached, Conflict, ShuttingDown, StreamNotFound, Unavailable
from sdstream.job_errors import DirectoryUnavailable
from sdstream.jobs.directory import Directory, SessionEntry
from sdstream.jobs.ports import Host
from sdstream.media.ports import PublisherState
from sdstream.streams.views import StreamStatus

CHECK_SECONDS = 0.5
"""How often a session looks whether it has to end."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a session ends by itself, in seconds; and how often its job tells its status, at first."""

    max_seconds: float
    idle_seconds: float
    status_seconds: float


def decide_end(age: float, idle: float, limits: Limits) -> str | None:
    """Why a session of this age, idle for `idle` seconds, has to end now; None for go on."""
    if age >= limits.max_seconds:
        return "max_seconds"
    if idle >= limits.idle_seconds:
        return "idle"
    return None


class Session:
    """One session, from `open` to `closed`. `reason` says why it ended, the first reason wins."""

    def __init__(self, host: Host, session_id: str, job_id: str, limits: Limits, author: str) -> None:
        self.id = session_id
        self.job_id = job_id
        self.limits = limits
        self.author = author
        self.reason: str | None = None
        self.warnings: tuple[str, ...] = ()
        self.entry: SessionEntry | None = None
        self.closed = asyncio.Event()
        self._host = host
        self._ending = asyncio.Event()
        self._started_at = host.clock.monotonic()
        self._used_at = self._started_at
        self._status: StreamStatus | None = None
        self._decoded, self._encoded = _Counter(), _Counter()
        self._most_viewers = 0
        self._life: asyncio.Task[None] | None = None

    async def check(self, body: dict[str, Any]) -> None:
        """Raise what `open` would raise of this body; nothing is created."""
        await self._host.streams.create(body, self.author, dry_run=True)

    async def open(self, body: dict[str, Any], *, from_playground: bool = False) -> SessionEntry:
        """Create the stream and its key. Raises what `create` of the streams raises; then nothing is left."""
        host = self._host
        try:
            outcome = await host.streams.create(body, self.author, from_playground=from_playground, stream_id=self.id)
        except asyncio.CancelledError:  # the stream may be there already, and would keep the id from a later start
            await self.abandon()
            raise
        self.warnings = outcome.warnings
        self.entry = SessionEntry(
            session_id=self.id,
            mailbox=host.mailbox,
            worker_id=host.worker_id,
            job_id=self.job_id,
            control_url=host.control_url,
            token=host.lend_key(f"session {self.id}", self.author),
            author=self.author,
            stream_key=outcome.record.stream_key,
            playback_id=outcome.record.output_playback_id,
            created_at=outcome.record.created_at.timestamp(),
        )
        self._observe()
        return self.entry

    def begin(self, directory: Directory, on_closed: Callable[["Session"], None]) -> None:
        """Watch over the session from now on."""
        self._life = asyncio.create_task(self._live(directory, on_closed), name=f"session {self.id}")

    def touch(self) -> None:
        """A control job or a call of its control URL came: the session is not idle."""
        self._used_at = self._host.clock.monotonic()

    def end(self, reason: str) -> None:
        """Have the session end; `closed` tells when it has. Idempotent."""
        if self.reason is None:
            self.reason = reason
        self._ending.set()

    @property
    def age(self) -> float:
        return self._host.clock.monotonic() - self._started_at

    def status_members(self) -> dict[str, Any]:
        """What a status event tells."""
        status = self._status
        if status is None:
            return {}
        return {
            "state": status.state.value,
            "reason": status.reason,
            "seconds": round(self.age, 1),
            "input_fps": round(status.input_fps, 2),
            "output_fps": round(status.output_fps, 2),
            "publisher": status.media.publisher.value,
            "viewers": status.media.viewers,
            "revision": status.revision,
            "latency_ms": {hop: round(1000 * summary.p50, 1) for hop, summary in status.latencies.items()},
        }

    def summary_members(self) -> dict[str, Any]:
        """What the summary tells, once the session has ended."""
        status = self._status
        return {
            "reason": self.reason,
            "seconds": round(self.age, 1),
            "frames_in": self._decoded.total,
            "frames_out": self._encoded.total,
            "most_viewers": self._most_viewers,
            "revision": status.revision if status else 1,
            "worker_restarts": status.restart_count if status else 0,
            "last_error": status.last_error if status else None,
        }

    async def abandon(self) -> None:
        """Undo `open` of a session that shall not begin."""
        await self._close()

    async def _live(self, directory: Directory, on_closed: Callable[["Session"], None]) -> None:
        try:
            while not self._ending.is_set():
                if not self._observe():
                    self.end("stopped")
                elif reason := decide_end(self.age, self._host.clock.monotonic() - self._used_at, self.limits):
                    self.end(reason)
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._ending.wait(), CHECK_SECONDS)
        finally:
            self.end("worker_shutdown")  # only when nothing else was the reason: the loop is going away
            self._observe()
            await self._close()
            log.info("session ended", session_id=self.id, reason=self.reason, seconds=round(self.age, 1))
            self.closed.set()
            on_closed(self)
            if self.entry is not None:
                with contextlib.suppress(DirectoryUnavailable):  # its lease ends there
                    await directory.release(self.entry)

    async def _close(self) -> None:
        if self.entry is not None:
            self._host.take_back_key(self.entry.token)
        try:
            await self._host.streams.delete(self.id)
        except (StreamNotFound, ShuttingDown):  # others were faster
            pass
        except Unavailable as error:  # the disk refuses; whoever waits for this end must not wait for ever
            log.error("stream of a session was not deleted", session_id=self.id, problem=error.message)

    def _observe(self) -> bool:
        """Look at the stream; False when it is gone."""
        try:
            status = self._host.streams.status(self.id)
        except StreamNotFound:
            return False
        self._status = status
        self._decoded.note(status.media.frames_decoded)
        self._encoded.note(status.media.frames_encoded)
        self._most_viewers = max(self._most_viewers, status.media.viewers)
        if status.media.viewers or status.media.publisher is not PublisherState.ABSENT:
            self.touch()
        return True


class _Counter:
    """The sum of a counter that starts again at zero now and then, as those of the media do after a pause."""

    def __init__(self) -> None:
        self.total = 0
        self._last = 0

    def note(self, value: int) -> None:
        self.total += value - self._last if value >= self._last else value
        self._last = value


class SessionTable:
    """The sessions of this worker. `opening` holds what a repeated start waits for."""

    def __init__(self, host: Host, directory: Directory, most: int) -> None:
        self._host = host
        self._directory = directory
        self._most = most
        self._sessions: dict[str, Session] = {}
        self._opening: dict[str, asyncio.Future[Session]] = {}
        self.draining = False

    def get(self, session_id: str) -> Session | None:
        return self._sessions.get(session_id)

    def touch(self, session_id: str) -> None:
        """The session of this id, if there is one, is used."""
        if session := self._sessions.get(session_id):
            session.touch()

    def entries(self) -> list[SessionEntry]:
        """The entries of all sessions that are open."""
        return [session.entry for session in self._sessions.values() if session.entry is not None]

    async def open(
        self, session: Session, body: dict[str, Any], *, from_playground: bool = False
    ) -> tuple[Session, bool]:
        """Open a session, or find the one of the same id; the second value says whether it was there.

        Raises `ShuttingDown`, `CapacityReached`, or what `create` raises.
        """
        if self.draining:
            raise ShuttingDown("this worker is shutting down")
        present = self._sessions.get(session.id)
        if present is not None and present.reason is None:
            return present, True
        if present is not None:
            raise Conflict("the session of this id is just ending")
        if session.id in self._opening:
            return await asyncio.shield(self._opening[session.id]), True
        if (taken := len(self._sessions) + len(self._opening)) >= self._most:
            await session.check(body)  # what is wrong anywhere must not be tried at one full worker after another
            raise CapacityReached(
                f"this worker has {taken} sessions and takes {self._most}",
                hint="SDSTREAM_WORKER_SESSIONS sets the limit; more workers take more.",
            )
        opening: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._opening[session.id] = opening
        try:
            await session.open(body, from_playground=from_playground)
        except BaseException as error:
            opening.set_exception(error if isinstance(error, Exception) else ShuttingDown("the start was cancelled"))
            opening.exception()  # looked at, so that nobody complains when no second start waits for it
            raise
        finally:
            del self._opening[session.id]
        self._sessions[session.id] = session
        opening.set_result(session)
        session.begin(self._directory, self._forget)
        return session, False

    async def end_all(self, reason: str) -> None:
        """Take no more sessions, end all and wait until they have ended."""
        self.draining = True
        if self._opening:
            await asyncio.wait(self._opening.values())
        sessions = list(self._sessions.values())
        for session in sessions:
            session.end(reason)
        for session in sessions:
            await session.closed.wait()

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session.id, None)


__all__ = ["CHECK_SECONDS", "Limits", "Session", "SessionTable", "decide_end"]
