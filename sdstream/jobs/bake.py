"""The `bake` job: engines are built by a program of their own, because torch never comes into this process."""

import asyncio
import contextlib
import importlib.util
import json
import sys
from collections.abc import AsyncGenerator
from typing import Any, cast

from sdstream.errors import InternalError, Unavailable
from sdstream.jobs.inputs import BakeInput, Job
from sdstream.jobs.outputs import Event, make_event
from sdstream.jobs.ports import Host
from sdstream.jobs.render import make_params
from sdstream.params import wire_params

PROGRAM = "builder"
"""Run as `python -m builder --params JSON --report json`: a JSON object a line, the last with `"done": true`."""
END_SECONDS = 5.0
LONGEST_LINE = 256 * 1024


class BakeAction:
    """One bake at a time: each takes the whole card."""

    def __init__(self, host: Host, program: tuple[str, ...] = ()) -> None:
        self._host = host
        self._program = program
        self._baking = asyncio.Lock()

    async def run(self, job: Job, wanted: BakeInput) -> AsyncGenerator[Event]:
        """Events: `progress` as the builder tells it, then `baked`. Raises `Unavailable` where there is no builder."""
        params, _ = make_params(self._host, wanted.params, None)
        if not self._program and importlib.util.find_spec(PROGRAM) is None:
            raise Unavailable("this installation has no engine builder", hint="The image carries it as `builder`.")
        command = self._program or (sys.executable, "-m", PROGRAM)
        async with self._baking:
            process = await asyncio.create_subprocess_exec(
                *command,
                "--params",
                json.dumps(wire_params(params)),
                "--report",
                "json",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE,
            )
            assert process.stdout is not None
            assert process.stderr is not None
            complaints = asyncio.ensure_future(_tail(process.stderr))
            done: dict[str, Any] | None = None
            try:
                async for line in process.stdout:
                    told = _parse(line)
                    if told is None:
                        continue
                    if told.pop("done", False):
                        done = told
                    else:
                        yield make_event("progress", **{name: value for name, value in told.items() if name != "event"})
                status = await process.wait()
                if status != 0 or done is None:
                    raise InternalError(f"the builder ended with {status}: {await complaints}")
            finally:
                await _end(process)
                complaints.cancel()
                await asyncio.gather(complaints, return_exceptions=True)
        yield make_event("baked", **{name: value for name, value in done.items() if name != "event"})


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


async def _tail(stream: asyncio.StreamReader) -> str:
    """The last line that the builder complained in."""
    last = ""
    async for line in stream:
        last = line.decode("utf-8", "replace").strip() or last
    return last[-500:]


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


__all__ = ["PROGRAM", "BakeAction"]
