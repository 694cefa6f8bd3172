"""Where this machine can be reached: the addresses of ICE candidates, and the sockets behind them."""

import asyncio
import errno
import ipaddress
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import ifaddr

from sdstream.errors import CapacityReached, ConfigurationError
from sdstream.media.embedded.datagrams import as_burst_protocol, open_bursts
from sdstream.media.ports import IceServer
from sdstream.media.turn.services import check_server
from sdstream.settings import Settings, is_loopback

LOOPBACK = "127.0.0.1"
RECEIVE_BUFFER = 1 << 20
"""Bytes: a keyframe comes as one burst, and the default buffer of some systems holds less than two of them."""

ProtocolType = TypeVar("ProtocolType", bound=asyncio.DatagramProtocol)


@dataclass(frozen=True, slots=True)
class Addressing:
    """How candidates are made.

    `addresses` are advertised; empty means the interfaces of the machine. `ports` is an inclusive range of UDP ports.
    `servers` are STUN URLs; this end asks the first for further candidates. `relay` is a TURN server of which this end
    takes a relay, with credentials for one session.
    """

    addresses: tuple[str, ...] = ()
    with_loopback: bool = False
    ports: tuple[int, int] | None = None
    servers: tuple[str, ...] = ()
    relay: IceServer | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "Addressing":
        """Raises `ConfigurationError` for a server URL that cannot be used."""
        for server in settings.webrtc_ice_servers:
            check_server(server)
        return cls(
            addresses=settings.webrtc_addresses,
            with_loopback=is_loopback(settings.host),
            ports=settings.webrtc_ports,
            servers=tuple(server for server in settings.webrtc_ice_servers if server.startswith("stun:")),
        )

    def inside(self) -> "Addressing":
        """For clients that come through a relay on this machine: one address of its own, which that relay may reach.

        Raises `ConfigurationError` where the machine has none but loopback, to which relays do not send.
        """
        own = [address for address in interface_addresses() if not self.addresses or address in self.addresses]
        chosen = next((address for address in own if ":" not in address), None) or next(iter(own), None)
        if chosen is None:
            raise ConfigurationError(
                "webrtc_mode turn-local: no address of this machine's interfaces can be used",
                hint="Leave SDSTREAM_WEBRTC_ADDRESSES unset, or name one of them.",
            )
        return replace(self, addresses=(chosen,), with_loopback=False, servers=())

    def candidates(self) -> list[str]:
        """The addresses to advertise now, best first."""
        if self.addresses:
            return list(self.addresses)
        found = interface_addresses()
        return [*found, LOOPBACK] if self.with_loopback or not found else found


def interface_addresses() -> list[str]:
    """IP addresses of this machine that another one could dial: no loopback, no link-local."""
    found: list[str] = []
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            address = ipaddress.ip_address(text)
            if not (address.is_loopback or address.is_link_local or address.is_unspecified):
                found.append(text)
    return found


async def bind(
    address: str, ports: tuple[int, int] | None, factory: Callable[[], ProtocolType]
) -> tuple[asyncio.DatagramTransport, ProtocolType] | None:
    """Open a UDP socket for `address`; None when the family is not available here. Bursts are for protocols that take
    them (`datagrams.py`).

    An address that is not this machine's (a router's public one) is served from the wildcard address.
    Raises `CapacityReached` when every port of the range is taken.
    """
    wildcard = "::" if ":" in address else "0.0.0.0"
    for local in (address, wildcard):
        for port in _port_order(ports):
            try:
                opened = await _open(local, port, factory)
            except OSError as error:
                if ports is not None and is_port_taken(error):
                    continue
                break
            transport, protocol = opened
            opened_socket: socket.socket | None = transport.get_extra_info("socket")
            if opened_socket is not None:
                opened_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            return transport, protocol
        else:
            first, last = ports or (0, 0)
            raise CapacityReached(f"all UDP ports of webrtc_ports {first}-{last} are in use")
    return None


async def _open(
    host: str, port: int, factory: Callable[[], ProtocolType]
) -> tuple[asyncio.DatagramTransport, ProtocolType]:
    protocol = factory()
    taker = as_burst_protocol(protocol)
    if taker is not None:
        try:
            return open_bursts(host, port, taker), protocol
        except NotImplementedError:
            pass  # this loop watches no sockets
    return await asyncio.get_running_loop().create_datagram_endpoint(lambda: protocol, local_addr=(host, port))


def is_port_taken(error: OSError) -> bool:
    """Whether binding failed because of the port, not of the address."""
    return error.errno in (errno.EADDRINUSE, errno.EACCES, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE))


def _port_order(ports: tuple[int, int] | None) -> list[int]:
    if ports is None:
        return [0]
    order = list(range(ports[0], ports[1] + 1))
    start = random.randrange(len(order))  # spread, so that a port is not used again at once
    return order[start:] + order[:start]


__all__ = ["LOOPBACK", "Addressing", "bind", "interface_addresses"]
