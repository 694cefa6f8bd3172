"""What calls take: means by kind and number of streams, and sums that outlive a process."""

import pytest

from sdstream.worker.ports import CallCost, CallKind
from sdstream.worker.scheduling.load import KEPT, CallTotals, LoadMeter, cost_of

KIND = CallKind("model", 64, 64, 1)


def test_the_first_call_counts_only_until_there_is_another() -> None:
    meter = LoadMeter()
    meter.note(KIND, 2, 9.0)
    assert [cost_of(load) for load in meter.loads()] == [CallCost(KIND, {2: 9.0})]
    for _ in range(30):
        meter.note(KIND, 2, 0.1, 500)
    meter.note(KIND, 2, 0.2)
    (cost,) = (cost_of(load) for load in meter.loads())
    assert cost.seconds == {2: pytest.approx(0.11)}
    assert cost.stream_bytes == 500


def test_the_first_call_of_more_streams_does_not_count_beside_what_is_known() -> None:
    meter = LoadMeter()
    for _ in range(3):
        meter.note(KIND, 1, 0.01)
    meter.note(KIND, 4, 3.0)
    assert [cost_of(load).seconds for load in meter.loads()] == [{1: 0.01}]
    meter.note(KIND, 4, 0.03)
    assert [cost_of(load).seconds for load in meter.loads()] == [{1: 0.01, 4: 0.03}]


def test_kinds_that_were_not_called_for_long_are_forgotten() -> None:
    meter = LoadMeter()
    for width in range(KEPT):
        meter.note(CallKind("model", width, 64, 1), 1, 0.1)
    meter.note(CallKind("model", 0, 64, 1), 1, 0.1)
    meter.note(CallKind("model", 9999, 64, 1), 1, 0.1)
    widths = [load.width for load in meter.loads()]
    assert len(widths) == KEPT
    assert widths[-2:] == [0, 9999]
    assert 1 not in widths


def test_sums_do_not_fall_when_a_process_ends() -> None:
    totals, meter = CallTotals(), LoadMeter()
    meter.note(KIND, 1, 0.5)
    meter.note(KIND, 4, 0.25)
    calls, seconds = meter.totals()
    assert (totals.calls(calls), totals.seconds(seconds)) == ({1: 1, 4: 1}, {1: 0.5, 4: 0.25})
    totals.end(calls, seconds)
    assert (totals.calls({}), totals.seconds({})) == ({1: 1, 4: 1}, {1: 0.5, 4: 0.25})
    assert totals.calls({4: 2, 8: 1}) == {1: 1, 4: 3, 8: 1}


def test_what_calls_usually_take_is_known_after_the_first_of_as_many_streams() -> None:
    meter = LoadMeter()
    assert meter.usual(KIND, 1) is None
    meter.note(KIND, 1, 9.0)
    assert meter.usual(KIND, 1) == 9.0
    meter.note(KIND, 1, 0.1)
    assert meter.usual(KIND, 1) == 0.1
    assert meter.usual(KIND, 2) is None
    meter.note(KIND, 2, 9.0)
    assert meter.usual(KIND, 2) == 0.0, "the first of them is no measure, and there is a call to go by"
