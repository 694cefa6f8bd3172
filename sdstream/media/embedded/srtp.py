"""The short way into libsrtp: one work space for all packets, where pylibsrtp allocates for each.

`ShortSession` borrows the keys and the state of a `pylibsrtp.Session`, which stays usable beside it.
"""

from collections.abc import Sequence
from typing import Any, cast

import pylibsrtp
from pylibsrtp import _binding  # pyright: ignore[reportPrivateUsage]

LARGEST = 1500
"""Bytes of the largest packet that is taken."""
MOST_SOURCES = 128
"""SSRCs of the peer that packets are read of. libsrtp keeps a state for each and looks through all of them for each
packet; with ten thousand, which a megabyte of packets makes, that takes longer than all else that a packet costs."""
_TRAILER = 256
"""Room for what libsrtp appends: at most a tag, a key identifier and an index."""

_NO_ROOM = 3  # libsrtp's srtp_err_status_alloc_fail

_library: Any = getattr(_binding, "lib", None)
_interface: Any = getattr(_binding, "ffi", None)


class ShortSession:
    """Encrypts and decrypts packets in the state of `session`. Not safe between threads."""

    def __init__(self, session: pylibsrtp.Session) -> None:
        self._session = session  # its end would free the state
        self._state: Any = cast(Any, session)._srtp[0]
        self._space: Any = _interface.new("char[]", LARGEST + _TRAILER)
        self._buffer: Any = _interface.buffer(self._space)
        self._length: Any = _interface.new("int *")
        self._sources: set[bytes] = set()
        """Of which something was decrypted."""

    def protect(self, packet: bytes) -> bytes:
        """Raises `pylibsrtp.Error` as the session does, `ValueError` for a packet over `LARGEST`."""
        return self._run(packet, _library.srtp_protect)

    def protect_burst(self, packets: Sequence[bytes]) -> list[bytes]:
        """As `protect` of each in turn. Raises as that; what comes before is then lost to the receiver."""
        length, buffer, state, space = self._length, self._buffer, self._state, self._space
        encrypt = _library.srtp_protect
        datagrams: list[bytes] = []
        for packet in packets:
            length[0] = size = len(packet)
            if size > LARGEST:
                raise ValueError("the packet is too long for SRTP")
            buffer[0:size] = packet
            code: int = encrypt(state, space, length)
            if code:
                raise pylibsrtp.Error(code)
            datagrams.append(buffer[0 : length[0]])
        return datagrams

    def protect_rtcp(self, packet: bytes) -> bytes:
        """As `protect`, for RTCP."""
        return self._run(packet, _library.srtp_protect_rtcp)

    def unprotect(self, packet: bytes) -> bytes:
        """Raises `pylibsrtp.Error` for what the peer has not sent, or sent before, and past `MOST_SOURCES`."""
        return self._read(packet, packet[8:12], _library.srtp_unprotect)

    def unprotect_burst(self, data: memoryview, size: int) -> list[bytes]:
        """As `unprotect` of each datagram of `size` bytes in `data`, the last of which may be smaller; those that it
        would raise for are left out. Raises `ValueError` for a `size` over `LARGEST`."""
        if size > LARGEST:
            raise ValueError("the packets are too long for SRTP")
        length, buffer, state, space = self._length, self._buffer, self._state, self._space
        decrypt, sources = _library.srtp_unprotect, self._sources
        packets: list[bytes] = []
        for start in range(0, len(data), size):
            part = data[start : start + size]
            source = bytes(part[8:12])
            if source not in sources and len(sources) >= MOST_SOURCES:
                continue
            length[0] = count = len(part)
            buffer[0:count] = part
            if not decrypt(state, space, length):
                sources.add(source)
                packets.append(buffer[0 : length[0]])
        return packets

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        """As `unprotect`, for RTCP."""
        return self._read(packet, packet[4:8], _library.srtp_unprotect_rtcp)

    def _read(self, packet: bytes, source: bytes, function: Any) -> bytes:
        if source not in self._sources and len(self._sources) >= MOST_SOURCES:
            raise pylibsrtp.Error(_NO_ROOM)
        plain = self._run(packet, function)
        self._sources.add(source)
        return plain

    def _run(self, packet: bytes, function: Any) -> bytes:
        size = len(packet)
        if size > LARGEST:
            raise ValueError("the packet is too long for SRTP")
        length, buffer = self._length, self._buffer
        length[0] = size
        buffer[0:size] = packet
        code: int = function(self._state, self._space, length)
        if code:
            raise pylibsrtp.Error(code)
        return buffer[0 : length[0]]


def short_way_known() -> bool:
    """Whether the installed pylibsrtp has what `ShortSession` borrows."""
    names = ("srtp_protect", "srtp_protect_rtcp", "srtp_unprotect", "srtp_unprotect_rtcp")
    return _interface is not None and all(hasattr(_library, name) for name in names)


__all__ = ["LARGEST", "MOST_SOURCES", "ShortSession", "short_way_known"]
