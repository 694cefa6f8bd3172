"""A program beside this process: started, waited for, its lines kept, started again when it ends, ended with us."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import ConfigurationError
from sdstream.platform.processes import die_with_parent_command, process_exists
from sdstream.platform.shared_memory import shared_memory_directory

START_SECONDS = 10.0
END_SECONDS = 3.0
LOOK_SECONDS = 0.02
FIRST_DELAY = 0.25
LONGEST_DELAY = 8.0
STEADY_SECONDS = 30.0
"""A child that lived for so long starts the row of delays anew."""
LAST_LINES = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RestartDelay:
    """How long to wait before the next start: doubled with each quick end, from `FIRST_DELAY` to `LONGEST_DELAY`."""

    seconds: float = FIRST_DELAY

    def after(self, lived: float) -> "RestartDelay":
        """The delay for an end that came `lived` seconds after a start."""
        if lived >= STEADY_SECONDS:
            return RestartDelay()
        return RestartDelay(min(LONGEST_DELAY, self.seconds * 2))


def _as_it_is(line: str) -> str:
    return line


class ChildProgram:
    """The child and its supervisor.

    `prepare` is given a folder that only this user can read, in memory where the system has that: it writes what the
    child is told there, so that nothing of it is on a command line, and gives the command. `answers` says whether the
    child is ready. `on_line` is told of its lines as `clean` makes them, `on_restart` of each start after the first.
    """

    def __init__(
        self,
        name: str,
        folder_prefix: str,
        prepare: Callable[[Path], list[str]],
        answers: Callable[[], Awaitable[bool]],
        clock: Clock,
        *,
        hint: str | None = None,
        environment: Mapping[str, str] | None = None,
        clean: Callable[[str], str] = _as_it_is,
        on_line: Callable[[str], None] = lambda line: None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._folder_prefix = folder_prefix
        self._prepare = prepare
        self._answers = answers
        self._clock = clock
        self._hint = hint
        self._environment = environment
        self._clean = clean
        self._on_line = on_line
        self._on_restart = on_restart
        self._command: list[str] = []
        self._folder: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._lines: list[str] = []

    @property
    def process_id(self) -> int | None:
        """The child's, None while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the child and wait until it answers. Raises `ConfigurationError` when it ends or does not."""
        place = shared_memory_directory()
        _remove_leftovers(place, self._folder_prefix)
        self._folder = Path(tempfile.mkdtemp(prefix=f"{self._folder_prefix}{os.getpid()}-", dir=place))
        try:
            self._command = self._prepare(self._folder)
            process = self._process = await self._spawn()
            reading = asyncio.create_task(self._read(process))
            try:
                await self._wait_until_it_answers(process, reading)
            except BaseException:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                raise
        except BaseException:
            await self.close()
            raise
        self._supervisor = asyncio.create_task(self._supervise(process, reading), name=f"supervise {self._name}")

    async def close(self) -> None:
        """End the child. Idempotent."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None:
            for signal_it in (process.terminate, process.kill):
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        signal_it()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(END_SECONDS):
                        await process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._lines = []
        return await asyncio.create_subprocess_exec(
            *die_with_parent_command(self._command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for this process, which ends its children in good order
        )

    async def _wait_until_it_answers(self, process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._answers():
                    if process.returncode is not None:
                        await reading
                        said = "; ".join(self._lines) or "nothing"
                        how = _how(process.returncode)
                        raise ConfigurationError(
                            f"{self._name} ended at start ({how}); it said: {said}", hint=self._hint
                        )
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise ConfigurationError(
                f"{self._name} does not answer within {START_SECONDS:g} s", hint=self._hint
            ) from None

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Keep its last lines, so that its end can be explained."""
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line longer than the buffer
                continue
            if not line:
                return
            text = self._clean(line.decode("utf-8", "replace").strip())[:300]
            if text:
                self._lines = [*self._lines[1 - LAST_LINES :], text]
                self._on_line(text)

    async def _supervise(self, process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
        delay, started = RestartDelay(), self._clock.monotonic()
        while True:
            await reading
            how = _how(await process.wait())
            lived = self._clock.monotonic() - started
            delay = RestartDelay() if lived >= STEADY_SECONDS else delay
            log.warning(
                f"{self._name} has ended; it is started again",
                how=how,
                lived=round(lived, 1),
                delay=delay.seconds,
                said=self._lines,
            )
            await asyncio.sleep(delay.seconds)
            delay = delay.after(lived)
            started = self._clock.monotonic()
            try:
                process = self._process = await self._spawn()
            except OSError as error:
                log.error(f"{self._name} cannot be started", error=str(error))
                continue
            reading = asyncio.create_task(self._read(process))
            self._on_restart()


def write_for_owner(file: Path, text: str) -> None:
    """A new file that this user alone can read."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)


def _remove_leftovers(place: Path, prefix: str) -> None:
    """The folders of servers that were killed; their secrets are worth nothing any more."""
    for folder in place.glob(f"{prefix}*-*"):
        owner = folder.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not process_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


__all__ = ["STEADY_SECONDS", "ChildProgram", "RestartDelay", "write_for_owner"]
