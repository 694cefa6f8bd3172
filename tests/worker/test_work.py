"""The worker's end of a lane, without a process: the fast path and its twin, failure, new params, rings."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import pytest
import torch

from sdstream.clock import ManualClock
from sdstream.errors import InternalError
from sdstream.frames import I420Frame, PictureSize
from sdstream.model_errors import ModelUnavailable
from sdstream.params import StreamParams, dump_params, image_apart
from sdstream.platform.shared_memory import shared_memory_names
from sdstream.worker.devices import Device
from sdstream.worker.loading.preparation import Preparation
from sdstream.worker.messages import (
    IN_PLACE,
    AtWork,
    LaneReport,
    Message,
    OpenLane,
    PictureIn,
    PictureOut,
    SlotsReturned,
    UpdateLane,
    UseRing,
)
from sdstream.worker.outcomes import LoadGivenUp
from sdstream.worker.pipelines import ProcessorPipeline
from sdstream.worker.ring import FrameRing, memory_prefix, sweep_own_memory
from sdstream.worker.scheduling.flight import Flight
from sdstream.worker.scheduling.load import LoadMeter
from sdstream.worker.scheduling.loop import Loop
from sdstream.worker.scheduling.scheduler import Scheduler
from sdstream.worker.scheduling.turns import WantedParams
from sdstream.worker.work import LaneWork
from tests.worker.pictures import MODELS, make_params, noise

PREFIX = f"{memory_prefix()}work-"
SIZE = PictureSize(384, 384)
CPU = torch.device("cpu")
CPU_DEVICE = Device.choose("cpu")


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    """Most tests do not look at output memory, so nobody opens and unlinks it."""
    yield
    sweep_own_memory(PREFIX)


class Bench:
    """One lane, and the server's side of its rings."""

    def __init__(
        self, params: StreamParams, pass_unchanged: bool = True, overlap: bool = True, at_once: bool = False
    ) -> None:
        self.at_once = at_once
        self.sent: list[Message] = []
        self.scheduler = Scheduler(ManualClock())
        self.work = LaneWork(
            1,
            "stream",
            device=torch.device("cpu"),
            models=MODELS,
            memory_prefix=PREFIX,
            scheduler=self.scheduler,
            send=self.sent.append,
            clock=ManualClock(),
            pass_unchanged=pass_unchanged,
        )
        self.preparation = Preparation(self.scheduler, CPU_DEVICE, ManualClock())
        self.loop = Loop(
            self.scheduler,
            {1: self.work},
            self.preparation,
            CPU_DEVICE,
            LoadMeter(),
            ManualClock(),
            overlap=overlap,
            before_long=lambda: None,
        )
        self.scheduler.open(1, WantedParams(dump_params(params), 1))
        self.input: FrameRing | None = None
        self.output: FrameRing | None = None
        self.slots: list[int] = []

    def turns(self) -> None:
        """Do all there is to do, as the worker's loop does, until nothing is being prepared."""
        while self.loop.step() or self.work.preparing:
            if self.work.preparing:
                self.scheduler.wait()

    def put(self, frame: I420Frame, slot: int = 0, returned: Sequence[int] = (), keep: bool = False) -> None:
        if self.input is None or not self.input.fits(frame.size):
            number = 1 if self.input is None else self.input.number + 1
            ring = self.input = FrameRing.create(PREFIX, number, frame.size.byte_count)
            self.work.use_ring(UseRing(1, ring.number, ring.name, ring.slot_bytes, ring.slots))
        self.input.write(slot, frame)
        returned_ring = 0 if self.output is None else self.output.number
        message = PictureIn(
            1,
            self.input.number,
            slot,
            frame.size.width,
            frame.size.height,
            frame.sequence,
            0.0,
            0.0,
            frame.full_range,
            frame.matrix == "bt709",
            keep,
            returned_ring,
            list(returned),
        )
        self.work.accept(message, at_once=self.at_once)

    def of(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]

    def result(self) -> I420Frame:
        """The last picture made."""
        for message in self.of(UseRing):
            if self.output is None or self.output.number < message.ring:
                self.output = FrameRing.open(message.name, message.ring, message.slot_bytes, message.slots)
                self.output.unlink()
        done = self.of(PictureOut)[-1]
        ring = self.input if done.ring == IN_PLACE else self.output
        assert ring is not None
        return I420Frame(*ring.planes(done.slot, PictureSize(done.width, done.height)))

    def make(self, frame: I420Frame, **how: Any) -> I420Frame:
        self.put(frame, **how)
        self.turns()
        return self.result()


