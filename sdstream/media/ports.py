"""What a media back end must offer: publishers' pictures out, processed pictures in, sessions by SDP.

`embedded` (aiortc in this process) is the first back end; MediaMTX is the second. Nothing outside this package knows
which one runs, and nothing here knows what a Daydream stream is.

Threads: `MediaListener.on_video` is called on the back end's decoder thread and `MediaStream.send` may be called from
any thread; both only copy planes. Everything else runs on the event loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from sdstream.frames import I420Frame, PictureSize


class PublisherState(StrEnum):
    """Where the one publisher of a stream stands."""

    ABSENT = "absent"
    CONNECTING = "connecting"
    CONNECTED = "connected"


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    """The answer to an SDP offer: all candidates are in it, and its session can be ended by `session_id`."""

    session_id: str
    sdp: str


class SessionEnd(StrEnum):
    """Why a session of whole pictures ended."""

    CLOSED = "closed"
    """The stream is closed, or somebody asked for it."""
    REPLACED = "replaced"
    """Another publisher took over."""
    UNREADABLE = "unreadable"
    """What came were no pictures."""
    FAILED = "failed"
    """The server made a mistake."""


class PictureSession(Protocol):
    """A publisher or viewer that sends or takes whole pictures. On the event loop."""

    @property
    def session_id(self) -> str: ...

    @property
    def end(self) -> SessionEnd | None:
        """How the session ended; None while it goes on."""
        ...

    async def ended(self) -> None:
        """Wait for the end of the session."""
        ...


class PicturePublisher(PictureSession, Protocol):
    """A publisher whose pictures are put in one by one."""

    async def put(self, data: bytes) -> None:
        """Take a JPEG, PNG or WebP; returns when it is decoded, or turned out to be no picture.

        Raises `SessionNotFound` once the session has ended.
        """
        ...


class PictureViewer(PictureSession, Protocol):
    """A viewer who is given pictures as JPEG, as many and as fine as they are taken."""

    async def next(self) -> bytes | None:
        """Wait for the next picture to send; None once the session has ended."""
        ...

    def taken(self) -> None:
        """One more of the pictures has come to the viewer, the oldest on its way."""
        ...


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server that a client may use; TURN servers come with a name and a password for one session."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


@dataclass(frozen=True, slots=True)
class Placard:
    """A picture of words, shown while there is nothing better: `title` large, `detail` small, `percent` 0 to 100."""

    title: str
    detail: str = ""
    percent: float | None = None


@dataclass(frozen=True, slots=True)
class TrackStatistics:
    """What the RTCP reports say of one received track. `jitter` and `round_trip` are seconds."""

    kind: str
    codec: str
    packets_received: int
    packets_lost: int
    jitter: float
    round_trip: float | None = None


@dataclass(frozen=True, slots=True)
class SoundStatistics:
    """Sound on its way through, since the stream was opened. `delay` is the seconds for which it is held at present."""

    packets: int = 0
    """Packets sent on."""
    gaps: int = 0
    """Packets that never came from the publisher."""
    corrections: int = 0
    """Jumps of the delay, when the pictures' latency changed by more than can be followed unheard."""
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    """Packets dropped by reason: `sound_late` came after one that followed it, `sound_overflow` waited in too long a
    queue, `sound_skipped` belong to pictures that were overtaken and went to no WebRTC viewer."""
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class MediaStatistics:
    """Counters since the stream was opened, and the newest facts of its sessions."""

    publisher: PublisherState = PublisherState.ABSENT
    viewers: int = 0
    frames_decoded: int = 0
    decode_errors: int = 0
    frames_encoded: int = 0
    keyframes: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    input_size: PictureSize | None = None
    output_size: PictureSize | None = None
    drops: Mapping[str, int] = field(default_factory=dict[str, int])
    """Dropped pictures by reason, such as `encoder_busy` or `viewer_slow`."""
    warnings: tuple[str, ...] = ()
    """Facts a user should act on, such as B-frames from the publisher, or a viewer that could not connect."""
    publisher_problem: str = ""
    """Why the last publisher, which was answered, never connected: a sentence for a person. Empty when it did."""
    tracks: tuple[TrackStatistics, ...] = ()
    encode_seconds: float = 0.0
    """A moving mean of the time to encode one picture."""
    video_bitrate: int | None = None
    """Bits a second that the encoder is set to now; None while nobody takes pictures."""
    sound: SoundStatistics = SoundStatistics()
    outputs: tuple["OutputStatistics", ...] = ()
    """Pushes to RTMP servers."""
    hls_active: bool = False
    """Whether HLS is being made because somebody watches it."""
    recording: "RecordingStatistics | None" = None


class OutputState(StrEnum):
    """Where a push stands."""

    CONNECTING = "connecting"
    LIVE = "live"
    WAITING = "waiting"
    """The last try failed or ended; the next one comes after a pause."""


@dataclass(frozen=True, slots=True)
class OutputStatistics:
    """A push to an RTMP server. `target` is its URL without the key, which nothing ever shows."""

    target: str
    state: OutputState
    last_error: str | None = None
    connections: int = 0
    """How often it was connected so far."""
    pictures: int = 0
    bytes_sent: int = 0
    dropped: int = 0
    """Pictures and packets of sound dropped because the server took them too slowly."""


