"""While something is loaded beside the pictures, and hangs: what is asked for meanwhile does not wait for it, and if it
wants that very load, has it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from sdstream.model_errors import ModelDownloadFailed
from sdstream.worker import work
from sdstream.worker.pipelines import Pipeline, make_pipeline
from tests.diffusion.fleet import Fleet, FleetLane, params_of, ran

SECONDS = 30.0
"""How long a test waits for what must happen."""
HANGS = 4 * SECONDS
"""What hangs does so for longer than that."""
ONE, TWO, THREE = [30], [10, 20], [10, 20, 30]
"""Numbers of steps: each takes a pipeline of its own."""


class Hanging:
    """In the place of `make_pipeline`: what is loaded for some numbers of steps hangs there, and nothing ends that but
    `let_go`. Where an error is set, it ends with that once."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.let_go = {1: threading.Event()}
        self.errors: dict[int, Exception] = {}
        self.made: dict[int, Pipeline] = {}
        self.ended: list[int] = []

    def make(self, params: Any, device: Any, progress: Any, *rest: Any) -> Pipeline:
        steps = len(params.t_index_list)
        self.begun.append(steps)
        hangs = self.let_go.get(steps)
        assert hangs is None or hangs.wait(HANGS)
        if (error := self.errors.pop(steps, None)) is not None:
            raise error
        made = self.made[steps] = make_pipeline(params, device, lambda *_: None, *rest)
        end = made.end

        def counted() -> None:
            self.ended.append(steps)
            end()

        made.end = counted  # pyright: ignore[reportAttributeAccessIssue]
        return made

    def release(self) -> None:
        for event in self.let_go.values():
            event.set()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    made = Hanging()
    monkeypatch.setattr(work, "make_pipeline", made.make)
    yield made
    made.release()


@pytest.fixture
def fleet(tiny_directory: Callable[..., Path], hanging: Hanging) -> Iterator[Fleet]:
    with Fleet(tiny_directory("sd-turbo")) as made:
        yield made


def work_until(fleet: Fleet, is_so: Callable[[], object]) -> None:
    """Work until something has come about, or fail."""
    until = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < until
        fleet.work()
        threading.Event().wait(0.005)


def taken_over(fleet: Fleet, stream: Any) -> Callable[[], bool]:
    """Whether the load under way is for the newest params. It begins a moment before newer ones can take it over."""

    def is_so() -> bool:
        load = fleet.preparation._loads.under_way(stream.number)
        return load is not None and load.aim.wanted.revision == stream.revision

    return is_so


def in_force(stream: FleetLane, revision: int) -> Callable[[], bool]:
    return lambda: stream.reports[-1].phase == "ready" and stream.reports[-1].revision == revision


def loading(fleet: Fleet, hanging: Hanging, stream: FleetLane, steps: list[int]) -> None:
    """Ask for that many steps, and work until they are being loaded."""
    stream.update(params_of(t_index_list=steps))
    work_until(fleet, lambda: len(steps) in hanging.begun)


def test_a_prompt_that_comes_while_a_load_hangs_is_in_the_next_picture(fleet: Fleet, hanging: Hanging) -> None:
    stream = fleet.open(params_of(t_index_list=TWO))
    assert ran(fleet, stream, 1) == 1
    loading(fleet, hanging, stream, ONE)
    stream.update(params_of(t_index_list=TWO, prompt="a dog"))
    work_until(fleet, in_force(stream, 3))
    assert ran(fleet, stream, 2) == 3
    assert not hanging.let_go[1].is_set()
    hanging.release()
    work_until(fleet, lambda: hanging.ended == [1])
    assert ran(fleet, stream, 3) == 3, "what was given up comes too late"
    assert [report.error_code for report in stream.reports if report.error_code] == []


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_the_newest_of_two_loads_is_in_force_whichever_ends_first(
    fleet: Fleet, hanging: Hanging, first_ends_first: bool
) -> None:
    hanging.let_go[3] = threading.Event()
    stream = fleet.open(params_of(t_index_list=TWO))
    loading(fleet, hanging, stream, ONE)
    loading(fleet, hanging, stream, THREE)
    for steps in (1, 3) if first_ends_first else (3, 1):
        hanging.let_go[steps].set()
        work_until(fleet, in_force(stream, 3) if steps == 3 else lambda: 1 in hanging.ended)
    assert sorted(hanging.ended) == [1, 2], "what came too late, and what was in force before"
    assert stream.work.pipeline is hanging.made[3]
    assert ran(fleet, stream, 1) == 3


