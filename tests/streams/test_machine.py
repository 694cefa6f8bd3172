"""Whatever is done to the service in whatever order, its promises hold."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sdstream.clock import ManualClock
from sdstream.errors import CapacityReached, Conflict, InvalidSdp, NoPictureYet, SessionNotFound, StreamNotFound
from sdstream.media.ports import Placard
from sdstream.params import ModelTable
from sdstream.settings import load_settings
from sdstream.streams.service import StreamService
from sdstream.streams.views import StreamRecord, StreamState
from sdstream.worker.ports import LanePhase, WorkerPhase
from tests.streams.conftest import CREATE
from tests.streams.fakes import OFFER, FakeMedia, FakeWorker, picture

pick = st.integers(0, 1_000_000)
MAX_STREAMS = 4


class ServiceMachine(RuleBasedStateMachine):
    """Streams are created, updated, published, watched, killed and deleted; the server restarts, time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.records: dict[str, StreamRecord] = {}
        self.gone: list[StreamRecord] = []
        self.publishers: dict[str, str] = {}
        self.watchers: dict[str, set[str]] = {}
        self.frames = 0

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock()
        self._start()

    def _start(self) -> None:
        self.media, self.worker = FakeMedia(), FakeWorker(self.clock)
        loaded = load_settings({"max_streams": MAX_STREAMS, "idle_stream_timeout": 1e6}, {})
        self.service = StreamService(
            loaded,
            media=self.media,
            worker=self.worker,
            models=ModelTable.from_settings(loaded),
            data_dir=Path(self.folder.name),
            clock=self.clock,
            tick_seconds=None,
        )
        self.do(self.service.start())
        self.publishers.clear()
        self.watchers = {stream_id: set() for stream_id in self.records}

    def choose(self, number: int) -> StreamRecord:
        return list(self.records.values())[number % len(self.records)]

    # Moves

    @rule()
    def create(self) -> None:
        try:
            record = self.do(self.service.create(CREATE, "ann")).record
        except CapacityReached:
            assert self.service.capacity().streams >= MAX_STREAMS
            return
        self.records[record.id] = record
        self.watchers[record.id] = set()

    @precondition(lambda self: self.records)
    @rule(number=pick, params=st.sampled_from([{"prompt": "a"}, {"seed": 3}, {"width": 640}, {"skip_diffusion": True}]))
    def update(self, number: int, params: dict[str, Any]) -> None:
        record = self.choose(number)
        live = record.id in self.publishers
        try:
            outcome = self.do(self.service.update(record.id, {"params": params}))
        except Conflict:
            assert live
            assert "width" in params
            return
        assert outcome.record.revision in (record.revision, record.revision + 1)
        self.records[record.id] = outcome.record

    @precondition(lambda self: self.records)
    @rule(number=pick)
    def update_at_once(self, number: int) -> None:
        record = self.choose(number)

        async def race() -> list[Any]:
            bodies = [{"params": {"prompt": f"p{value}"}} for value in range(8)]
            return await asyncio.gather(*(self.service.update(record.id, body) for body in bodies))

        outcomes = self.do(race())
        assert outcomes[-1].record.params.prompt == "p7"
        self.records[record.id] = outcomes[-1].record

    @precondition(lambda self: self.records)
    @rule(number=pick, good=st.booleans(), connected=st.booleans())
    def publish(self, number: int, good: bool, connected: bool) -> None:
        record = self.choose(number)
        try:
            opened = self.do(self.service.publish(record.stream_key, OFFER if good else "bad"))
        except InvalidSdp:
            assert not good
            return
        except CapacityReached:
            assert self.service.capacity().streams >= MAX_STREAMS
            return
        self.publishers[record.id] = opened.answer.session_id
        if connected:
            self.media.streams[record.id].connect()

    @precondition(lambda self: self.records)
    @rule(number=pick)
    def watch(self, number: int) -> None:
        record = self.choose(number)
        try:
            opened = self.do(self.service.watch(record.output_playback_id, OFFER))
        except NoPictureYet:
            assert record.id not in self.publishers
            return
        self.watchers[record.id].add(opened.answer.session_id)

    @precondition(lambda self: self.publishers)
    @rule(number=pick, politely=st.booleans())
    def unpublish(self, number: int, politely: bool) -> None:
        stream_id = list(self.publishers)[number % len(self.publishers)]
        session = self.publishers.pop(stream_id)
        if politely:
            self.do(self.service.end_publish_session(self.records[stream_id].stream_key, session))
        else:
            self.media.streams[stream_id].lose_publisher()
        with pytest.raises(SessionNotFound):
            self.do(self.service.end_publish_session(self.records[stream_id].stream_key, session))

    @precondition(lambda self: any(self.watchers.values()))
    @rule(number=pick)
    def unwatch(self, number: int) -> None:
        sessions = [(stream_id, name) for stream_id, names in self.watchers.items() for name in sorted(names)]
        stream_id, name = sessions[number % len(sessions)]
        self.watchers[stream_id].remove(name)
        self.do(self.service.end_watch_session(self.records[stream_id].output_playback_id, name))

    @precondition(lambda self: self.records)
    @rule(number=pick)
    def delete(self, number: int) -> None:
        record = self.choose(number)
        self.do(self.service.delete(record.id))
        del self.records[record.id], self.watchers[record.id]
        self.publishers.pop(record.id, None)
        self.gone.append(record)

    @rule(processed=st.booleans())
    def pictures_flow(self, processed: bool) -> None:
        for stream_id in self.publishers:
            self.media.streams[stream_id].listener.on_video(picture(self.clock, self.frames))
            self.frames += 1
            if processed and self.worker.facts.phase is WorkerPhase.READY:
                self.worker.lanes[stream_id].give_back()

    @rule()
    def worker_dies(self) -> None:
        self.worker.die()

    @rule()
    def worker_comes_back(self) -> None:
        if self.worker.facts.phase is WorkerPhase.RESTARTING:
            self.worker.revive()

    @precondition(lambda self: self.publishers)
    @rule(number=pick, phase=st.sampled_from([LanePhase.LOADING, LanePhase.READY, LanePhase.FAILED]))
    def lane_reports(self, number: int, phase: LanePhase) -> None:
        stream_id = list(self.publishers)[number % len(self.publishers)]
        failure = {"error_code": "MODELS/UNAVAILABLE", "error_message": "no"} if phase is LanePhase.FAILED else {}
        self.worker.lanes[stream_id].report(phase, **failure)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 20.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.do(self.service.tick())
        for stream_id in list(self.publishers):
            if self.media.streams[stream_id].publisher is None:  # ended for its silence
                del self.publishers[stream_id]
        for stream_id in self.watchers:
            if stream_id in self.media.streams:
                self.watchers[stream_id] &= self.media.streams[stream_id].watchers

    @rule()
    def server_restarts(self) -> None:
        self.do(self.service.close())
        assert all(stream.closed for stream in self.media.streams.values())
        assert not self.worker.open_lanes()
        self._start()

    # Promises

    @invariant()
    def records_are_as_answered(self) -> None:
        assert {record.id: record for record in self.service.list_streams(None)} == self.records

    @invariant()
    def what_is_deleted_stays_deleted(self) -> None:
        for record in self.gone:
            with pytest.raises(StreamNotFound):
                self.service.get(record.id)

    @invariant()
    def the_state_follows_the_publisher(self) -> None:
        for stream_id in self.records:
            status = self.service.status(stream_id)
            assert (status.state is StreamState.OFFLINE) is (stream_id not in self.publishers)
            if stream_id in self.publishers:
                assert status.publisher_accepted
                lane = self.worker.lanes[stream_id]
                assert not lane.closed
                assert (lane.params, lane.revision) == (
                    self.records[stream_id].params,
                    self.records[stream_id].revision,
                )

    @invariant()
    def sessions_stay_until_they_are_ended(self) -> None:
        for stream_id, session in self.publishers.items():
            assert self.media.streams[stream_id].publisher == session
        for stream_id, names in self.watchers.items():
            if names:
                assert self.media.streams[stream_id].watchers == names

    @invariant()
    def nothing_is_open_for_streams_that_are_gone(self) -> None:
        for stream_id, stream in self.media.streams.items():
            assert stream.closed or stream_id in self.records
        for lane in self.worker.open_lanes():
            assert lane.stream_id in self.records

    @invariant()
    def who_watches_sees_words_or_pictures(self) -> None:
        for stream_id in self.publishers:
            assert self.media.streams[stream_id].sent
            last = self.media.streams[stream_id].sent[-1]
            assert isinstance(last, (int, Placard))

    @invariant()
    def the_numbers_agree(self) -> None:
        statistics = self.service.statistics()
        assert statistics.streams == len(self.records)
        assert statistics.publishers == len(self.publishers)
        assert sum(statistics.states.values()) == len(self.records)
        capacity = self.service.capacity()
        assert len(self.publishers) <= capacity.streams <= MAX_STREAMS

    def teardown(self) -> None:
        if hasattr(self, "service"):
            self.do(self.service.close())
        self.loop.close()
        self.folder.cleanup()


ServiceMachine.TestCase.settings = hypothesis_settings(max_examples=30, stateful_step_count=30, deadline=None)
TestServiceMachine = ServiceMachine.TestCase
