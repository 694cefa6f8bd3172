"""Reads the server-sent events of a stream while a test does something to it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.rest import Rest
from tests.support.waiting import eventually


@dataclass
class EventLog:
    """What has happened since the log was opened, in order: pairs of name and data."""

    entries: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The data of all events of that name."""
        return [data for entry, data in self.entries if entry == name]

    def states(self) -> list[str]:
        """The states that the stream has gone through."""
        return [data["state"] for data in self.named("state")]

    async def wait(self, name: str, *, seconds: float = 30.0, **members: Any) -> dict[str, Any]:
        """The first event of that name whose data has these members."""

        def probe() -> dict[str, Any] | None:
            for data in self.named(name):
                if members.items() <= data.items():
                    return data
            return None

        return await eventually(probe, seconds=seconds, what=lambda: f"event {name} {members} in {self.entries[-12:]}")


@contextlib.asynccontextmanager
async def event_log(rest: Rest, stream_id: str) -> AsyncIterator[EventLog]:
    """Collect the events of a stream from now on."""
    log = EventLog()
    opened = asyncio.Event()

    async def read() -> None:
        timeout = httpx.Timeout(15, read=None)
        async with rest.http.stream("GET", f"/v1/streams/{stream_id}/events", timeout=timeout) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].split(";")[0] == "text/event-stream"
            opened.set()
            name = ""
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    log.entries.append((name, json.loads(line.removeprefix("data: "))))

    task = asyncio.get_running_loop().create_task(read())
    try:
        await asyncio.wait_for(opened.wait(), 30)
        yield log
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, httpx.TransportError):
            await task
