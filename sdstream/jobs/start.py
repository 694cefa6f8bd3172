"""The `start` job: the session itself, told as events from `ready` to `summary`."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from sdstream.jobs.calls import OwnerCall
from sdstream.jobs.control import shorten
from sdstream.jobs.directory import SessionEntry
from sdstream.jobs.inputs import Job, StartInput, session_id_of
from sdstream.jobs.outputs import Event, OutputBudget, make_event, stretched_interval
from sdstream.jobs.ports import Host
from sdstream.jobs.routing import Router
from sdstream.jobs.sessions import Limits, Session, SessionTable


class StartAction:
    """Opens sessions and tells what happens to them."""

    def __init__(self, host: Host, table: SessionTable, router: Router) -> None:
        self._host = host
        self._table = table
        self._router = router

    async def run(self, job: Job, wanted: StartInput) -> AsyncGenerator[Event]:
        """`ready`, a `status` now and then, `summary`. A repeated start gets `ready` alone, with `repeated: true`.

        Cancelling the job ends the session.
        """
        session_id = session_id_of(job)
        if self._table.get(session_id) is None:
            elsewhere = await self._router.find_elsewhere(session_id)
            if elsewhere is not None:
                yield await self._ready(elsewhere, repeated=True)
                return
        fresh = Session(self._host, session_id, job.id, self._limits(wanted), wanted.author)
        session, repeated = await self._table.open(fresh, wanted.body(), from_playground=wanted.from_playground)
        assert session.entry is not None
        if repeated:
            yield await self._ready(session.entry, repeated=True)
            return
        try:
            faster = await self._router.enter(session.entry)
            if faster is not None:  # two workers got the same start at the same time
                session.end("repeated")
                await session.closed.wait()
                yield await self._ready(faster, repeated=True)
                return
            async with contextlib.aclosing(self._follow(session)) as events:
                async for event in events:
                    yield event
        finally:
            session.end("cancelled")  # unless it has ended already, which is any other way than being cancelled

    async def _follow(self, session: Session) -> AsyncGenerator[Event]:
        assert session.entry is not None
        budget = OutputBudget()
        ready = await self._ready(session.entry, warnings=[*session.warnings, *self._host.notes])
        budget.allows(ready)
        yield ready
        while not session.closed.is_set():
            interval = stretched_interval(session.limits.status_seconds, session.age)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(session.closed.wait(), interval)
            if not session.closed.is_set():
                status = make_event("status", session_id=session.id, **session.status_members())
                if budget.allows(status):
                    yield status
        yield make_event("summary", session_id=session.id, **session.summary_members())

    async def _ready(self, entry: SessionEntry, *, repeated: bool = False, **members: Any) -> Event:
        """What a client needs: where to publish and watch, where to steer, with which key."""
        call = OwnerCall(method="GET", path=f"/v1/streams/{entry.session_id}", author=entry.author, operator=True)
        stream = (await self._router.pass_on(entry, call)).json()
        return make_event(
            "ready",
            session_id=entry.session_id,
            repeated=repeated,
            worker_id=entry.worker_id,
            job_id=entry.job_id,
            whip_url=stream["whip_url"],
            whep_url=stream["whep_url"],
            control={"url": entry.control_url, "token": entry.token},
            stream=shorten(stream),
            **members,
        )

    def _limits(self, wanted: StartInput) -> Limits:
        settings = self._host.settings
        return Limits(
            max_seconds=min(wanted.max_seconds or settings.session_max_seconds, settings.session_max_seconds),
            idle_seconds=wanted.idle_seconds or settings.session_idle_timeout,
            status_seconds=wanted.status_seconds or settings.session_status_interval,
        )


__all__ = ["StartAction"]
