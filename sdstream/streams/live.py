"""The live part of a stream: its media and its lane in the worker, joined while somebody publishes or watches.

`on_video` and `on_picture` run on foreign threads, once for each picture; they count and pass on. All else runs on the
event loop.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from sdstream.clock import Clock
from sdstream.frames import I420Frame, PictureSize
from sdstream.media.ports import (
    HlsFile,
    MediaBackend,
    MediaHop,
    MediaStatistics,
    MediaStream,
    OutputStatistics,
    Placard,
    PublisherState,
)
from sdstream.params import Delivery, StreamParams
from sdstream.streams.accelerations import AccelerationBook
from sdstream.streams.entering import Enter, Session
from sdstream.streams.lane_errors import LaneErrors
from sdstream.streams.lateness import LatenessWatch
from sdstream.streams.loading import LoadingBook, is_news
from sdstream.streams.placards import choose_placard
from sdstream.streams.recordings import RecordingShelf
from sdstream.streams.snapshots import encode_jpeg
from sdstream.streams.state import Moments, Thresholds
from sdstream.streams.traffic import StreamTraffic
from sdstream.worker.ports import (
    Lane,
    LanePhase,
    LaneStatistics,
    LaneStatus,
    MissingPart,
    ProcessedPicture,
    WorkerClient,
    WorkerHealth,
)

log = structlog.get_logger(__name__)

Emit = Callable[[str, Mapping[str, Any]], None]


class LiveStream:
    """Media stream, lane and meters of one stream; listens to both ends.

    `emit` is given events by name and data, `on_error` a code and a message of the lane, `on_recovery` the message when
    the lane runs without that error again; all on the event loop.
    """

    def __init__(
        self,
        stream_id: str,
        clock: Clock,
        thresholds: Thresholds,
        *,
        emit: Emit,
        on_error: Callable[[str, str], None],
        on_recovery: Callable[[str], None],
    ) -> None:
        self.stream_id = stream_id
        self.traffic = StreamTraffic(clock, thresholds.max_frame_rate)
        self.lane_status: LaneStatus | None = None
        self.publisher = PublisherState.ABSENT
        self.publisher_at: float | None = None
        self.publisher_left_at: float | None = None
        self.publisher_problem = ""
        self.publish_session: str | None = None
        self.viewers = 0
        self.restart_at: float | None = None
        self._clock = clock
        self._thresholds = thresholds
        self._emit = emit
        self._lane_errors = LaneErrors(on_error, on_recovery)
        self._media: MediaStream | None = None
        self._lane: Lane | None = None
        self._lane_changed_at: float | None = None
        self._effective_revision = 0
        self._accelerations = AccelerationBook(emit)
        self._reload_revision: int | None = None
        self.loading = LoadingBook(stream_id, clock, emit)
        self._lateness = LatenessWatch(stream_id, clock, self.traffic, emit)
        self._drops_before: Counter[str] = Counter()
        self._ended_lanes: Counter[str] = Counter()
        self._sending = threading.Lock()
        self._size: PictureSize | None = None
        self._final = MediaStatistics()
        self._recording = False
        self._recording_name = ""
        self._beginning: asyncio.Task[None] | None = None
        """Finds a file for the recording; the disk may take its time."""

    async def open(self, media: MediaBackend, size: PictureSize) -> None:
        """Open the media. Nothing is published or watched yet."""
        self._size = size
        self._media = await media.open_stream(self.stream_id, size, self)

    def deliver(self, delivery: Delivery, shelf: RecordingShelf) -> None:
        """Push and record as `delivery` says from now on."""
        media = self._opened()
        media.push_to(delivery.targets)
        if delivery.recording == self._recording:
            return
        self._recording = delivery.recording
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None
        if delivery.recording:
            self._beginning = asyncio.create_task(self._begin_recording(media, shelf), name="begin a recording")
        else:
            media.record_to(None)

    # Sessions

    async def publish(self, enter: Enter[Session]) -> Session:
        """Make somebody the publisher by `enter`, such as the answer to a WHIP offer.

        Raises what that raises, and then the publisher before stays.
        """
        session = await enter(self._opened())
        self.publish_session = session.session_id
        self.publisher_at = self._clock.monotonic()
        self.publisher_left_at = None
        self.traffic.restart_input()
        self._drops_before = self._all_drops()
        if self.publisher is PublisherState.ABSENT:
            self.on_publisher(PublisherState.CONNECTING)
        return session

    async def watch(self, enter: Enter[Session]) -> Session:
        """One more viewer by `enter`, such as the answer to a WHEP offer. Raises what that raises."""
        return await enter(self._opened())

    async def end_publish_session(self, session_id: str) -> bool:
        """End the publisher if `session_id` is its session; a publisher that was replaced ends nobody."""
        return session_id == self.publish_session and await self._opened().end_session(session_id)

    async def end_watch_session(self, session_id: str) -> bool:
        """End a viewer; never the publisher."""
        return session_id != self.publish_session and await self._opened().end_session(session_id)

    async def add_publish_candidates(self, session_id: str, fragment: str) -> bool:
        return session_id == self.publish_session and await self._opened().add_candidates(session_id, fragment)

    async def add_watch_candidates(self, session_id: str, fragment: str) -> bool:
        return session_id != self.publish_session and await self._opened().add_candidates(session_id, fragment)

    # The lane

    async def ensure_lane(self, worker: WorkerClient, params: StreamParams, revision: int) -> None:
        """Open the lane unless it is open."""
        if self._lane is None:
            self._lane = await worker.open_lane(self.stream_id, params, revision, self, partly=True)

    async def close_lane(self) -> None:
        """Free the worker's memory; the media stays."""
        lane, self._lane = self._lane, None
        if lane is None:
            return
        self._ended_lanes += _lane_drops(lane.statistics())
        self.lane_status = None
        self._accelerations.forget()
        self._lane_changed_at = None
        self._reload_revision = None
        await lane.close()

    @property
    def has_lane(self) -> bool:
        return self._lane is not None

    def apply(self, params: StreamParams, revision: int, *, reload: bool = False) -> None:
        """Hand new params to the lane; returns at once. With `reload` the lane counts as loading until it has them."""
        self.resize(params.output_size)
        if self._lane is not None:
            if reload:
                self._reload_revision = revision
            self._lane.update(params, revision)

    def try_again(self, names: frozenset[str]) -> tuple[MissingPart, ...]:
        """Somebody sent these top-level params: have the lane try again what is missing of them, which is returned. One
        that failed tries everything again."""
        failed = self.lane_status is not None and self.lane_status.phase is LanePhase.FAILED
        if self._lane is None or not (failed or self.missing_of(names)):
            return ()
        self._lane.try_again()
        return self.missing_of(names)

    def missing_of(self, names: frozenset[str]) -> tuple[MissingPart, ...]:
        """What is known to be missing of these top-level params."""
        missing = () if self._lane is None else self._lane.missing
        return tuple(part for part in missing if part.place.partition("[")[0] in names)

    def resize(self, size: PictureSize) -> None:
        """Placards have this size from now on."""
        if size != self._size and self._media is not None:
            self._size = size
            self._media.resize(size)

    # What the media tells

    def on_video(self, frame: I420Frame) -> None:
        if not self.traffic.arrive():
            return
        lane = self._lane
        if lane is None:
            self.traffic.drop("no_lane")
            return
        lane.submit(frame)

    def on_publisher(self, state: PublisherState) -> None:
        if state is self.publisher:
            return
        self.publisher = state
        if state is PublisherState.ABSENT:
            self.publisher_left_at = self._clock.monotonic()
            self.publish_session = None
        self.publisher_problem = self.statistics().publisher_problem
        self._emit("publisher", {"state": state.value})

    def on_viewers(self, count: int) -> None:
        self.viewers = count
        self._emit("viewers", {"count": count})

    def on_hop(self, hop: MediaHop, seconds: float) -> None:
        self.traffic.note(hop, seconds)

    def on_output(self, output: OutputStatistics) -> None:
        self._emit("output", {"target": output.target, "state": output.state.value, "error": output.last_error})

    def on_recording(self, name: str, problem: str | None) -> None:
        if problem is None:
            self._recording_name = name
        elif name in (self._recording_name, ""):  # one that was followed by another says nothing of that
            self._recording = False
        state = "stopped" if problem else "started"
        self._emit("recording", {"name": name, "state": state, "problem": problem})
        if problem:
            log.warning("a recording stopped", stream_id=self.stream_id, name=name, problem=problem)

    async def hls_file(self, name: str) -> HlsFile | None:
        """A file of HLS; None when there is none of that name."""
        return await self._opened().hls_file(name)

    # What the worker tells

    def on_picture(self, picture: ProcessedPicture) -> None:
        media = self._media
        if media is None:
            return
        with self._sending:  # a placard that was chosen just now must not follow this picture
            self.traffic.leave(picture)
            media.send(picture.frame)

    def on_lane_status(self, status: LaneStatus) -> None:
        before = self.lane_status
        self.lane_status = status
        was_ready = before is not None and before.phase is LanePhase.READY and self._reload_revision is None
        self._end_reload(status)
        is_ready = status.phase is LanePhase.READY and self._reload_revision is None
        if before is None or was_ready != is_ready or (not is_ready and is_news(before, status)):
            self._lane_changed_at = self._clock.monotonic()
        self.loading.note(status)
        self._lane_errors.note(before, status)
        self._accelerations.note(status)
        if status.effective_sequence is not None and status.revision > self._effective_revision:
            self._effective_revision = status.revision
            self._emit("effective", {"revision": status.revision, "effective_frame": status.effective_sequence})

    # What others ask

    def moments(self, health: WorkerHealth) -> Moments:
        """The moments that decide state and placard, without the errors of the stream."""
        now = self._clock.monotonic()
        input_fps, output_fps = self.traffic.rates(now)
        return Moments(
            publisher=self.publisher,
            publisher_at=self.publisher_at,
            publisher_problem=self.publisher_problem,
            first_input_at=self.traffic.input.first_at,
            last_input_at=self.traffic.input.last_at,
            first_output_at=self.traffic.output.first_at,
            last_output_at=self.traffic.output.last_at,
            input_fps=input_fps,
            output_fps=output_fps,
            worker=health.phase,
            worker_error=health.last_error,
            lane=self.lane_status,
            load_seconds_left=self.loading.seconds_left,
            reloading=self._reload_revision is not None,
            lane_changed_at=self._lane_changed_at,
            restart_at=self.restart_at,
        )

    def look_for_lateness(self) -> None:
        """Tell when pictures begin to leave too old, and when they no longer do. Once each tick."""
        self._lateness.look(publishing=self.publisher is not PublisherState.ABSENT)

    def show_placard(self, moments: Moments) -> Placard | None:
        """Send the words that these moments ask for, if any; returns them. Once each tick."""
        if self._media is None:
            return None
        with self._sending:
            # A picture that has come since the moments were noted leaves nothing to be said.
            last_output_at = self.traffic.output.last_at
            if last_output_at != moments.last_output_at:
                moments = replace(moments, last_output_at=last_output_at)
            placard = choose_placard(moments, self._clock.monotonic(), self._thresholds)
            if placard is not None:
                self._media.send_placard(placard)
        return placard

    def statistics(self) -> MediaStatistics:
        """The media's counters, with what is to be said of late pictures; the last ones once closed."""
        if self._media is None:
            return self._final
        facts = self._media.statistics()
        warning = self._lateness.warning
        return replace(facts, warnings=(*facts.warnings, warning)) if warning else facts

    async def jpeg(self, processor: str | None = None) -> bytes | None:
        """The newest output picture, or what an image processor made last; None when there is no such thing."""
        if processor is not None:
            return None if self._lane is None else await self._lane.tap(processor)
        picture = self.latest_picture()
        return None if picture is None else await asyncio.to_thread(encode_jpeg, picture)

    def latest_picture(self) -> I420Frame | None:
        return None if self._media is None else self._media.latest_picture()

    def drops(self) -> dict[str, int]:
        """Drops by reason since the publisher came."""
        return {reason: count for reason, count in (self._all_drops() - self._drops_before).items() if count}

    def total_drops(self) -> Counter[str]:
        """Drops by reason since the media was opened."""
        return self._all_drops()

    async def close(self) -> None:
        """End every session and free the lane. Idempotent."""
        if self._beginning is not None:
            self._beginning.cancel()
        await self.close_lane()
        media, self._media = self._media, None
        if media is not None:
            self._final = media.statistics()  # counters must not fall while it closes
            await media.close()
            self._final = media.statistics()

    async def _begin_recording(self, media: MediaStream, shelf: RecordingShelf) -> None:
        try:
            file = await shelf.new_file(self.stream_id)
        except OSError as error:
            self.on_recording("", f"no file can be made: {error.strerror or error}")
            return
        try:
            media.record_to(file)
        except RuntimeError as error:  # no thread is to be had
            self.on_recording("", f"it cannot be begun: {error}")

    def _end_reload(self, status: LaneStatus) -> None:
        awaited = self._reload_revision
        if awaited is None:
            return
        # With the awaited revision refused the lane stays with what it had.
        answered = status.phase is LanePhase.READY and max(status.revision, status.refused_revision or 0) >= awaited
        if answered or status.phase is LanePhase.FAILED:
            self._reload_revision = None

    def _opened(self) -> MediaStream:
        if self._media is None:
            raise RuntimeError("the live stream is not open")
        return self._media

    def _all_drops(self) -> Counter[str]:
        drops = self.traffic.drops() + self._ended_lanes + Counter(self.statistics().drops)
        if self._lane is not None:
            drops += _lane_drops(self._lane.statistics())
        return drops


def _lane_drops(statistics: LaneStatistics) -> Counter[str]:
    return Counter(superseded=statistics.superseded, lost_in_worker=statistics.lost)


__all__ = ["Emit", "LiveStream"]
