"""The media of one stream: its publisher, its viewers, its encoders."""

import asyncio
import functools
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from sdstream.clock import Clock
from sdstream.errors import CapacityReached, ShuttingDown
from sdstream.frames import I420Frame, PictureSize
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.broadcast import Broadcast, Outgoing
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.encoding import H264Encoder
from sdstream.media.embedded.negotiation import Negotiation, VideoCodec, negotiate_publish, negotiate_watch
from sdstream.media.embedded.peer import Peer
from sdstream.media.embedded.pictures import OwnedPicture
from sdstream.media.embedded.publisher import PublisherSession
from sdstream.media.embedded.sdp import Offer, parse_fragment, parse_offer, write_answer
from sdstream.media.embedded.viewer import ViewerSession
from sdstream.media.placard import draw_placard
from sdstream.media.ports import MediaListener, MediaStatistics, Placard, PublisherState, SessionAnswer

SILENT_SECONDS = 10.0
"""A viewer not heard of for so long gives its place to one that asks for it.

One that was killed says no goodbye, and ICE takes half a minute to notice; the slowest clients report every 7.5 s.
"""
FAULT_SECONDS = 10.0
"""The same fault of a stream's encoders and decoders is logged once in this time."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a stream needs of the back end's settings. `fast` switches the short way of packets on.

    `address` gives the addressing of one more session; it raises `TurnUnavailable` and `WebRtcOff`.
    """

    address: Callable[[], Awaitable[Addressing]]
    max_viewers: int
    bitrate: int
    h264_encoder: H264Encoder = "x264"
    fast: bool = True


@dataclass(slots=True)
class _Sessions:
    publisher: PublisherSession | None = None
    viewers: dict[str, ViewerSession] = field(default_factory=dict[str, ViewerSession])
    opening: int = 0
    """Viewers whose answer is being made; they hold a place."""


