"""RTP as bytes: headers read and written, H.264 and VP8 payloads joined to pictures and cut to packets."""

import struct
from enum import IntEnum

import msgspec

MAX_PAYLOAD = 1200
"""Bytes of payload in one packet we send; with every header it stays below the 1,280 that any path carries."""
START_CODE = b"\x00\x00\x00\x01"
_FIXED_HEADER = struct.Struct("!BBHII")
_EXTENSION_HEADER = struct.Struct("!HH")
_AGGREGATE, _FRAGMENT = 24, 28
_NAL_IDR, _NAL_SPS = 5, 7


class RtpHeader(msgspec.Struct, frozen=True, gc=False):
    """The parts of a packet that are used. The payload is `packet[start:end]`."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    source: int
    start: int
    end: int
    transport_sequence: int | None


def read_header(packet: bytes, transport_sequence_id: int | None = None) -> RtpHeader | None:
    """Read an RTP packet; None when it is malformed.

    `transport_sequence_id` is the id of the one-byte header extension that carries the transport-wide number.
    """
    length = len(packet)
    if length < 12:
        return None
    first, second, sequence, timestamp, source = _FIXED_HEADER.unpack_from(packet)
    if first >> 6 != 2:
        return None
    start = 12 + 4 * (first & 15)
    number: int | None = None
    if first & 16:
        if length < start + 4:
            return None
        profile, words = _EXTENSION_HEADER.unpack_from(packet, start)
        start += 4
        if transport_sequence_id is not None and profile == 0xBEDE:
            number = _find_sequence(packet, start, min(start + 4 * words, length), transport_sequence_id)
        start += 4 * words
    end = length
    if first & 32:
        end -= packet[-1]
    if start > end:
        return None
    return RtpHeader(second & 127, second > 127, sequence, timestamp, source, start, end, number)


def _find_sequence(packet: bytes, position: int, end: int, wanted: int) -> int | None:
    while position < end:
        head = packet[position]
        if head == 0:
            position += 1
            continue
        size = (head & 15) + 1
        if head >> 4 == wanted and size == 2 and position + 3 <= end:
            return packet[position + 1] << 8 | packet[position + 2]
        position += 1 + size
    return None


def write_packet(payload_type: int, marker: bool, sequence: int, timestamp: int, source: int, payload: bytes) -> bytes:
    """An RTP packet without extensions. `sequence` is 16 bits, `timestamp` and `source` 32."""
    return _FIXED_HEADER.pack(128, payload_type | (marker << 7), sequence, timestamp, source) + payload


class Part(IntEnum):
    """What a packet says of the picture it belongs to."""

    ORDINARY = 0
    KEYFRAME = 1
    """The picture is a keyframe."""
    OPENING = 2
    """It is a keyframe, and nothing that it needs came before this packet."""


def unpack_h264(payload: bytes) -> tuple[bytes, Part]:
    """The Annex B bytes of one packet, and what it says of its picture.

    Raises `ValueError` for what is no H.264 payload of mode 0 or 1.
    """
    if len(payload) < 2:
        raise ValueError("an H.264 payload has at least two bytes")
    head = payload[0]
    kind = head & 31
    if kind == _FRAGMENT:
        inner = payload[1]
        if inner & 128:
            return START_CODE + bytes((head & 0xE0 | inner & 31,)) + payload[2:], _UNIT_PARTS.get(inner & 31, ORDINARY)
        return payload[2:], ORDINARY
    if 1 <= kind <= 23:
        return START_CODE + payload, _UNIT_PARTS.get(kind, ORDINARY)
    if kind != _AGGREGATE:
        raise ValueError(f"H.264 payloads of type {kind} are not of mode 0 or 1")
    parts: list[bytes] = []
    part = ORDINARY
    position, length = 1, len(payload)
    while position < length:
        if position + 2 > length:
            raise ValueError("a length of an aggregate is cut off")
        size = payload[position] << 8 | payload[position + 1]
        position += 2
        if size == 0 or position + size > length:
            raise ValueError("a part of an aggregate is cut off")
        part = max(part, _UNIT_PARTS.get(payload[position] & 31, ORDINARY))
        parts += (START_CODE, payload[position : position + size])
        position += size
    return b"".join(parts), part


def unpack_vp8(payload: bytes) -> tuple[bytes, Part]:
    """The VP8 bytes of one packet, and what it says of its picture. Raises `ValueError` when it is cut off."""
    if not payload:
        raise ValueError("a VP8 payload has a descriptor")
    head = payload[0]
    position = 1
    if head & 128:
        if len(payload) < 2:
            raise ValueError("a VP8 descriptor is cut off")
        flags = payload[1]
        position = 2
        if flags & 128:
            position += 2 if len(payload) > position and payload[position] & 128 else 1
        if flags & 64:
            position += 1
        if flags & 48:
            position += 1
    if position > len(payload):
        raise ValueError("a VP8 descriptor is cut off")
    data = payload[position:]
    begins = bool(head & 16) and head & 7 == 0
    return data, Part.OPENING if begins and data and not data[0] & 1 else ORDINARY


ORDINARY, OPENING = Part.ORDINARY, Part.OPENING
_UNIT_PARTS = {_NAL_IDR: Part.KEYFRAME, _NAL_SPS: Part.OPENING}


def pack_h264(picture: bytes) -> list[bytes]:
    """Cut one Annex B picture into payloads of mode 1: small units together, large ones in fragments."""
    payloads: list[bytes] = []
    small: list[bytes] = []
    filled = 1
    for unit in split_units(picture):
        if len(unit) > MAX_PAYLOAD:
            _flush(small, payloads)
            filled = 1
            payloads += _fragments(unit)
            continue
        if filled + 2 + len(unit) > MAX_PAYLOAD:
            _flush(small, payloads)
            filled = 1
        small.append(unit)
        filled += 2 + len(unit)
    _flush(small, payloads)
    return payloads


def split_units(picture: bytes) -> list[bytes]:
    """The NAL units of an Annex B picture, start codes and zero padding taken off."""
    units: list[bytes] = []
    start = picture.find(b"\x00\x00\x01")
    while start != -1:
        start += 3
        following = picture.find(b"\x00\x00\x01", start)
        unit = picture[start : following if following != -1 else len(picture)].rstrip(b"\x00")
        if unit:
            units.append(unit)
        start = following
    return units


def _flush(small: list[bytes], payloads: list[bytes]) -> None:
    if len(small) == 1:
        payloads.append(small[0])
    elif small:
        importance = max(unit[0] & 0x60 for unit in small)
        parts = [bytes((importance | _AGGREGATE,))]
        for unit in small:
            parts += (len(unit).to_bytes(2, "big"), unit)
        payloads.append(b"".join(parts))
    small.clear()


def _fragments(unit: bytes) -> list[bytes]:
    head = unit[0]
    indicator = head & 0xE0 | _FRAGMENT
    kind = head & 31
    body = len(unit) - 1
    count = -(-body // (MAX_PAYLOAD - 2))
    size = -(-body // count)  # equal parts: the last packet is not a crumb
    fragments: list[bytes] = []
    for position in range(1, len(unit), size):
        first, last = position == 1, position + size >= len(unit)
        fragments.append(bytes((indicator, kind | first << 7 | last << 6)) + unit[position : position + size])
    return fragments


def pack_vp8(picture: bytes, picture_id: int) -> list[bytes]:
    """Cut one VP8 picture into payloads. `picture_id` is 15 bits."""
    descriptor = struct.pack("!BBH", 0x80, 0x80, 0x8000 | picture_id)
    first = struct.pack("!BBH", 0x90, 0x80, 0x8000 | picture_id)
    room = MAX_PAYLOAD - len(descriptor)
    return [
        (first if position == 0 else descriptor) + picture[position : position + room]
        for position in range(0, len(picture), room)
    ]


def nearest(value: int, reference: int, span: int) -> int:
    """Of the numbers that are `value` modulo `span`, the one nearest to `reference`."""
    step = (value - reference) % span
    return reference + step - (span if step >= span // 2 else 0)


class SequenceUnwrapper:
    """Turns numbers that wrap at `2**bits` into numbers that go on growing, nearest to the last one."""

    def __init__(self, bits: int) -> None:
        self._span = 1 << bits
        self._last: int | None = None

    def unwrap(self, value: int) -> int:
        """`value` is in 0..2**bits-1; the result may be negative for numbers before the first."""
        if self._last is None:
            self._last = value
            return value
        result = nearest(value, self._last, self._span)
        self._last = max(self._last, result)
        return result


__all__ = [
    "MAX_PAYLOAD",
    "OPENING",
    "ORDINARY",
    "Part",
    "RtpHeader",
    "SequenceUnwrapper",
    "nearest",
    "pack_h264",
    "pack_vp8",
    "read_header",
    "split_units",
    "unpack_h264",
    "unpack_vp8",
    "write_packet",
]
