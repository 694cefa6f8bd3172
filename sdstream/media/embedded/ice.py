"""The ICE agent of aioice, with our addresses and a short way for media packets.

aioice leaves loopback out, binds any port, and queues whatever comes; the subclasses here change just that. What they
override is listed in `SEAMS`, which `peer.fast_path_known` looks up at start.
"""

import asyncio
import contextlib
import re
import struct
from collections.abc import Callable
from typing import Any

import structlog
from aioice import Candidate, Connection
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol, relayed_candidate, server_reflexive_candidate
from aioice.stun import TransactionError
from aiortc import RTCIceGatherer, RTCIceServer
from aiortc.rtcicetransport import connection_kwargs

from sdstream.errors import InvalidSdp, TurnUnavailable
from sdstream.media.embedded.addresses import Addressing, bind

RELAY_SECONDS = 4.0
"""What the TURN server may hold an answer up."""
STUN_SECONDS = 1.0
"""What the STUN server of the settings may hold an answer up."""
MAX_DATAGRAM = 1500
"""Bytes of the largest media packet that is read: libsrtp's work space."""
MOST_QUEUED = 256
"""Datagrams that are neither checks nor media and wait for DTLS, which takes all of them at each turn."""
MOST_PAIRS = 256
"""Ways to the client that are tried or known. Each address that a check comes from is one more, is sent checks, and has
all pairs sorted again; whoever has the answer can send checks from as many ports as there are, in others' names too."""
SEAMS: tuple[tuple[Any, str], ...] = (
    (Connection, "gather_candidates"),
    (Connection, "check_incoming"),
    (Connection, "data_received"),
    (StunProtocol, "datagram_received"),
)

log = structlog.get_logger(__name__)


class AddressedConnection(Connection):
    """An ICE agent that advertises the addresses it is told to, loopback included, from the ports it is given."""

    def __init__(self, addressing: Addressing, **servers: Any) -> None:
        super().__init__(ice_controlling=False, **servers)
        self._addressing = addressing
        self.media_sink: Callable[[bytes], None] | None = None
        self.burst_sink: Callable[[memoryview, int], None] | None = None
        """Takes datagrams as `BurstProtocol.burst_received` does, of which all look like media packets."""
        self.queues_media = True

    def _protocol(self) -> "Datagrams":
        return Datagrams(self) if self.queues_media else BurstDatagrams(self)

    @property
    def selected_pair(self) -> Any:
        return self._nominated.get(1)

    def data_received(self, data: bytes, component: int) -> None:
        # They come from anybody, and until ICE is through nobody takes them. At an empty one, of which a port scan is
        # made, aiortc would end the session.
        if data and self._queue.qsize() < MOST_QUEUED:
            super().data_received(data, component)

    def check_incoming(self, message: Any, addr: tuple[str, int], protocol: Any) -> None:
        # aioice believes that a check names its priority.
        if "PRIORITY" in message.attributes and (len(self._check_list) < MOST_PAIRS or self._knows(addr)):
            super().check_incoming(message, addr, protocol)

    def _knows(self, address: tuple[str, int]) -> bool:
        return any((known.host, known.port) == address[:2] for known in self._remote_candidates)

    async def gather_candidates(self) -> None:
        if self._local_candidates_start:
            return
        self._local_candidates_start = True
        for index, address in enumerate(self._addressing.candidates()):
            opened = await bind(address, self._addressing.ports, self._protocol)
            if opened is None:
                log.warning("cannot open a UDP socket for this address", address=address)
                continue
            transport, protocol = opened
            self._protocols.append(protocol)
            protocol.local_candidate = Candidate(
                foundation=candidate_foundation("host", "udp", address),
                component=1,
                transport="udp",
                priority=candidate_priority(1, "host", 65535 - index),
                host=address,
                port=transport.get_extra_info("sockname")[1],
                type="host",
            )
            self._local_candidates.append(protocol.local_candidate)
        await asyncio.gather(self._ask_stun_server(), self._take_relay())
        self._local_candidates_end = True

    async def _take_relay(self) -> None:
        """Add a candidate at the TURN server of the settings. Raises `TurnUnavailable`: without it nobody connects."""
        if self.turn_server is None:
            return
        name = ":".join(map(str, self.turn_server))
        try:
            async with asyncio.timeout(RELAY_SECONDS):
                candidate, protocol = await relayed_candidate(
                    component=1,
                    hide_related_address=False,
                    protocol_factory=lambda: Datagrams(self),
                    turn_server=self.turn_server,
                    turn_username=self.turn_username,
                    turn_password=self.turn_password,
                    turn_ssl=self.turn_ssl,
                    turn_transport=self.turn_transport,
                )
        except TimeoutError:
            raise TurnUnavailable(f"the TURN server {name} gave no relay within {RELAY_SECONDS:g} s") from None
        except (OSError, TransactionError) as error:
            raise TurnUnavailable(f"the TURN server {name} gave no relay ({type(error).__name__})") from None
        self._protocols.append(protocol)
        self._local_candidates.append(candidate)

    async def _ask_stun_server(self) -> None:
        if self.stun_server is not None:
            queries = [
                asyncio.ensure_future(server_reflexive_candidate(protocol, self.stun_server))
                for protocol in self._protocols
                if isinstance(protocol, Datagrams) and ":" not in protocol.local_candidate.host
            ]
            if not queries:
                return
            done, late = await asyncio.wait(queries, timeout=STUN_SECONDS)
            for query in late:
                query.cancel()
            found = [query.result()[0] for query in done if query.exception() is None]
            if not found:
                log.warning("the STUN server gave no address", server=":".join(map(str, self.stun_server)))
            self._local_candidates += found