@pytest.mark.parametrize("overlap", [False, True])
def test_a_picture_under_way_is_told_from_the_first_of_its_kind(monkeypatch: pytest.MonkeyPatch, overlap: bool) -> None:
    bench = Bench(make_params("blur"), overlap=overlap)
    bench.turns()
    told: list[float | None] = []
    launch = Flight.launch

    def watched(flight: Flight, pictures: Any) -> None:
        told.append(bench.loop.usual_seconds)
        launch(flight, pictures)

    monkeypatch.setattr(Flight, "launch", watched)
    for number in range(3):
        bench.make(noise(SIZE, number))
    assert told[0] is None
    assert told[1:] == [0.0, 0.0], "by a clock that stands still"


@pytest.mark.parametrize("seed", range(4))
def test_the_fast_path_and_its_plain_twin_give_the_same_picture(seed: int) -> None:
    frame = noise(SIZE, seed)
    fast, plain = Bench(make_params("passthrough")), Bench(make_params("passthrough"), pass_unchanged=False)
    for one, other in zip(fast.make(frame).planes, plain.make(frame).planes, strict=True):
        assert int(numpy.abs(one.astype(int) - other.astype(int)).max()) <= 1
    assert fast.of(PictureOut)[0].ring == IN_PLACE
    assert plain.of(PictureOut)[0].ring != IN_PLACE


def test_what_is_prepared_without_diffusion_is_no_model() -> None:
    bench = Bench(make_params())
    bench.turns()
    assert next(each.detail for each in bench.sent if isinstance(each, LaneReport)) == "preparing image processors"


@pytest.mark.parametrize("size", [PictureSize(640, 480), PictureSize(1280, 720), PictureSize(320, 240)], ids=str)
def test_a_picture_of_another_size_is_the_same_with_and_without_the_way_over_rgb(size: PictureSize) -> None:
    frame = noise(size, 7)
    fast, plain = Bench(make_params()), Bench(make_params(), pass_unchanged=False)
    for one, other in zip(fast.make(frame).planes, plain.make(frame).planes, strict=True):
        assert one.shape == other.shape
        assert int(numpy.abs(one.astype(int) - other.astype(int)).max()) <= 1


@pytest.mark.parametrize(
    "frame",
    [noise(SIZE, matrix="bt709"), noise(SIZE, full_range=True), noise(PictureSize(640, 480))],
    ids=["bt709", "full range", "another size"],
)
def test_a_picture_that_must_change_is_not_passed_on(frame: I420Frame) -> None:
    bench = Bench(make_params())
    result = bench.make(frame)
    assert bench.of(PictureOut)[0].ring != IN_PLACE
    assert result.size == SIZE


def test_a_processor_works_on_the_picture() -> None:
    frame = noise(SIZE)
    result = Bench(make_params("canny")).make(frame)
    assert set(numpy.unique(result.y)) <= {16, 235}
    assert (result.u == 128).all()


def test_the_first_picture_under_new_params_is_reported() -> None:
    bench = Bench(make_params())
    bench.make(noise(SIZE, sequence=5))
    bench.make(noise(SIZE, sequence=6))
    bench.scheduler.update(1, WantedParams(dump_params(make_params("blur")), 7))
    bench.make(noise(SIZE, sequence=7))
    ready = [report for report in bench.of(LaneReport) if report.phase == "ready"]
    assert [(report.revision, report.effective_sequence) for report in ready] == [
        (1, None),
        (1, 5),
        (7, None),
        (7, 7),
    ]
    assert [done.revision for done in bench.of(PictureOut)] == [1, 1, 7]


def test_a_hot_change_does_not_load_again() -> None:
    bench = Bench(make_params("blur"))
    bench.turns()
    before = len([report for report in bench.of(LaneReport) if report.phase == "loading"])
    bench.scheduler.update(1, WantedParams(dump_params(make_params("canny")), 2))
    bench.turns()
    assert len([report for report in bench.of(LaneReport) if report.phase == "loading"]) == before == 1


def test_a_lane_that_cannot_load_fails_by_name_and_gives_pictures_back() -> None:
    bench = Bench(make_params(skip_diffusion=False))
    bench.put(noise(SIZE), slot=0)
    bench.turns()
    report = bench.of(LaneReport)[-1]
    assert (report.phase, report.revision, report.error_code) == ("failed", 1, ModelUnavailable.code)
    assert "sd-turbo" in report.error_message
    bench.put(noise(SIZE), slot=1)
    assert [returned.slots for returned in bench.of(SlotsReturned)] == [[0], [1]]


