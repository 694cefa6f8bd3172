"""A streams room without media and worker: real parameters, sessions that are only names."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from sdstream.clock import Clock
from sdstream.errors import Conflict, InvalidSdp, NoPictureYet, RequestError, SessionNotFound, StreamNotFound
from sdstream.media.ports import (
    HlsFile,
    IceServer,
    MediaStatistics,
    PublisherState,
    SessionAnswer,
    SessionEnd,
    TrackStatistics,
)
from sdstream.metrics import ServerStatistics
from sdstream.params import ChangeKind, ModelTable, apply_update, classify, parse_create, wire_params
from sdstream.settings import Settings
from sdstream.streams.recordings import RecordingShelf
from sdstream.streams.views import (
    Applied,
    Capacity,
    LatencySummary,
    StreamEvent,
    StreamRecord,
    StreamState,
    StreamStatus,
    UpdateOutcome,
)
from sdstream.worker.ports import LanePhase, LaneStatus, ProcessorState, Remark, WorkerHealth, WorkerPhase

CANDIDATE = "a=candidate:0a1b 1 udp 2130706431 172.17.0.2 40001 typ host\r\n"
ANSWER = f"v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n{CANDIDATE}"
LANE = LaneStatus(
    LanePhase.READY,
    revision=1,
    effective_sequence=7,
    loras=(("owner/lora", 0.5),),
    processors=(ProcessorState("image_preprocessing[0]", "canny", "working"),),
    remarks=(Remark("prompt", "it is long"),),
)


@dataclass(frozen=True)
class FakeCreated:
    record: StreamRecord
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class FakeOpened:
    record: StreamRecord
    answer: SessionAnswer


class FakePictures:
    """A session of whole pictures, either way: `put` keeps what it is given, `to_show` is given out."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.end: SessionEnd | None = None
        self.received: list[bytes] = []
        self.to_show: asyncio.Queue[bytes] = asyncio.Queue()
        self.answers = 0
        self._ended = asyncio.Event()

    async def put(self, data: bytes) -> None:
        if self.end is not None:
            raise SessionNotFound("This session has ended.")
        self.received.append(data)

    async def next(self) -> bytes | None:
        coming = asyncio.ensure_future(self.to_show.get())
        ending = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait((coming, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if coming.done():
            return coming.result()
        coming.cancel()
        return None

    def taken(self) -> None:
        self.answers += 1

    async def ended(self) -> None:
        await self._ended.wait()

    def finish(self, end: SessionEnd) -> None:
        self.end = end
        self._ended.set()


class FakeStreams:
    """What `sdstream.api.ports.Streams` asks for. `failure` makes every call raise it."""

    def __init__(self, settings: Settings, clock: Clock, data_dir: Path) -> None:
        self.clock = clock
        self.models = ModelTable.from_settings(settings)
        self.records: dict[str, StreamRecord] = {}
        self.publishers: dict[str, str] = {}
        self.viewers: dict[str, str] = {}
        self.pictures: dict[str, FakePictures] = {}
        self.watching: list[FakePictures] = []
        self.log: dict[str, list[StreamEvent]] = {}
        self.logged = asyncio.Event()
        self.followers = 0
        self.snapshots = 0
        self.statuses = 0
        self.caught = 0
        self.followed = asyncio.Event()
        self.fragments: list[str] = []
        self.ice: tuple[IceServer, ...] = ()
        self.ice_problem: RequestError | None = None
        self.ice_hosts: list[str] = []
        self.health = WorkerHealth(WorkerPhase.READY, device="cpu", processor="a processor")
        self.failure: Exception | None = None
        self.from_playground: bool | None = None
        self.order = itertools.count(1)
        self.recordings = RecordingShelf(data_dir, settings, clock)

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def create(
        self, body: object, author: str, *, from_playground: bool = False, dry_run: bool = False
    ) -> FakeCreated:
        self.check()
        request = parse_create(body, self.models)
        number = next(self.order)
        record = StreamRecord(
            id=f"str_{number}",
            stream_key=f"stk_{number}",
            output_playback_id=f"pb_{number}",
            created_at=self.clock.now(),
            name=request.name or "untitled",
            author=author,
            delivery=request.delivery,
            params=request.params,
            from_playground=from_playground,
        )
        if dry_run:
            return FakeCreated(record, request.warnings)
        self.records[record.id] = record
        self.log[record.id] = []
        return FakeCreated(record, request.warnings)

    def list_streams(self, author: str | None) -> list[StreamRecord]:
        self.check()
        return [record for record in self.records.values() if author in (None, record.author)]

    def get(self, stream_id: str) -> StreamRecord:
        self.check()
        if stream_id not in self.records:
            raise StreamNotFound("There is no such stream.")
        return self.records[stream_id]

    async def update(self, stream_id: str, body: object, *, dry_run: bool = False) -> UpdateOutcome:
        current = self.get(stream_id)
        fixed = {"name": current.name}
        wanted = apply_update(current.params, body, self.models, fixed=fixed, delivery=current.delivery)
        change = classify(current.params, wanted.params, live=stream_id in self.publishers)
        if change.kind is ChangeKind.REFUSED:
            raise Conflict(change.reason)
        applied = Applied(change.kind.value)
        if applied is Applied.UNCHANGED:
            return UpdateOutcome(current, applied, (), wanted.warnings)
        record = replace(current, params=wanted.params, revision=current.revision + 1)
        if not dry_run:
            self.records[stream_id] = record
        return UpdateOutcome(record, applied, change.fields, wanted.warnings)

    async def delete(self, stream_id: str) -> None:
        self.get(stream_id)
        del self.records[stream_id]

    def status(self, stream_id: str) -> StreamStatus:
        self.statuses += 1
        record = self.get(stream_id)
        live = stream_id in self.publishers
        track = TrackStatistics("video", "H264", packets_received=90, packets_lost=10, jitter=0.002, round_trip=0.01)
        return StreamStatus(
            stream_id=stream_id,
            state=StreamState.ONLINE if live else StreamState.OFFLINE,
            started_at=record.created_at,
            state_changed_at=None,
            reason="" if live else "nobody publishes",
            publisher_accepted=live,
            input_fps=29.97 if live else 0.0,
            output_fps=29.5 if live else 0.0,
            last_input_at=self.clock.now() if live else None,
            last_output_at=None,
            last_params_update_at=None,
            last_params=wire_params(record.params),
            last_error="a fault" if live else None,
            last_error_at=self.clock.now() if live else None,
            last_restart_at=None,
            restart_count=0,
            last_restart_logs=(),
            revision=record.revision,
            lane=LANE if live else None,
            media=MediaStatistics(
                publisher=PublisherState.CONNECTED if live else PublisherState.ABSENT, tracks=(track,) if live else ()
            ),
            latencies={"total": LatencySummary(0.0123, 0.0456)} if live else {},
            drops={"superseded": 3} if live else {},
        )

    def state(self, stream_id: str) -> StreamState:
        self.get(stream_id)
        return StreamState.ONLINE if stream_id in self.publishers else StreamState.OFFLINE

    def by_key(self, stream_key: str) -> StreamRecord:
        self.check()
        for record in self.records.values():
            if stream_key in (record.stream_key, record.output_playback_id):
                return record
        raise StreamNotFound("There is no such stream.")

    async def publish(self, stream_key: str, offer: str) -> FakeOpened:
        record = self.by_key(stream_key)
        if not offer.startswith("v=0"):
            raise InvalidSdp("the offer does not start with v=0")
        session = f"session{next(self.order)}"
        self.publishers[record.id] = session
        return FakeOpened(record, SessionAnswer(session, ANSWER))

    async def watch(self, playback_id: str, offer: str) -> FakeOpened:
        record = self.by_key(playback_id)
        if record.id not in self.publishers:
            raise NoPictureYet("Nobody publishes to this stream yet.")
        session = f"session{next(self.order)}"
        self.viewers[session] = record.id
        return FakeOpened(record, SessionAnswer(session, ANSWER))

    async def publish_pictures(self, stream_key: str) -> "FakePictures":
        self.check()
        record = self.by_key(stream_key)
        session = FakePictures(f"session{next(self.order)}")
        self.publishers[record.id] = session.session_id
        self.pictures[record.id] = session
        return session

    async def watch_pictures(self, playback_id: str) -> "FakePictures":
        self.check()
        record = self.by_key(playback_id)
        if record.id not in self.publishers:
            raise NoPictureYet("Nobody publishes to this stream yet.")
        session = FakePictures(f"session{next(self.order)}")
        self.viewers[session.session_id] = record.id
        self.watching.append(session)
        return session

    async def end_publish_session(self, stream_key: str, session_id: str) -> None:
        record = self.by_key(stream_key)
        if self.publishers.get(record.id) != session_id:
            raise SessionNotFound("There is no such session.")
        del self.publishers[record.id]

    async def end_watch_session(self, playback_id: str, session_id: str) -> None:
        if self.viewers.pop(session_id, None) is None:
            raise SessionNotFound("There is no such session.")

    async def add_publish_candidates(self, stream_key: str, session_id: str, fragment: str) -> None:
        if self.publishers.get(self.by_key(stream_key).id) != session_id:
            raise SessionNotFound("There is no such session.")
        self.fragments.append(fragment)

    async def add_watch_candidates(self, playback_id: str, session_id: str, fragment: str) -> None:
        if session_id not in self.viewers:
            raise SessionNotFound("There is no such session.")
        self.fragments.append(fragment)

    async def snapshot(self, stream_id: str, processor: str | None = None) -> bytes:
        self.get(stream_id)
        if stream_id not in self.publishers or processor not in (None, "canny"):
            raise NoPictureYet(f"This stream has no picture {processor or ''} yet.")
        self.snapshots += 1
        await asyncio.sleep(0.02)
        return b"\xff\xd8\xff\xd9"

    def emit(self, stream_id: str, name: str, **data: object) -> None:
        log = self.log[stream_id]
        log.append(StreamEvent(len(log) + 1, name, self.clock.now(), stream_id, data))
        self.logged.set()

    async def events(self, stream_id: str, after: int | None = None) -> AsyncIterator[StreamEvent]:
        log = self.log[stream_id]
        position = len(log) if after is None else after
        self.followers += 1
        self.followed.set()
        try:
            while True:
                while position < len(log):
                    position += 1
                    yield log[position - 1]
                    if log[position - 1].name == "deleted":
                        return
                self.logged.clear()
                await self.logged.wait()
        finally:
            self.followers -= 1

    def capacity(self) -> Capacity:
        self.check()
        return Capacity(len(self.records), 16, len(self.publishers), 0, 20, True, "", "ready", "cpu", None, None)

    def worker_health(self) -> WorkerHealth:
        self.check()
        return self.health

    def faults(self) -> int:
        return self.caught

    def statistics(self) -> ServerStatistics:
        self.check()
        return ServerStatistics(streams=len(self.records), worker_phase="ready", worker_phases=("ready", "starting"))

    async def hls_file(self, playback_id: str, name: str) -> HlsFile:
        record = self.by_key(playback_id)
        if record.id not in self.publishers or not name.endswith(".m3u8"):
            raise NoPictureYet("Nobody publishes to this stream yet.")
        return HlsFile(b"#EXTM3U\n", "application/vnd.apple.mpegurl", changes=True)

    async def ice_servers(self, token: str, host: str) -> tuple[IceServer, ...]:
        self.ice_hosts.append(host)
        if self.ice_problem is not None:
            raise self.ice_problem
        return self.ice


__all__ = ["ANSWER", "FakeStreams"]
