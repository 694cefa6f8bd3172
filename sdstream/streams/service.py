"""The streams of this server: what the API talks to."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import (
    CapacityReached,
    Conflict,
    InvalidParams,
    NoPictureYet,
    RequestError,
    SessionNotFound,
    ShuttingDown,
    StreamNotFound,
)
from sdstream.logs import FoldedReporter
from sdstream.media.ports import MediaBackend
from sdstream.metrics import ServerStatistics
from sdstream.params import ChangeKind, ModelTable, apply_update, classify, dump_params, load_params, parse_create
from sdstream.settings import Settings
from sdstream.streams.duties import Duty, decide_duty
from sdstream.streams.events import EventSubscription
from sdstream.streams.names import new_playback_id, new_stream_id, new_stream_key
from sdstream.streams.snapshots import encode_jpeg
from sdstream.streams.state import Thresholds
from sdstream.streams.store import FILE_NAME, StoredStream, StreamStore
from sdstream.streams.stream import Stream
from sdstream.streams.totals import Totals
from sdstream.streams.views import (
    Applied,
    Capacity,
    CreateOutcome,
    SessionOpened,
    StreamRecord,
    StreamState,
    StreamStatus,
    UpdateOutcome,
)
from sdstream.worker.ports import WorkerClient, WorkerHealth, WorkerPhase

TICK_SECONDS = 0.2
"""How often states are computed and placards shown: a viewer sees words well within a second."""

MAX_RECORDS = 10_000
"""Streams on record, idle ones included; the oldest idle ones are collected long before at any sane rate."""

UNTITLED = "untitled"

_APPLIED = {
    ChangeKind.UNCHANGED: Applied.UNCHANGED,
    ChangeKind.HOT: Applied.HOT,
    ChangeKind.RELOAD: Applied.RELOAD,
}

log = structlog.get_logger(__name__)


class StreamService:
    """All streams, their sessions and their store. Everything runs on one event loop.

    It starts and closes the media back end and the worker that it is given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        media: MediaBackend,
        worker: WorkerClient,
        models: ModelTable,
        data_dir: Path,
        clock: Clock,
        tick_seconds: float | None = TICK_SECONDS,
    ) -> None:
        """`tick_seconds` None leaves `tick` to the caller, as tests with a manual clock want it."""
        self._settings = settings
        self._media = media
        self._worker = worker
        self._models = models
        self._file = data_dir / FILE_NAME
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._thresholds = Thresholds(max_frame_rate=settings.max_frame_rate)
        self._streams: dict[str, Stream] = {}
        self._by_key: dict[str, Stream] = {}
        self._by_playback: dict[str, Stream] = {}
        self._store: StreamStore | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._duties: dict[str, asyncio.Task[None]] = {}
        self._faults = FoldedReporter(log, clock)
        self._ended = Totals()
        self._updates: Counter[str] = Counter()
        self._health: WorkerHealth | None = None
        self._closing = False

    async def start(self) -> None:
        """Open the store, then media and worker; returns before the worker is ready.

        Raises `ConfigurationError` when the store or the media cannot be used.
        """
        self._store = await asyncio.to_thread(StreamStore, self._file, self._clock)
        for row in self._store.load():
            self._restore(row)
        try:
            await self._media.start()
            await self._worker.start()
        except BaseException:
            await self.close()
            raise
        if self._tick_seconds is not None:
            self._ticker = asyncio.create_task(self._keep_ticking(self._tick_seconds), name="streams-ticker")
        log.info("streams restored", count=len(self._streams))

    async def close(self) -> None:
        """Refuse new work, end every session, stop media and worker, and close the store. Idempotent."""
        if self._closing:
            return
        self._closing = True
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        if self._duties:
            await asyncio.wait(self._duties.values())
        await asyncio.gather(*(stream.close_live(force=True) for stream in self._streams.values()))
        for stream in self._streams.values():
            stream.events.close()
        await self._worker.close()
        await self._media.close()
        if self._store is not None:
            await self._store.close()

    # Records

    async def create(self, body: object, author: str, *, from_playground: bool = False) -> CreateOutcome:
        """Validate and store a new stream; its id, key and URLs are good once this returns.

        Raises `InvalidParams`, `CapacityReached`, `ShuttingDown`, or `Unavailable` when the disk refuses.
        """
        store = self._open_store()
        request = parse_create(body, self._models, self._settings.size_policy)
        self._refuse_crowd()
        record = StreamRecord(
            id=new_stream_id(),
            stream_key=new_stream_key(),
            output_playback_id=new_playback_id(),
            created_at=self._clock.now(),
            name=request.name or UNTITLED,
            author=author,
            params=request.params,
            output_rtmp_url=request.output_rtmp_url,
            from_playground=from_playground,
        )
        stream = self._add(record, used_at=self._clock.monotonic())
        try:
            await store.insert(record, dump_params(record.params))
        except RequestError:
            self._remove(stream)
            raise
        log.info("stream created", stream_id=record.id, model_id=record.params.model_id)
        return CreateOutcome(record, request.warnings)

    def list_streams(self, author: str | None) -> list[StreamRecord]:
        """Records of one author, or of all for None; newest first."""
        records = [stream.saved for stream in self._streams.values() if author in (None, stream.saved.author)]
        return sorted(records, key=lambda record: (record.created_at, record.id), reverse=True)

    def get(self, stream_id: str) -> StreamRecord:
        """Raises `StreamNotFound`."""
        return self._find(self._streams, stream_id).saved

    async def update(self, stream_id: str, body: object, *, dry_run: bool = False) -> UpdateOutcome:
        """Merge, validate, classify, store, and hand to the worker without waiting for it.

        Raises `StreamNotFound`, `InvalidParams`, `Conflict` when a live stream cannot take the change, `ShuttingDown`,
        or `Unavailable` when the disk refuses. In each case the stream is as it was.
        """
        store = self._open_store()
        stream = self._find(self._streams, stream_id)
        # From here to the write there is no await: updates merge and queue in the order in which they came.
        current = stream.accepted
        wanted = apply_update(current.params, body, self._models, self._settings.size_policy)
        change = classify(current.params, wanted.params, live=stream.is_publishing)
        if change.kind is ChangeKind.REFUSED:
            raise Conflict(
                change.reason or "A live stream cannot take this change.",
                details=[
                    {"field": f"params.{field}", "problem": change.reason, "suggestion": None}
                    for field in change.fields
                ],
            )
        applied = _APPLIED[change.kind]
        if dry_run:
            revision = current.revision + (applied is not Applied.UNCHANGED)
            record = replace(current, params=wanted.params, revision=revision)
            return UpdateOutcome(record, applied, change.fields, wanted.warnings)
        stream.use()
        self._updates[applied.value] += 1
        if applied is Applied.UNCHANGED:
            return UpdateOutcome(current, applied, (), wanted.warnings)
        record = stream.accept(wanted.params)
        try:
            kept = await store.update(record.id, dump_params(record.params), record.revision)
        except RequestError:
            stream.abandon(record)
            raise
        if not kept:
            raise StreamNotFound("This stream was deleted.")
        stream.commit(record)
        stream.events.emit(
            "updated", {"revision": record.revision, "applied": applied.value, "changed": list(change.fields)}
        )
        return UpdateOutcome(record, applied, change.fields, wanted.warnings)

    async def delete(self, stream_id: str) -> None:
        """Delete the record and end the sessions. Raises `StreamNotFound`, also the second time."""
        stream = self._find(self._streams, stream_id)
        # Whoever asked may go away; a deletion that began is finished all the same.
        await asyncio.shield(asyncio.ensure_future(self._delete(stream, "requested")))

    # Sessions

    async def publish(self, stream_key: str, offer: str) -> SessionOpened:
        """Answer a WHIP offer. Raises `StreamNotFound`, `InvalidSdp`, `CapacityReached` or `ShuttingDown`."""
        self._open_store()
        stream = self._find(self._by_key, stream_key)
        if not stream.is_busy(self._busy_since()):
            self._refuse_crowd()
        return SessionOpened(stream.saved, await stream.publish(offer))

    async def watch(self, playback_id: str, offer: str) -> SessionOpened:
        """Answer a WHEP offer. Raises `StreamNotFound`, `NoPictureYet`, `InvalidSdp` or `CapacityReached`."""
        self._open_store()
        stream = self._find(self._by_playback, playback_id)
        return SessionOpened(stream.saved, await stream.watch(offer))

    async def end_publish_session(self, stream_key: str, session_id: str) -> None:
        """Raises `SessionNotFound`, also when another publisher has taken over."""
        await self._find_session(self._by_key, stream_key).end_publish_session(session_id)

    async def end_watch_session(self, playback_id: str, session_id: str) -> None:
        """Raises `SessionNotFound`."""
        await self._find_session(self._by_playback, playback_id).end_watch_session(session_id)

    async def add_publish_candidates(self, stream_key: str, session_id: str, fragment: str) -> None:
        """Raises `SessionNotFound` or `InvalidSdp`."""
        await self._find_session(self._by_key, stream_key).add_publish_candidates(session_id, fragment)

    async def add_watch_candidates(self, playback_id: str, session_id: str, fragment: str) -> None:
        """Raises `SessionNotFound` or `InvalidSdp`."""
        await self._find_session(self._by_playback, playback_id).add_watch_candidates(session_id, fragment)

    # Views

    def status(self, stream_id: str) -> StreamStatus:
        """Raises `StreamNotFound`."""
        return self._find(self._streams, stream_id).status()

    async def snapshot(self, stream_id: str) -> bytes:
        """The newest output picture as JPEG. Raises `StreamNotFound` or `NoPictureYet`."""
        stream = self._find(self._streams, stream_id)
        picture = None if stream.live is None else stream.live.latest_picture()
        if picture is None:
            raise NoPictureYet("This stream has no picture yet.")
        return await asyncio.to_thread(encode_jpeg, picture)

    def events(self, stream_id: str, after: int | None = None) -> EventSubscription:
        """Follow a stream from now on, or from the kept event past sequence `after`. Raises `StreamNotFound`."""
        return self._find(self._streams, stream_id).events.subscribe(after)

    def capacity(self) -> Capacity:
        """How much more this server takes."""
        health = self._worker.health()
        busy = self._count_busy()
        return Capacity(
            streams=busy,
            max_streams=self._settings.max_streams,
            publishing=sum(stream.is_publishing for stream in self._streams.values()),
            viewers=sum(stream.viewers for stream in self._streams.values()),
            max_viewers=self._settings.max_viewers,
            accepting=not (reason := self._why_not(busy, health)),
            reason=reason,
            worker_phase=health.phase.value,
            device=health.device,
            memory_used=health.memory_used,
            memory_total=health.memory_total,
        )

    def worker_health(self) -> WorkerHealth:
        return self._worker.health()

    def ice_links(self) -> tuple[str, ...]:
        return self._media.ice_links()

    def statistics(self) -> ServerStatistics:
        """What the whole server has done and holds, for the metrics. Runs on the event loop."""
        streams = self._streams.values()
        states = Counter({state.value: 0 for state in StreamState})
        totals = self._ended
        for stream in streams:
            states[stream.state.value] += 1
            totals += stream.totals()
        health = self._worker.health()
        written = self._store.statistics if self._store is not None else None
        return ServerStatistics(
            streams=len(streams),
            publishers=sum(stream.is_publishing for stream in streams),
            viewers=sum(stream.viewers for stream in streams),
            states=states,
            frames_in=totals.frames_in,
            frames_out=totals.frames_out,
            frames_encoded=totals.frames_encoded,
            keyframes=totals.keyframes,
            decode_errors=totals.decode_errors,
            bytes_received=totals.bytes_received,
            bytes_sent=totals.bytes_sent,
            drops=totals.drops,
            latencies=totals.latencies,
            updates=self._updates,
            worker_phase=health.phase.value,
            worker_phases=tuple(phase.value for phase in WorkerPhase),
            worker_restarts=health.restarts,
            worker_memory_used=health.memory_used,
            worker_memory_total=health.memory_total,
            store_commits=written.commits if written else 0,
            store_seconds=written.seconds if written else 0.0,
        )

    # Time

    async def tick(self) -> None:
        """Compute every state, show placards, and do what is due. Waits a moment at most for slow duties."""
        self._watch_worker()
        now = self._clock.monotonic()
        settings = self._settings
        for stream in list(self._streams.values()):
            if stream.live is not None:
                try:
                    stream.observe()
                except Exception as error:  # noqa: BLE001 -- supervisor: one broken stream must not blind the others
                    self._faults.report(f"observe {stream.saved.id}", "stream cannot be observed", exc_info=error)
            duty = decide_duty(stream.usage(), now, settings.publisher_timeout, settings.idle_stream_timeout)
            if duty is not Duty.NOTHING and stream.saved.id not in self._duties:
                self._duties[stream.saved.id] = asyncio.create_task(self._perform(stream, duty))
        if self._duties:
            await asyncio.wait(self._duties.values(), timeout=TICK_SECONDS)

    async def _keep_ticking(self, seconds: float) -> None:
        while True:
            await self.tick()
            await asyncio.sleep(seconds)

    def _watch_worker(self) -> None:
        health = self._worker.health()
        before, self._health = self._health, health
        if before is None or (before.phase, before.restarts) == (health.phase, health.restarts):
            return
        restarted = health.restarts > before.restarts
        log.info("worker", phase=health.phase.value, restarts=health.restarts, error=health.last_error)
        for stream in self._streams.values():
            stream.note_worker(health, restarted)

    async def _perform(self, stream: Stream, duty: Duty) -> None:
        try:
            await self._carry_out(stream, duty)
        except Exception as error:  # noqa: BLE001 -- supervisor: the duty is tried again at the next tick
            self._faults.report(f"{duty} {stream.saved.id}", "stream duty failed", duty=duty.value, exc_info=error)
        finally:
            del self._duties[stream.saved.id]

    async def _carry_out(self, stream: Stream, duty: Duty) -> None:
        log.info("stream duty", stream_id=stream.saved.id, duty=duty.value)
        if duty is Duty.END_PUBLISHER:
            await stream.end_publisher()
        elif duty is Duty.CLOSE_LANE:
            await stream.close_lane()
        elif duty is Duty.CLOSE_LIVE:
            await stream.close_live()
        elif duty is Duty.COLLECT:
            with contextlib.suppress(StreamNotFound):  # somebody was faster
                await self._delete(stream, "idle")

    # Helpers

    def _restore(self, row: StoredStream) -> None:
        try:
            params = load_params(row.params, self._models)
        except InvalidParams as error:
            log.error("stream cannot be restored", stream_id=row.id, problem=error.message)
            return
        self._add(
            StreamRecord(
                id=row.id,
                stream_key=row.stream_key,
                output_playback_id=row.output_playback_id,
                created_at=row.created_at,
                name=row.name,
                author=row.author,
                params=params,
                revision=row.revision,
                output_rtmp_url=row.output_rtmp_url,
                from_playground=row.from_playground,
                is_smoke_test=row.is_smoke_test,
            ),
            used_at=None,
        )

    def _add(self, record: StreamRecord, used_at: float | None) -> Stream:
        stream = Stream(
            record,
            media=self._media,
            worker=self._worker,
            clock=self._clock,
            thresholds=self._thresholds,
            used_at=used_at,
        )
        self._streams[record.id] = stream
        self._by_key[record.stream_key] = stream
        self._by_playback[record.output_playback_id] = stream
        return stream

    def _remove(self, stream: Stream) -> None:
        del self._streams[stream.saved.id]
        del self._by_key[stream.saved.stream_key]
        del self._by_playback[stream.saved.output_playback_id]

    async def _delete(self, stream: Stream, reason: str) -> None:
        store = self._open_store()
        async with stream.lock:
            if stream.deleted:
                raise StreamNotFound("This stream was deleted.")
            await store.delete(stream.saved.id)
            stream.deleted = True
            self._remove(stream)
        await stream.close_live(force=True)
        self._ended += stream.totals()
        stream.end_events(reason)
        log.info("stream deleted", stream_id=stream.saved.id, reason=reason)

    def _open_store(self) -> StreamStore:
        if self._closing:
            raise ShuttingDown("The server is shutting down.")
        if self._store is None:
            raise RuntimeError("the stream service was not started")
        return self._store

    def _find(self, index: dict[str, Stream], name: str) -> Stream:
        stream = index.get(name)
        if stream is None:
            raise StreamNotFound("There is no such stream.")
        stream.touch()
        return stream

    def _find_session(self, index: dict[str, Stream], name: str) -> Stream:
        stream = index.get(name)
        if stream is None:
            raise SessionNotFound("There is no such session.")
        return stream

    def _busy_since(self) -> float:
        return self._clock.monotonic() - self._settings.publisher_timeout

    def _count_busy(self) -> int:
        since = self._busy_since()
        return sum(stream.is_busy(since) for stream in self._streams.values())

    def _refuse_crowd(self) -> None:
        busy = self._count_busy()
        if busy >= self._settings.max_streams or len(self._streams) >= MAX_RECORDS:
            raise CapacityReached(self._crowd(busy))

    def _why_not(self, busy: int, health: WorkerHealth) -> str:
        if self._closing:
            return "The server is shutting down."
        if busy >= self._settings.max_streams or len(self._streams) >= MAX_RECORDS:
            return self._crowd(busy)
        if health.phase in (WorkerPhase.FAILED, WorkerPhase.STOPPED):
            return f"The worker does not run: {health.last_error or 'see the log'}."
        return ""

    def _crowd(self, busy: int) -> str:
        if busy >= self._settings.max_streams:
            return f"{busy} streams are in use and this server takes {self._settings.max_streams}."
        return f"{len(self._streams)} streams are on record and this server keeps {MAX_RECORDS}."


__all__ = ["MAX_RECORDS", "TICK_SECONDS", "StreamService"]
