"""The `bake` job: engines are built by a program of their own, because torch never comes into this process."""

import asyncio
import contextlib
import importlib.util
import json
import re
import sys
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import structlog

from sdstream.errors import RequestError
from sdstream.job_errors import BakeFailed, InvalidJob, StorageFailed
from sdstream.jobs.inputs import BakeInput, Job
from sdstream.jobs.outputs import Event, make_event
from sdstream.model_errors import ModelUnavailable

PROGRAM = "builder"
END_SECONDS = 5.0
LONGEST_LINE = 1024 * 1024
MESSAGE_LINES, MESSAGE_CHARACTERS = 3, 1500
"""The builder's last words, an error with its hint, that a failed job tells."""
FAILURES: dict[int, type[RequestError]] = {2: InvalidJob, 4: ModelUnavailable, 5: StorageFailed}
"""What the builder's exit codes mean; all others are `BakeFailed`."""

# `[2/3] sd-turbo--unet--512x512: building the engine, 40 %, 31 s`
_PROGRESS = re.compile(r"\[(\d+)/(\d+)\] (\S+): (.*?)(?:, (\d+) %)?, (\d+) s")

logger = structlog.get_logger(__name__)


class BakeAction:
    """One bake at a time: each takes the whole machine."""

    def __init__(self, program: Sequence[str] = ()) -> None:
        """`program` stands in for `python -m builder`."""
        self._program = tuple(program)
        self._baking = asyncio.Lock()

    async def run(self, job: Job, wanted: BakeInput) -> AsyncGenerator[Event]:
        """Events: `progress` as the builder tells it, then `baked` with what became of each engine.

        Raises `InvalidJob` for a profile that is not there, `ModelUnavailable`, `StorageFailed` or `BakeFailed`.
        """
        program = self._program or (sys.executable, "-m", PROGRAM)
        if not self._program and importlib.util.find_spec(PROGRAM) is None:
            raise BakeFailed("this installation has no builder", hint="The image carries it.")
        async with self._baking:
            process = await asyncio.create_subprocess_exec(
                *program,
                *make_arguments(wanted),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LONGEST_LINE,
            )
            assert process.stdout is not None
            assert process.stderr is not None
            outcome = asyncio.ensure_future(process.stdout.read())
            said: deque[str] = deque(maxlen=MESSAGE_LINES)
            try:
                async for line in process.stderr:
                    text = line.decode("utf-8", "replace").strip()
                    progress = parse_progress(text)
                    if progress is not None:
                        yield make_event("progress", **progress)
                    elif text:
                        said.append(text)
                status = await process.wait()
                result = _parse(await outcome)
            finally:
                await _end(process)
                outcome.cancel()
                await asyncio.gather(outcome, return_exceptions=True)
        if status != 0 or result is None:
            words = " ".join(said)[-MESSAGE_CHARACTERS:]
            logger.error("bake failed", job_id=job.id, status=status, said=words)
            raise FAILURES.get(status, BakeFailed)(_why(result) or words or f"the builder ended with {status}")
        yield make_event("baked", **result)


def make_arguments(wanted: BakeInput) -> list[str]:
    """The builder's command line."""
    arguments = ["bake", "--json", "--profile", wanted.profile]
    if wanted.model is not None:
        arguments += ["--model", wanted.model]
    if wanted.backend is not None:
        arguments += ["--backend", wanted.backend]
    if wanted.sm:
        arguments += ["--sm", ",".join(map(str, wanted.sm))]
    return arguments + ["--push"] * wanted.push + ["--force"] * wanted.force


def parse_progress(line: str) -> dict[str, Any] | None:
    """What a line of the builder's progress says; None for other lines. `percent` is of the present engine."""
    found = _PROGRESS.fullmatch(line)
    if found is None:
        return None
    index, count, engine, detail, percent, seconds = found.groups()
    return {
        "engine": engine,
        "index": int(index),
        "count": int(count),
        "detail": detail,
        "percent": None if percent is None else int(percent),
        "seconds": int(seconds),
    }


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _why(result: dict[str, Any] | None) -> str:
    """Which engines could not be made or pushed, and why; then what was pushed all the same."""
    told = result or {}
    engines = cast("list[dict[str, Any]]", told.get("engines") or [])
    unpushed = cast("dict[str, str]", told.get("unpushed") or {})
    words = [f"{engine.get('name')}: {engine['error']}" for engine in engines if engine.get("error")]
    words += [f"{name} is made and could not be pushed: {error}" for name, error in unpushed.items()]
    if not words:
        return ""
    pushed = cast("list[str]", told.get("pushed") or [])
    return "; ".join([*words, *([f"pushed: {', '.join(pushed)}"] if pushed else [])])[:2000]


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


__all__ = ["PROGRAM", "BakeAction", "make_arguments", "parse_progress"]
