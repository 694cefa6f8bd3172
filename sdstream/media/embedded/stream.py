"""The media of one stream: its publisher, its viewers, its encoders."""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from sdstream.clock import Clock
from sdstream.frames import I420Frame, PictureSize
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.encoding import H264Encoder
from sdstream.media.embedded.negotiation import Negotiation, negotiate_publish, negotiate_watch
from sdstream.media.embedded.outgoing import OutgoingMedia, trusted_capture, unconnected
from sdstream.media.embedded.outputs.manager import OutputOptions
from sdstream.media.embedded.peer import Peer
from sdstream.media.embedded.publisher import PublisherSession
from sdstream.media.embedded.rates import Bitrates
from sdstream.media.embedded.sdp import Offer, parse_fragment, parse_offer, told_addresses, write_answer
from sdstream.media.embedded.sound import ReceivedSound
from sdstream.media.embedded.viewer import ViewerSession
from sdstream.media.embedded.whole_pictures.publisher import WholePicturePublisher
from sdstream.media.ports import (
    MediaListener,
    MediaStatistics,
    PicturePublisher,
    PublisherState,
    SessionAnswer,
    SessionEnd,
)

SILENT_SECONDS = 10.0
"""A viewer not heard of for so long gives its place to one that asks for it.

One that was killed says no goodbye, and ICE takes half a minute to notice; the slowest clients report every 7.5 s.
"""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a stream needs of the back end's settings. `fast` switches the short way of packets on.

    `address` gives the addressing of one more session; it raises `TurnUnavailable` and `WebRtcOff`.
    """

    address: Callable[[], Awaitable[Addressing]]
    max_viewers: int
    bitrates: Bitrates
    h264_encoder: H264Encoder = "x264"
    fast: bool = True
    frame_rate: float = 30.0
    """The most pictures a second that come out."""
    outputs: OutputOptions = field(default_factory=OutputOptions)
    on_left: Callable[[], None] = lambda: None
    """Told when a publisher or viewer is gone."""


Publisher = PublisherSession | WholePicturePublisher


@dataclass(slots=True)
class _Sessions:
    publisher: Publisher | None = None
    viewers: dict[str, ViewerSession] = field(default_factory=dict[str, ViewerSession])
    opening: int = 0
    """Viewers whose answer is being made; they hold a place."""
    told: tuple[str, ...] = ()
    """The addresses in the last answer."""
    problem: str = ""
    """Why the last publisher never connected."""


class EmbeddedStream(OutgoingMedia):
    """Implements `media.ports.MediaStream` for one stream."""

    def __init__(
        self, stream_id: str, size: PictureSize, listener: MediaListener, options: StreamOptions, clock: Clock
    ) -> None:
        super().__init__(stream_id, size, options, listener, clock)
        self._options = options
        self._sessions = _Sessions()
        self._state = PublisherState.ABSENT
        self._connected: set[ViewerSession] = set()
        self._told_viewers = 0

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
            on_sound=self._on_sound,
        )
        answer = await self._answer(session.peer, session, parsed, negotiation)
        self._enter(session)
        self._set_state(PublisherState.CONNECTING)
        return SessionAnswer(session.session_id, answer)

    async def publish_pictures(self) -> PicturePublisher:
        session = self._picture_publisher(self._on_picture, self._on_publisher_closed)
        self._enter(session)
        self._set_state(PublisherState.CONNECTED)
        return session

    async def watch(self, offer: str) -> SessionAnswer:
        self._refuse_when_closed()
        parsed = parse_offer(offer)
        sources = (random.getrandbits(32), random.getrandbits(32), random.getrandbits(32))
        name = f"sdstream-{secrets.token_hex(4)}"
        negotiation = negotiate_watch(parsed, sources[:2], name, f"{name}-video", sources[2])
        addressing = await self._options.address()
        self._refuse_viewer()
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
            on_limit=self._on_limit,
            fast=self._options.fast,
            sound_type=negotiation.sound_type,
            presented=self._distribution.presentation,
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
            self._note_unconnected("it was ended before")
            self._set_state(PublisherState.ABSENT)  # before the wait, in which another may take over
            await publisher.close()
            return True
        viewer = self._sessions.viewers.pop(session_id, None)
        if viewer is None:
            return self._picture_viewers.end(session_id)
        await self._drop_viewer(viewer)
        return True

    async def add_candidates(self, session_id: str, fragment: str) -> bool:
        publisher = self._sessions.publisher
        peer: Peer | None = None
        if isinstance(publisher, PublisherSession) and publisher.session_id == session_id:
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
        self._connected.clear()
        self._picture_viewers.close()
        closing: list[Coroutine[Any, Any, None]] = [viewer.close() for viewer in viewers]
        if publisher is not None:
            closing.append(publisher.close())
        await asyncio.gather(*closing)
        await self._close_outgoing()
        self._set_state(PublisherState.ABSENT)
        self._count_viewers()

    # The rest

    def statistics(self) -> MediaStatistics:
        publisher = self._sessions.publisher
        tracks = () if publisher is None else publisher.statistics()
        return self._statistics(self._state, self._told_viewers, tracks, self._sessions.problem)

    # What sessions tell

    def _on_picture(self, session: Publisher, frame: I420Frame) -> None:
        if session is self._sessions.publisher and not self._closed:
            self._listener.on_video(frame)

    def _captured_at(self, frame: I420Frame) -> float | None:
        """When the picture was captured; None when its publisher is gone and its clock with it."""
        publisher = self._sessions.publisher
        return trusted_capture(None if publisher is None else publisher.captured_at(frame.pts), frame)

    def _on_sound(self, session: PublisherSession, packet: ReceivedSound) -> None:
        if session is self._sessions.publisher:
            self._distribution.hear(packet)

    def _on_publisher_connected(self, session: PublisherSession) -> None:
        if session is self._sessions.publisher:
            self._set_state(PublisherState.CONNECTED)

    def _on_publisher_closed(self, session: Publisher, reason: str) -> None:
        self._later(session.close())
        if session is self._sessions.publisher:
            self._log.info("the publisher is gone", reason=reason)
            self._sessions.publisher = None
            self._note_unconnected(reason)
            self._set_state(PublisherState.ABSENT)

    def _on_viewer_connected(self, session: ViewerSession) -> None:
        if self._closed or session.session_id not in self._sessions.viewers:
            return
        self._connected.add(session)
        self._distribution.join(session.codec, session, session if session.sound_type is not None else None)
        self._count_viewers()

    def _on_viewer_closed(self, session: ViewerSession, reason: str) -> None:
        if self._sessions.viewers.pop(session.session_id, None) is not None:
            self._log.debug("a viewer is gone", reason=reason)
            if session not in self._connected:
                self._counters.warn(unconnected("A viewer", reason, self._sessions.told))
            self._later(self._drop_viewer(session))

    def _on_keyframe_request(self, session: ViewerSession) -> None:
        self._distribution.request_keyframe(session.codec)

    def _on_limit(self, session: ViewerSession) -> None:
        self._distribution.follow_lines(session.codec)

    # Helpers

    def _enter(self, session: Publisher) -> None:
        """Make `session` the publisher."""
        former, self._sessions.publisher = self._sessions.publisher, session
        self._sessions.problem = ""
        self._distribution.restart_sound()
        self._counters.forget_warnings()
        if former is not None:
            self._log.info("a new publisher takes over", session=session.session_id)
            self._options.on_left()
            self._later(_replace(former))

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
        self._sessions.told = told_addresses(answer)
        peer.connect(negotiation.anchor, ice_lite=offer.ice_lite)
        return answer

    def _note_unconnected(self, reason: str) -> None:
        """The publisher is going: remember why, if it had not come yet."""
        if self._state is PublisherState.CONNECTING:
            self._sessions.problem = unconnected("The last publisher", reason, self._sessions.told)

    def has_place(self) -> bool:
        """Whether one more viewer may come, if need be instead of one that fell silent."""
        viewers = self._sessions.viewers
        if len(viewers) + self._sessions.opening + len(self._picture_viewers) < self._options.max_viewers:
            return True
        quietest = min(viewers.values(), key=lambda viewer: viewer.heard_at, default=None)
        if quietest is None or self._clock.monotonic() - quietest.heard_at < SILENT_SECONDS:
            return False
        self._on_viewer_closed(quietest, "it fell silent and its place is wanted")
        return True

    async def _drop_viewer(self, session: ViewerSession) -> None:
        self._connected.discard(session)
        unused = self._distribution.leave(session.codec, session, session)
        self._count_viewers()
        await session.close()
        if unused is not None:
            await unused.close()

    def _set_state(self, state: PublisherState) -> None:
        if state != self._state:
            self._state = state
            if state is PublisherState.ABSENT:
                self._options.on_left()
            self._listener.on_publisher(state)

    def _count_viewers(self) -> None:
        count = len(self._connected) + len(self._picture_viewers)
        if count != self._told_viewers:
            if count < self._told_viewers:
                self._options.on_left()
            self._told_viewers = count
            self._listener.on_viewers(count)


async def _replace(former: Publisher) -> None:
    if isinstance(former, WholePicturePublisher):
        await former.close(SessionEnd.REPLACED)
    else:
        await former.close()


def _session_id() -> str:
    return secrets.token_urlsafe(18)


__all__ = ["EmbeddedStream", "StreamOptions"]
