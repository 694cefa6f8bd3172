"""A bad line between a client and a server: a UDP relay that loses, delays, reorders and repeats datagrams."""

import asyncio
import random
import re
from dataclasses import dataclass

Address = tuple[str, int]
HEADERS = 28
"""Bytes of IP and UDP that a line carries with each datagram."""


@dataclass
class Line:
    """What happens to the datagrams of one direction or both. Shares are 0 to 1, times seconds.

    `burst` is the mean number of datagrams lost in a row; 1 loses each by itself. `jitter` is the most that is added to
    `delay`; order is kept but for the share `reorder`. `down` loses everything. `rate` is bits a second that it
    carries, None for all; what comes beside waits, up to `room` seconds, and is lost behind that.
    """

    loss: float = 0.0
    burst: float = 1.0
    delay: float = 0.0
    jitter: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    down: bool = False
    rate: float | None = None
    room: float = 0.5

    @property
    def name(self) -> str:
        parts = {
            "loss": f"{100 * self.loss:g} % lost" + (f" in bursts of {self.burst:g}" if self.burst > 1 else ""),
            "jitter": f"{1000 * self.jitter:g} ms jitter",
            "reorder": f"{100 * self.reorder:g} % late",
            "duplicate": f"{100 * self.duplicate:g} % twice",
        }
        if self.rate is not None:
            return f"{self.rate / 1e6:g} Mbit/s, {1000 * self.room:g} ms of room"
        return ", ".join(text for member, text in parts.items() if getattr(self, member)) or "good"


class _Direction:
    """The datagrams one way."""

    def __init__(self, line: Line, seed: int) -> None:
        self.line = line
        self._random = random.Random(seed)
        self._losing = False
        self._due = 0.0
        self._busy_until = 0.0

    def copies(self) -> int:
        """How often the next datagram arrives: 0 when it is lost."""
        line = self.line
        if line.down:
            return 0
        # Two states, as Gilbert has it: the mean stay in the losing one is `burst`, its share `loss`.
        leave = 1 / line.burst
        enter = line.loss * leave / max(1 - line.loss, 1e-9)
        self._losing = self._random.random() < (1 - leave if self._losing else enter)
        if self._losing:
            return 0
        return 2 if self._random.random() < line.duplicate else 1

    def wait(self, now: float, size: int) -> float | None:
        """Seconds until the next datagram, of `size` bytes, arrives; None where the line has no room for it."""
        line = self.line
        if line.rate is not None:
            begins = max(now, self._busy_until)
            if begins - now > line.room:
                return None
            self._busy_until = begins + 8 * (size + HEADERS) / line.rate
        carried = now if line.rate is None else self._busy_until
        due = carried + line.delay + self._random.random() * line.jitter
        if self._random.random() < line.reorder:
            return due + 0.02 - now
        self._due = max(self._due, due)
        return self._due - now


class BadLine:
    """Relays for the answers of one client; call `route` on the answer, as `bench.support.peers.Route`."""

    def __init__(self, line: Line, seed: int = 1) -> None:
        self.line = line
        self._seed = seed
        self._relays: list[_Relay] = []

    async def route(self, answer: str) -> str:
        """The answer with our ports in the place of the server's."""
        for match in sorted(set(re.findall(r"a=candidate:\S+ 1 udp \d+ (127\.0\.0\.1) (\d+) ", answer, re.IGNORECASE))):
            relay = _Relay((match[0], int(match[1])), self.line, self._seed)
            self._relays.append(relay)
            port = await relay.open()
            answer = answer.replace(f" {match[0]} {match[1]} ", f" 127.0.0.1 {port} ")
        return answer

    def close(self) -> None:
        for relay in self._relays:
            relay.close()


class _Relay(asyncio.DatagramProtocol):
    def __init__(self, server: Address, line: Line, seed: int) -> None:
        self._server = server
        self._there = _Direction(line, seed)
        self._back = _Direction(line, seed + 1)
        self._client: Address | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._towards_server: asyncio.DatagramTransport | None = None

    async def open(self) -> int:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self._towards_server, _ = await loop.create_datagram_endpoint(
            lambda: _Back(self), remote_addr=self._server, local_addr=("127.0.0.1", 0)
        )
        return self._transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._client = addr
        if self._towards_server is not None:
            self._carry(self._there, data, self._towards_server, None)

    def come_back(self, data: bytes) -> None:
        if self._transport is not None and self._client is not None:
            self._carry(self._back, data, self._transport, self._client)

    def close(self) -> None:
        for transport in (self._transport, self._towards_server):
            if transport is not None:
                transport.abort()

    @staticmethod
    def _carry(direction: _Direction, data: bytes, transport: asyncio.DatagramTransport, to: Address | None) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(direction.copies()):
            wait = direction.wait(loop.time(), len(data))
            if wait is None:
                continue
            if wait <= 0:
                transport.sendto(data, to)
            else:
                loop.call_later(wait, _send_later, transport, data, to)


class _Back(asyncio.DatagramProtocol):
    def __init__(self, relay: _Relay) -> None:
        self._relay = relay

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._relay.come_back(data)

    def error_received(self, exc: Exception) -> None:
        """The server has closed its port."""


def _send_later(transport: asyncio.DatagramTransport, data: bytes, to: Address | None) -> None:
    if not transport.is_closing():
        transport.sendto(data, to)


__all__ = ["BadLine", "Line"]
