"""Which loads run: the newest of each lane at once, beside at most one that was given up; a few at a time."""

from hypothesis import given
from hypothesis import strategies as st

from sdstream.worker.loading.book import EACH, LOADERS, Load, LoadBook


def asked(*lanes: int) -> tuple[LoadBook, list[int]]:
    """The book after each of these asked in turn, and the numbers of the loads that were started."""
    book, numbers = LoadBook(), list[int]()
    for number, lane in enumerate(lanes, 1):
        book, started = book.asked(lane, number).begun()
        numbers += [load.number for load in started]
    return book, numbers


def test_a_newer_load_of_a_lane_begins_at_once_and_the_one_before_does_not_count() -> None:
    book, started = asked(1, 1)
    assert started == [1, 2]
    assert (book.counts(1), book.counts(2)) == (False, True)


def test_a_lane_with_a_load_that_hangs_has_one_more_and_of_those_that_wait_the_newest() -> None:
    book, started = asked(1, 1, 1, 1)
    assert started == [1, 2]
    assert [load.number for load in book.loads] == [1, 2, 4]
    _, then = book.ended(1).begun()
    assert then == (Load(1, 4, runs=True),)


def test_loads_that_hang_and_were_given_up_keep_no_other_lane_waiting() -> None:
    book, started = asked(*range(LOADERS), LOADERS)
    assert started == [1, 2, 3], "the last one waits for a place"
    book, then = book.superseded(0).begun()
    assert [load.lane for load in then] == [LOADERS]
    assert book.running == LOADERS + 1


def test_who_asked_first_is_loaded_first() -> None:
    book, _ = asked(0, 1, 2, 3, 4)
    _, then = book.ended(2).begun()
    assert [load.lane for load in then] == [3]


@given(st.lists(st.one_of(st.tuples(st.just("ask"), st.integers(0, 5)), st.tuples(st.just("end"), st.integers(0, 9)))))
def test_bounds_hold_and_the_newest_of_each_lane_is_never_forgotten(acts: list[tuple[str, int]]) -> None:
    book, newest, ended = LoadBook(), dict[int, int](), set[int]()
    for number, (act, value) in enumerate(acts, 1):
        if act == "ask":
            book, newest[value] = book.asked(value, number), number
        elif running := [load.number for load in book.loads if load.runs]:
            over = running[value % len(running)]
            book = book.ended(over)
            ended.add(over)
        book, _ = book.begun()
        for lane in range(6):
            mine = [load for load in book.loads if load.lane == lane]
            assert sum(load.runs for load in mine) <= EACH
            assert sum(load.counts for load in mine) <= 1
            assert sum(not load.runs for load in mine) <= 1
            assert lane not in newest or newest[lane] in ended or book.counts(newest[lane])
        assert sum(load.runs and load.counts for load in book.loads) <= LOADERS
        assert book.begun() == (book, ()), "whatever may run does"
