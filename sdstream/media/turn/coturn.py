"""coturn as a child process: on one TCP port it takes the packets of clients that no UDP can reach, and hands them on
to this machine's own address and nowhere else.

Its secret is made at start, is in a file that only this user can read, and never on a command line or in a log.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import ConfigurationError
from sdstream.media.ports import IceServer
from sdstream.media.turn.credentials import make_credentials
from sdstream.platform import die_with_parent_command, process_exists, shared_memory_directory

RELAY_PORTS = (49152, 49407)
"""UDP ports inside this machine; one for each client that is connected by TURN."""
ALLOCATIONS_OF_ONE_CLIENT = 8
FOLDER = "sdstream-turn-"
START_SECONDS = 10.0
END_SECONDS = 2.0
FIRST_DELAY = 0.25
LONGEST_DELAY = 8.0
STEADY_SECONDS = 30.0
"""A child that lived for so long starts the row of delays anew."""
LAST_LINES = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CoturnConfig:
    """What coturn is told. `address` is the one address it may relay to, and from."""

    port: int
    address: str
    folder: Path

    def text(self, secret: str) -> str:
        """The configuration file."""
        first, last = RELAY_PORTS
        return "\n".join(
            (
                f"listening-port={self.port}",
                f"listening-ip={'::' if ':' in self.address else '0.0.0.0'}",
                f"relay-ip={self.address}",
                f"min-port={first}",
                f"max-port={last}",
                "no-udp",
                "no-tls",
                "no-dtls",
                "no-tcp-relay",
                "no-multicast-peers",
                # The allowed address is looked at first. Everything else is denied, so that nobody who got a password
                # can reach the network of this machine through it.
                f"allowed-peer-ip={self.address}",
                "denied-peer-ip=0.0.0.0-255.255.255.255",
                "denied-peer-ip=::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "use-auth-secret",
                f"static-auth-secret={secret}",
                "realm=sdstream",
                "fingerprint",
                f"user-quota={ALLOCATIONS_OF_ONE_CLIENT}",
                f"total-quota={last - first + 1}",
                "no-cli",
                "no-rfc5780",
                "no-stun-backward-compatibility",
                "no-software-attribute",
                "log-file=stdout",
                "simple-log",
                f"userdb={self.folder / 'users'}",
                f"pidfile={self.folder / 'process'}",
                "",
            )
        )


@dataclass(frozen=True, slots=True)
class RestartDelay:
    """How long to wait before the next start: doubled with each quick end, from `FIRST_DELAY` to `LONGEST_DELAY`."""

    seconds: float = FIRST_DELAY

    def after(self, lived: float) -> "RestartDelay":
        """The delay for an end that came `lived` seconds after a start."""
        if lived >= STEADY_SECONDS:
            return RestartDelay()
        return RestartDelay(min(LONGEST_DELAY, self.seconds * 2))


class Coturn:
    """The child and its supervisor. `address` is an IP address of this machine; see `CoturnConfig`.

    `on_restart` is told of each new start after the first.
    """

    def __init__(
        self,
        program: str,
        port: int,
        address: str,
        lifetime: int,
        clock: Clock,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._program = program
        self._port = port
        self._address = address
        self._lifetime = lifetime
        self._clock = clock
        self._on_restart = on_restart
        self._secret = secrets.token_hex(32)
        self._folder: Path | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._lines: list[str] = []

    @property
    def process_id(self) -> int | None:
        """The child's, None while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the child and wait until its port answers.

        Raises `ConfigurationError` when it is not installed, cannot have its port, or ends.
        """
        if shutil.which(self._program) is None:
            raise ConfigurationError(
                f"turn_program: {self._program} is not installed", hint="Install coturn, or choose another webrtc_mode."
            )
        if await self._answers():
            raise ConfigurationError(f"turn_port: {self._port} is in use by another program")
        # In memory where the system has that, and readable by this user alone: mkdtemp makes it so.
        _remove_leftovers(shared_memory_directory())
        self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=shared_memory_directory()))
        self._write_config()
        self._process = await self._spawn()
        try:
            await self._wait_until_it_answers(self._process)
        except ConfigurationError:
            await self.close()
            raise
        log.info("coturn answers", port=self._port, relays_to=self._address, process_id=self._process.pid)
        self._supervisor = asyncio.create_task(self._supervise(self._process))

    def servers(self, address: str) -> IceServer:
        """How a client that reaches the port as `address` (`host:port`) uses it, with credentials of its own."""
        username, password = make_credentials(self._secret, self._lifetime, self._clock.now())
        return IceServer((f"turn:{address}?transport=tcp",), username, password)

    async def close(self) -> None:
        """End the child. Idempotent."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None:
            await _end(process)
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _write_config(self) -> Path:
        assert self._folder is not None
        file = self._folder / "turnserver.conf"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(CoturnConfig(self._port, self._address, self._folder).text(self._secret))
        return file

    async def _spawn(self) -> asyncio.subprocess.Process:
        assert self._folder is not None
        command = [self._program, "-c", str(self._folder / "turnserver.conf")]
        process = await asyncio.create_subprocess_exec(
            *die_with_parent_command(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which ends its children in good order
        )
        self._lines = []
        return process

    async def _wait_until_it_answers(self, process: asyncio.subprocess.Process) -> None:
        reading = asyncio.create_task(self._read(process))
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._answers():
                    if process.returncode is not None:
                        await reading
                        said = "; ".join(self._lines) or "nothing"
                        raise ConfigurationError(f"coturn ended at start ({_how(process.returncode)}); it said: {said}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise ConfigurationError(f"coturn does not answer on TCP {self._port} within {START_SECONDS:g} s") from None
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(1.0):
                _, writer = await asyncio.open_connection(self._address, self._port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Keep its last lines, so that its end can be explained; they name users, never passwords."""
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line longer than the buffer
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").strip()
            if text:
                self._lines = [*self._lines[1 - LAST_LINES :], text[:300]]

    async def _supervise(self, process: asyncio.subprocess.Process) -> None:
        delay = RestartDelay()
        started = self._clock.monotonic()
        while True:
            await self._read(process)
            status = await process.wait()
            lived = self._clock.monotonic() - started
            delay = delay.after(lived) if lived >= STEADY_SECONDS else delay
            log.warning(
                "coturn has ended; it is started again",
                how=_how(status),
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
                log.error("coturn cannot be started", error=str(error))
                continue
            self._on_restart()


def _remove_leftovers(place: Path) -> None:
    """The folders of servers that were killed; their secrets are worth nothing any more."""
    for folder in place.glob(f"{FOLDER}*-*"):
        owner = folder.name.removeprefix(FOLDER).partition("-")[0]
        if owner.isdigit() and not process_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


async def _end(process: asyncio.subprocess.Process) -> None:
    for signal_it in (process.terminate, process.kill):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal_it()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await process.wait()


__all__ = ["RELAY_PORTS", "Coturn", "CoturnConfig", "RestartDelay"]
