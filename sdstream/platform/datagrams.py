"""Many datagrams by one call to the kernel."""

import contextlib
import socket
import sys
from collections.abc import Sequence
from typing import Any

from sdstream.platform import LINUX

UDP_GRO = 104
"""Of `<linux/udp.h>`: give datagrams that came together as one, and say by what size to cut it."""
UDP_SEGMENT = 103
"""Of `<linux/udp.h>`: cut what is sent into datagrams of this many bytes."""


def can_send_segments() -> bool:
    """Whether `send_segments` can be tried here."""
    return LINUX


def send_segments(connection: socket.socket, datagrams: Sequence[bytes], address: Any) -> None:
    """Send datagrams of one size, the last of which may be smaller, by one call to the kernel, without waiting.

    Raises `BlockingIOError` when the socket is full, `OSError` when the kernel or the device cannot do it: nothing was
    sent then.
    """
    if len(datagrams) == 1:
        connection.sendto(datagrams[0], socket.MSG_DONTWAIT, address)
        return
    size = len(datagrams[0]).to_bytes(2, sys.byteorder)
    options = ((socket.IPPROTO_UDP, UDP_SEGMENT, size),)
    connection.sendmsg(datagrams, options, socket.MSG_DONTWAIT, address)


def can_join_datagrams() -> bool:
    """Whether `join_datagrams` can do something here."""
    return LINUX


def join_datagrams(connection: socket.socket) -> None:
    """Have the kernel join datagrams of one sender that come together; where it cannot, nothing."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)


def receive_joined(connection: socket.socket, space: memoryview) -> tuple[int, int, Any]:
    """Read into `space` what has come: its bytes, the size of each datagram but the last in it, and who sent it.

    Raises `BlockingIOError` when nothing has, `OSError` as the socket does.
    """
    length, ancillary, _, address = connection.recvmsg_into((space,), _JOINED_SPACE)
    for level, kind, data in ancillary:
        if kind == UDP_GRO and level == socket.IPPROTO_UDP:
            return length, int.from_bytes(data, sys.byteorder), address
    return length, length, address


_JOINED_SPACE = socket.CMSG_SPACE(4) if LINUX else 0


__all__ = ["can_join_datagrams", "can_send_segments", "join_datagrams", "receive_joined", "send_segments"]