class Datagrams(StunProtocol):
    """A socket that hands media packets to the connection's sink before anybody tries to read them as STUN."""

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        connection = self.receiver
        if (
            isinstance(data, bytes)
            and isinstance(connection, AddressedConnection)
            and len(data) > 1
            and 127 < data[0] < 192
        ):
            sink = connection.media_sink
            if sink is not None:
                if 12 <= len(data) <= MAX_DATAGRAM:
                    sink(data)
                return
            if len(data) > MAX_DATAGRAM or not connection.queues_media:
                return
        with contextlib.suppress(struct.error):  # aioice reads attributes that are cut off, and strangers may send them
            super().datagram_received(data, addr)


class BurstDatagrams(Datagrams):
    """A socket that is read in bursts."""

    def burst_received(self, data: memoryview, size: int, address: tuple[Any, ...]) -> None:
        connection = self.receiver
        sink = connection.burst_sink if isinstance(connection, AddressedConnection) else None
        if sink is not None and size <= MAX_DATAGRAM and not bytes(data[::size]).translate(None, _FIRST_OF_MEDIA):
            sink(data, size)
            return
        for start in range(0, len(data), size):
            self.datagram_received(bytes(data[start : start + size]), address)


_FIRST_OF_MEDIA = bytes(range(128, 192))
"""What the first byte of a media packet can be (RFC 7983)."""


class AddressedGatherer(RTCIceGatherer):
    """A gatherer around an `AddressedConnection`, which asks no server but those of the settings."""

    def __init__(self, addressing: Addressing) -> None:
        super().__init__(iceServers=[])
        servers = [RTCIceServer(urls=url) for url in addressing.servers]
        if (relay := addressing.relay) is not None:
            servers.append(RTCIceServer(list(relay.urls), relay.username, relay.credential))
        self.connection = AddressedConnection(addressing, **connection_kwargs(servers))
        self._connection = self.connection


def write_buffer_size(transport: Any) -> int:
    """Bytes that a transport of a candidate has not sent yet; of a relay, its TCP connection to the TURN server."""
    below = getattr(getattr(transport, "_TurnTransport__inner_protocol", None), "transport", transport)
    size = getattr(below, "get_write_buffer_size", None)
    return size() if size is not None else 0


_CANDIDATE = re.compile(
    r"(?P<foundation>\S{1,64}) (?P<component>\d{1,5}) (?P<transport>\S+) (?P<priority>\d{1,10}) "
    r"(?P<host>\S{1,255}) (?P<port>\d{1,5}) typ (?P<type>\S+)(?: .*)?"
)


def parse_candidate(line: str) -> Candidate | None:
    """The value of an `a=candidate` line; None when it cannot be dialled from here.

    Raises `InvalidSdp` when it is no candidate.
    """
    match = _CANDIDATE.fullmatch(line.strip())
    if match is None:
        raise InvalidSdp(f"cannot read the ICE candidate {line[:80]!r}")
    host = match["host"]
    component, port = int(match["component"]), int(match["port"])
    dialled = match["transport"].lower() == "udp" and component == 1 and 0 < port < 65536
    if not dialled or not re.fullmatch(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*", host):
        return None  # TCP, mDNS names, or RTCP's own component
    return Candidate(
        foundation=match["foundation"],
        component=1,
        transport="udp",
        priority=int(match["priority"]),
        host=host,
        port=port,
        type=match["type"],
    )


__all__ = [
    "MAX_DATAGRAM",
    "MOST_PAIRS",
    "MOST_QUEUED",
    "SEAMS",
    "AddressedConnection",
    "AddressedGatherer",
    "parse_candidate",
    "write_buffer_size",
]
