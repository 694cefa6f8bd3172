"""Many datagrams by one call to the kernel, where the system can cut a large one into segments (Linux).

A picture is several packets of the same size but the last. Each call to send one costs more than making it.
"""

import socket
from collections.abc import Iterator, Sequence
from typing import Any

from sdstream.platform.datagrams import can_send_segments, send_segments

MOST_SEGMENTS = 48
"""Datagrams of one call: the kernel takes 64 and 65,507 bytes, which 48 of our largest stay below."""


class BurstSocket:
    """Sends bursts over the socket of a datagram transport, which goes on being used beside it.

    Not safe between threads. `close` before the transport is no condition: the descriptor is a copy.
    """

    def __init__(self, transport: Any) -> None:
        shared = transport.get_extra_info("socket") if can_send_segments() else None
        self._socket = None if shared is None else socket.fromfd(shared.fileno(), shared.family, shared.type)
        self.works = self._socket is not None
        """Whether bursts can be sent; False from the first refusal on, since some network devices cannot."""

    def send(self, datagrams: Sequence[bytes], address: Any) -> int:
        """Send `datagrams` in order; returns how many of them were taken. The rest is the transport's to send."""
        taken = 0
        if self._socket is None or not self.works:
            return taken
        for burst in split_bursts(datagrams):
            try:
                send_segments(self._socket, burst, address)
            except BlockingIOError:  # the socket is full; the transport waits for it
                break
            except OSError:
                self.works = False
                break
            taken += len(burst)
        return taken

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        connection, self._socket = self._socket, None
        self.works = False
        if connection is not None:
            connection.close()


def split_bursts(datagrams: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Runs of datagrams that can go as one: all of one size but the last, which may be smaller."""
    start = 0
    while start < len(datagrams):
        size = len(datagrams[start])
        end = start + 1
        while end < len(datagrams) and end - start < MOST_SEGMENTS and len(datagrams[end]) <= size:
            end += 1
            if len(datagrams[end - 1]) < size:
                break
        yield datagrams[start:end]
        start = end


__all__ = ["MOST_SEGMENTS", "BurstSocket", "split_bursts"]