def test_the_error_of_a_load_that_was_given_up_is_not_told(fleet: Fleet, hanging: Hanging) -> None:
    hanging.errors[1] = ModelDownloadFailed("the hub does not answer")
    stream = fleet.open(params_of(t_index_list=TWO))
    loading(fleet, hanging, stream, ONE)
    stream.update(params_of(t_index_list=THREE))
    work_until(fleet, in_force(stream, 3))
    hanging.release()
    work_until(fleet, lambda: fleet.preparation.loading_seconds == 0.0)
    assert ran(fleet, stream, 1) == 3
    assert [report.refused_revision for report in stream.reports if report.refused_revision] == []


def test_knobs_turned_while_the_first_model_loads_begin_no_other_load(fleet: Fleet, hanging: Hanging) -> None:
    wanted = params_of(t_index_list=ONE, prompt="a dog", seed=7, guidance_scale=1.7)
    stream = fleet.open(params_of(t_index_list=ONE), settled=False)
    work_until(fleet, lambda: hanging.begun)
    for params in (params_of(t_index_list=ONE, prompt="a dog"), wanted):
        stream.update(params)
        work_until(fleet, taken_over(fleet, stream))
        assert (stream.reports[-1].phase, stream.reports[-1].revision) == ("loading", stream.revision)
    hanging.release()
    work_until(fleet, in_force(stream, 3))
    assert hanging.begun == [1]
    assert ran(fleet, stream, 1) == 3
    other = fleet.open(wanted)
    assert ran(fleet, other, 1) == 1
    assert max(numpy.abs(stream.newest.y.astype(int) - other.newest.y).flat) <= 1, "as if they had been there before"


def test_params_that_want_the_load_under_way_have_it_after_knobs_that_came_first(
    fleet: Fleet, hanging: Hanging
) -> None:
    stream = fleet.open(params_of(t_index_list=TWO))
    for ends_first in (False, True):
        before, revision = hanging.begun.count(1), stream.revision
        hanging.let_go[1].clear()
        stream.update(params_of(t_index_list=ONE))
        work_until(fleet, lambda before=before: hanging.begun.count(1) > before)
        stream.update(params_of(t_index_list=TWO, prompt="a dog"), keeps_load=True)
        if ends_first:
            hanging.release()
        work_until(fleet, in_force(stream, revision + 2))
        if ends_first:
            work_until(fleet, lambda: fleet.preparation.loading_seconds == 0.0)
        assert ran(fleet, stream, 1) == revision + 2
        stream.update(params_of(t_index_list=ONE, prompt="a dog"))
        fleet.work()
        hanging.release()
        work_until(fleet, in_force(stream, revision + 3))
        assert hanging.begun.count(1) == before + 1
        assert stream.work.pipeline is hanging.made[1]
        fleet.update(stream, params_of(t_index_list=TWO))


def test_a_load_that_was_kept_for_others_is_given_up_when_they_want_something_else(
    fleet: Fleet, hanging: Hanging
) -> None:
    stream = fleet.open(params_of(t_index_list=TWO))
    loading(fleet, hanging, stream, ONE)
    stream.update(params_of(t_index_list=TWO, prompt="a dog"), keeps_load=True)
    work_until(fleet, in_force(stream, 3))
    hanging.release()
    work_until(fleet, lambda: fleet.preparation.loading_seconds == 0.0)
    stream.update(params_of(t_index_list=TWO, prompt="a hat"))
    work_until(fleet, in_force(stream, 4))
    work_until(fleet, lambda: 1 in hanging.ended)
    assert ran(fleet, stream, 1) == 4


def test_an_error_of_older_params_is_not_told_of_those_that_took_their_load_over(
    fleet: Fleet, hanging: Hanging
) -> None:
    hanging.errors[1] = ModelDownloadFailed("the hub does not answer")
    stream = fleet.open(params_of(t_index_list=ONE), settled=False)
    work_until(fleet, lambda: hanging.begun)
    stream.update(params_of(t_index_list=ONE, prompt="a dog"))
    work_until(fleet, taken_over(fleet, stream))
    hanging.release()
    work_until(fleet, in_force(stream, 2))
    assert hanging.begun == [1, 1]
    assert [report.error_code for report in stream.reports if report.error_code] == []


def test_another_stream_loads_while_as_many_hang_as_may_run(fleet: Fleet, hanging: Hanging) -> None:
    streams = [fleet.open(params_of(t_index_list=TWO)) for _ in range(4)]
    for stream in streams[:3]:
        stream.update(params_of(t_index_list=ONE))
    work_until(fleet, lambda: hanging.begun.count(1) == 3)
    for stream in streams[:3]:  # back again: what hangs counts no more
        stream.update(params_of(t_index_list=TWO, seed=5))
    work_until(fleet, lambda: all(in_force(stream, 3)() for stream in streams[:3]))
    streams[3].update(params_of(t_index_list=THREE))
    work_until(fleet, in_force(streams[3], 2))
    assert not hanging.let_go[1].is_set()
