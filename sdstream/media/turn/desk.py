"""Where sessions get their STUN and TURN servers: clients with an answer, this server's agent for itself."""

import httpx
import structlog

from sdstream.clock import Clock
from sdstream.errors import ConfigurationError, WebRtcOff
from sdstream.media.ports import IceServer
from sdstream.media.turn.choice import WebRtcChoice, choose_webrtc_here
from sdstream.media.turn.coturn import Coturn
from sdstream.media.turn.services import SERVER_URL, StaticServers, TurnService, check_server, choose_service
from sdstream.reachability import join_address
from sdstream.settings import Settings

CONNECT_SECONDS = 3.0

log = structlog.get_logger(__name__)


class IceDesk:
    """One for a server. `choice` is by default that of this machine.

    Raises `ConfigurationError` for settings that cannot work.
    """

    def __init__(self, settings: Settings, clock: Clock, choice: WebRtcChoice | None = None) -> None:
        for server in settings.webrtc_ice_servers:
            check_server(server)
        self._settings = settings
        self._clock = clock
        self.choice = choice or choose_webrtc_here(settings)
        if self.choice.problem:
            raise ConfigurationError(f"webrtc_mode {self.choice.mode}: {self.choice.problem}")
        # The system's proxies are not asked: the services are few, and a proxy would see the credentials.
        self._http = httpx.AsyncClient(timeout=CONNECT_SECONDS, trust_env=False)
        self._service: TurnService = choose_service(settings, self._http, clock)
        self._static = StaticServers(settings)
        self._coturn: Coturn | None = None

    async def start(self, address: str) -> None:
        """Start what the mode needs; `address` is this machine's own, to which alone our coturn relays.

        Raises `ConfigurationError`.
        """
        if self.choice.mode != "turn-local":
            return
        settings = self._settings
        self._coturn = Coturn(settings.turn_program, settings.turn_port, address, settings.turn_lifetime, self._clock)
        await self._coturn.start()

    def refuse_when_off(self) -> None:
        """Raises `WebRtcOff` where no session can be had."""
        if self.choice.mode == "off":
            raise WebRtcOff(f"this server takes no WebRTC sessions: {self.choice.because}")

    async def for_client(self, host: str) -> tuple[IceServer, ...]:
        """The servers for one session of a client that calls this server as `host`, without a port.

        Raises `WebRtcOff` and `TurnUnavailable`.
        """
        self.refuse_when_off()
        if self._coturn is not None:
            return (self._coturn.servers(self.choice.turn_address or join_address(host, self._settings.turn_port)),)
        if self.choice.mode == "turn-external":
            return await self._service.servers()
        return await self._static.servers()

    async def for_us(self) -> IceServer | None:
        """The TURN server of which this server's own agent takes a relay for one session, None where it needs none.

        Raises `TurnUnavailable`.
        """
        if self.choice.mode != "turn-external":
            return None
        return choose_relay(await self._service.servers())

    async def close(self) -> None:
        """Idempotent."""
        coturn, self._coturn = self._coturn, None
        if coturn is not None:
            await coturn.close()
        await self._http.aclose()


def choose_relay(servers: tuple[IceServer, ...]) -> IceServer | None:
    """Of all TURN URLs the one whose way out is least likely to be closed: TCP, then TLS, then UDP."""
    order = ("turn:tcp", "turns:tcp", "turn:udp")
    found: list[tuple[int, IceServer]] = []
    for server in servers:
        for url in server.urls:
            match = SERVER_URL.fullmatch(url)
            if match is None or match["scheme"] == "stun":
                continue
            transport = match["transport"] or ("tcp" if match["scheme"] == "turns" else "udp")
            kind = f"{match['scheme']}:{transport}"
            if kind in order:
                found.append((order.index(kind), IceServer((url,), server.username, server.credential)))
    return min(found, key=lambda entry: entry[0])[1] if found else None


__all__ = ["IceDesk", "choose_relay"]
