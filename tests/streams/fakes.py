"""A media back end and a worker with no network, no codec and no process: they do what the ports promise, when told."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy

from sdstream.clock import Clock
from sdstream.errors import CapacityReached, InvalidSdp
from sdstream.frames import I420Frame, PictureSize
from sdstream.media.ports import (
    HlsFile,
    IceServer,
    MediaListener,
    MediaStatistics,
    PicturePublisher,
    PictureViewer,
    Placard,
    PublisherState,
    SessionAnswer,
)
from sdstream.params import StreamParams
from sdstream.worker.ports import (
    LaneListener,
    LanePhase,
    LaneStatistics,
    LaneStatus,
    MissingPart,
    ProcessedPicture,
    WorkerHealth,
    WorkerPhase,
)

OFFER = "v=0 a good offer"
"""Any offer that starts with `v=0` is answered, any other is `InvalidSdp`."""


def picture(clock: Clock, sequence: int = 0, size: PictureSize | None = None, level: int = 128) -> I420Frame:
    """A grey picture that has just left the decoder."""
    size = size or PictureSize(64, 64)
    half = (size.height // 2, size.width // 2)
    return I420Frame(
        numpy.full((size.height, size.width), level, numpy.uint8),
        numpy.full(half, 128, numpy.uint8),
        numpy.full(half, 128, numpy.uint8),
        pts=sequence * 3000,
        received_at=clock.monotonic(),
        sequence=sequence,
    )


@dataclass
class FakeMediaStream:
    """Sessions are names; `sent` holds the sequences of pictures and the placards, in order."""

    stream_id: str
    size: PictureSize
    listener: MediaListener
    max_viewers: int = 20
    publisher: str | None = None
    watchers: set[str] = field(default_factory=set)
    sent: list[int | Placard] = field(default_factory=list)
    candidates: list[tuple[str, str]] = field(default_factory=list)
    facts: MediaStatistics = field(default_factory=MediaStatistics)
    latest: I420Frame | None = None
    closed: bool = False
    pushes: tuple[str, ...] = ()
    recording: Path | None = None
    _numbers: count = field(default_factory=count)

    async def publish(self, offer: str) -> SessionAnswer:
        self._check(offer)
        self.publisher = f"publisher-{next(self._numbers)}"
        self.listener.on_publisher(PublisherState.CONNECTING)
        return SessionAnswer(self.publisher, "v=0 answer")

    async def watch(self, offer: str) -> SessionAnswer:
        self._check(offer)
        if len(self.watchers) >= self.max_viewers:
            raise CapacityReached("too many viewers")
        name = f"viewer-{next(self._numbers)}"
        self.watchers.add(name)
        self.listener.on_viewers(len(self.watchers))
        return SessionAnswer(name, "v=0 answer")

    async def publish_pictures(self) -> PicturePublisher:
        raise NotImplementedError("tests/media and tests/contract have real ones")

    async def watch_pictures(self) -> PictureViewer:
        raise NotImplementedError("tests/media and tests/contract have real ones")

    async def end_session(self, session_id: str) -> bool:
        if session_id == self.publisher:
            self.publisher = None
            self.listener.on_publisher(PublisherState.ABSENT)
            return True
        if session_id in self.watchers:
            self.watchers.remove(session_id)
            self.listener.on_viewers(len(self.watchers))
            return True
        return False

    async def add_candidates(self, session_id: str, fragment: str) -> bool:
        if session_id != self.publisher and session_id not in self.watchers:
            return False
        if not fragment.startswith("a="):
            raise InvalidSdp("not a fragment")
        self.candidates.append((session_id, fragment))
        return True

    def send(self, frame: I420Frame) -> None:
        self.sent.append(frame.sequence)
        self.latest = frame.copy()

    def send_placard(self, placard: Placard) -> None:
        self.sent.append(placard)

    def resize(self, size: PictureSize) -> None:
        self.size = size

    def push_to(self, urls: Sequence[str]) -> None:
        self.pushes = tuple(urls)

    def record_to(self, file: Path | None) -> None:
        self.recording = file
        if file is not None:
            self.listener.on_recording(file.name, None)

    async def hls_file(self, name: str) -> HlsFile | None:
        return HlsFile(name.encode(), "video/mp4", changes=False) if name == "index.m3u8" else None

    def latest_picture(self) -> I420Frame | None:
        return self.latest

    def statistics(self) -> MediaStatistics:
        return replace(self.facts, viewers=len(self.watchers), output_size=self.size)

    async def close(self) -> None:
        self.closed = True
        if self.publisher is not None:
            await self.end_session(self.publisher)
        for name in list(self.watchers):
            await self.end_session(name)

    # What a test does

    def connect(self) -> None:
        """ICE and DTLS are through."""
        self.listener.on_publisher(PublisherState.CONNECTED)

    def lose_publisher(self) -> None:
        """The publisher vanished and the back end noticed."""
        self.publisher = None
        self.listener.on_publisher(PublisherState.ABSENT)

    @property
    def placard(self) -> Placard | None:
        """The placard a viewer sees, None when a picture came after it."""
        last = self.sent[-1] if self.sent else None
        return last if isinstance(last, Placard) else None

    @staticmethod
    def _check(offer: str) -> None:
        if not offer.startswith("v=0"):
            raise InvalidSdp("This is no SDP offer.")


class FakeMedia:
    """`streams` holds the newest media stream of each id; `opened` counts."""

    def __init__(self) -> None:
        self.streams: dict[str, FakeMediaStream] = {}
        self.opened = 0
        self.running = False

    async def start(self) -> None:
        self.running = True

    async def open_stream(self, stream_id: str, size: PictureSize, listener: MediaListener) -> FakeMediaStream:
        before = self.streams.get(stream_id)
        assert before is None or before.closed, "a stream's media must be closed before it is opened again"
        self.opened += 1
        self.streams[stream_id] = FakeMediaStream(stream_id, size, listener)
        return self.streams[stream_id]

    async def finish_recordings(self, folder: Path) -> int:
        return 0

    async def ice_servers(self, host: str) -> tuple[IceServer, ...]:
        return (IceServer(("stun:stun.example.org",)),)

    async def close(self) -> None:
        self.running = False
        for stream in self.streams.values():
            await stream.close()


@dataclass
class FakeLane:
    """Pictures wait in `waiting` until the test gives the result back."""

    stream_id: str
    params: StreamParams
    revision: int
    listener: LaneListener
    clock: Clock
    status: LaneStatus
    waiting: list[I420Frame] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)
    tries: int = 0
    """How often it was asked to try again what is missing."""
    facts: LaneStatistics = field(default_factory=LaneStatistics)
    closed: bool = False

    def submit(self, frame: I420Frame) -> None:
        assert not self.closed, "a closed lane was given a picture"
        self.waiting.append(frame)

    async def process(self, frame: I420Frame) -> I420Frame:
        raise NotImplementedError

    def update(self, params: StreamParams, revision: int) -> None:
        assert revision >= self.revision, "updates must not fall; a style image's picture comes after its address"
        self.params, self.revision = params, revision
        self.updates.append(revision)

    def try_again(self) -> None:
        self.tries += 1

    @property
    def missing(self) -> tuple[MissingPart, ...]:
        return self.status.missing

    async def tap(self, processor: str) -> bytes | None:
        return None

    def statistics(self) -> LaneStatistics:
        return self.facts

    async def close(self) -> None:
        self.closed = True

    # What a test does

    def report(self, phase: LanePhase, **members: object) -> None:
        self.status = replace(LaneStatus(phase, revision=self.revision), **members)  # type: ignore[arg-type]
        self.listener.on_lane_status(self.status)

    def give_back(self, worker_seconds: float = 0.004, queue_seconds: float = 0.0) -> None:
        """Give all waiting pictures back, processed."""
        frames, self.waiting = self.waiting, []
        for frame in frames:
            self.listener.on_picture(ProcessedPicture(frame, self.revision, worker_seconds, queue_seconds))


class FakeWorker:
    """`lanes` holds the newest lane of each stream; a new lane is READY at once when `ready_lanes` is set."""

    def __init__(self, clock: Clock, *, phase: WorkerPhase = WorkerPhase.READY, ready_lanes: bool = True) -> None:
        self.clock = clock
        self.facts = WorkerHealth(phase, device="cpu")
        self.lanes: dict[str, FakeLane] = {}
        self.ready_lanes = ready_lanes
        self.running = False

    async def start(self) -> None:
        self.running = True

    async def wait_ready(self, seconds: float) -> bool:
        return self.facts.phase is WorkerPhase.READY

    async def open_lane(
        self, stream_id: str, params: StreamParams, revision: int, listener: LaneListener, *, partly: bool = False
    ) -> FakeLane:
        before = self.lanes.get(stream_id)
        assert before is None or before.closed, "a stream's lane must be closed before it is opened again"
        lane = FakeLane(stream_id, params, revision, listener, self.clock, LaneStatus(LanePhase.WAITING, revision))
        self.lanes[stream_id] = lane
        lane.report(LanePhase.READY if self.ready_lanes else LanePhase.WAITING)
        return lane

    def health(self) -> WorkerHealth:
        return self.facts

    async def close(self) -> None:
        self.running = False
        self.facts = replace(self.facts, phase=WorkerPhase.STOPPED)

    # What a test does

    def die(self) -> None:
        """The process is gone and is being started again; what lanes held is lost."""
        self.facts = replace(self.facts, phase=WorkerPhase.RESTARTING, last_error="The worker was killed by SIGKILL.")
        for lane in self.open_lanes():
            lane.waiting.clear()
            lane.report(LanePhase.WAITING, detail="The worker is being started again.")

    def revive(self) -> None:
        """The process is back and its lanes are open again."""
        self.facts = replace(self.facts, phase=WorkerPhase.READY, restarts=self.facts.restarts + 1)
        for lane in self.open_lanes():
            lane.report(LanePhase.READY)

    def open_lanes(self) -> list[FakeLane]:
        return [lane for lane in self.lanes.values() if not lane.closed]
