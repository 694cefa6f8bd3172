"""The part of the service that is about publishers and viewers."""

from sdstream.clock import Clock
from sdstream.errors import RequestError
from sdstream.media.ports import HlsFile, PicturePublisher, PictureViewer
from sdstream.settings import Settings
from sdstream.streams.capacity import refuse_overload
from sdstream.streams.directory import StreamDirectory
from sdstream.streams.entering import (
    Enter,
    Session,
    by_another_door,
    by_whep,
    by_whip,
    for_pictures,
    with_pictures,
)
from sdstream.streams.stream import Stream
from sdstream.streams.views import SessionOpened
from sdstream.worker.ports import WorkerClient


class StreamSessions:
    """Lets publishers and viewers in, and out again."""

    def __init__(self, streams: StreamDirectory, settings: Settings, worker: WorkerClient, clock: Clock) -> None:
        self._streams = streams
        self._settings = settings
        self._worker = worker
        self._clock = clock

    async def publish(self, stream_key: str, offer: str) -> SessionOpened:
        """Answer a WHIP offer. Raises `StreamNotFound`, `InvalidSdp`, `CapacityReached`, `ShuttingDown`."""
        stream, answer = await self._publish(stream_key, by_whip(offer))
        return SessionOpened(stream.saved, answer)

    async def publish_pictures(self, stream_key: str) -> PicturePublisher:
        """A publisher of whole pictures. Raises `StreamNotFound`, `CapacityReached`, `ShuttingDown`."""
        return (await self._publish(stream_key, with_pictures))[1]

    async def admit(self, stream_key: str) -> None:
        """A publisher that another door of the media server has let in. Raises as `publish`."""
        await self._publish(stream_key, by_another_door)

    async def watch(self, playback_id: str, offer: str) -> SessionOpened:
        """Answer a WHEP offer. Raises `StreamNotFound`, `NoPictureYet`, `InvalidSdp` or `CapacityReached`."""
        stream, answer = await self._watch(playback_id, by_whep(offer))
        return SessionOpened(stream.saved, answer)

    async def watch_pictures(self, playback_id: str) -> PictureViewer:
        """A viewer who takes whole pictures. Raises `StreamNotFound`, `NoPictureYet` or `CapacityReached`."""
        return (await self._watch(playback_id, for_pictures))[1]

    async def end_publish_session(self, stream_key: str, session_id: str) -> None:
        """Raises `SessionNotFound`, also when another publisher has taken over."""
        await self._streams.publish_sessions_of(stream_key).end_publish_session(session_id)

    async def end_watch_session(self, playback_id: str, session_id: str) -> None:
        """Raises `SessionNotFound`."""
        await self._streams.watch_sessions_of(playback_id).end_watch_session(session_id)

    async def add_publish_candidates(self, stream_key: str, session_id: str, fragment: str) -> None:
        """Raises `SessionNotFound` or `InvalidSdp`."""
        await self._streams.publish_sessions_of(stream_key).add_publish_candidates(session_id, fragment)

    async def add_watch_candidates(self, playback_id: str, session_id: str, fragment: str) -> None:
        """Raises `SessionNotFound` or `InvalidSdp`."""
        await self._streams.watch_sessions_of(playback_id).add_watch_candidates(session_id, fragment)

    async def hls_file(self, playback_id: str, name: str) -> HlsFile:
        """A file of HLS. Raises `StreamNotFound` or `NoPictureYet`."""
        return await self._streams.find_by_playback(playback_id).hls_file(name)

    def _refuse_when_closing(self) -> None:
        """Raises `ShuttingDown`."""
        raise NotImplementedError

    def _look_at_style_image(self, stream: Stream) -> None:
        """Have the stream's style image fetched, if it has one that is not here."""
        raise NotImplementedError

    async def _publish(self, stream_key: str, enter: Enter[Session]) -> tuple[Stream, Session]:
        self._refuse_when_closing()
        stream = self._streams.find_by_key(stream_key)
        if not stream.is_busy(self._busy_since()):
            self._streams.refuse_crowd(self._busy_since())
        if not stream.is_publishing:
            refuse_overload(self._streams, self._settings, self._worker.health(), stream.saved.params)
        before = stream.used_at
        stream.use()  # before the answer, or several could take the last place at once
        self._look_at_style_image(stream)
        try:
            return stream, await stream.publish(enter)
        except RequestError:
            stream.used_at = before
            raise

    async def _watch(self, playback_id: str, enter: Enter[Session]) -> tuple[Stream, Session]:
        self._refuse_when_closing()
        stream = self._streams.find_by_playback(playback_id)
        return stream, await stream.watch(enter)

    def _busy_since(self) -> float:
        """Streams that were used after this monotonic second take a place."""
        return self._clock.monotonic() - self._settings.publisher_timeout


__all__ = ["StreamSessions"]
