"""A UDP transport that reads a burst of datagrams by one call to the kernel, where the system joins them (Linux).

The loop's own transports make a call, an address and a callback of each datagram; a picture is half a dozen, sent at
once. Their plain twin is the loop's `create_datagram_endpoint`.
"""

import asyncio
import socket
import threading
from collections import deque
from typing import Any, Protocol, cast

from sdstream.platform.datagrams import can_join_datagrams, join_datagrams, receive_joined

LARGEST_BURST = 1 << 16
"""Bytes that one read can bring: the kernel joins no more."""
MOST_READS = 16
"""Reads of a socket before others have their turn."""
MOST_WAITING = 4 << 20
"""Bytes that wait for a full socket; newer datagrams are dropped behind that, as the network would."""


class BurstProtocol(Protocol):
    """What a `BurstTransport` calls, on the event loop; else as asyncio's `DatagramProtocol`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def error_received(self, exc: Exception) -> None: ...

    def burst_received(self, data: memoryview, size: int, address: tuple[Any, ...]) -> None:
        """`data` are datagrams of `size` bytes, the last of which may be smaller. It is valid during the call."""
        ...


class _Space(threading.local):
    """Where bursts are read to: one place for all sockets of a loop, so that it stays in the processor's cache."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(LARGEST_BURST))


_space = _Space()


class BurstTransport(asyncio.DatagramTransport):
    """Made on the loop that it lives on, around a bound socket that does not block, which it owns.

    Raises `NotImplementedError` where the loop cannot watch sockets.
    """

    def __init__(self, connection: socket.socket, protocol: BurstProtocol) -> None:
        super().__init__({"socket": connection, "sockname": connection.getsockname()})
        self._loop = asyncio.get_running_loop()
        self._socket = connection
        self._protocol = protocol
        self._view = _space.view
        self._waiting: deque[tuple[bytes, Any]] = deque()
        self._waiting_bytes = 0
        self._closing = False
        join_datagrams(connection)
        self._loop.add_reader(connection.fileno(), self._read)
        protocol.connection_made(self)

    # asyncio's DatagramTransport

    def sendto(self, data: "bytes | bytearray | memoryview[Any]", addr: Any = None) -> None:
        if self._closing:
            return
        if not self._waiting:
            try:
                self._socket.sendto(data, addr)
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._write)
            except OSError as error:
                self._protocol.error_received(error)
                return
            else:
                return
        if self._waiting_bytes + len(data) <= MOST_WAITING:
            self._waiting.append((bytes(data), addr))
            self._waiting_bytes += len(data)

    def get_write_buffer_size(self) -> int:
        return self._waiting_bytes

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """What waits is still sent. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._socket.fileno())
        if not self._waiting:
            self._loop.call_soon(self._finish)

    def abort(self) -> None:
        if self._waiting:
            self._loop.remove_writer(self._socket.fileno())
            self._forget_waiting()
            if self._closing:
                self._loop.call_soon(self._finish)
        self.close()

    # below

    def _read(self) -> None:
        view = self._view
        for _ in range(MOST_READS):
            if self._closing:
                return
            try:
                length, size, address = receive_joined(self._socket, view)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._protocol.error_received(error)
                return
            if length:
                self._protocol.burst_received(view[:length], size, address)
            if size < length:
                return  # more has rarely come meanwhile, and the loop asks before it sleeps

    def _write(self) -> None:
        while self._waiting:
            data, address = self._waiting[0]
            try:
                self._socket.sendto(data, address)
            except BlockingIOError:
                return
            except OSError as error:
                self._protocol.error_received(error)
            self._waiting.popleft()
            self._waiting_bytes -= len(data)
        self._loop.remove_writer(self._socket.fileno())
        if self._closing:
            self._finish()

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _finish(self) -> None:
        self._socket.close()
        self._protocol.connection_lost(None)


def open_bursts(host: str, port: int, protocol: BurstProtocol) -> BurstTransport:
    """Bind a UDP socket to an IP address. Raises `OSError`, and `NotImplementedError` as `BurstTransport`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_DGRAM)
    try:
        connection.setblocking(False)
        connection.bind((host, port))
        return BurstTransport(connection, protocol)
    except BaseException:
        connection.close()
        raise


def as_burst_protocol(protocol: object) -> BurstProtocol | None:
    """`protocol` if it takes bursts, and this system joins datagrams; else None."""
    takes = can_join_datagrams() and hasattr(protocol, "burst_received")
    return cast(BurstProtocol, protocol) if takes else None


__all__ = ["MOST_WAITING", "BurstProtocol", "BurstTransport", "as_burst_protocol", "open_bursts"]
