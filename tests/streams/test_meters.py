"""Pacing, rates, latencies and drops."""

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.clock import ManualClock
from sdstream.metrics import LATENCY_BOUNDS
from sdstream.streams.meters import LATENCY_CAPACITY, LatencyWindow, RateMeter
from sdstream.streams.pacing import decide_pace
from sdstream.streams.traffic import StreamTraffic
from sdstream.worker.ports import ProcessedPicture
from tests.streams.fakes import picture

gaps = st.lists(st.floats(0, 0.2), min_size=1, max_size=300)


def admitted_times(gap_list: list[float], interval: float) -> list[float]:
    now, due, admitted = 1000.0, 0.0, []
    for gap in gap_list:
        now += gap
        pace = decide_pace(due, now, interval)
        due = pace.due
        if pace.admitted:
            admitted.append(now)
    return admitted


@given(gaps, st.floats(1 / 240, 0.5))
def test_no_more_than_the_rate_is_admitted(gap_list: list[float], interval: float) -> None:
    admitted = admitted_times(gap_list, interval)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            assert last - first + 1 <= (admitted[last] - admitted[first]) / interval + 3 + 1e-6


@given(st.lists(st.floats(-0.2, 0.2), min_size=10, max_size=200))
def test_a_camera_at_the_limit_that_jitters_loses_nothing(jitter: list[float]) -> None:
    interval = 1 / 60
    times = [1000 + (number + shift) * interval for number, shift in enumerate(jitter)]
    due = 0.0
    for now in times:
        pace = decide_pace(due, now, interval)
        assert pace.admitted
        due = pace.due


@pytest.mark.parametrize("fps", [1.0, 14.99, 24.0, 29.97, 60.0, 144.0])
def test_a_steady_flow_is_measured_within_half_a_picture(fps: float) -> None:
    meter = RateMeter()
    for number in range(round(5 * fps)):
        meter.add(1000 + number / fps)
    assert meter.rate(1000 + round(5 * fps) / fps) == pytest.approx(fps, abs=0.55)


@pytest.mark.parametrize("fps", [15.0, 30.0])
def test_a_flow_is_measured_from_its_first_second(fps: float) -> None:
    meter = RateMeter()
    for number in range(round(fps) + 1):
        meter.add(1000 + number / fps)
    assert meter.rate(1001) == pytest.approx(fps, rel=0.05)


def test_a_flow_that_stopped_has_no_rate() -> None:
    meter = RateMeter()
    for number in range(60):
        meter.add(1000 + number / 30)
    assert meter.rate(1002 + 2.1) == 0.0
    assert meter.total == 60


def test_a_pause_starts_the_flow_anew() -> None:
    meter = RateMeter()
    meter.add(1000.0)
    meter.add(1001.0)
    assert meter.first_at == 1000.0
    meter.add(1010.0)
    assert (meter.first_at, meter.last_at) == (1010.0, 1010.0)


@given(st.lists(st.floats(1000, 1010), max_size=200), st.floats(1000, 1030))
def test_a_rate_is_never_negative_and_never_above_what_was_counted(times: list[float], now: float) -> None:
    meter = RateMeter()
    for time in sorted(times):
        meter.add(time)
    assert 0 <= meter.rate(max(now, *times) if times else now) <= 2 * len(times)


def test_percentiles_are_those_of_the_window() -> None:
    window = LatencyWindow()
    for number in range(100):
        window.add(1000.0, 9.0)
        window.add(1020.0, (number + 1) / 1000)
    summary = window.summary(1021.0)
    assert summary is not None
    assert (summary.p50, summary.p95) == (0.050, 0.095)
    assert window.summary(1031.0) is None


@given(st.lists(st.floats(0, 5), min_size=1, max_size=300))
def test_percentiles_are_values_and_ordered(values: list[float]) -> None:
    window = LatencyWindow()
    for value in values:
        window.add(1000.0, value)
    summary = window.summary(1000.0)
    assert summary is not None
    assert min(values) <= summary.p50 <= summary.p95 <= max(values)
    assert {summary.p50, summary.p95} <= set(values)


def test_a_histogram_counts_each_value_in_its_bucket() -> None:
    window = LatencyWindow()
    for bound in LATENCY_BOUNDS:
        window.add(1000.0, bound)
    window.add(1000.0, 99.0)
    counts = window.counts()
    assert counts.buckets == (1,) * (len(LATENCY_BOUNDS) + 1)
    assert counts.seconds == pytest.approx(sum(LATENCY_BOUNDS) + 99)


def test_memory_stays_bounded() -> None:
    window = LatencyWindow()
    before = sys.getsizeof(window._times)
    for number in range(3 * LATENCY_CAPACITY):
        window.add(number / 1000, 0.01)
    assert sys.getsizeof(window._times) == before
    assert sum(window.counts().buckets) == 3 * LATENCY_CAPACITY


def test_hops_add_up_to_the_age_of_the_picture() -> None:
    clock = ManualClock()
    traffic = StreamTraffic(clock, 60)
    frame = picture(clock)
    clock.advance(0.030)
    traffic.note("encode", 0.005)
    traffic.leave(ProcessedPicture(frame, 1, worker_seconds=0.020, queue_seconds=0.002))
    hops = traffic.latencies(clock.monotonic())
    assert hops["worker"].p50 == pytest.approx(0.020)
    assert hops["queue"].p50 == pytest.approx(0.010)
    assert hops["encode"].p50 == pytest.approx(0.005)
    assert hops["total"].p50 == pytest.approx(0.035)


def test_no_picture_is_miscounted_by_two_threads() -> None:
    clock = ManualClock()
    traffic = StreamTraffic(clock, 60)

    def run() -> None:
        for _ in range(5000):
            traffic.arrive()
            traffic.drop("no_lane")

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert traffic.input.total == 10_000
    assert traffic.drops()["no_lane"] == 10_000
