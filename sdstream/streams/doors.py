"""What a media server in front asks of the streams: who may publish, and to open a stream for who does."""

from collections.abc import Awaitable, Callable

from sdstream.errors import StreamNotFound
from sdstream.streams.directory import StreamDirectory


class PublisherDoors:
    """Answered from memory, on the event loop. `admit` is the service's."""

    def __init__(self, streams: StreamDirectory, admit: Callable[[str], Awaitable[None]]) -> None:
        self._streams = streams
        self._admit = admit

    def names_of(self, stream_id: str) -> tuple[str, str]:
        """The stream key and the playback id. Raises `StreamNotFound`."""
        record = self._streams.peek(stream_id).saved
        return record.stream_key, record.output_playback_id

    def may_publish(self, stream_key: str) -> bool:
        """Whether there is a stream of this key, and it is not being deleted."""
        try:
            return self._streams.find_by_key(stream_key).refusal is None
        except StreamNotFound:
            return False

    async def admit(self, stream_key: str) -> None:
        """Open the stream for a publisher that comes without an offer. Raises as `StreamService.publish`."""
        await self._admit(stream_key)


__all__ = ["PublisherDoors"]
