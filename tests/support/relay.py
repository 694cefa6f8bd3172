"""A UDP relay between a browser and the server that can swallow everything for a while, as a lost network does."""

import asyncio
import re

Address = tuple[str, int]


class Relay(asyncio.DatagramProtocol):
    """Stands at a port of its own; every client gets a socket of its own towards the server, as behind a NAT."""

    def __init__(self, server: Address, network: "Network") -> None:
        self._server = server
        self._network = network
        self._towards_server: dict[Address, asyncio.DatagramTransport] = {}
        self._early: dict[Address, list[bytes]] = {}
        """What clients sent before their socket was there. One socket a client, or the server would see two."""
        self._opening: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self) -> int:
        """Start; returns the port that clients shall use."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self._transport = transport
        return transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if self._network.down:
            return
        if addr in self._towards_server:
            self._towards_server[addr].sendto(data)
        elif addr in self._early:
            self._early[addr].append(data)
        else:
            self._early[addr] = [data]
            task = asyncio.get_running_loop().create_task(self._connect(addr))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self, client: Address) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Back(self, client), remote_addr=self._server)
        self._towards_server[client] = transport
        for data in self._early.pop(client):
            transport.sendto(data)

    def give_back(self, data: bytes, client: Address) -> None:
        """Hand a datagram of the server to its client."""
        if not self._network.down and self._transport is not None:
            self._transport.sendto(data, client)

    def close(self) -> None:
        for task in self._opening:
            task.cancel()
        for transport in (*self._towards_server.values(), self._transport):
            if transport is not None:
                transport.abort()


class _Back(asyncio.DatagramProtocol):
    def __init__(self, relay: Relay, client: Address) -> None:
        self._relay = relay
        self._client = client

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._relay.give_back(data, self._client)

    def error_received(self, exc: Exception) -> None:
        """The server has closed its port; the client will notice by itself."""


class Network:
    """All relays of a test; `down` swallows every datagram of every one."""

    def __init__(self) -> None:
        self.down = False
        self._relays: list[Relay] = []

    async def put_into(self, answer: str) -> str:
        """The answer with one candidate only: a new relay in front of the server's loopback candidate."""
        lines = answer.splitlines()
        candidate = next(line for line in lines if re.match(r"a=candidate:\S+ 1 udp \d+ 127\.0\.0\.1 ", line, re.I))
        relay = Relay(("127.0.0.1", int(candidate.split()[5])), self)
        self._relays.append(relay)
        parts = candidate.split()
        parts[5] = str(await relay.open())
        kept: list[str] = []
        for line in lines:
            if line == candidate:
                kept.append(" ".join(parts))
            elif not line.startswith("a=candidate:"):
                kept.append(line)
        return "\r\n".join(kept) + "\r\n"

    def close(self) -> None:
        for relay in self._relays:
            relay.close()