def test_a_failed_lane_comes_back_with_params_it_can_run() -> None:
    bench = Bench(make_params(skip_diffusion=False))
    bench.turns()
    bench.scheduler.update(1, WantedParams(dump_params(make_params()), 2))
    bench.turns()
    bench.make(noise(SIZE, sequence=3))
    report = bench.of(LaneReport)[-1]
    assert (report.phase, report.revision, report.effective_sequence, report.error_code) == ("ready", 2, 3, None)


def test_a_processor_without_its_weights_is_named_and_the_pictures_go_on() -> None:
    bench = Bench(make_params("blur"))
    before = bench.make(noise(SIZE, sequence=4)).copy()
    bench.scheduler.update(1, WantedParams(dump_params(make_params("blur", "depth")), 2))
    bench.turns()
    assert isinstance(bench.work.pipeline, ProcessorPipeline)
    bench.work.pipeline.wait()  # what loads beside the pictures fails beside them
    bench.make(noise(SIZE, sequence=5))
    report = bench.of(LaneReport)[-1]
    assert (report.phase, report.revision, report.refused_revision) == ("ready", 2, None)
    assert report.error_code == ModelUnavailable.code
    assert "depth" in report.error_message
    bench.scheduler.update(1, WantedParams(dump_params(make_params("blur")), 3))
    assert all((a == b).all() for a, b in zip(before.planes, bench.make(noise(SIZE, sequence=4)).planes, strict=True))
    assert bench.of(LaneReport)[-1].error_code is None


@pytest.mark.parametrize("wanted", [make_params("canny", skip_diffusion=False)], ids=["reload"])
def test_params_that_cannot_be_loaded_leave_the_picture_as_it_was(wanted: StreamParams) -> None:
    bench = Bench(make_params("blur"))
    frame = noise(SIZE, sequence=4)
    before = bench.make(frame).copy()
    bench.scheduler.update(1, WantedParams(dump_params(wanted), 2))
    bench.put(noise(SIZE, sequence=4), slot=1)
    bench.turns()
    report = bench.of(LaneReport)[-1]
    assert (report.phase, report.revision, report.effective_sequence) == ("ready", 1, 4)
    assert (report.refused_revision, report.error_code) == (2, ModelUnavailable.code)
    assert report.error_message
    done = bench.of(PictureOut)
    assert [picture.revision for picture in done] == [1, 1]
    assert bench.of(SlotsReturned) == []
    for one, other in zip(before.planes, bench.result().planes, strict=True):
        assert numpy.array_equal(one, other)


def test_the_error_of_refused_params_goes_with_the_next_ones() -> None:
    bench = Bench(make_params("blur"))
    bench.turns()
    for revision, wanted in ((2, make_params(skip_diffusion=False)), (3, make_params("canny"))):
        bench.scheduler.update(1, WantedParams(dump_params(wanted), revision))
        bench.make(noise(SIZE, sequence=revision))
    report = bench.of(LaneReport)[-1]
    assert (report.phase, report.revision, report.effective_sequence) == ("ready", 3, 3)
    assert (report.refused_revision, report.error_message) == (None, None)


def test_params_name_the_style_image_that_came_last(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "sdstream.worker.work.make_pipeline", lambda params, *_: seen.append(params) or ProcessorPipeline(params, CPU)
    )
    bench = Bench(make_params())
    uri = "data:image/png;base64,iVBORw0KGgo" + "A" * 4001 + "SUVORA=="
    styled = make_params(model_id="stabilityai/sdxl-turbo", ip_adapter_style_image_url=uri)
    wanted = [bench.work.take_params(OpenLane(1, "stream", dump_params(styled), 1, str(image_apart(styled))))]
    other = styled.model_copy(update={"prompt": "beside it"})
    wanted.append(bench.work.take_params(UpdateLane(1, dump_params(other), 2, None)))
    for each in wanted:
        bench.preparation.begin(bench.work, each, each.revision)
        bench.turns()
        bench.work.fail(RuntimeError("so that it loads anew"))
    assert seen == [styled, other]


