"""The embedded media back end: WHIP and WHEP in this process, on aiortc and PyAV, with nothing to install beside."""

import asyncio
from dataclasses import replace
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
from sdstream.media.embedded.rates import Bitrates
from sdstream.media.embedded.stream import EmbeddedStream, StreamOptions
from sdstream.media.embedded.trimming import MemoryTrimmer
from sdstream.media.ports import IceServer, MediaListener
from sdstream.media.turn.desk import IceDesk
from sdstream.platform.memory import release_free_memory
from sdstream.settings import Settings

log = structlog.get_logger(__name__)


class EmbeddedMedia:
    """Implements `media.ports.MediaBackend`.

    `fast` forces the short way of packets on or off; None takes it with library versions that it was tried with.
    Raises `ConfigurationError` for settings of WebRTC or of the encoder that cannot work here.
    """

    def __init__(self, settings: Settings, clock: Clock, *, fast: bool | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._addressing = Addressing.from_settings(settings)
        self._desk = IceDesk(settings, clock)
        known = fast_path_known()
        self._fast = known if fast is None else fast
        if not known:
            log.warning("another aiortc or aioice than sdstream was tried with: packets take the slow way")
        self._h264_encoder: H264Encoder = choose_h264_encoder(settings.video_encoder)
        self._streams: set[EmbeddedStream] = set()
        self._trimmer = MemoryTrimmer(release_free_memory)
        self._closed = False

    async def start(self) -> None:
        """Start coturn where it is needed.

        Raises `ConfigurationError` when what the settings ask for cannot be used.
        """
        mode = self._desk.choice.mode
        if mode == "turn-local":
            self._addressing = self._addressing.inside()
            await self._desk.start(self._addressing.addresses[0])
        addresses = self._addressing.candidates() if mode != "off" else []
        log.info("embedded media is ready", encoder=self._h264_encoder, webrtc_mode=mode, addresses=addresses)

    async def open_stream(self, stream_id: str, size: PictureSize, listener: MediaListener) -> EmbeddedStream:
        if self._closed:
            raise ShuttingDown("the media back end is closed")
        self._streams = {stream for stream in self._streams if not stream.closed}
        options = StreamOptions(
            address=self._address,
            max_viewers=self._settings.max_viewers,
            bitrates=Bitrates(
                self._settings.video_bitrate,
                self._settings.video_bitrate_least,
                self._settings.video_bitrate_most,
                self._settings.video_bitrate_follows,
            ),
            h264_encoder=self._h264_encoder,
            fast=self._fast,
            frame_rate=self._settings.max_frame_rate,
            outputs=OutputOptions(self._settings.output_allow_private, self._settings.recording_least_free),
            on_left=self._trimmer.request,
        )
        stream = EmbeddedStream(stream_id, size, listener, options, self._clock)
        self._streams.add(stream)
        return stream

    async def finish_recordings(self, folder: Path) -> int:
        # Looked for at once: what is begun later belongs to a stream that records.
        found = find_unfinished(folder)
        return await asyncio.to_thread(finalise_all, found, self._settings.recording_least_free)

    async def ice_servers(self, host: str) -> tuple[IceServer, ...]:
        return await self._desk.for_client(host)

    async def _address(self) -> Addressing:
        self._desk.refuse_when_off()
        relay = await self._desk.for_us()
        return self._addressing if relay is None else replace(self._addressing, relay=relay)

    async def close(self) -> None:
        self._closed = True
        streams, self._streams = self._streams, set()
        await asyncio.gather(*(stream.close() for stream in streams))
        await self._trimmer.close()
        await self._desk.close()


__all__ = ["EmbeddedMedia"]
