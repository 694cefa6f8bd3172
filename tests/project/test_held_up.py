"""What the acceptance tests judge a worker's pauses by: its own are counted, those of a busy machine are not."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cores import CoreWaits
from tests.support.outputs import Look, OutputLog
from tests.support.waiting import eventually_sync

TICK = 0.1
MAIN, OTHER = 1, 2


def log_of(
    made_at: list[float], *, until: float, waits: dict[float, float] | None = None, away: tuple[float, float] = (0, 0)
) -> OutputLog:
    """Looks each tenth of a second at a worker that made pictures at these seconds.

    `waits` are seconds that its main thread waited for a core, by when; nobody looks in the span `away`.
    """
    looks: list[Look] = []
    for tick in range(1, round(until / TICK)):
        now = tick * TICK
        if away[0] < now < away[1]:
            continue
        newest = max(moment for moment in made_at if moment <= now)
        waited = sum(seconds for moment, seconds in (waits or {}).items() if moment <= now)
        looks.append(Look(now, round(newest * 1000), now - newest, CoreWaits({MAIN: waited, OTHER: 0.0})))
    return OutputLog(looks)


BEFORE = [0.05, 0.45, 0.85, 1.25, 1.65]
"""A picture each 0.4 s; what is judged begins at 1.5 s."""


def test_a_stop_of_the_worker_is_counted_beyond_what_a_picture_takes() -> None:
    log = log_of([*BEFORE, 1.65 + 0.4 + 1.5], until=4)
    assert log.held_up(1.5) == pytest.approx(1.5, abs=2 * TICK)


def test_pictures_at_the_pace_of_before_are_not_held_up() -> None:
    log = log_of([*BEFORE, 2.05, 2.45, 2.85], until=3.2)
    assert log.held_up(1.5) == pytest.approx(0, abs=2 * TICK)


def test_what_the_worker_waited_for_a_core_is_taken_off() -> None:
    log = log_of([*BEFORE, 1.65 + 0.4 + 1.5], until=4, waits={2.0: 0.7, 3.0: 0.7})
    assert log.held_up(1.5) == pytest.approx(0.1, abs=2 * TICK)


def test_a_wait_for_a_core_before_excuses_no_stop() -> None:
    log = log_of([*BEFORE, 1.65 + 0.4 + 1.5], until=4, waits={1.0: 1.4})
    assert log.held_up(1.5) > 1.2


def test_waits_of_several_threads_at_once_are_counted_once() -> None:
    assert CoreWaits({MAIN: 1.5, OTHER: 2.0, 3: 0.4}).since(CoreWaits({MAIN: 1.0, OTHER: 1.6})) == pytest.approx(0.5)


def test_a_test_that_did_not_look_saw_no_stop() -> None:
    log = log_of([*BEFORE, 2.05, 2.45, 4.4, 4.8], until=5, away=(2.5, 4.5))
    assert log.held_up(1.5) < 0.2


def test_a_log_without_pictures_proves_nothing() -> None:
    with pytest.raises(AssertionError, match="and 1 after"):
        log_of(BEFORE[:4], until=1.6).held_up(1.5)


@pytest.fixture
def rivals() -> Iterator[list[int]]:
    """The process ids of two that compute, on one core."""
    program = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\nwhile True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    yield [process.pid for process in processes]
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not count waits for cores")
def test_a_process_that_shares_its_core_waits_for_it_and_one_that_sleeps_does_not(rivals: list[int]) -> None:
    program = "print('here', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sleeper:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == b"here\n", "before, it may sleep for a moment while it starts"
        eventually_sync(lambda: _state(sleeper.pid) == "S", what="sleep")
        asleep, start = CoreWaits.of(sleeper.pid), time.monotonic()
        before = [CoreWaits.of(rival) for rival in rivals]
        eventually_sync(
            lambda: all(CoreWaits.of(rival).since(was) > 0.3 for rival, was in zip(rivals, before, strict=True)),
            seconds=30,
        )
        assert all(
            CoreWaits.of(rival).since(was) <= time.monotonic() - start
            for rival, was in zip(rivals, before, strict=True)
        )
        assert CoreWaits.of(sleeper.pid).since(asleep) < 0.1
        sleeper.communicate(b"\n")


def test_a_process_that_is_gone_has_no_waits() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert CoreWaits.of(process.pid) == CoreWaits()


def _state(process_id: int) -> str:
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(") ")[2][0]
