"""`sdstream bench`: what is counted, what is told, and that nothing is left behind."""

import asyncio
import io
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from sdstream.clock import ManualClock
from sdstream.commands.bench import BenchRun, enough_for, memory_text, read_numbers
from sdstream.commands.measuring import FIRST_PICTURES, LEAST_PICTURES, Rates, longest_of, measure
from sdstream.commands.slow_ways import slow_ways
from sdstream.commands.stream_params import read_params
from sdstream.errors import ConfigurationError, OutOfMemory
from sdstream.frames import I420Frame
from sdstream.jobs.side_by_side import UNDER_WAY_EACH
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelTable, StreamParams, parse_create
from sdstream.settings import Settings
from sdstream.worker.ports import CallCost, LaneListener, LanePhase, LaneStatus, WorkerHealth, WorkerPhase, kind_of
from tests.project.commands import environment, sdstream, started
from tests.support.waiting import eventually_sync

READY = LaneStatus(LanePhase.READY, revision=1, acceleration="torch+cuda_graph")


def make_params(**params: Any) -> StreamParams:
    return parse_create({"pipeline": "streamdiffusion", "params": params}, ModelTable()).params


class PlayedLane:
    """A lane whose pictures take the clock's time, all lanes in turn."""

    def __init__(self, worker: "PlayedWorker") -> None:
        self._worker = worker
        self._made = 0
        self.numbers: list[int] = []
        self.is_closed = False

    async def process(self, frame: I420Frame) -> I420Frame:
        self.numbers.append(frame.sequence)
        await asyncio.sleep(0)
        if self._worker.error is not None:
            raise self._worker.error
        self._made += 1
        is_first = self._made <= FIRST_PICTURES
        self._worker.clock.advance(self._worker.first_seconds if is_first else self._worker.seconds)
        return frame

    async def close(self) -> None:
        self.is_closed = True


class PlayedWorker:
    """A worker that makes a picture in `seconds` of the clock, and each stream's first ones in `first_seconds`."""

    def __init__(self, seconds: float, first_seconds: float | None = None, error: Exception | None = None) -> None:
        self.clock = ManualClock()
        self.seconds = seconds
        self.first_seconds = seconds if first_seconds is None else first_seconds
        self.error = error
        self.lanes: list[PlayedLane] = []
        self.params: list[StreamParams] = []
        self.costs: Mapping[int, float] = {}
        self.most_streams = 64
        """With more of them there is no memory."""

    async def open_lane(
        self, stream_id: str, params: StreamParams, revision: int, listener: LaneListener, *, partly: bool = False
    ) -> Any:
        lane = PlayedLane(self)
        self.lanes.append(lane)
        if sum(not each.is_closed for each in self.lanes) > self.most_streams:
            self.error = OutOfMemory("there is no memory for one more")
        self.params.append(params)
        listener.on_lane_status(READY)
        return lane

    def health(self) -> WorkerHealth:
        costs = (CallCost(kind_of(self.params[0]), self.costs),)
        return WorkerHealth(WorkerPhase.READY, device="cuda", costs=costs, memory_used=3, memory_total=8)


async def rates_of(worker: PlayedWorker, streams: int, seconds: float = 20.0, **params: Any) -> Rates:
    taken: Any = worker
    return await measure(taken, make_params(**params), streams, seconds, worker.clock)


@pytest.mark.parametrize("streams", [1, 3])
async def test_pictures_are_counted_in_the_time_that_they_take(streams: int) -> None:
    rates = await rates_of(PlayedWorker(0.1), streams)
    assert rates.rate == pytest.approx(10, rel=0.05)
    assert rates.rate_each == pytest.approx(10 / streams, rel=0.05)
    assert 0.099 * streams <= rates.longest_seconds <= 0.101 * streams * (1 if streams == 1 else UNDER_WAY_EACH)


