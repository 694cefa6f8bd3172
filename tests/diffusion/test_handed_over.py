"""Both ends of a lane while a fetch hangs: what a person turns meanwhile is seen, and in the end all of it is there."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdstream.directories import ModelPlaces
from sdstream.params import StreamParams
from sdstream.worker import conditions
from sdstream.worker.conditions import ConditionShelf
from sdstream.worker.messages import LaneReport, Message
from sdstream.worker.ports import LanePhase, LaneStatus
from sdstream.worker.scheduling.turns import WantedParams
from sdstream.worker.server_end.handover import ParamsHandover, status_of
from tests.diffusion.conftest import CANNY
from tests.diffusion.fleet import Fleet, FleetLane, params_of, ran
from tests.diffusion.test_beside_a_load import HANGS, work_until
from tests.diffusion.test_steering import net

WITH_NET: dict[str, Any] = {"controlnets": [net(CANNY, 0.5)]}


class Handed:
    """A stream of a fleet whose params come from a `ParamsHandover`, as the server has it."""

    def __init__(self, fleet: Fleet, stream: FleetLane, params: StreamParams) -> None:
        self.fleet, self.stream = fleet, stream
        self.handover = ParamsHandover(params, 1, partly=True)
        self.told: list[LaneStatus] = []
        self._lock = threading.Lock()
        self._revision = 1
        self.handover.begin(0.0)
        self.hear(stream.reports[-1])
        stream.on = self.on  # pyright: ignore[reportAttributeAccessIssue]

    def on(self, message: Message) -> None:
        FleetLane.on(self.stream, message)
        if isinstance(message, LaneReport):
            self.hear(message)

    def hear(self, report: LaneReport) -> None:
        with self._lock:
            self.told.append(self.handover.hear(status_of(report), 0.0, report.refused_part))
            self._give()

    def want(self, params: StreamParams) -> None:
        with self._lock:
            self._revision += 1
            assert self.handover.want(params, self._revision, 0.0)
            self._give()

    def _give(self) -> None:
        given = self.handover.next(0.0)
        if given is not None:
            wanted = WantedParams(given.text, given.revision, keeps_load=given.keeps_load)
            self.fleet.scheduler.update(self.stream.number, wanted)


@pytest.fixture
def fleet(tiny_directory: Callable[..., Path], places: ModelPlaces) -> Iterator[Fleet]:
    with Fleet(tiny_directory("sd-turbo"), places=places) as made:
        yield made


def test_a_prompt_is_seen_while_a_controlnets_fetch_hangs_and_both_are_in_the_end(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, hangs, let_go, asked = conditions.get_files, threading.Event(), threading.Event(), list[str]()

    def get_files(name: str, files: Any, places: Any, progress: Any, *rest: Any) -> Path:
        asked.append(name)
        progress(f"asking the hub for {name}", None)
        hangs.set()
        assert let_go.wait(HANGS)
        return find(name, files, places, progress, *rest)

    monkeypatch.setattr(conditions, "get_files", get_files)
    monkeypatch.setattr("sdstream.worker.diffusion_pipeline.conditions_shelf", ConditionShelf())
    stream = fleet.open(params_of())
    lane = Handed(fleet, stream, params_of())
    before = stream.work.pipeline
    lane.want(params_of(**WITH_NET))
    work_until(fleet, hangs.is_set)
    for number, prompt in enumerate(("a dog", "a hat in rain")):
        lane.want(params_of(prompt=prompt, **WITH_NET))
        old = stream.work.pipeline
        work_until(fleet, lambda wanted=prompt: prompt_of(stream) == wanted)
        assert stream.work.pipeline is old is before
        ran(fleet, stream, number)
        assert lane.told[-1].revision == 1, "all of the newest params is not there yet"
    let_go.set()
    work_until(fleet, lambda: lane.told[-1].revision == 4 and lane.told[-1].phase is LanePhase.READY)
    assert stream.work.pipeline is not before
    assert prompt_of(stream) == "a hat in rain"
    assert len(asked) == 1, "what hung went on"
    assert [status.error_code for status in lane.told if status.error_code] == []


def prompt_of(stream: FleetLane) -> str:
    pipeline: Any = stream.work.pipeline
    return str(pipeline._plan.params.prompt)
