"""One stream: its record, its live part if it has one, and what is known of its past."""

import asyncio
from dataclasses import replace
from datetime import datetime

import structlog

from sdstream.clock import Clock
from sdstream.errors import NoPictureYet, RequestError, SessionNotFound
from sdstream.logs import unasked
from sdstream.media.ports import HlsFile, MediaBackend, PublisherState
from sdstream.params import Delivery, StreamParams, StyleImage
from sdstream.streams.duties import Use
from sdstream.streams.entering import Enter, Session
from sdstream.streams.events import EventLog
from sdstream.streams.live import LiveStream
from sdstream.streams.past import Past
from sdstream.streams.recordings import RecordingShelf
from sdstream.streams.state import Moments, Thresholds, Verdict, compute_state
from sdstream.streams.statuses import make_status
from sdstream.streams.style_images import StylePicture, style_image_of
from sdstream.streams.totals import Totals
from sdstream.streams.updates import warning_of
from sdstream.streams.views import Applied, StreamRecord, StreamState, StreamStatus
from sdstream.worker.ports import MissingPart, WorkerClient, WorkerHealth

log = structlog.get_logger(__name__)


class Stream:
    """A record come alive. Runs on the event loop; opening and closing the live part happens under one lock."""

    def __init__(
        self,
        record: StreamRecord,
        *,
        media: MediaBackend,
        worker: WorkerClient,
        clock: Clock,
        thresholds: Thresholds,
        shelf: RecordingShelf,
        used_at: float | None,
    ) -> None:
        self.saved = record
        """The newest record that is on disk: what others are shown and what the worker is given."""
        self.accepted = record
        """The newest record that an update made; further updates merge over it while it is being saved."""
        self.live: LiveStream | None = None
        self.lock = asyncio.Lock()
        self.deletion = asyncio.Lock()
        self.refusal: RequestError | None = None
        """Why nothing can be opened any more."""
        self.touched_at = clock.monotonic()
        self.used_at = used_at
        self.ended = Totals()
        """What the live parts that ended have counted."""
        self._ending: LiveStream | None = None
        """The live part that is being closed, whose counters are not in `ended` yet."""
        self.events = EventLog(record.id, clock)
        self._past = Past(record.id, self.events, clock)
        self._style = StylePicture()
        self._media = media
        self._shelf = shelf
        self._worker = worker
        self._clock = clock
        self._thresholds = thresholds
        self._state = StreamState.OFFLINE
        self._state_changed_at: datetime | None = None
        self._revision = record.revision

    # Sessions

    async def publish(self, enter: Enter[Session]) -> Session:
        """Make somebody the publisher by `enter`, such as the answer to a WHIP offer, and open what it needs.

        Raises what that raises, and then nothing has changed.
        """
        async with self.lock:
            if self.refusal is not None:
                raise self.refusal
            live = self.live or await self._open_live()
            session: Session | None = None
            try:
                session = await live.publish(enter)
                given = self.saved.revision
                await live.ensure_lane(self._worker, self._style.given(self.saved.params), given)
            except BaseException:
                if self.live is not live:
                    await live.close()
                elif session is not None:  # a publisher that was told no must not stay
                    await live.end_publish_session(session.session_id)
                raise
            if self.live is None:
                live.deliver(self.saved.delivery, self._shelf)
            self.live = live
            live.resize(self.saved.params.output_size)  # a PATCH may have come while the offer was being answered
            if self.saved.revision != given:
                live.apply(self._style.given(self.saved.params), self.saved.revision)
        self.use()
        self.observe()
        return session

    async def watch(self, enter: Enter[Session]) -> Session:
        """One more viewer by `enter`, whose errors it raises, and `NoPictureYet` until a publisher was accepted."""
        live = self.live
        if live is None:
            raise NoPictureYet("Nobody publishes to this stream yet.")
        session = await live.watch(enter)
        if self.live is not live:
            raise NoPictureYet("The stream ended while the offer was being answered.")
        self.use()
        return session

    async def end_publish_session(self, session_id: str) -> None:
        if self.live is None or not await self.live.end_publish_session(session_id):
            raise SessionNotFound("There is no such publish session.")
        self.observe()

    async def end_watch_session(self, session_id: str) -> None:
        if self.live is None or not await self.live.end_watch_session(session_id):
            raise SessionNotFound("There is no such watch session.")

    async def add_publish_candidates(self, session_id: str, fragment: str) -> None:
        if self.live is None or not await self.live.add_publish_candidates(session_id, fragment):
            raise SessionNotFound("There is no such publish session.")

    async def add_watch_candidates(self, session_id: str, fragment: str) -> None:
        if self.live is None or not await self.live.add_watch_candidates(session_id, fragment):
            raise SessionNotFound("There is no such watch session.")

    # Params

    def accept(self, params: StreamParams) -> StreamRecord:
        """The record with new params, which further updates build on; `commit` or `abandon` must follow."""
        self._revision += 1
        self.accepted = replace(self.accepted, params=params, revision=self._revision)
        return self.accepted

    def commit(self, record: StreamRecord, applied: Applied) -> None:
        """`record` is on disk: have the worker apply it, unless a newer one already is."""
        # Where the output goes is stored apart, and may be newer than the record.
        if record.revision > self.accepted.revision:
            self.accepted = replace(record, delivery=self.accepted.delivery)
        if record.revision <= self.saved.revision:
            return
        self.saved = replace(record, delivery=self.saved.delivery)
        self._past.note_update(record.params)
        if self.live is not None:
            params = self._style.given(record.params)
            self.live.apply(params, record.revision, reload=applied is Applied.RELOAD)
            self.observe()

    def try_again(self, names: frozenset[str]) -> tuple[str, ...]:
        """An update named these params; returns what its caller is to be warned of."""
        return self._warnings(() if self.live is None else self.live.try_again(names))

    def known_missing(self, names: frozenset[str]) -> tuple[str, ...]:
        """What callers are warned of these params, with nothing tried."""
        return self._warnings(() if self.live is None else self.live.missing_of(names))

    def abandon(self, record: StreamRecord) -> None:
        """`record` could not be saved: updates build on what was, but for the delivery, which is stored apart."""
        if self.accepted.revision >= record.revision:
            self.accepted = replace(self.saved, delivery=self.accepted.delivery)

    def accept_delivery(self, delivery: Delivery) -> None:
        """Further updates build on `delivery`, which is being saved."""
        self.accepted = replace(self.accepted, delivery=delivery)

    def commit_delivery(self, delivery: Delivery) -> None:
        """`delivery` is on disk: push and record as it says."""
        self.saved = replace(self.saved, delivery=delivery)
        if self.live is not None:
            self.live.deliver(delivery, self._shelf)

    async def hls_file(self, name: str) -> HlsFile:
        """A file of HLS. Raises `NoPictureYet` while there is none of that name."""
        live = self.live
        file = None if live is None else await live.hls_file(name)
        if file is None:
            raise NoPictureYet("Nobody publishes to this stream yet." if live is None else "There is no such segment.")
        self.use()
        return file

    def has_style_picture(self, address: StyleImage) -> bool:
        """Whether what is at `address` is here."""
        return self._style.has(address)

    def take_style_picture(self, picture: StyleImage) -> None:
        """The picture at the address of the style image was fetched: the worker is given it."""
        address = style_image_of(self.saved.params)
        if address is not None:
            self._style.found(address, picture)
            if self.live is not None:
                self.live.apply(self._style.given(self.saved.params), self.saved.revision)

    def note_bad_params(self, message: str) -> None:
        """Accepted params turned out to be of no use."""
        self._past.note_error("STREAMS/INVALID_PARAMS", message)

    # Time

    @property
    def state(self) -> StreamState:
        """The state that was computed last."""
        return self._state

    @property
    def is_publishing(self) -> bool:
        """Whether a publisher has its session now."""
        return self.live is not None and self.live.publisher is not PublisherState.ABSENT

    @property
    def input_rate(self) -> float:
        """Pictures a second that come from the publisher now."""
        return 0.0 if self.live is None else self.live.traffic.rates(self._clock.monotonic())[0]

    @property
    def viewers(self) -> int:
        return 0 if self.live is None else self.live.viewers

    def is_busy(self, since: float) -> bool:
        """Whether the stream takes a place of the server's capacity: it was used after `since`, monotonic seconds."""
        return self.is_publishing or (self.used_at is not None and self.used_at > since)

    def touch(self) -> None:
        """A request named the stream."""
        self.touched_at = self._clock.monotonic()

    def use(self) -> None:
        """Somebody really uses the stream."""
        self.touched_at = self.used_at = self._clock.monotonic()

    def usage(self) -> Use:
        """How the stream is used, for `decide_duty`."""
        live = self.live
        if live is None:
            return Use(self.touched_at)
        return Use(
            touched_at=self.touched_at,
            is_live=True,
            has_lane=live.has_lane,
            publisher=live.publisher,
            publisher_at=live.publisher_at,
            publisher_left_at=live.publisher_left_at,
            last_input_at=live.traffic.input.last_at,
            viewers=live.viewers,
        )

    def observe(self, health: WorkerHealth | None = None) -> Verdict:
        """Compute the state; show the placard that goes with it, and tell when it changed.

        `health` is the worker's at this moment, for whoever knows it.
        """
        health = self._worker.health() if health is None else health
        moments = self._moments(health)
        verdict = compute_state(moments, self._clock.monotonic(), self._thresholds, self._state)
        if verdict.state is not self._state:
            previous, self._state = self._state, verdict.state
            self._state_changed_at = self._clock.now()
            data = {"state": verdict.state.value, "previous": previous.value, "reason": verdict.reason}
            self.events.emit("state", data)
            unasked(log.info, "stream state", stream_id=self.saved.id, **data)
        live = self.live
        if live is not None:
            live.show_placard(moments)
            if live.publisher is not PublisherState.ABSENT or live.viewers:
                self.use()
        return verdict

    def note_worker(self, health: WorkerHealth, restarted: bool) -> None:
        """The worker process changed its phase, or was started again."""
        if self.live is None:
            return
        if restarted:
            self._past.note_restart(health)
            self.live.restart_at = self._past.restart_at
        self.events.emit("worker", {"phase": health.phase.value, "restarts": health.restarts})

    # What others ask

    def status(self) -> StreamStatus:
        """All that is known at this moment."""
        verdict = self.observe()
        health = self._worker.health()
        moments = self._moments(health)
        return make_status(
            self.saved, self.live, self._past, verdict, self._state_changed_at, moments, health, self._clock
        )

    def totals(self) -> Totals:
        """What the stream has counted since it was made or loaded."""
        totals = self.ended
        for live in (self._ending, self.live):
            if live is not None:
                totals += Totals.of(live)
        return totals

    # The end

    async def end_publisher(self) -> None:
        """End the publisher's session as if it had asked for it."""
        live = self.live
        if live is not None and live.publish_session is not None:
            await live.end_publish_session(live.publish_session)
            self.observe()

    async def close_lane(self) -> None:
        async with self.lock:
            if self.live is not None and self.live.publisher is PublisherState.ABSENT:
                await self.live.close_lane()

    async def close_live(self) -> None:
        """Free media and worker, unless somebody publishes or watches again."""
        async with self.lock:
            if not self.is_publishing and not self.viewers:
                await self._close_live()

    async def shut(self, refusal: RequestError) -> None:
        """End every session for good: whoever publishes from now on is given `refusal`."""
        self.refusal = refusal
        async with self.lock:
            await self._close_live()

    def end_events(self, reason: str) -> None:
        """Emit the last event."""
        self.events.emit("deleted", {"reason": reason})
        self.events.close()

    async def _close_live(self) -> None:
        live, self.live = self.live, None
        if live is not None:
            self._ending = live
            await live.close()
            self._ending = None
            self.ended += Totals.of(live)
            self.observe()

    async def _open_live(self) -> LiveStream:
        live = LiveStream(
            self.saved.id,
            self._clock,
            self._thresholds,
            emit=self.events.emit,
            on_error=self._past.note_error,
            on_recovery=self._past.forget_error,
        )
        await live.open(self._media, self.saved.params.output_size)
        return live

    def _warnings(self, missing: tuple[MissingPart, ...]) -> tuple[str, ...]:
        return tuple(warning_of(part, self._clock.monotonic()) for part in missing)

    def _moments(self, health: WorkerHealth) -> Moments:
        if self.live is None:
            return Moments(worker=health.phase, worker_error=health.last_error)
        return replace(self.live.moments(health), error=self._past.error, error_at=self._past.error_at)


__all__ = ["Stream"]