async def test_what_the_first_pictures_take_is_not_counted() -> None:
    assert (await rates_of(PlayedWorker(0.1, first_seconds=100.0), 2)).rate == pytest.approx(10, rel=0.05)


async def test_a_few_pictures_are_waited_for_however_long_they_take() -> None:
    rates = await rates_of(PlayedWorker(7.0), 2, seconds=1.0)
    assert rates.pictures >= 2 * LEAST_PICTURES
    assert rates.rate == pytest.approx(1 / 7, rel=0.2)


async def test_every_picture_is_asked_for_in_order_and_none_is_skipped_for_its_likeness() -> None:
    worker = PlayedWorker(0.1)
    await rates_of(worker, 2, enable_similar_image_filter=True)
    assert not any(params.enable_similar_image_filter for params in worker.params)
    for lane in worker.lanes:
        whole = lane.numbers[:-UNDER_WAY_EACH]  # of the last ones some are given up before they begin
        assert len(whole) > 10
        assert whole == list(range(len(whole)))


async def test_a_calls_time_is_that_of_calls_in_which_all_rode() -> None:
    worker = PlayedWorker(0.1)
    worker.costs = {1: 0.004, 2: 0.006}
    rates = await rates_of(worker, 2)
    assert (rates.call_seconds, rates.memory_used, rates.status) == (0.006, 3, READY)
    assert (await rates_of(worker, 3)).call_seconds is None


@pytest.mark.parametrize("streams", [1, 4])
async def test_a_model_that_cannot_be_had_is_told_and_no_lane_stays(streams: int) -> None:
    worker = PlayedWorker(0.1, error=ModelUnavailable("sd-turbo is not here"))
    with pytest.raises(ModelUnavailable, match="not here"):
        await rates_of(worker, streams)
    assert len(worker.lanes) == streams
    assert all(lane.is_closed for lane in worker.lanes)


@pytest.mark.parametrize(("most", "measured"), [(64, [1, 2, 4]), (3, [1, 2]), (1, [1])])
async def test_what_was_measured_before_a_number_that_is_too_many_is_told(most: int, measured: list[int]) -> None:
    run, taken = make_run(most)
    await run.measure_each(taken, (1, 2, 4))
    assert [row.streams for row in run.rows] == measured
    assert ("no memory for one more" in run.problem) is (measured != [1, 2, 4])
    assert all(lane.is_closed for lane in taken.lanes)


async def test_where_not_even_the_first_can_be_measured_its_error_is_the_end() -> None:
    run, taken = make_run(0)
    with pytest.raises(OutOfMemory):
        await run.measure_each(taken, (1, 2))


def make_run(most_streams: int) -> tuple[BenchRun, Any]:
    worker = PlayedWorker(0.1)
    worker.most_streams = most_streams
    console = Console(file=io.StringIO())
    return BenchRun(make_params(), None, 0.1, 0.0, Settings(), console), worker


def test_the_longest_is_that_of_which_99_of_100_are_no_longer() -> None:
    assert longest_of([3.0, 1.0, 2.0]) == 3.0
    assert longest_of([*range(100)]) == 98
    assert longest_of([*range(200)]) == 197


@pytest.mark.parametrize(("text", "numbers"), [("1", (1,)), ("1, 2,4", (1, 2, 4)), ("64", (64,))])
def test_numbers_of_streams(text: str, numbers: tuple[int, ...]) -> None:
    assert read_numbers(text) == numbers


def test_params_that_are_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text("[" * 200_000, "utf-8")
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        read_params(file)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "two", "-1", "65", "1.5", "9" * 5000])
def test_what_is_no_number_of_streams_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--streams"):
        read_numbers(text)