@dataclass(frozen=True, slots=True)
class RecordingStatistics:
    """The recording under way. `name` is that of its file."""

    name: str
    seconds: float = 0.0
    bytes_written: int = 0


@dataclass(frozen=True, slots=True)
class HlsFile:
    """A playlist, head or segment of HLS; `changes` says that it must be asked for anew each time."""

    data: bytes
    content_type: str
    changes: bool


MediaHop = Literal["receive", "encode", "send"]
"""What the media plane does with a picture: from its last packet to its planes, encoding, and from there to the sockets
of all viewers. Only what a camera took counts, no placard and no repetition."""


class MediaListener(Protocol):
    """Told of what arrives from a stream's publisher."""

    def on_video(self, frame: I420Frame) -> None:
        """A decoded picture, on the decoder's thread. Must only copy: the planes are valid during the call."""
        ...

    def on_publisher(self, state: PublisherState) -> None:
        """The publisher came, connected or went; on the event loop."""
        ...

    def on_viewers(self, count: int) -> None:
        """The number of connected viewers changed; on the event loop."""
        ...

    def on_hop(self, hop: MediaHop, seconds: float) -> None:
        """A picture took `seconds` in one hop; on whichever thread that was. Must not wait."""
        ...

    def on_output(self, output: OutputStatistics) -> None:
        """A push changed its state; on the event loop."""
        ...

    def on_recording(self, name: str, problem: str | None) -> None:
        """The recording `name` began (no problem), or stopped by itself because of a problem; on the event loop."""
        ...


class MediaStream(Protocol):
    """The media of one stream: at most one publisher, many viewers, one encoder."""

    async def publish(self, offer: str) -> SessionAnswer:
        """Answer a WHIP offer and make its sender the publisher, ending the one before.

        Raises `InvalidSdp` and leaves everything as it was when the offer cannot be answered.
        """
        ...

    async def watch(self, offer: str) -> SessionAnswer:
        """Answer a WHEP offer. Raises `InvalidSdp`, or `CapacityReached` past the viewer limit."""
        ...

    async def publish_pictures(self) -> PicturePublisher:
        """Make somebody who sends whole pictures the publisher, ending the one before."""
        ...

    async def watch_pictures(self) -> PictureViewer:
        """One more viewer, who takes whole pictures. Raises `CapacityReached` past the viewer limit."""
        ...

    async def end_session(self, session_id: str) -> bool:
        """End one publisher or viewer session; False when it is not of this stream (any more)."""
        ...

    async def add_candidates(self, session_id: str, fragment: str) -> bool:
        """Take the remote candidates of a trickle-ICE SDP fragment; False when the session is unknown.

        Raises `InvalidSdp` for a fragment that cannot be read.
        """
        ...

    def send(self, frame: I420Frame) -> None:
        """Encode and send a picture to all viewers; a newer one replaces it while the encoder is busy. Copies."""
        ...

    def send_placard(self, placard: Placard) -> None:
        """Show words at the output size. Cheap to call again with the same placard."""
        ...

    def resize(self, size: PictureSize) -> None:
        """Placards from now on have this size (pictures carry their own); viewers get a keyframe at the change."""
        ...

    def push_to(self, urls: Sequence[str]) -> None:
        """Push to these RTMP servers and to no others from now on. Those that stay are not interrupted."""
        ...

    def record_to(self, file: Path | None) -> None:
        """Record into `file`, fragmented MP4 that is made whole at the end; None ends the recording under way."""
        ...

    async def hls_file(self, name: str) -> HlsFile | None:
        """A file of HLS by its name, `index.m3u8` first; None when there is none.

        The first request has it made, and waits for the first segment; it ends some seconds after the last one.
        """
        ...

    def latest_picture(self) -> I420Frame | None:
        """The newest picture sent, in memory of its own; None before the first."""
        ...

    def statistics(self) -> MediaStatistics: ...

    async def close(self) -> None:
        """End every session. Idempotent."""
        ...


@runtime_checkable
class DirectIngest(Protocol):
    """A `MediaStream` whose publisher may also come without an offer, by RTMP, RTSP or SRT."""

    def admit(self) -> SessionAnswer:
        """Expect such a publisher and give it a session; the answer has no SDP."""
        ...


class MediaBackend(Protocol):
    """Opens the media of streams and says how clients can reach it."""

    async def start(self) -> None: ...

    async def open_stream(self, stream_id: str, size: PictureSize, listener: MediaListener) -> MediaStream: ...

    async def finish_recordings(self, folder: Path) -> int:
        """Make whole what lies unfinished below `folder` at this moment; their number. Takes its time."""
        ...

    async def ice_servers(self, host: str) -> tuple[IceServer, ...]:
        """What a client that called this server as `host` (no port) needs to connect, for one session.

        Raises `TurnUnavailable` when a TURN service gives no credentials, and `WebRtcOff`.
        """
        ...

    async def close(self) -> None:
        """End every stream. Idempotent."""
        ...


__all__ = [
    "DirectIngest",
    "HlsFile",
    "IceServer",
    "MediaBackend",
    "MediaHop",
    "MediaListener",
    "MediaStatistics",
    "MediaStream",
    "OutputState",
    "OutputStatistics",
    "PicturePublisher",
    "PictureSession",
    "PictureViewer",
    "Placard",
    "PublisherState",
    "RecordingStatistics",
    "SessionAnswer",
    "SessionEnd",
    "SoundStatistics",
    "TrackStatistics",
]
