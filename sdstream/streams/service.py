"""The streams of this server: what the API talks to."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import InvalidParams, NoPictureYet, RequestError, ShuttingDown, StreamNotFound
from sdstream.fetching import PublicFetcher
from sdstream.media.ports import IceServer, MediaBackend
from sdstream.metrics import ServerStatistics
from sdstream.params import (
    Delivery,
    ModelTable,
    StyleImage,
    apply_update,
    classify,
    dump_params,
    image_apart,
    load_params,
    parse_create,
)
from sdstream.params.problems import Notes
from sdstream.settings import Settings
from sdstream.streams.capacity import describe_capacity, refuse_overload
from sdstream.streams.database import FILE_NAME
from sdstream.streams.directory import StreamDirectory
from sdstream.streams.doors import PublisherDoors
from sdstream.streams.events import EventSubscription
from sdstream.streams.forewarning import forewarn, warn_of
from sdstream.streams.keeper import TICK_SECONDS, StreamKeeper
from sdstream.streams.names import new_record
from sdstream.streams.recordings import RecordingShelf
from sdstream.streams.rows import StoredStream
from sdstream.streams.sessions import StreamSessions
from sdstream.streams.state import Thresholds
from sdstream.streams.store import UNRESTORED, StoreStatistics, StreamStore
from sdstream.streams.stream import Stream
from sdstream.streams.style_images import STYLE_IMAGE, StyleImageChecker, style_image_of
from sdstream.streams.summary import summarize
from sdstream.streams.updates import applied_by, describe_update
from sdstream.streams.views import (
    Applied,
    Capacity,
    CreateOutcome,
    StreamRecord,
    StreamState,
    StreamStatus,
    UpdateOutcome,
)
from sdstream.streams.warming import WarmStart
from sdstream.worker.ports import WorkerClient, WorkerHealth

log = structlog.get_logger(__name__)


class StreamService(StreamSessions):
    """All streams, their sessions and their store, on one event loop. Starts and closes the media and the worker."""

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
        fetcher: PublicFetcher | None = None,
    ) -> None:
        """`tick_seconds` None leaves `tick` to the caller, as tests with a manual clock want it."""
        super().__init__(StreamDirectory(settings.max_streams), settings, worker, clock)
        self._media = media
        self._models = models
        self._file = data_dir / FILE_NAME
        self._tick_seconds = tick_seconds
        self._thresholds = Thresholds(max_frame_rate=settings.max_frame_rate)
        self._keeper = StreamKeeper(self._streams, worker, settings, clock, lambda stream: self._delete(stream, "idle"))
        self._style_images = StyleImageChecker(fetcher or PublicFetcher())
        self.recordings = RecordingShelf(data_dir, settings, clock, self._streams.note_recording)
        self.doors = PublisherDoors(self._streams, self.admit)
        self._store: StreamStore | None = None
        self._warm_start: WarmStart | None = None
        if settings.warm_start:
            self._warm_start = WarmStart(worker, parse_create({}, models).params, clock)
        self._updates: Counter[str] = Counter()
        self._closing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the store, then media and worker; returns before the worker is ready.

        Raises `ConfigurationError` when the store or the media cannot be used.
        """
        self._store = await asyncio.to_thread(StreamStore, self._file, self._clock)
        rows, images = self._store.load()
        for row in rows:
            self._restore(row, images)
        self.recordings.start(self._media.finish_recordings)
        try:
            await self._media.start()
            await self._worker.start()
            if self._warm_start is not None:
                self._warm_start.start()
        except BaseException:
            await self.close()
            raise
        if self._tick_seconds is not None:
            self._keeper.start(self._tick_seconds)
        log.info("streams restored", count=len(self._streams))

    async def close(self) -> None:
        """Refuse new work, end every session, stop media and worker, and close the store. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="streams-close")
        # A caller with a time limit may give up waiting; the rest is closed all the same.
        await asyncio.shield(self._closing)

    # Records

    async def create(
        self,
        body: object,
        author: str,
        *,
        from_playground: bool = False,
        stream_id: str | None = None,
        dry_run: bool = False,
    ) -> CreateOutcome:
        """Validate and store a new stream; its id, key and URLs are good once this returns, unless it is a `dry_run`.

        `stream_id` None makes one; one that is given must be new. Raises `InvalidParams`, `CapacityReached`,
        `ShuttingDown`, or `Unavailable` when the disk refuses.
        """
        store = self._open_store()
        settings = self._settings
        request = parse_create(body, self._models, settings.size_policy, allow_private=settings.output_allow_private)
        self._streams.refuse_crowd(self._busy_since())
        refuse_overload(self._streams, settings, self._worker.health(), request.params)
        self._streams.refuse_glut()
        record = new_record(request, author, self._clock.now(), from_playground=from_playground, stream_id=stream_id)
        if dry_run:
            return CreateOutcome(record, request.warnings + await forewarn(record.params, self._models))
        stream = self._add(record, used_at=self._clock.monotonic())
        try:
            await store.insert(record, dump_params(record.params), image_apart(record.params))
        except RequestError:
            self._streams.remove(stream)
            self._streams.retire(stream)
            raise
        self._look_at_style_image(stream)
        log.info("stream created", stream_id=record.id, model_id=record.params.model_id)
        return CreateOutcome(record, request.warnings + await forewarn(record.params, self._models))

    def list_streams(self, author: str | None) -> list[StreamRecord]:
        """Records of one author, or of all for None; newest first."""
        records = [stream.saved for stream in self._streams if author in (None, stream.saved.author)]
        return sorted(records, key=lambda record: (record.created_at, record.id), reverse=True)

    def get(self, stream_id: str) -> StreamRecord:
        """Raises `StreamNotFound`."""
        return self._streams.find(stream_id).saved

    async def update(self, stream_id: str, body: object, *, dry_run: bool = False) -> UpdateOutcome:
        """Merge, validate, classify, store, and hand to the worker without waiting for it.

        Raises `StreamNotFound`, `InvalidParams`, `Conflict` when a live stream cannot take the change,
        `CapacityReached` when the worker cannot carry it, `ShuttingDown`, or `Unavailable` when the disk refuses. In
        each case the stream is as it was.
        """
        # Whoever asked may go away; what is on the disk must come into force all the same. Tasks begin in turn.
        return await asyncio.shield(asyncio.ensure_future(self._update(stream_id, body, dry_run=dry_run)))

    async def _update(self, stream_id: str, body: object, *, dry_run: bool) -> UpdateOutcome:
        store = self._open_store()
        stream = self._streams.find(stream_id)
        # From here to the write there is no await: updates merge and queue in the order in which they came.
        current = stream.accepted
        wanted = apply_update(
            current.params,
            body,
            self._models,
            self._settings.size_policy,
            {"name": current.name},
            current.delivery,
            allow_private=self._settings.output_allow_private,
        )
        change = classify(current.params, wanted.params, live=stream.is_publishing)
        applied = applied_by(change)
        refuse_overload(self._streams, self._settings, self._worker.health(), wanted.params, stream)
        if dry_run:
            revision = current.revision + (applied is not Applied.UNCHANGED)
            record = replace(current, params=wanted.params, revision=revision)
            outcome = describe_update(current, record, change, wanted)
            return await warn_of(outcome, stream, wanted.sent, self._models, dry_run=True)
        outcome = describe_update(current, current, change, wanted)
        self._updates[outcome.applied.value] += 1
        delivers = wanted.delivery != current.delivery
        if delivers:
            stream.accept_delivery(wanted.delivery)
        elif wanted.names_recording:
            stream.commit_delivery(stream.saved.delivery)  # one that stopped by itself begins again
        record = current if applied is Applied.UNCHANGED else stream.accept(wanted.params)
        if delivers:
            await self._deliver(store, stream, wanted.delivery, record)
        if applied is Applied.UNCHANGED:
            return await warn_of(outcome, stream, wanted.sent, self._models)
        try:
            text, image = dump_params(record.params), image_apart(record.params)
            kept = await store.update(record.id, text, record.revision, image)
        except RequestError:
            stream.abandon(record)
            raise
        if not kept:
            raise StreamNotFound("This stream was deleted.")
        stream.events.emit(
            "updated", {"revision": record.revision, "applied": applied.value, "changed": list(change.fields)}
        )
        stream.commit(record, applied)
        if STYLE_IMAGE in change.fields:
            self._look_at_style_image(stream)
        return await warn_of(replace(outcome, record=record), stream, wanted.sent, self._models)

    async def delete(self, stream_id: str) -> None:
        """Delete the record and end the sessions. Raises `StreamNotFound`, also the second time."""
        stream = self._streams.find(stream_id)
        # Whoever asked may go away; a deletion that began is finished all the same.
        await asyncio.shield(asyncio.ensure_future(self._delete(stream, "requested")))

    # Views

    def status(self, stream_id: str) -> StreamStatus:
        """Raises `StreamNotFound`."""
        return self._streams.find(stream_id).status()

    def state(self, stream_id: str) -> StreamState:
        """The state that was computed last, at most a tick old. Raises `StreamNotFound`.

        Cheap, and no use of the stream: a page that shows a list must not keep all that it shows from being collected.
        """
        return self._streams.peek(stream_id).state

    async def snapshot(self, stream_id: str, processor: str | None = None) -> bytes:
        """The newest output as JPEG, or what `processor` made last. Raises `StreamNotFound` or `NoPictureYet`."""
        live = self._streams.find(stream_id).live
        picture = None if live is None else await live.jpeg(processor)
        if picture is None:
            raise NoPictureYet(f"This stream has no picture {f'of {processor} ' if processor else ''}yet.")
        return picture

    def events(self, stream_id: str, after: int | None = None) -> EventSubscription:
        """Follow a stream from now on, or past the kept event `after`. Raises `StreamNotFound` or `CapacityReached`."""
        return self._streams.find(stream_id).events.subscribe(after)

    def capacity(self) -> Capacity:
        """How much more this server takes."""
        since, closing = self._busy_since(), self._closing is not None
        default = parse_create({}, self._models).params
        health = self._worker.health()
        return describe_capacity(self._streams, self._settings, health, since, closing=closing, default=default)

    def worker_health(self) -> WorkerHealth:
        warming = self._warm_start is not None and self._warm_start.is_under_way
        return replace(self._worker.health(), is_warming=warming)

    def faults(self) -> int:
        """Defects that the supervisors of streams and worker caught; the log has each."""
        return self._keeper.faults + self._worker.health().faults

    async def ice_servers(self, token: str, host: str) -> tuple[IceServer, ...]:
        return await self._media.ice_servers(host) if self._streams.has_token(token) else ()

    def statistics(self) -> ServerStatistics:
        """What the whole server has done and holds, for the metrics. Runs on the event loop."""
        written = self._store.statistics if self._store is not None else StoreStatistics()
        return summarize(self._streams, self._worker.health(), written, self._updates, self.faults())

    async def tick(self) -> None:
        """Look after every stream once, as the ticker does five times a second."""
        await self._keeper.tick()

    # Helpers

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as stack:  # each is closed, whatever happens to the one before
            if self._store is not None:
                stack.push_async_callback(self._store.close)
            stack.push_async_callback(self._media.close)
            stack.push_async_callback(self._worker.close)
            if self._warm_start is not None:
                stack.push_async_callback(self._warm_start.close)
            await self._keeper.close()
            await self.recordings.close()
            await self._style_images.close()
            await asyncio.gather(
                *(stream.shut(ShuttingDown("The server is shutting down.")) for stream in self._streams)
            )
            for stream in self._streams:
                stream.events.close()
        log.info("streams closed")

    def _restore(self, row: StoredStream, images: Mapping[str, StyleImage]) -> None:
        notes = Notes()
        try:
            params = load_params(row.params, self._models, images, notes)
        except InvalidParams as error:
            log.error(UNRESTORED, stream_id=row.id, problem=error.message)
            return
        if lost := notes.as_tuple():
            log.warning("stream restored in part", stream_id=row.id, problems=lost)
        self._add(row.record(params), used_at=None)

    def _add(self, record: StreamRecord, used_at: float | None) -> Stream:
        stream = Stream(
            record,
            media=self._media,
            worker=self._worker,
            clock=self._clock,
            thresholds=self._thresholds,
            shelf=self.recordings,
            used_at=used_at,
        )
        self._streams.add(stream)
        return stream

    async def _deliver(self, store: StreamStore, stream: Stream, delivery: Delivery, record: StreamRecord) -> None:
        try:
            if not await store.deliver(stream.saved.id, delivery):
                raise StreamNotFound("This stream was deleted.")
        except RequestError:
            stream.abandon(record)
            stream.accept_delivery(stream.saved.delivery)
            raise
        stream.commit_delivery(delivery)

    async def _delete(self, stream: Stream, reason: str) -> None:
        store = self._open_store()
        gone = StreamNotFound("This stream was deleted.")
        async with stream.deletion:
            if stream.refusal is not None:
                raise gone
            await store.delete(stream.saved.id)
            self._streams.remove(stream)
            await stream.shut(gone)
        self._style_images.forget(stream.saved.id)
        self._streams.retire(stream)
        stream.end_events(reason)
        log.info("stream deleted", stream_id=stream.saved.id, reason=reason)

    def _refuse_when_closing(self) -> None:
        if self._closing is not None:
            raise ShuttingDown("The server is shutting down.")

    def _open_store(self) -> StreamStore:
        self._refuse_when_closing()
        if self._store is None:
            raise RuntimeError("the stream service was not started")
        return self._store

    def _look_at_style_image(self, stream: Stream) -> None:
        image = style_image_of(stream.saved.params)
        self._style_images.forget(stream.saved.id)
        if image is not None and not stream.has_style_picture(image):
            self._style_images.check(stream.saved.id, image, stream.note_bad_params, stream.take_style_picture)


__all__ = ["StreamService"]
