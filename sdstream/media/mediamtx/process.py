"""MediaMTX as a child process: found, started, its lines read, started again when it ends, ended with this server."""

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import ConfigurationError
from sdstream.media.turn.coturn import STEADY_SECONDS, RestartDelay
from sdstream.platform import die_with_parent_command, process_exists, shared_memory_directory
from sdstream.settings import Settings

VARIABLE = "MEDIAMTX_BIN"
NAME = "mediamtx"
LEAST_VERSION = (1, 20, 1)
FOLDER = "sdstream-mediamtx-"
START_SECONDS = 10.0
END_SECONDS = 3.0
LAST_LINES = 5
_SECRETS = re.compile(r"\b(in|out)/[A-Za-z0-9_-]+|([?&](?:streamid|token|user|pass|password|jwt)=)[^&\s'\"]+")
_LEVEL = re.compile(r"^\S+ \S+ (DEB|INF|WAR|ERR) ")
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")

log = structlog.get_logger(__name__)


def find_program(settings: Settings, environment: Mapping[str, str] = os.environ) -> Path:
    """MediaMTX's program. Raises `ConfigurationError` when there is none."""
    wanted = settings.mediamtx_program or environment.get(VARIABLE) or NAME
    found = shutil.which(wanted)
    if found is None:
        raise ConfigurationError(
            f"media_backend mediamtx: the program {wanted} is not here",
            hint=f"Install MediaMTX 1.20.1 or later, name it in SDSTREAM_MEDIAMTX_PROGRAM or {VARIABLE}, "
            "or take SDSTREAM_MEDIA_BACKEND=embedded.",
        )
    return Path(found)


def version_problem(said: str) -> str | None:
    """Why a MediaMTX that says it is of this version is not used; None when it is."""
    match = _VERSION.search(said)
    if match is None:
        return f"it does not tell its version ({said[:40]!r})"
    version = tuple(int(part) for part in match.groups())
    if version < LEAST_VERSION or version[0] != LEAST_VERSION[0]:
        return f"it is {match[0]}, and 1.20.1 to 1.x is needed"
    return None


def without_secrets(line: str) -> str:
    """A line of MediaMTX's log without the keys of streams."""
    return _SECRETS.sub(lambda match: f"{match[1]}/..." if match[1] else f"{match[2]}...", line)


class MediaMtxProcess:
    """The child and its supervisor. `answers` says whether it is ready; `text` is its configuration."""

    def __init__(
        self, program: Path, text: str, answers: Callable[[], Awaitable[bool]], clock: Clock, delay: RestartDelay
    ) -> None:
        self._program = program
        self._text = text
        self._answers = answers
        self._clock = clock
        self._first_delay = delay
        self._folder: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._lines: list[str] = []
        self.restarts = 0

    @property
    def process_id(self) -> int | None:
        """The child's, None while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the child and wait until it answers. Raises `ConfigurationError` when it ends or does not."""
        _remove_leftovers(shared_memory_directory())
        self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=shared_memory_directory()))
        descriptor = os.open(self._folder / "mediamtx.yml", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(self._text)
        self._process = process = await self._spawn()
        reading = asyncio.create_task(self._read(process))
        try:
            await self._wait(process, reading)
        except BaseException:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await self.close()
            raise
        self._supervisor = asyncio.create_task(self._supervise(process, reading), name="supervise MediaMTX")

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
        assert self._folder is not None
        # Its settings can come from variables too; those of the user must not open what ours closes.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MTX_", "SDSTREAM_"))}
        self._lines = []
        return await asyncio.create_subprocess_exec(
            *die_with_parent_command([str(self._program), str(self._folder / "mediamtx.yml")]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, which ends its children in good order
        )

    async def _wait(self, process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._answers():
                    if process.returncode is not None:
                        await reading
                        said = "; ".join(self._lines) or "nothing"
                        raise ConfigurationError(
                            f"MediaMTX ended at start; it said: {said}",
                            hint="A port in use is the usual reason: see the mediamtx_ settings.",
                        )
                    await asyncio.sleep(0.03)
        except TimeoutError:
            raise ConfigurationError(f"MediaMTX does not answer within {START_SECONDS:g} s") from None

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line longer than the buffer
                continue
            if not line:
                return
            text = without_secrets(line.decode("utf-8", "replace").strip())[:300]
            if not text:
                continue
            self._lines = [*self._lines[1 - LAST_LINES :], text]
            level = _LEVEL.match(text)
            if level is not None and level[1] in ("WAR", "ERR"):
                log.warning("MediaMTX says", line=text)
            else:
                log.debug("MediaMTX says", line=text)

    async def _supervise(self, process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
        delay, started = self._first_delay, self._clock.monotonic()
        while True:
            await reading
            await process.wait()
            lived = self._clock.monotonic() - started
            delay = self._first_delay if lived >= STEADY_SECONDS else delay
            log.warning("MediaMTX has ended; it is started again", lived=round(lived, 1), said=self._lines)
            await asyncio.sleep(delay.seconds)
            delay = delay.after(lived)
            started = self._clock.monotonic()
            try:
                process = self._process = await self._spawn()
            except OSError as error:
                log.error("MediaMTX cannot be started", error=str(error))
                continue
            self.restarts += 1
            reading = asyncio.create_task(self._read(process))


def _remove_leftovers(place: Path) -> None:
    """The folders of servers that were killed; their secrets are worth nothing any more."""
    for folder in place.glob(f"{FOLDER}*-*"):
        owner = folder.name.removeprefix(FOLDER).partition("-")[0]
        if owner.isdigit() and not process_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


__all__ = ["VARIABLE", "MediaMtxProcess", "find_program", "version_problem", "without_secrets"]