RATES = Rates(1, 100, 1.0, None, 0.01, None, None, READY)


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({1: 29.0}, "Not enough for one camera"),
        ({1: 31.0}, "Enough for at least 1 camera of"),
        ({1: 90.0, 2: 45.0, 4: 22.0}, "Enough for 2 cameras of"),
        ({1: 90.0, 2: 45.0, 4: 40.0}, "Enough for at least 4 cameras of"),
    ],
)
def test_for_how_many_cameras_it_is_enough(rates: Mapping[int, float], words: str) -> None:
    rows = [replace(RATES, streams=number, pictures=round(each * number)) for number, each in rates.items()]
    assert words in enough_for(rows)


def test_memory_is_told_where_something_tells() -> None:
    assert [memory_text(None, None), memory_text(2**30, None), memory_text(3 * 2**29, 2**33)] == [
        "-",
        "1.0",
        "1.5 of 8",
    ]


CAPTURED = "torch+cuda_graph"


def noted(
    device: str = "cuda", acceleration: str = CAPTURED, capability: int = 80, settings: Mapping[str, Any] | None = None
) -> str:
    tuned = {"tuned_convolutions": True, **(settings or {})}
    params = make_params(acceleration="none")
    return "\n".join(slow_ways(Settings.model_validate(tuned), params, device, acceleration, capability))


def test_a_gpu_with_all_that_it_has_is_told_nothing() -> None:
    assert noted() == ""
    assert noted(capability=90, settings={"eight_bit": "all"}) == ""


@pytest.mark.parametrize(
    "name", ["cuda_graphs", "kernel_memsets", "fused_blocks", "worker_overlap", "tuned_convolutions"]
)
def test_each_switch_that_is_off_is_named(name: str) -> None:
    assert noted(settings={name: False}).count("SDSTREAM_") == 1
    assert f"SDSTREAM_{name.upper()}=true" in noted(settings={name: False})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": "cpu"}, "the networks run on cpu"),
        ({"acceleration": "torch"}, "could not be captured"),
        ({"settings": {"full_vae": True}}, "SDSTREAM_FULL_VAE=false"),
        ({"settings": {"batch_size": 1}}, "SDSTREAM_BATCH_SIZE"),
        ({"capability": 90}, "SDSTREAM_EIGHT_BIT=all"),
        ({"capability": 89}, "SDSTREAM_EIGHT_BIT=linear"),
        ({"capability": 120}, "SDSTREAM_EIGHT_BIT=linear"),
    ],
)
def test_what_is_slow_is_told(given: dict[str, Any], words: str) -> None:
    assert words in noted(**given)


def test_a_gpus_switches_are_no_matter_of_a_cpu_nor_of_streams_without_a_model() -> None:
    assert "CUDA_GRAPHS" not in noted(device="cpu", settings={"cuda_graphs": False})
    params = make_params(skip_diffusion=True)
    assert slow_ways(Settings(cuda_graphs=False), params, "cuda", "", 90) == ()


@pytest.mark.slow
def test_figures_come_from_a_worker_of_its_own(tmp_path: Path) -> None:
    done = sdstream(
        *("bench", "--skip-diffusion", "--processors", "canny", "--width", "384", "--height", "384"),
        *("--streams", "1,2", "--seconds", "0.5", "--warm-up", "0", "--json"),
        environment=environment(tmp_path),
        seconds=250,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["device"], figures["width"], figures["processors"]) == ("cpu", 384, ["canny"])
    assert [row["streams"] for row in figures["rows"]] == [1, 2]
    for row in figures["rows"]:
        assert row["pictures"] >= LEAST_PICTURES * row["streams"]
        assert row["pictures_a_second"] == pytest.approx(row["pictures"] / row["seconds"], rel=0.02)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interruption_leaves_no_worker(tmp_path: Path) -> None:
    arguments = ("bench", "--skip-diffusion", "--seconds", "3600")
    with started(*arguments, environment=environment(tmp_path)) as process:
        program = psutil.Process(process.pid)
        (worker,) = eventually_sync(lambda: program.children() or None, seconds=60, what="its worker")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=40)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not worker.is_running()
