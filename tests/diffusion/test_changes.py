"""Params that change while pictures flow: prepared beside them, swapped in between two, or else the old picture."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.errors import OutOfMemory
from sdstream.model_errors import ModelUnavailable
from sdstream.worker import outcomes, work
from sdstream.worker.diffusion_pipeline import DiffusionPipeline
from sdstream.worker.groups import StreamGroup
from sdstream.worker.pipelines import Pipeline, make_pipeline
from tests.diffusion.fleet import Fleet, difference, params_of, picture_of, processed, ran, small

Directory = Callable[..., Path]


class Loads:
    """Stands between lanes and `make_pipeline`: holds loads up, or has them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = threading.Event()
        self.free.set()
        self.errors: list[Exception | None] = []
        """Of the next loads, one after the other; those after succeed."""
        self.begun = 0
        monkeypatch.setattr(work, "make_pipeline", self.make)

    def make(self, *given: Any) -> Pipeline:
        self.begun += 1
        assert self.free.wait(30)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return make_pipeline(*given)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(monkeypatch)


def test_while_one_stream_loads_all_go_on_and_take_what_is_hot(tiny_directory: Directory, loads: Loads) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        reloading, other = fleet.open(params_of()), fleet.open(params_of(seed=3))
        loads.free.clear()
        reloading.update(params_of(t_index_list=[10, 20, 30]))
        late = fleet.open(params_of(t_index_list=[10, 20, 30]), settled=False)
        for number in range(4):
            assert [ran(fleet, reloading, number), ran(fleet, other, number)] == [1, 1]
        other.update(params_of(prompt="a dog"))
        fleet.loop.step()
        while other.work.preparing:
            fleet.scheduler.wait()
            fleet.work()
        assert [ran(fleet, other, 60), ran(fleet, reloading, 61)] == [2, 1]
        assert late.reports[-1].phase == "loading"
        loads.free.set()
        fleet.settle()
        assert [ran(fleet, reloading, 62), ran(fleet, late, 63)] == [2, 1]
        assert fleet.preparation.loading_seconds == 0.0


def test_another_number_of_steps_begins_with_the_picture_and_not_with_noise(
    tiny_directory: Directory, tiny_model: Callable[..., Any]
) -> None:
    wanted = params_of(t_index_list=[10, 20, 30])
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        stream = fleet.open(params_of())
        ran(fleet, stream, 1)
        fleet.update(stream, wanted)
        assert ran(fleet, stream, 2) == 2
        fresh = DiffusionPipeline(small(wanted), tiny_model("sd-turbo"))
        assert difference(stream.newest, processed(fresh, picture_of(2))) <= 1


def test_a_pipeline_of_as_many_steps_goes_on_with_what_the_one_before_remembers(
    tiny_directory: Directory, tiny_model: Callable[..., Any]
) -> None:
    images = [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(n)) for n in range(5)]
    params = small(params_of())
    whole = DiffusionPipeline(params, tiny_model("sd-turbo"))
    expected = [whole.process(image) for image in images]
    first, second = DiffusionPipeline(params, tiny_model("sd-turbo")), DiffusionPipeline(params, tiny_model("sd-turbo"))
    made = [first.process(image) for image in images[:3]]
    second.begin(first)
    first.end()
    made += [second.process(image) for image in images[3:]]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(made, expected, strict=True))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelUnavailable("it is not here"), ModelUnavailable.code),
        (RuntimeError("it broke"), "INTERNAL/ERROR"),
    ],
)
def test_a_load_that_fails_leaves_the_picture_as_it_was_and_says_why(
    tiny_directory: Directory, loads: Loads, error: Exception, code: str
) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        changed, left = fleet.open(params_of()), fleet.open(params_of())
        loads.errors = [error]
        fleet.update(changed, params_of(t_index_list=[30]))
        report = changed.reports[-1]
        assert (report.phase, report.revision, report.refused_revision, report.error_code) == ("ready", 1, 2, code)
        for number in range(3):
            assert [ran(fleet, changed, number), ran(fleet, left, number)] == [1, 1]
            assert difference(changed.newest, left.newest) <= 1


def test_without_memory_for_two_the_present_pipeline_goes_first(tiny_directory: Directory, loads: Loads) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        stream = fleet.open(params_of())
        loads.errors = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]
        fleet.update(stream, params_of(t_index_list=[30]))
        room, ready = stream.reports[-2:]
        assert (room.phase, room.detail, ready.phase, ready.refused_revision) == (
            "loading",
            "making room",
            "ready",
            None,
        )
        assert ran(fleet, stream, 1) == 2


def test_what_does_not_fit_even_alone_brings_the_old_picture_back(tiny_directory: Directory, loads: Loads) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        stream, other = fleet.open(params_of()), fleet.open(params_of())
        loads.errors = [torch.OutOfMemoryError("no memory")] * 2
        fleet.update(stream, params_of(t_index_list=[30]))
        report = stream.reports[-1]
        assert (report.phase, report.revision, report.refused_revision) == ("ready", 1, 2)
        assert (report.error_code, report.error_message) == (
            OutOfMemory.code,
            "the device has too little memory: no memory",
        )
        assert [ran(fleet, stream, 1), ran(fleet, other, 1)] == [1, 1]


def test_a_stream_that_finds_no_memory_fails_by_name_and_the_others_go_on(
    tiny_directory: Directory, loads: Loads
) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        there = fleet.open(params_of())
        loads.errors = [torch.OutOfMemoryError("no memory")]
        late = fleet.open(params_of(t_index_list=[30]))
        assert (late.reports[-1].phase, late.reports[-1].error_code) == ("failed", OutOfMemory.code)
        assert ran(fleet, there, 1) == 1


def test_no_memory_in_a_call_ends_the_process(tiny_directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Any:
        raise torch.OutOfMemoryError("no memory for a picture")

    with Fleet(tiny_directory("sd-turbo")) as fleet:
        streams = [fleet.open(params_of()) for _ in range(2)]
        monkeypatch.setattr(StreamGroup, "run", full)
        for stream in streams:
            stream.put(picture_of(1))
        with pytest.raises(torch.OutOfMemoryError) as raised:
            fleet.work()
        assert outcomes.code_and_words(raised.value) == (
            OutOfMemory.code,
            "the device has too little memory: no memory for a picture",
        )
        assert not any(stream.made for stream in streams)


def test_a_stream_that_fails_while_its_params_are_prepared_comes_back_with_them(
    tiny_directory: Directory, loads: Loads
) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        stream = fleet.open(params_of())
        stream.update(params_of(prompt="a dog"))
        fleet.loop.step()
        stream.work.fail(RuntimeError("a picture broke"))
        fleet.settle()
        assert ran(fleet, stream, 5) == 2
        assert loads.begun == 2, "the plan was for a pipeline that is gone"


def test_a_stream_that_leaves_while_it_loads_leaves_nothing(tiny_directory: Directory, loads: Loads) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        there = fleet.open(params_of())
        loads.free.clear()
        gone = fleet.open(params_of(t_index_list=[30]), settled=False)
        fleet.work()
        fleet.close(gone)
        loads.free.set()
        later = fleet.open(params_of(t_index_list=[30, 40]))
        assert [ran(fleet, there, 1), ran(fleet, later, 1)] == [1, 1]
        assert gone.number not in fleet.lanes
