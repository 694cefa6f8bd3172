"""AMF0, the notation of RTMP's commands: as much of it as publishing needs."""

import struct
from collections.abc import Mapping

Value = float | bool | str | None | dict[str, "Value"] | list["Value"]

_NUMBER, _BOOLEAN, _STRING, _OBJECT, _NULL, _UNDEFINED, _MAP, _END, _LIST, _DATE, _LONG = (
    0,
    1,
    2,
    3,
    5,
    6,
    8,
    9,
    10,
    11,
    12,
)
_DEEPEST = 8


def encode(*values: float | bool | str | Mapping[str, float | bool | str] | None) -> bytes:
    """The values one after the other."""
    return b"".join(map(_encode, values))


def decode(data: bytes) -> list[Value]:
    """All values in `data`. Raises `ValueError` when it is cut off or of a kind that no answer has."""
    values: list[Value] = []
    position = 0
    try:
        while position < len(data):
            value, position = _decode(data, position, 0)
            values.append(value)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"AMF0 cannot be read: {error}") from None
    return values


def _encode(value: float | bool | str | Mapping[str, float | bool | str] | None) -> bytes:
    if value is None:
        return bytes((_NULL,))
    if isinstance(value, bool):
        return bytes((_BOOLEAN, value))
    if isinstance(value, int | float):
        return struct.pack("!Bd", _NUMBER, value)
    if isinstance(value, str):
        return bytes((_STRING,)) + _text(value)
    members = b"".join(_text(name) + _encode(member) for name, member in value.items())
    return bytes((_OBJECT,)) + members + b"\x00\x00" + bytes((_END,))


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("!H", len(data)) + data


def _decode(data: bytes, position: int, depth: int) -> tuple[Value, int]:
    if depth > _DEEPEST:
        raise ValueError("AMF0 is nested too deeply")
    kind = data[position]
    position += 1
    if kind == _NUMBER:
        return struct.unpack_from("!d", data, position)[0], position + 8
    if kind == _BOOLEAN:
        return bool(data[position]), position + 1
    if kind in (_STRING, _LONG):
        return _read_text(data, position, long=kind == _LONG)
    if kind in (_NULL, _UNDEFINED):
        return None, position
    if kind == _DATE:
        return struct.unpack_from("!d", data, position)[0], position + 10
    if kind == _LIST:
        (count,) = struct.unpack_from("!I", data, position)
        position += 4
        items: list[Value] = []
        for _ in range(min(count, len(data))):
            item, position = _decode(data, position, depth + 1)
            items.append(item)
        return items, position
    if kind not in (_OBJECT, _MAP):
        raise ValueError(f"AMF0 has a value of kind {kind}")
    if kind == _MAP:
        position += 4
    members: dict[str, Value] = {}
    while True:
        name, position = _read_text(data, position, long=False)
        if not name and data[position] == _END:
            return members, position + 1
        members[name], position = _decode(data, position, depth + 1)


def _read_text(data: bytes, position: int, *, long: bool) -> tuple[str, int]:
    (size,) = struct.unpack_from("!I" if long else "!H", data, position)
    position += 4 if long else 2
    if position + size > len(data):
        raise ValueError("AMF0 has a text that is cut off")
    return data[position : position + size].decode(), position + size


__all__ = ["Value", "decode", "encode"]
