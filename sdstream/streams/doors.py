"""What a media server in front asks of the streams: who may publish, and to open a stream for who does."""

from collections.abc import Awaitable, Callable

from sdstream.errors import StreamNotFound
from sdstream.streams.directory import StreamDirectory
from sdstream.streams.views import SessionOpened


class PublisherDoors:
    """Answered from memory, on the event loop. `publish` is the service's, which takes None for an offer."""

    def __init__(
        self, streams: StreamDirectory, publish: Callable[[str, str | None], Awaitable[SessionOpened]]
    ) -> None:
        self._streams = streams
        self._publish = publish

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
        await self._publish(stream_key, None)


__all__ = ["PublisherDoors"]
