"""Which deaths of the worker are held against a lane, as tables."""

import pytest

from sdstream.worker.messages import AtWork, LaneReport
from sdstream.worker.server_end.quarantine import Conduct, Quarantine, after_death, after_update, clears, ends_work


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Conduct(), Conduct(1, held=False)),
        (Conduct(1), Conduct(2, held=True)),
        (Conduct(2, held=True), Conduct(2, held=True)),
    ],
)
def test_the_second_death_is_held_against_the_lane(before: Conduct, after: Conduct) -> None:
    assert after_death(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Conduct(), Conduct()),
        (Conduct(1), Conduct(1)),
        (Conduct(2, held=True), Conduct(1, held=False)),
    ],
)
def test_an_update_lets_a_lane_out_for_one_more_try(before: Conduct, after: Conduct) -> None:
    assert after_update(before) == after


def report(
    phase: str, *, lane: int = 3, revision: int = 5, sequence: int | None = None, refused: int | None = None
) -> LaneReport:
    return LaneReport(lane, phase, revision, sequence, "", None, None, None, refused)


@pytest.mark.parametrize(
    ("said", "survived", "good"),
    [
        (report("loading"), False, False),
        (report("ready"), True, False),
        (report("ready", sequence=7), True, True),
        (report("ready", sequence=7, revision=4, refused=5), True, False),
        (report("ready", sequence=7, refused=6), True, False),
        (report("failed"), True, False),
        (report("ready", sequence=7, lane=4), False, False),
    ],
)
def test_what_a_report_says_of_the_work_before_it(said: LaneReport, survived: bool, good: bool) -> None:
    work = AtWork(3, 5)
    assert (ends_work(work, said), clears(work, said)) == (survived, good)


def test_each_lane_answers_for_itself() -> None:
    quarantine = Quarantine()
    assert [quarantine.note_death(lane) for lane in (1, 2, 1)] == [set(), set(), {1}]
    assert [lane for lane in (1, 2, 3) if quarantine.holds(lane)] == [1]


def test_a_lane_that_is_let_out_and_does_it_again_is_held_at_once() -> None:
    quarantine = Quarantine()
    quarantine.note_death(1)
    quarantine.note_death(1)
    quarantine.release(1)
    assert not quarantine.holds(1)
    assert quarantine.note_death(1)


def test_a_good_picture_clears_the_lane() -> None:
    quarantine = Quarantine()
    quarantine.note_death(1)
    quarantine.forget(1)
    assert not quarantine.note_death(1)
