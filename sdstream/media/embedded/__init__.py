"""The embedded media back end: WHIP and WHEP in this process, on aiortc and PyAV, with nothing to install beside."""

import asyncio
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import ShuttingDown
from sdstream.frames import PictureSize
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.encoding import H264Encoder, choose_h264_encoder
from sdstream.media.embedded.outputs.manager import OutputOptions
from sdstream.media.embedded.outputs.recorder import finalise_all, find_unfinished
from sdstream.media.embedded.peer import fast_path_known
from sdstream.media.embedded.stream import EmbeddedStream, StreamOptions
from sdstream.media.ports import MediaListener
from sdstream.settings import Settings

log = structlog.get_logger(__name__)


class EmbeddedMedia:
    """Implements `media.ports.MediaBackend`.

    `fast` forces the short way of packets on or off; None takes it with library versions that it was tried with.
    Raises `ConfigurationError` for settings of WebRTC that cannot work.
    """

    def __init__(self, settings: Settings, clock: Clock, *, fast: bool | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._addressing = Addressing.from_settings(settings)
        known = fast_path_known()
        self._fast = known if fast is None else fast
        if not known:
            log.warning("another aiortc or aioice than sdstream was tried with: packets take the slow way")
        self._h264_encoder: H264Encoder = "x264"
        self._streams: set[EmbeddedStream] = set()
        self._closed = False

    async def start(self) -> None:
        """Choose the encoder. Raises `ConfigurationError` when the one asked for cannot be used."""
        self._h264_encoder = choose_h264_encoder(self._settings.video_encoder)
        log.info("embedded media is ready", encoder=self._h264_encoder, addresses=self._addressing.candidates())

    async def open_stream(self, stream_id: str, size: PictureSize, listener: MediaListener) -> EmbeddedStream:
        if self._closed:
            raise ShuttingDown("the media back end is closed")
        self._streams = {stream for stream in self._streams if not stream.closed}
        options = StreamOptions(
            addressing=self._addressing,
            max_viewers=self._settings.max_viewers,
            bitrate=self._settings.video_bitrate,
            h264_encoder=self._h264_encoder,
            fast=self._fast,
            frame_rate=self._settings.max_frame_rate,
            outputs=OutputOptions(self._settings.output_allow_private, self._settings.recording_least_free),
        )
        stream = EmbeddedStream(stream_id, size, listener, options, self._clock)
        self._streams.add(stream)
        return stream

    async def finish_recordings(self, folder: Path) -> int:
        # Looked for at once: what is begun later belongs to a stream that records.
        found = find_unfinished(folder)
        return await asyncio.to_thread(finalise_all, found)

    def ice_links(self) -> tuple[str, ...]:
        return tuple(f'<{url}>; rel="ice-server"' for url in self._addressing.servers)

    async def close(self) -> None:
        self._closed = True
        streams, self._streams = self._streams, set()
        await asyncio.gather(*(stream.close() for stream in streams))


__all__ = ["EmbeddedMedia"]
