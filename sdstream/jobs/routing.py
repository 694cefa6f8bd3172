"""The way of a control call to the worker that has the session, and the leases that keep the directory right."""

import asyncio
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import structlog

from sdstream.errors import StreamNotFound
from sdstream.job_errors import DirectoryUnavailable, OwnerUnreachable, SessionNotHere
from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.directory import Directory, SessionEntry
from sdstream.jobs.ports import Host
from sdstream.jobs.sessions import SessionTable
from sdstream.jobs.waiting import ANSWER_SECONDS

if TYPE_CHECKING:  # it needs the redis package, which the base installation does not have
    from sdstream.jobs.post import PostOffice

ALIVE_SECONDS = 3.0
"""How long an owner may take to say that it is there; to begin with that, half of it."""

_STREAM = re.compile(r"/v1/streams/([A-Za-z0-9_-]+)")
logger = structlog.get_logger(__name__)


class Router:
    """Carries out calls here or elsewhere. `post` is None without Redis: then only this worker is known."""

    def __init__(self, host: Host, table: SessionTable, directory: Directory, post: "PostOffice | None" = None) -> None:
        self._host = host
        self._table = table
        self._directory = directory
        self._post = post
        self._leases: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen for calls of others and keep the leases of this worker's sessions."""
        if self._post is not None:
            await self._post.start()
            self._leases = asyncio.create_task(self._keep_leases(), name="session-leases")

    async def close(self) -> None:
        """Idempotent."""
        if self._leases is not None:
            self._leases.cancel()
            await asyncio.gather(self._leases, return_exceptions=True)
            self._leases = None
        if self._post is not None:
            await self._post.close()

    async def call(
        self, session_id: str, method: str, path: str = "", *, query: str = "", body: Any = None
    ) -> OwnerAnswer:
        """A call of `/v1/streams/ID` and what is below, as an operator.

        Raises `StreamNotFound`, `SessionNotHere`, `OwnerUnreachable` or `DirectoryUnavailable`; errors of the REST API
        come in the answer.
        """
        call = OwnerCall(
            method=method,
            path=f"/v1/streams/{quote(session_id, safe='')}{path}",
            query=query,
            headers={} if body is None else {"content-type": "application/json"},
            body=b"" if body is None else msgspec.json.encode(body),
            author="job",
            operator=True,
        )
        if self._table.get(session_id) is not None:
            return await self.serve(call)
        if self._post is None:
            raise SessionNotHere(f"worker {self._host.worker_id} does not have the session {session_id}")
        entry = await self._directory.find(session_id)
        if entry is None:
            raise StreamNotFound(f"there is no session {session_id}; it has ended, or never began")
        return await self.pass_on(entry, call)

    async def pass_on(self, entry: SessionEntry, call: OwnerCall) -> OwnerAnswer:
        """Have the owner of `entry` carry out a call. Raises as `call`; the error says where the owner is."""
        if entry.mailbox == self._host.mailbox:
            return await self.serve(call)
        where = {"control_url": entry.control_url, "worker_id": entry.worker_id}
        if self._post is None:
            raise SessionNotHere("another worker has the session", details=where)
        try:
            return await self._post.ask(entry.mailbox, call, ANSWER_SECONDS)
        except OwnerUnreachable as error:
            error.details = where
            raise

    async def serve(self, call: OwnerCall) -> OwnerAnswer:
        """Carry out a call for a session of this worker."""
        answer = await self._host.call(call)
        found = _STREAM.match(call.path)
        session = self._table.get(found[1]) if found else None
        if session is not None:
            if call.uses:
                session.touch()
            whole = call.path == f"/v1/streams/{session.id}"  # below it are recordings, which can be deleted, too
            if whole and call.method == "DELETE" and answer.status < 300:
                session.end("stopped")
                await session.closed.wait()
        return answer

    async def find_elsewhere(self, session_id: str) -> SessionEntry | None:
        """The living owner of a session on another worker. Waits for the lease of one that is gone to end."""
        if self._post is None:
            return None
        deadline = self._host.clock.monotonic() + 2 * self._host.settings.session_lease
        while True:
            entry = await self._directory.find(session_id)
            if entry is None or entry.mailbox == self._host.mailbox or self._host.clock.monotonic() > deadline:
                return None
            probe = OwnerCall(method="GET", path="/v1/version", author="job", operator=True)
            try:
                await self._post.ask(entry.mailbox, probe, ALIVE_SECONDS)
                return entry
            except OwnerUnreachable:
                await asyncio.sleep(0.25)

    async def enter(self, entry: SessionEntry) -> SessionEntry | None:
        """Tell the directory of a session; gives the entry of another worker that was faster.

        Without Redis at this moment the session goes on, and is entered when Redis is back.
        """
        try:
            return await self._claim(entry)
        except DirectoryUnavailable as error:
            logger.warning("session not entered yet", session_id=entry.session_id, problem=error.message)
            return None

    async def _claim(self, entry: SessionEntry) -> SessionEntry | None:
        """Enter or renew; gives the entry of another worker that has it. Raises `DirectoryUnavailable`."""
        other = await self._directory.claim(entry)
        if self._table.get(entry.session_id) is None:  # it ended meanwhile, and must not be found again
            await self._directory.release(entry)
        return other

    async def _keep_leases(self) -> None:
        told = False
        while True:
            await asyncio.sleep(self._host.settings.session_lease / 3)
            try:
                for entry in self._table.entries():
                    await self._renew(entry)
                told = False
            except DirectoryUnavailable as error:
                if not told:
                    logger.warning("leases are not renewed; sessions go on", problem=error.message)
                told = True

    async def _renew(self, entry: SessionEntry) -> None:
        """Lengthen a lease. Ends the session where another worker has it by now: this one has been away for so long
        that it was given to another, and nobody finds it here any more. Raises `DirectoryUnavailable`."""
        session = self._table.get(entry.session_id)
        if session is None or session.reason is not None:
            return
        if await self._claim(entry) is not None:
            logger.warning("another worker has this session by now", session_id=entry.session_id)
            session.end("taken_over")


__all__ = ["Router"]