class EmbeddedStream:
    """Implements `media.ports.MediaStream` for one stream."""

    def __init__(
        self, stream_id: str, size: PictureSize, listener: MediaListener, options: StreamOptions, clock: Clock
    ) -> None:
        self._stream_id = stream_id
        self._size = size
        self._listener = listener
        self._options = options
        self._clock = clock
        self._counters = StreamCounters()
        self._sessions = _Sessions()
        self._state = PublisherState.ABSENT
        self._connected_viewers = 0
        self._broadcasts: dict[VideoCodec, Broadcast] = {}
        self._latest: Outgoing | None = None
        self._placard: tuple[Placard, PictureSize] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._log = log.bind(stream_id=stream_id)
        self._faults = FoldedReporter(self._log, clock, FAULT_SECONDS)

    @property
    def closed(self) -> bool:
        return self._closed

    # Sessions

    async def publish(self, offer: str) -> SessionAnswer:
        self._refuse_when_closed()
        parsed = parse_offer(offer)
        negotiation = negotiate_publish(parsed)
        session = PublisherSession(
            _session_id(),
            negotiation,
            await self._options.address(),
            self._counters,
            self._clock,
            deliver=self._on_picture,
            on_connected=self._on_publisher_connected,
            on_closed=self._on_publisher_closed,
            faults=self._faults,
            fast=self._options.fast,
        )
        answer = await self._answer(session.peer, session, parsed, negotiation)
        former, self._sessions.publisher = self._sessions.publisher, session
        self._counters.warnings.clear()
        if former is not None:
            self._log.info("a new publisher takes over", session=session.session_id)
            self._later(former.close())
        self._set_state(PublisherState.CONNECTING)
        return SessionAnswer(session.session_id, answer)

    async def watch(self, offer: str) -> SessionAnswer:
        self._refuse_when_closed()
        parsed = parse_offer(offer)
        sources = (random.getrandbits(32), random.getrandbits(32))
        name = f"sdstream-{secrets.token_hex(4)}"
        negotiation = negotiate_watch(parsed, sources, name, f"{name}-video")
        addressing = await self._options.address()
        if not self._has_place():
            raise CapacityReached(f"this stream has {self._options.max_viewers} viewers, the most it may have")
        session = ViewerSession(
            _session_id(),
            negotiation.video,
            sources,
            name,
            addressing,
            self._counters,
            self._clock,
            on_connected=self._on_viewer_connected,
            on_closed=self._on_viewer_closed,
            on_keyframe_request=self._on_keyframe_request,
            fast=self._options.fast,
        )
        self._sessions.opening += 1
        try:
            answer = await self._answer(session.peer, session, parsed, negotiation)
        finally:
            self._sessions.opening -= 1
        self._sessions.viewers[session.session_id] = session
        return SessionAnswer(session.session_id, answer)

    async def end_session(self, session_id: str) -> bool:
        publisher = self._sessions.publisher
        if publisher is not None and publisher.session_id == session_id:
            self._sessions.publisher = None
            await publisher.close()
            self._set_state(PublisherState.ABSENT)
            return True
        viewer = self._sessions.viewers.pop(session_id, None)
        if viewer is None:
            return False
        await self._drop_viewer(viewer)
        return True

    async def add_candidates(self, session_id: str, fragment: str) -> bool:
        publisher = self._sessions.publisher
        peer: Peer | None = None
        if publisher is not None and publisher.session_id == session_id:
            peer = publisher.peer
        elif session_id in self._sessions.viewers:
            peer = self._sessions.viewers[session_id].peer
        if peer is None:
            return False
        for line in parse_fragment(fragment):
            await peer.add_candidate(line)
        return True

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        publisher, self._sessions.publisher = self._sessions.publisher, None
        viewers = list(self._sessions.viewers.values())
        self._sessions.viewers.clear()
        broadcasts = list(self._broadcasts.values())
        self._broadcasts.clear()
        closing: list[Coroutine[Any, Any, None]] = [viewer.close() for viewer in viewers]
        if publisher is not None:
            closing.append(publisher.close())
        closing += [broadcast.close() for broadcast in broadcasts]
        await asyncio.gather(*closing)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._set_state(PublisherState.ABSENT)
        self._count_viewers()

    # Pictures out

    def send(self, frame: I420Frame) -> None:
        picture = OwnedPicture.copy_of(frame)
        self._placard = None
        self._send(lambda: picture)

    def send_placard(self, placard: Placard) -> None:
        wanted = (placard, self._size)
        if wanted == self._placard:
            return
        self._placard = wanted
        self._send(functools.partial(_placard_picture, placard, self._size))

    def resize(self, size: PictureSize) -> None:
        if size == self._size:
            return
        self._size = size
        if self._placard is not None:
            self.send_placard(self._placard[0])
        for broadcast in self._broadcasts.values():
            broadcast.request_keyframe()

    def latest_picture(self) -> I420Frame | None:
        latest = self._latest
        return None if latest is None else latest().as_i420()

    def statistics(self) -> MediaStatistics:
        counters = self._counters
        publisher = self._sessions.publisher
        return MediaStatistics(
            publisher=self._state,
            viewers=self._connected_viewers,
            frames_decoded=counters.frames_decoded,
            decode_errors=counters.decode_errors,
            frames_encoded=counters.frames_encoded,
            keyframes=counters.keyframes,
            bytes_received=counters.bytes_received,
            bytes_sent=counters.bytes_sent,
            input_size=counters.input_size,
            output_size=counters.output_size,
            drops=counters.drops,
            warnings=tuple(counters.warnings),
            tracks=publisher.statistics() if publisher is not None else (),
            encode_seconds=counters.encode_seconds,
        )

    def _send(self, picture: Outgoing) -> None:
        self._latest = picture
        for broadcast in tuple(self._broadcasts.values()):
            broadcast.put(picture)

    # What sessions tell

    def _on_picture(self, session: PublisherSession, frame: I420Frame) -> None:
        if session is self._sessions.publisher and not self._closed:
            self._listener.on_video(frame)

    def _on_publisher_connected(self, session: PublisherSession) -> None:
        if session is self._sessions.publisher:
            self._set_state(PublisherState.CONNECTED)

    def _on_publisher_closed(self, session: PublisherSession, reason: str) -> None:
        self._later(session.close())
        if session is self._sessions.publisher:
            self._log.info("the publisher is gone", reason=reason)
            self._sessions.publisher = None
            self._set_state(PublisherState.ABSENT)

    def _on_viewer_connected(self, session: ViewerSession) -> None:
        if self._closed or session.session_id not in self._sessions.viewers:
            return
        broadcast = self._broadcasts.get(session.codec)
        if broadcast is None:
            broadcast = Broadcast(
                session.codec,
                self._options.bitrate,
                self._options.h264_encoder,
                self._counters,
                self._clock,
                self._faults,
            )
            self._broadcasts[session.codec] = broadcast
        broadcast.viewers.add(session)
        broadcast.request_keyframe(self._latest)
        self._count_viewers()

    def _on_viewer_closed(self, session: ViewerSession, reason: str) -> None:
        if self._sessions.viewers.pop(session.session_id, None) is not None:
            self._log.debug("a viewer is gone", reason=reason)
            self._later(self._drop_viewer(session))

    def _on_keyframe_request(self, session: ViewerSession) -> None:
        broadcast = self._broadcasts.get(session.codec)
        if broadcast is not None:
            broadcast.request_keyframe(self._latest)

    # Helpers

    async def _answer(
        self, peer: Peer, session: PublisherSession | ViewerSession, offer: Offer, negotiation: Negotiation
    ) -> str:
        """Make the answer and start to connect; the session is closed when that fails."""
        try:
            transport = await peer.gather("passive" if negotiation.anchor.setup == "active" else "active")
            self._refuse_when_closed()
        except BaseException:
            await session.close()
            raise
        answer = write_answer(offer, negotiation.accepted, transport, secrets.randbits(53))
        peer.connect(negotiation.anchor, ice_lite=offer.ice_lite)
        return answer

    def _has_place(self) -> bool:
        """Whether one more viewer may come, if need be instead of one that fell silent."""
        viewers = self._sessions.viewers
        if len(viewers) + self._sessions.opening < self._options.max_viewers:
            return True
        quietest = min(viewers.values(), key=lambda viewer: viewer.heard_at, default=None)
        if quietest is None or self._clock.monotonic() - quietest.heard_at < SILENT_SECONDS:
            return False
        self._on_viewer_closed(quietest, "it fell silent and its place is wanted")
        return True

    async def _drop_viewer(self, session: ViewerSession) -> None:
        broadcast = self._broadcasts.get(session.codec)
        if broadcast is not None:
            broadcast.viewers.discard(session)
            if not broadcast.viewers:
                del self._broadcasts[session.codec]
        self._count_viewers()
        await session.close()
        if broadcast is not None and not broadcast.viewers:
            await broadcast.close()

    def _set_state(self, state: PublisherState) -> None:
        if state != self._state:
            self._state = state
            self._listener.on_publisher(state)

    def _count_viewers(self) -> None:
        count = sum(len(broadcast.viewers) for broadcast in self._broadcasts.values())
        if count != self._connected_viewers:
            self._connected_viewers = count
            self._listener.on_viewers(count)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise ShuttingDown("this stream is being closed")


def _session_id() -> str:
    return secrets.token_urlsafe(18)


def _placard_picture(placard: Placard, size: PictureSize) -> OwnedPicture:
    picture = OwnedPicture.copy_of(draw_placard(placard, size))
    return OwnedPicture(picture.frame, picture.size)


__all__ = ["EmbeddedStream", "StreamOptions"]
