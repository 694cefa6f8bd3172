"""The short way of pictures that nothing changes, against the turn that is its plain twin."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdstream.frames import I420Frame, PictureSize
from sdstream.params import dump_params
from sdstream.worker.messages import IN_PLACE, LaneReport, PictureOut
from sdstream.worker.ring import sweep_own_memory
from sdstream.worker.scheduling.turns import WantedParams
from tests.worker.pictures import make_params, noise
from tests.worker.test_work import PREFIX, SIZE, Bench

PICTURES = {
    "same": noise(SIZE, 1),
    "bt709": noise(SIZE, 2, matrix="bt709"),
    "full range": noise(SIZE, 3, full_range=True),
    "small": noise(PictureSize(320, 240), 4),
}
PARAMS = {"nothing": make_params(), "passthrough": make_params("passthrough"), "blur": make_params("blur")}


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    yield
    sweep_own_memory(PREFIX)


class Script:
    """Does one step after the other to a lane; each is over before the next one."""

    def __init__(self, *, at_once: bool) -> None:
        self.bench = Bench(make_params(), at_once=at_once)
        self.bench.turns()
        self.steps = 1
        self._seen = 0

    def do(self, step: str, *, turns: bool = True) -> None:
        self.steps += 1
        if step in PARAMS:
            self.bench.scheduler.update(1, WantedParams(dump_params(PARAMS[step]), self.steps))
        else:
            frame = PICTURES[step]
            planes = I420Frame(*frame.planes, 0, full_range=frame.full_range, matrix=frame.matrix, sequence=self.steps)
            self.bench.put(planes, slot=self.steps % 4)
        if turns:
            self.turns()

    def turns(self) -> None:
        self.bench.turns()
        for out in self.bench.sent[self._seen :]:
            if isinstance(out, PictureOut) and out.ring != IN_PLACE:
                self.bench.work.take_back(out.ring, [out.slot])
        self._seen = len(self.bench.sent)

    @property
    def told(self) -> list[tuple[object, ...]]:
        """What the server was told, without times."""
        return [
            (each.source_slot, each.ring, each.slot, each.width, each.height, each.revision)
            if isinstance(each, PictureOut)
            else (each.phase, each.revision, each.effective_sequence)
            for each in self.bench.sent
            if isinstance(each, PictureOut | LaneReport)
        ]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([*PICTURES, *PARAMS, "same", "same"]), max_size=10))
def test_the_server_is_told_the_same_whether_pictures_pass_at_once_or_wait_for_a_turn(steps: list[str]) -> None:
    short, plain = Script(at_once=True), Script(at_once=False)
    for step in steps:
        short.do(step)
        plain.do(step)
    assert short.told == plain.told


def test_a_picture_that_nothing_changes_is_answered_without_a_turn_once_its_params_are_proven() -> None:
    script = Script(at_once=True)
    script.do("same", turns=False)
    assert not script.bench.of(PictureOut)
    script.turns()
    script.do("same", turns=False)
    assert [out.ring for out in script.bench.of(PictureOut)] == [IN_PLACE, IN_PLACE]


@pytest.mark.parametrize("before", ["nothing", "small", "bt709"], ids=["new params", "another size", "other colours"])
def test_no_picture_passes_what_came_before_it(before: str) -> None:
    script = Script(at_once=True)
    script.do("same")
    script.do(before, turns=False)
    script.do("same", turns=False)
    assert len(script.bench.of(PictureOut)) == 1
    script.turns()
    assert len(script.bench.of(PictureOut)) == 2


def test_nothing_passes_a_lane_that_has_failed() -> None:
    script = Script(at_once=True)
    script.do("same")
    script.bench.work.fail(RuntimeError("of another picture"))
    script.do("same")
    assert len(script.bench.of(PictureOut)) == 1
