"""coturn as a child process: on one TCP port it takes the packets of clients that no UDP can reach, and hands them on
to this machine's own address and nowhere else.

Its secret is made at start, is in a file that only this user can read, and never on a command line or in a log.
"""

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import ConfigurationError
from sdstream.media.child_program import ChildProgram, write_for_owner
from sdstream.media.ports import IceServer
from sdstream.media.turn.credentials import make_credentials

RELAY_PORTS = (49152, 49407)
"""UDP ports inside this machine; one for each client that is connected by TURN."""
ALLOCATIONS_OF_ONE_CLIENT = 8
FOLDER = "sdstream-turn-"

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
        self._secret = secrets.token_hex(32)
        self._child = ChildProgram("coturn", FOLDER, self._prepare, self._answers, clock, on_restart=on_restart)

    @property
    def process_id(self) -> int | None:
        """The child's, None while none runs."""
        return self._child.process_id

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
        await self._child.start()
        log.info("coturn answers", port=self._port, relays_to=self._address, process_id=self.process_id)

    def servers(self, address: str) -> IceServer:
        """How a client that reaches the port as `address` (`host:port`) uses it, with credentials of its own."""
        username, password = make_credentials(self._secret, self._lifetime, self._clock.now())
        return IceServer((f"turn:{address}?transport=tcp",), username, password)

    async def close(self) -> None:
        """End the child. Idempotent."""
        await self._child.close()

    def _prepare(self, folder: Path) -> list[str]:
        file = folder / "turnserver.conf"
        write_for_owner(file, CoturnConfig(self._port, self._address, folder).text(self._secret))
        return [self._program, "-c", str(file)]

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


__all__ = ["RELAY_PORTS", "Coturn", "CoturnConfig"]
