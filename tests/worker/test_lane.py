"""The server's end of a lane, against a worker played by the test."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import numpy
import pytest

from sdstream.clock import ManualClock
from sdstream.errors import InternalError, WorkerEndedByStream, WorkerUnavailable
from sdstream.frames import PictureSize
from sdstream.model_errors import ModelUnavailable
from sdstream.params import StreamParams, StyleImage, load_params
from sdstream.platform.shared_memory import shared_memory_names
from sdstream.worker.channel import Channel
from sdstream.worker.messages import (
    IN_PLACE,
    CloseLane,
    LaneReport,
    Message,
    OpenLane,
    PictureIn,
    PictureOut,
    SlotsReturned,
    UpdateLane,
    UseRing,
)
from sdstream.worker.ports import LanePhase
from sdstream.worker.ring import FrameRing, memory_prefix
from sdstream.worker.server_end.handover import ParamsHandover
from sdstream.worker.server_end.lane import WorkerLane
from tests.worker.pictures import MODELS, Recorder, flat, make_params, until

PREFIX = f"{memory_prefix()}lane-"
SIZE = PictureSize(64, 64)


class PlayedWorker:
    """Takes what a lane sends, and answers as the test wants."""

    def __init__(self, lane: WorkerLane) -> None:
        self.lane = lane
        self.sent: list[Message] = []
        self.channel = cast(Channel, self)
        self._output: FrameRing | None = None

    def send(self, message: Message) -> None:
        self.sent.append(message)
        if isinstance(message, UseRing):
            FrameRing.open(message.name, message.ring, message.slot_bytes, message.slots).unlink()

    def of(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]

    @property
    def pictures(self) -> list[PictureIn]:
        return self.of(PictureIn)

    def pass_on(self, picture: PictureIn) -> None:
        """The picture is its own result."""
        done = PictureOut(1, picture.ring, picture.slot, IN_PLACE, picture.slot, SIZE.width, SIZE.height, 1, 0.01, 0.02)
        self.lane.on_picture_out(done, self.channel)

    def make(self, picture: PictureIn, slot: int, luma: int) -> None:
        """The result is a flat picture in an output slot."""
        if self._output is None:
            self._output = FrameRing.create(PREFIX, 1, SIZE.byte_count)
            ring = self._output
            message = UseRing(1, ring.number, ring.name, ring.slot_bytes, ring.slots)
            self.lane.on_use_ring(message, self.channel)
        self._output.write(slot, flat(SIZE, luma))
        done = PictureOut(1, picture.ring, picture.slot, 1, slot, SIZE.width, SIZE.height, 1, 0.01, 0.02)
        self.lane.on_picture_out(done, self.channel)

    def drop(self, *pictures: PictureIn) -> None:
        for picture in pictures:
            self.lane.on_slots_returned(SlotsReturned(1, picture.ring, [picture.slot]), self.channel)

    def report(
        self,
        phase: str,
        revision: int,
        code: str | None = None,
        message: str | None = None,
        refused: int | None = None,
        part: str = "",
    ) -> None:
        report = LaneReport(1, phase, revision, None, "", None, code, message, refused, refused_part=part)
        self.lane.on_report(report, self.channel)


class Bench:
    def __init__(self) -> None:
        self.listener = Recorder()
        self.forgotten: list[WorkerLane] = []
        handover = ParamsHandover(make_params(), 1)
        self.lane = WorkerLane(1, "stream", handover, self.listener, ManualClock(), self.forgotten.append)
        self.worker = PlayedWorker(self.lane)

    def attach(self) -> None:
        self.lane.attach(self.worker.channel, PREFIX)

    def submit(self, *sequences: int) -> None:
        for sequence in sequences:
            self.lane.submit(flat(SIZE, sequence % 200 + 16, sequence))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.attach()
    bench.worker.report("ready", 1)
    yield bench
    await bench.lane.close()
    assert shared_memory_names(PREFIX) == []


async def test_a_picture_comes_back_with_the_clock_it_came_with(bench: Bench) -> None:
    frame = flat(SIZE, 77, 5, received_at=12.5)
    bench.lane.submit(frame)
    bench.worker.pass_on(bench.worker.pictures[0])
    picture = bench.listener.pictures[0]
    assert (picture.frame.pts, picture.frame.sequence, picture.frame.received_at) == (15000, 5, 12.5)
    assert picture.frame.time_base == frame.time_base
    assert numpy.array_equal(picture.frame.y, frame.y)
    assert (picture.revision, picture.worker_seconds, picture.queue_seconds) == (1, 0.01, 0.02)


async def test_submit_copies_at_once(bench: Bench) -> None:
    frame = flat(SIZE, 77)
    bench.lane.submit(frame)
    frame.y[...] = 0
    bench.worker.pass_on(bench.worker.pictures[0])
    assert (bench.listener.pictures[0].frame.y == 77).all()


async def test_when_the_worker_has_every_slot_the_newest_picture_waits(bench: Bench) -> None:
    bench.submit(0, 1, 2, 3, 4, 5, 6)
    assert [picture.sequence for picture in bench.worker.pictures] == [0, 1, 2, 3]
    bench.worker.drop(bench.worker.pictures[1])
    assert [picture.sequence for picture in bench.worker.pictures] == [0, 1, 2, 3, 6]
    statistics = bench.lane.statistics()
    assert (statistics.submitted, statistics.superseded) == (7, 3)


async def test_counts_add_up_when_everything_has_come_back(bench: Bench) -> None:
    bench.submit(*range(10))
    while pending := [picture for picture in bench.worker.pictures if picture.sequence not in bench.listener.sequences]:
        bench.worker.pass_on(pending[0])
    statistics = bench.lane.statistics()
    assert statistics.submitted == 10 == statistics.processed + statistics.superseded
    assert bench.listener.sequences == [0, 1, 2, 3, 9]


async def test_results_in_output_slots_are_read_and_given_back_by_the_next_picture(bench: Bench) -> None:
    bench.submit(0)
    bench.worker.make(bench.worker.pictures[0], slot=2, luma=99)
    assert (bench.listener.pictures[0].frame.y == 99).all()
    bench.submit(1)
    assert (bench.worker.pictures[1].returned_ring, bench.worker.pictures[1].returned) == (1, [2])
    bench.worker.pass_on(bench.worker.pictures[1])
    bench.submit(2)
    assert bench.worker.pictures[2].returned == []


async def test_results_without_a_next_picture_are_given_back_by_themselves(bench: Bench) -> None:
    bench.submit(0, 1)
    bench.worker.make(bench.worker.pictures[0], slot=0, luma=50)
    bench.worker.make(bench.worker.pictures[1], slot=1, luma=51)
    assert [returned.slots for returned in bench.worker.of(SlotsReturned)] == [[0, 1]]


async def test_a_slot_is_not_filled_while_its_picture_is_shown(bench: Bench) -> None:
    bench.submit(0, 1, 2, 3, 4)
    first = bench.worker.pictures[0]
    waiting: list[int] = []
    bench.listener.on_picture = lambda picture: waiting.append(len(bench.worker.pictures))  # type: ignore[method-assign]
    bench.worker.pass_on(first)
    assert waiting == [4], "the waiting picture was written before the shown one was done with"
    assert bench.worker.pictures[4].slot == first.slot


async def test_a_larger_picture_gets_a_new_ring_and_old_ones_still_come_back(bench: Bench) -> None:
    bench.submit(0)
    bench.lane.submit(flat(PictureSize(640, 480), 90, 1))
    small, large = bench.worker.pictures
    assert (small.ring, large.ring) == (1, 2)
    bench.worker.pass_on(small)
    assert (bench.listener.pictures[0].frame.y == 16).all()
    bench.submit(2, 3, 4, 5)
    assert {picture.ring for picture in bench.worker.pictures[2:]} == {2}


async def test_updates_wait_for_an_answer_and_the_newest_wins(bench: Bench) -> None:
    for revision in range(2, 30):
        bench.lane.update(make_params(seed=revision), revision)
    assert [update.revision for update in bench.worker.of(UpdateLane)] == [2]
    bench.worker.report("ready", 2)
    assert [update.revision for update in bench.worker.of(UpdateLane)] == [2, 29]
    assert load_params(bench.worker.of(UpdateLane)[-1].params, MODELS) == make_params(seed=29)
    bench.worker.report("ready", 29)
    assert len(bench.worker.of(UpdateLane)) == 2


async def test_while_the_worker_loads_a_newer_update_is_sent_at_once(bench: Bench) -> None:
    bench.lane.update(make_params(seed=2), 2)
    bench.lane.update(make_params(seed=3), 3)
    bench.worker.report("loading", 1)
    assert [update.revision for update in bench.worker.of(UpdateLane)] == [2, 3]
    bench.lane.update(make_params(seed=4), 4)
    bench.lane.update(make_params(seed=5), 5)
    assert [update.revision for update in bench.worker.of(UpdateLane)] == [2, 3], "it has not begun with 3"
    bench.worker.report("loading", 1)
    assert [update.revision for update in bench.worker.of(UpdateLane)] == [2, 3, 5]
    bench.worker.report("ready", 5)
    assert len(bench.worker.of(UpdateLane)) == 3


async def test_what_came_into_force_although_newer_params_were_sent_is_what_a_new_worker_falls_back_to(
    bench: Bench,
) -> None:
    bench.lane.update(make_params("blur"), 2)
    bench.worker.report("loading", 1)
    bench.lane.update(make_params("depth"), 3)
    bench.worker.report("ready", 2)
    bench.worker.report("ready", 2, ModelUnavailable.code, "no depth", refused=3)
    bench.lane.detach("killed")
    bench.worker = PlayedWorker(bench.lane)
    bench.attach()
    (opened,) = bench.worker.of(OpenLane)
    assert (opened.revision, load_params(opened.params, MODELS)) == (2, make_params("blur"))


async def test_a_refused_update_is_not_sent_again_and_a_newer_one_is(bench: Bench) -> None:
    bench.lane.update(make_params("depth"), 2)
    bench.worker.report("ready", 1, ModelUnavailable.code, "no depth", refused=2)
    assert [update.revision for update in bench.worker.of(UpdateLane)] == [2]
    bench.lane.update(make_params("blur"), 3)
    bench.lane.update(make_params("canny"), 4)
    bench.worker.report("ready", 1, ModelUnavailable.code, "no depth", refused=3)
    assert [update.revision for update in bench.worker.of(UpdateLane)] == [2, 3, 4]


async def test_after_a_restart_params_that_were_refused_do_not_cost_the_picture(bench: Bench) -> None:
    bench.lane.update(make_params("depth"), 2)
    bench.worker.report("ready", 1, ModelUnavailable.code, "no depth", refused=2)
    bench.lane.detach("killed")
    bench.worker = PlayedWorker(bench.lane)
    bench.attach()
    (opened,) = bench.worker.of(OpenLane)
    assert (opened.revision, load_params(opened.params, MODELS)) == (1, make_params())
    bench.worker.report("ready", 1)
    await until(lambda: [status.phase for status in bench.listener.statuses].count(LanePhase.READY) == 3)
    status = bench.listener.statuses[-1]
    assert (status.revision, status.refused_revision, status.error_message) == (1, 2, "no depth")
    assert bench.worker.of(UpdateLane) == []
    bench.lane.update(make_params("blur"), 3)
    bench.worker.report("ready", 3)
    await until(lambda: bench.listener.statuses[-1].revision == 3)
    assert bench.listener.statuses[-1].error_message is None


def styled(letter: str, **fields: Any) -> StreamParams:
    uri = "data:image/png;base64,iVBORw0KGgo" + letter * 4001 + "SUVORA=="
    return make_params(model_id="stabilityai/sdxl-turbo", ip_adapter_style_image_url=uri, **fields)


async def test_a_style_image_goes_to_each_worker_once(bench: Bench) -> None:
    wanted = [styled("A"), styled("A", prompt="x"), make_params(), styled("A"), styled("B"), styled("B", seed=5)]
    for revision, params in enumerate(wanted, 2):
        bench.lane.update(params, revision)
        bench.worker.report("ready", revision)
    updates = bench.worker.of(UpdateLane)
    assert [update.image and update.image[-9] for update in updates] == ["A", None, None, None, "B", None]
    assert max(len(update.params) for update in updates) < 4000
    bench.lane.detach("killed")
    bench.worker = PlayedWorker(bench.lane)
    bench.attach()
    (opened,) = bench.worker.of(OpenLane)
    image = StyleImage(opened.image)
    assert load_params(opened.params, MODELS, {image.digest: image}) == wanted[-1]


async def test_a_late_update_does_not_undo_a_newer_one(bench: Bench) -> None:
    bench.lane.update(make_params(seed=5), 5)
    bench.lane.update(make_params(seed=4), 4)
    bench.worker.report("ready", 5)
    assert [update.revision for update in bench.worker.of(UpdateLane)] == [5]


async def test_after_a_restart_the_lane_opens_with_its_newest_params_and_counts_its_losses(bench: Bench) -> None:
    bench.submit(0, 1, 2, 3, 4)
    bench.lane.update(make_params(seed=8), 2)
    bench.lane.update(make_params(seed=9), 3)
    bench.lane.detach("the worker was ended by signal 9")
    bench.submit(5)
    statistics = bench.lane.statistics()
    assert (statistics.lost, statistics.superseded) == (4, 2)
    bench.worker = PlayedWorker(bench.lane)
    bench.attach()
    assert bench.worker.of(OpenLane)[0].revision == 3
    assert load_params(bench.worker.of(OpenLane)[0].params, MODELS) == make_params(seed=9)
    bench.submit(6)
    bench.worker.pass_on(bench.worker.pictures[0])
    assert bench.listener.sequences == [6]
    await until(lambda: LanePhase.WAITING in [status.phase for status in bench.listener.statuses])


async def test_messages_of_a_worker_that_is_gone_are_ignored(bench: Bench) -> None:
    bench.submit(0)
    old, picture = bench.worker, bench.worker.pictures[0]
    bench.lane.detach("gone")
    bench.worker = PlayedWorker(bench.lane)
    bench.attach()
    bench.submit(1)
    old.pass_on(picture)
    old.drop(picture)
    old.report("failed", 99)
    assert bench.listener.pictures == []
    assert bench.lane.statistics().lost == 1
    bench.worker.pass_on(bench.worker.pictures[0])
    assert bench.listener.sequences == [1]


async def test_process_loses_nothing_and_keeps_the_order(bench: Bench) -> None:
    calls = [asyncio.create_task(bench.lane.process(flat(SIZE, 20 + number, number))) for number in range(9)]
    await until(lambda: bench.worker.pictures)
    for number in range(9):
        picture = bench.worker.pictures[number]
        assert picture.keep
        bench.worker.pass_on(picture)
    frames = [await call for call in calls]
    assert [(frame.sequence, int(frame.y[0, 0])) for frame in frames] == [(n, 20 + n) for n in range(9)]
    assert bench.listener.pictures == []
    assert bench.lane.statistics().superseded == 0


async def test_a_result_of_process_is_a_copy(bench: Bench) -> None:
    call = asyncio.create_task(bench.lane.process(flat(SIZE, 33)))
    await until(lambda: bench.worker.pictures)
    bench.worker.pass_on(bench.worker.pictures[0])
    frame = await call
    bench.submit(*range(100, 108))
    assert (frame.y == 33).all()


async def test_process_waits_for_a_worker_that_is_only_starting() -> None:
    bench = Bench()
    call = asyncio.create_task(bench.lane.process(flat(SIZE, 40)))
    await asyncio.sleep(0)
    bench.attach()
    bench.worker.pass_on(bench.worker.pictures[0])
    assert (await call).y[0, 0] == 40
    await bench.lane.close()


async def test_process_ends_with_the_worker(bench: Bench) -> None:
    calls = [asyncio.create_task(bench.lane.process(flat(SIZE, 40))) for _ in range(6)]
    await until(lambda: len(bench.worker.pictures) == 4)
    bench.lane.detach("the worker was ended by signal 9")
    for call in calls:
        with pytest.raises(WorkerUnavailable, match="signal 9"):
            await call


@pytest.mark.parametrize(
    ("code", "error"), [(ModelUnavailable.code, ModelUnavailable), (InternalError.code, InternalError)]
)
async def test_process_says_why_the_lane_failed(bench: Bench, code: str, error: type[Exception]) -> None:
    under_way = asyncio.create_task(bench.lane.process(flat(SIZE, 40)))
    await until(lambda: bench.worker.pictures)
    bench.worker.report("failed", 1, code, "depth is not here")
    bench.worker.drop(bench.worker.pictures[0])
    with pytest.raises(error, match="depth is not here"):
        await under_way
    with pytest.raises(error, match="depth is not here"):
        await bench.lane.process(flat(SIZE, 40))


async def test_a_call_that_was_given_up_does_not_stop_the_next(bench: Bench) -> None:
    calls = [asyncio.create_task(bench.lane.process(flat(SIZE, 30 + n, n))) for n in range(6)]
    await until(lambda: len(bench.worker.pictures) == 4)
    calls[0].cancel()
    calls[4].cancel()
    await asyncio.sleep(0)
    for position in range(5):
        bench.worker.pass_on(bench.worker.pictures[position])
    assert (await calls[5]).sequence == 5
    for call in calls[1:4]:
        await call


async def test_a_failed_lane_takes_no_pictures(bench: Bench) -> None:
    bench.worker.report("failed", 1, ModelUnavailable.code, "no")
    bench.submit(0, 1)
    assert bench.worker.pictures == []
    assert bench.lane.statistics().superseded == 2
    bench.worker.report("ready", 2)
    bench.submit(2)
    assert [picture.sequence for picture in bench.worker.pictures] == [2]


async def test_no_room_for_pictures_fails_the_lane_and_not_the_decoder(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> FrameRing:
        raise MemoryError("no room for 24576 bytes in /dev/shm")

    monkeypatch.setattr(FrameRing, "create", full)
    bench.submit(0)
    await until(lambda: bench.listener.statuses[-1].phase is LanePhase.FAILED)
    assert "no room" in (bench.listener.statuses[-1].error_message or "")


async def test_no_room_for_a_picture_of_a_file_is_said_to_whoever_waits_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> FrameRing:
        raise MemoryError("no room for 24576 bytes in /dev/shm")

    monkeypatch.setattr(FrameRing, "create", full)
    async with asyncio.timeout(30):
        with pytest.raises(InternalError, match="no room"):
            await bench.lane.process(flat(SIZE, 40))
    assert bench.lane.statistics().lost == 1


async def test_a_picture_for_which_there_was_no_room_does_not_keep_smaller_ones_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = FrameRing.create

    def small(prefix: str, number: int, slot_bytes: int) -> FrameRing:
        if slot_bytes > SIZE.byte_count:
            raise MemoryError("no room")
        return create(prefix, number, slot_bytes)

    monkeypatch.setattr(FrameRing, "create", small)
    bench.worker.report("ready", 1)
    large = flat(PictureSize(128, 128), 40)
    bench.lane.submit(large)
    bench.lane.submit(large)
    await until(lambda: bench.listener.statuses[-1].phase is LanePhase.FAILED)
    bench.submit(7)
    await until(lambda: bench.listener.statuses[-1].phase is LanePhase.READY)
    (picture,) = bench.worker.pictures
    assert picture.sequence == 7
    bench.worker.pass_on(picture)
    bench.submit(8)
    assert [picture.sequence for picture in bench.worker.pictures] == [7, 8]
    assert bench.lane.statistics().superseded == 2


async def test_closing_tells_the_worker_ends_calls_and_is_idempotent(bench: Bench) -> None:
    call = asyncio.create_task(bench.lane.process(flat(SIZE, 40)))
    await until(lambda: bench.worker.pictures)
    for _ in range(2):
        await bench.lane.close()
    with pytest.raises(WorkerUnavailable):
        await call
    with pytest.raises(WorkerUnavailable):
        await bench.lane.process(flat(SIZE, 40))
    bench.submit(1)
    bench.lane.update(make_params(), 9)
    assert len(bench.worker.of(CloseLane)) == 1
    assert bench.forgotten == [bench.lane]
    assert len(bench.worker.pictures) == 1


async def test_a_lane_that_is_kept_away_from_the_worker_stays_failed_until_its_next_update(bench: Bench) -> None:
    released: list[WorkerLane] = []
    bench.lane.keep_away("signal 9", released.append)
    bench.submit(1)
    with pytest.raises(WorkerEndedByStream, match=r"twice \(signal 9\); change its parameters"):
        await bench.lane.process(flat(SIZE, 20))
    await until(lambda: bench.listener.statuses[-1].phase is LanePhase.FAILED)
    assert bench.listener.statuses[-1].error_code == WorkerEndedByStream.code
    assert (released, bench.worker.of(UpdateLane)) == ([], [])

    bench.lane.update(make_params("blur"), 2)
    bench.lane.update(make_params("canny"), 3)
    assert released == [bench.lane]
    await until(lambda: bench.listener.statuses[-1].revision == 3)
    assert bench.listener.statuses[-1].phase is LanePhase.WAITING
    bench.attach()
    assert bench.worker.of(OpenLane)[-1].revision == 3
