"""The media of one stream under MediaMTX: its input's reader, and the sessions relayed to it; outputs: `outputs.py`."""

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from sdstream.clock import Clock
from sdstream.errors import Unavailable, WebRtcOff
from sdstream.frames import I420Frame, PictureSize
from sdstream.media.embedded.outgoing import OutgoingMedia, trusted_capture, unconnected
from sdstream.media.embedded.sdp import told_addresses
from sdstream.media.embedded.sound import ReceivedSound
from sdstream.media.embedded.whole_pictures.publisher import WholePicturePublisher
from sdstream.media.mediamtx.config import input_path, output_path
from sdstream.media.mediamtx.control import ControlApi, Party, PathState, RtpCounts
from sdstream.media.mediamtx.offers import for_publishing
from sdstream.media.mediamtx.outputs import OutputPaths, StreamOptions
from sdstream.media.mediamtx.reader import InputReader
from sdstream.media.ports import (
    MediaListener,
    MediaStatistics,
    PicturePublisher,
    PublisherState,
    SessionAnswer,
    SessionEnd,
)

CONNECT_SECONDS = 15.0
"""A publisher that was answered and is not seen to send within this time is given up."""


@dataclass(slots=True)
class _Publisher:
    session_id: str
    url: str | None
    """Where MediaMTX knows its WHIP session; None for one that came without an offer."""
    since: float
    seen: bool = False
    """Whether MediaMTX has shown it; until then it may show the one before."""


