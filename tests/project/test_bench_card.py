"""`bench.card`: whose turn it is, and that nothing runs beside what is timed."""

import sys
from pathlib import Path

import psutil
import pytest

from bench import card
from bench.card import Program, Standing, State, Step, is_over, next_turn, run
from bench.support.peers import until
from bench.support.turn import READY

PREPARES = f"print({READY!r}, flush=True); line = input()"
"""A program that is ready at once."""


def step(name: str, program: str, *, seconds: float = 20, prepares: bool = True) -> Step:
    return Step(name, ("-c", program), seconds, prepares=prepares, writes=False)


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def standings(*states: State, seconds: float = 10) -> list[Standing]:
    return [Standing(step(str(place), "", seconds=seconds), state) for place, state in enumerate(states)]


@pytest.mark.parametrize(
    ("states", "left", "turn"),
    [
        (("preparing", "ready", "ready"), 60, "1"),
        (("done", "failed", "late", "ready"), 60, "3"),
        (("preparing", "done"), 60, None),
        (("ready",), 9, None),
    ],
)
def test_the_first_ready_one_that_fits_has_its_turn(states: tuple[State, ...], left: float, turn: str | None) -> None:
    chosen = next_turn(standings(*states), left)
    assert (None if chosen is None else chosen.name) == turn


@pytest.mark.parametrize(
    ("states", "left", "over"),
    [(("done", "failed"), 60, True), (("preparing",), 60, False), (("ready",), 9, True), (("preparing",), 9, True)],
)
def test_it_is_over_when_no_turn_can_come(states: tuple[State, ...], left: float, over: bool) -> None:
    assert is_over(standings(*states), left) is over


def test_steps_end_as_they_do_and_what_never_gets_ready_is_not_run(tmp_path: Path) -> None:
    ended = run(
        [
            step("good", f"{PREPARES}; print('figures')"),
            step("missed", f"{PREPARES}; raise SystemExit(1)"),
            step("broken", "raise SystemExit(3)"),
            step("at once", "print('no preparation')", prepares=False),
            step("never ready", "input()", seconds=100),
        ],
        tmp_path,
        seconds=101,
        tell=lambda line: None,
    )
    assert {name: state for name, (state, _) in ended.items()} == {
        "good": "done",
        "missed": "failed",
        "broken": "failed",
        "at once": "done",
        "never ready": "not run",
    }
    assert (tmp_path / "good.log").read_text("utf-8").splitlines() == [READY, "figures"]


def test_a_turn_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    ended = run([step("hangs", f"{PREPARES}; input()", seconds=0.2)], tmp_path, seconds=60, tell=lambda line: None)
    assert ended["hangs"][0] == "late"


@pytest.mark.skipif(sys.platform == "win32", reason="a stopped process has another state there")
async def test_what_prepares_is_stopped_with_its_children_while_another_is_timed(tmp_path: Path) -> None:
    child = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE); input()"
    )
    program = Program(step("prepares", child), tmp_path)
    try:
        (ours,) = [each for each in psutil.Process().children() if child in each.cmdline()]
        await until(lambda: len(ours.children()) == 1, 30, "its child")
        everybody = [ours, *ours.children()]
        program.pause()
        await until(lambda: all(each.status() == psutil.STATUS_STOPPED for each in everybody), 30, "all to stop")
        program.go_on()
        await until(lambda: all(each.status() != psutil.STATUS_STOPPED for each in everybody), 30, "all to go on")
    finally:
        program.end()
    await until(lambda: all(has_ended(each) for each in everybody), 30, "all to end")


@pytest.mark.parametrize("steps", [card.ON_A_GPU, card.ON_A_CPU])
def test_the_steps_are_programs_of_the_bench(steps: tuple[Step, ...]) -> None:
    assert len({each.name for each in steps}) == len(steps)
    modules = {each.arguments[1] for each in steps}
    known = {"bench.frame", "bench.live", "bench.engines", "bench.conditioning", "bench.launches", "bench.convolutions"}
    assert modules <= known | {"pytest"}
