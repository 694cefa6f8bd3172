"""All streams of the server, found by id, key or playback id, and how many places they take."""

import contextlib
from collections.abc import Iterator

from sdstream.errors import CapacityReached, SessionNotFound, StreamNotFound
from sdstream.streams.stream import Stream
from sdstream.streams.totals import Totals

MAX_RECORDS = 10_000
"""Streams on record, idle ones included; at any sane rate the oldest are collected long before."""


class StreamDirectory:
    """The streams that exist. Used on the event loop only."""

    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self._by_id: dict[str, Stream] = {}
        self._by_key: dict[str, Stream] = {}
        self._by_playback: dict[str, Stream] = {}
        self._ended = Totals()
        self._ending: set[Stream] = set()
        """Removed ones that may count on: their sessions are being ended."""

    def __iter__(self) -> Iterator[Stream]:
        """The streams of this moment; the directory may change meanwhile."""
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, stream: Stream) -> None:
        record = stream.saved
        self._by_id[record.id] = stream
        self._by_key[record.stream_key] = stream
        self._by_playback[record.output_playback_id] = stream

    def remove(self, stream: Stream) -> None:
        """Let nobody find it any more; `retire` must follow."""
        self._ending.add(stream)
        record = stream.saved
        del self._by_id[record.id]
        del self._by_key[record.stream_key]
        del self._by_playback[record.output_playback_id]

    def peek(self, stream_id: str) -> Stream:
        """Raises `StreamNotFound`. Does not count as a use of the stream."""
        return _existing(self._by_id.get(stream_id))

    def find(self, stream_id: str) -> Stream:
        """Raises `StreamNotFound`. Whoever asks for a stream keeps it from being collected."""
        return _touched(self._by_id.get(stream_id))

    def note_recording(self, stream_id: str, name: str, problem: str | None) -> None:
        """A recording was moved into the bucket, or, for a reason, stays here; the stream may be gone."""
        with contextlib.suppress(StreamNotFound):
            state = "kept" if problem else "moved"
            self.peek(stream_id).events.emit("recording", {"name": name, "state": state, "problem": problem})

    def find_by_key(self, stream_key: str) -> Stream:
        """Raises `StreamNotFound`."""
        return _touched(self._by_key.get(stream_key))

    def find_by_playback(self, playback_id: str) -> Stream:
        """Raises `StreamNotFound`."""
        return _touched(self._by_playback.get(playback_id))

    def has_token(self, token: str) -> bool:
        """Whether `token` is some stream's key or playback id."""
        return token in self._by_key or token in self._by_playback

    def publish_sessions_of(self, stream_key: str) -> Stream:
        """Raises `SessionNotFound`: a session of a stream that is gone is gone too."""
        return _with_sessions(self._by_key.get(stream_key))

    def watch_sessions_of(self, playback_id: str) -> Stream:
        """Raises `SessionNotFound`."""
        return _with_sessions(self._by_playback.get(playback_id))

    # Places

    def count_busy(self, since: float) -> int:
        """Streams that take a place: those used after `since`, monotonic seconds."""
        return sum(stream.is_busy(since) for stream in self._by_id.values())

    def crowd(self, since: float) -> str:
        """Why one more stream cannot be used, in a sentence; empty when it can."""
        busy = self.count_busy(since)
        if busy >= self._max_streams:
            return f"{busy} streams are in use and this server takes {self._max_streams}."
        return ""

    def glut(self) -> str:
        """Why one more stream cannot be kept, in a sentence; empty when it can."""
        if len(self._by_id) >= MAX_RECORDS:
            return f"{len(self._by_id)} streams are on record and this server keeps {MAX_RECORDS}."
        return ""

    def refuse_crowd(self, since: float) -> None:
        """Raises `CapacityReached` with the reason when one more stream cannot be used."""
        if reason := self.crowd(since):
            raise CapacityReached(reason)

    def refuse_glut(self) -> None:
        """Raises `CapacityReached` with the reason when one more stream cannot be kept."""
        if reason := self.glut():
            raise CapacityReached(reason)

    # Counters

    def retire(self, stream: Stream) -> None:
        """Keep what a removed stream has counted."""
        self._ending.discard(stream)
        self._ended += stream.totals()

    def totals(self) -> Totals:
        """Sums over all streams there ever were since the server started."""
        totals = self._ended
        for stream in (*self._by_id.values(), *self._ending):
            totals += stream.totals()
        return totals


def _existing(stream: Stream | None) -> Stream:
    if stream is None:
        raise StreamNotFound("There is no such stream.")
    return stream


def _touched(stream: Stream | None) -> Stream:
    found = _existing(stream)
    found.touch()
    return found


def _with_sessions(stream: Stream | None) -> Stream:
    if stream is None:
        raise SessionNotFound("There is no such session.")
    return stream


__all__ = ["MAX_RECORDS", "StreamDirectory"]