class MediaMtxStream(OutgoingMedia):
    """Implements `media.ports.MediaStream` and `DirectIngest`. `see` is to be called with each look at MediaMTX."""

    def __init__(
        self,
        stream_id: str,
        size: PictureSize,
        listener: MediaListener,
        options: StreamOptions,
        control: ControlApi,
        clock: Clock,
        look: Callable[[], Awaitable[object]],
    ) -> None:
        super().__init__(stream_id, size, options, listener, clock)
        self._options = options
        self._control = control
        self.input = input_path(options.stream_key)
        self.output = output_path(options.playback_id)
        self._state = PublisherState.ABSENT
        self._publisher: _Publisher | None = None
        self._told: tuple[str, ...] = ()
        """The addresses in the last answer to a publisher."""
        self._problem = ""
        """Why the last publisher never connected."""
        self._party: Party | None = None
        self._carried: RtpCounts | None = None
        """What MediaMTX last said that the publisher's WebRTC session received."""
        self._dismissed: Party | None = None
        """One that was sent away, and may still be in what MediaMTX said a moment ago."""
        self._pictures: WholePicturePublisher | None = None
        """The publisher, when it sends whole pictures, of which MediaMTX knows nothing."""
        self._reader: InputReader | None = None
        self._viewers = 0
        self.webrtc_problem: WebRtcOff | None = None
        """Raised to whoever comes with an offer."""
        self._paths = OutputPaths(options, self._distribution, self._counters, control, clock, look)

    def is_taken(self) -> bool:
        """Whether MediaMTX takes the output now."""
        return self._paths.is_taken()

    @property
    def is_published(self) -> bool:
        """Whether somebody publishes, or is about to."""
        return self._publisher is not None or self._party is not None or self._pictures is not None

    def has_place(self) -> bool:
        others = self._paths.readers + self._paths.opening
        return others + len(self._picture_viewers) < self._options.max_viewers

    # Sessions

    async def publish(self, offer: str) -> SessionAnswer:
        self._refuse_when_closed()
        if self.webrtc_problem is not None:
            raise self.webrtc_problem
        try:
            session = await self._control.open_session(self.input, "whip", for_publishing(offer))
        except LookupError:
            raise Unavailable("MediaMTX takes no publisher") from None
        if self._closed:
            await self._control.end_session(session.url)
        self._refuse_when_closed()
        self._told = told_addresses(session.sdp)
        return SessionAnswer(self._expect(session.url), session.sdp)

    def admit(self) -> SessionAnswer:
        """A publisher comes without an offer, by RTMP, RTSP or SRT; the answer is empty but for its session's id."""
        self._refuse_when_closed()
        return SessionAnswer(self._expect(None), "")

    async def publish_pictures(self) -> PicturePublisher:
        session = self._picture_publisher(self._on_whole_picture, self._on_pictures_closed)
        self._end_pictures(SessionEnd.REPLACED)
        self._pictures = session
        with contextlib.suppress(Unavailable):  # it has ended, and its publisher with it
            await self._dismiss("a new publisher takes over")
        self._refuse_when_closed()
        self._distribution.restart_sound()
        self._counters.forget_warnings()
        self._problem = ""
        self._set_state(PublisherState.CONNECTED)
        return session

    async def watch(self, offer: str) -> SessionAnswer:
        self._refuse_when_closed()
        if self.webrtc_problem is not None:
            raise self.webrtc_problem
        self._refuse_viewer()
        answer = await self._paths.watch(offer)
        self._refuse_when_closed()
        return answer

    async def end_session(self, session_id: str) -> bool:
        pictures, publisher = self._pictures, self._publisher
        if pictures is not None and pictures.session_id == session_id:
            self._end_pictures(SessionEnd.CLOSED)
            self._set_state(PublisherState.ABSENT)
            return True
        if publisher is not None and publisher.session_id == session_id:
            await self._dismiss("it was ended")
            return True
        return self._picture_viewers.end(session_id) or await self._paths.end(session_id)

    async def add_candidates(self, session_id: str, fragment: str) -> bool:
        publisher = self._publisher
        url = self._paths.url_of(session_id)
        if publisher is not None and publisher.session_id == session_id:
            url = publisher.url
        return url is not None and await self._control.add_candidates(url, fragment)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        reader = self._reader
        self._end_pictures(SessionEnd.CLOSED)
        self._picture_viewers.close()
        with contextlib.suppress(Unavailable):  # it has ended, and its sessions with it
            await self._dismiss("the stream is closed")
        await self._paths.close()
        if reader is not None:
            await reader.ended()
        await self._close_outgoing()
        self._count_viewers()

    # What MediaMTX shows

    def see(self, paths: Mapping[str, PathState]) -> None:
        """Take what MediaMTX says of its paths now; nothing of them when it is not there."""
        if self._closed:
            return
        path = paths.get(self.input)
        party = path.publisher if path is not None and path.online else None
        if party is not None and party == self._dismissed:
            party = None
        if party is not None:
            if party != self._party:
                self._enter(party)
        elif self._party is not None and self._publisher is not None and not self._publisher.seen:
            self._leave_place_to_expected()
        elif self._party is not None:
            self._leave("it went")
        elif self._publisher is not None and self._clock.monotonic() - self._publisher.since > CONNECT_SECONDS:
            self._leave(f"MediaMTX saw nothing of it for {CONNECT_SECONDS:g} s")
        unused = self._paths.see(paths)
        if unused is not None:
            self._later(unused.close())
        self._count_viewers()

    @property
    def web_session(self) -> str | None:
        """MediaMTX's id of the publisher's session, where that is WebRTC's."""
        party = self._party
        return party.id if party is not None and party.kind == "webRTCSession" else None

    def count(self, sessions: Mapping[str, RtpCounts]) -> None:
        """Take what MediaMTX says of its WebRTC sessions now."""
        if self.web_session is not None:
            self._carried = sessions.get(self.web_session, self._carried)

    def statistics(self) -> MediaStatistics:
        tracks = () if self._reader is None else self._reader.statistics(self._carried)
        return self._statistics(self._state, self._viewers, tracks, problem=self._problem)

    # Helpers

    def _expect(self, url: str | None) -> str:
        session_id = secrets.token_urlsafe(18)
        self._problem = ""
        self._end_pictures(SessionEnd.REPLACED)
        self._publisher = _Publisher(session_id, url, self._clock.monotonic())
        if self._party is None:
            self._set_state(PublisherState.CONNECTING)
        return session_id

    async def _dismiss(self, reason: str) -> None:
        """Send the publisher away, if MediaMTX has or expects one. Raises `Unavailable`."""
        publisher, party = self._publisher, self._party
        self._leave(reason)
        self._dismissed = party
        if publisher is not None and publisher.url is not None:
            await self._control.end_session(publisher.url)
            if publisher.seen:
                return
        if party is not None:
            await self._control.kick(party)

    def _end_pictures(self, end: SessionEnd) -> None:
        """End the session of a publisher of whole pictures, if there is one."""
        pictures, self._pictures = self._pictures, None
        if pictures is not None:
            self._log.info("the publisher is gone", reason=end.value)
            self._later(pictures.close(end))

    def _on_whole_picture(self, session: WholePicturePublisher, frame: I420Frame) -> None:
        if session is self._pictures and not self._closed:
            self._listener.on_video(frame)

    def _on_pictures_closed(self, session: WholePicturePublisher, reason: str) -> None:
        self._later(session.close())
        if session is self._pictures:
            self._log.info("the publisher is gone", reason=reason)
            self._pictures = None
            self._set_state(PublisherState.ABSENT)

    def _enter(self, party: Party) -> None:
        self._dismissed = None
        self._end_pictures(SessionEnd.REPLACED)
        former = self._reader
        if former is not None:
            self._log.info("a new publisher takes over")
            former.stop()
            self._later(_wait(former))
        self._carried = None
        self._distribution.restart_sound()
        self._counters.forget_warnings()
        self._reader = InputReader(
            self.input,
            self._options.rtsp_port,
            self._options.secret,
            self._on_picture,
            self._on_sound,
            self._counters,
            self._clock,
            self._faults,
        )
        self._party = party  # with its reader, for which there may have been no thread
        if self._publisher is not None:
            self._publisher.seen = True
        self._set_state(PublisherState.CONNECTED)

    def _leave_place_to_expected(self) -> None:
        """The publisher went before the one that is to follow it has come, whose session goes on."""
        self._log.info("the publisher is gone", reason="it went")
        self._stop_reading()
        self._party = None
        self._set_state(PublisherState.CONNECTING)

    def _leave(self, reason: str) -> None:
        self._stop_reading()
        if self._publisher is not None or self._party is not None:
            self._log.info("the publisher is gone", reason=reason)
        if self._state is PublisherState.CONNECTING and self._publisher is not None and self._publisher.url is not None:
            self._problem = unconnected("The last publisher", reason, self._told)
        self._publisher = self._party = None
        if self._pictures is None:
            self._set_state(PublisherState.ABSENT)

    def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            self._later(_wait(reader))

    def _on_picture(self, reader: InputReader, frame: I420Frame) -> None:
        if reader is self._reader and not self._closed:
            self._listener.on_video(frame)

    def _on_sound(self, reader: InputReader, packet: ReceivedSound) -> None:
        if reader is self._reader:
            self._distribution.hear(packet)

    def _captured_at(self, frame: I420Frame) -> float | None:
        reader, pictures = self._reader, self._pictures
        captured_at = None
        if pictures is not None:
            captured_at = pictures.captured_at(frame.pts)
        elif reader is not None:
            captured_at = reader.captured_at(frame.pts & 0xFFFFFFFF)
        return trusted_capture(captured_at, frame)

    def _count_viewers(self) -> None:
        count = self._paths.readers + len(self._picture_viewers)
        if count == self._viewers:
            return
        if count > self._viewers:
            self._paths.request_keyframes()
        self._viewers = count
        self._listener.on_viewers(count)

    def _set_state(self, state: PublisherState) -> None:
        if state != self._state:
            self._state = state
            self._listener.on_publisher(state)


async def _wait(reader: InputReader) -> None:
    await reader.ended()


__all__ = ["MediaMtxStream"]