def test_a_picture_that_cannot_be_made_fails_the_lane_although_params_are_in_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(make_params("blur"))
    bench.turns()
    monkeypatch.setattr("sdstream.worker.processors.chain.run_processor", _burst)
    bench.put(noise(SIZE))
    bench.turns()
    assert bench.of(LaneReport)[-1].phase == "failed"


def test_a_pipeline_that_raises_fails_its_lane_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdstream.worker.processors.chain.run_processor", _burst)
    bench = Bench(make_params("blur"))
    bench.put(noise(SIZE), slot=2)
    bench.turns()
    report = bench.of(LaneReport)[-1]
    assert (report.phase, report.error_code) == ("failed", InternalError.code)
    assert report.error_message == "RuntimeError: the device is on fire"
    assert bench.of(SlotsReturned)[-1].slots == [2]


def test_superseded_pictures_give_their_slots_back() -> None:
    bench = Bench(make_params())
    for slot in range(3):
        bench.put(noise(SIZE, sequence=slot), slot=slot)
    bench.turns()
    assert [returned.slots for returned in bench.of(SlotsReturned)] == [[0], [1]]
    assert [done.source_slot for done in bench.of(PictureOut)] == [2]


def test_a_lane_makes_no_more_results_than_the_server_has_room_for() -> None:
    bench = Bench(make_params("blur"))
    for slot in range(4):
        bench.make(noise(SIZE), slot=slot)
    bench.put(noise(SIZE), slot=0)
    bench.turns()
    assert len(bench.of(PictureOut)) == 4
    bench.work.take_back(1, [bench.of(PictureOut)[0].slot])
    bench.turns()
    assert len(bench.of(PictureOut)) == 5


def test_results_carry_their_way_back_with_the_next_picture() -> None:
    bench = Bench(make_params("blur"))
    for number in range(12):
        done = bench.of(PictureOut)
        bench.make(noise(SIZE), slot=number % 4, returned=[done[-1].slot] if done else [])
    assert len(bench.of(PictureOut)) == 12
    assert len(bench.of(UseRing)) == 1


def test_a_larger_output_gets_a_ring_of_its_own() -> None:
    bench = Bench(make_params("blur"))
    bench.make(noise(SIZE))
    bench.scheduler.update(1, WantedParams(dump_params(make_params("upscale")), 2))
    result = bench.make(noise(SIZE), slot=1)
    assert result.size == PictureSize(768, 768)
    assert [ring.ring for ring in bench.of(UseRing)] == [1, 2]


def test_an_input_that_grows_gets_a_ring_of_its_own_and_old_pictures_survive_it() -> None:
    bench = Bench(make_params("blur"))
    small = noise(PictureSize(64, 64), seed=1)
    bench.put(small, slot=0, keep=True)
    bench.put(noise(PictureSize(640, 480), seed=2), slot=0, keep=True)
    bench.turns()
    assert [(done.source_ring, done.source_slot) for done in bench.of(PictureOut)] == [(1, 0), (2, 0)]


def test_no_name_of_memory_is_left() -> None:
    bench = Bench(make_params("blur"))
    bench.make(noise(SIZE))
    assert bench.output is not None
    assert shared_memory_names(PREFIX) == []


def _burst(*_: object) -> torch.Tensor:
    raise RuntimeError("the device is on fire")


def test_the_worker_says_what_it_does_for_the_first_time_and_only_then() -> None:
    bench = Bench(make_params("blur"))
    for slot in range(2):
        bench.put(noise(SIZE, slot), slot=slot)
        bench.turns()
    kinds = [type(message).__name__ for message in bench.sent if isinstance(message, AtWork | LaneReport | PictureOut)]
    first = ["AtWork", "LaneReport", "LaneReport", "AtWork", "LaneReport", "PictureOut"]
    assert kinds == [*first, "PictureOut"]
    assert bench.of(AtWork) == [AtWork(1, 1), AtWork(1, 1)]
    bench.scheduler.update(1, WantedParams(dump_params(make_params("blur", seed=9)), 2))
    bench.put(noise(SIZE, 3), slot=2)
    bench.turns()
    assert bench.of(AtWork)[2:] == [AtWork(1, 2), AtWork(1, 2)]


def test_a_load_for_a_lane_that_is_gone_is_given_up() -> None:
    bench = Bench(make_params())
    bench.work.progress("downloading", 10.0)
    told = len(bench.sent)
    bench.work.close()
    with pytest.raises(LoadGivenUp):
        bench.work.progress("downloading", 20.0)
    assert len(bench.sent) == told, "nobody is told any more"
