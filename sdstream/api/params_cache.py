"""The JSON of streams' parameters, encoded once for each revision and not for each answer."""

from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from sdstream.api.answers import encode_json
from sdstream.params import StreamParams, image_apart, wire_params
from sdstream.streams.views import StreamRecord

MOST_ENTRIES = 1024
LONGEST_ENTRY = 32 * 1024
"""Bytes; longer ones, and those with a style image in a data URI, are encoded each time rather than kept."""


@dataclass(frozen=True, slots=True)
class _Entry:
    params: StreamParams
    encoded: msgspec.Raw


class ParamsCache:
    """The newest encoded parameters of each stream; forgets those that were asked for longest ago."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def encoded(self, record: StreamRecord, *, shorten: bool = False) -> msgspec.Raw:
        """The parameters of `record` as JSON; with `shorten`, a data URI is shown without its data."""
        entry = self._entries.get(record.id)
        if entry is not None and entry.params is record.params:  # frozen, so the same object has the same JSON
            self._entries.move_to_end(record.id)
            return entry.encoded
        encoded = msgspec.Raw(encode_json(wire_params(record.params, short_images=shorten)))
        if image_apart(record.params) is not None or len(encoded) > LONGEST_ENTRY:
            return encoded
        self._entries[record.id] = _Entry(record.params, encoded)
        self._entries.move_to_end(record.id)
        if len(self._entries) > MOST_ENTRIES:
            self._entries.popitem(last=False)
        return encoded


__all__ = ["LONGEST_ENTRY", "MOST_ENTRIES", "ParamsCache"]
