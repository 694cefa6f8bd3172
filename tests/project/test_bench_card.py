"""`bench.card`: whose turn it is, and that nothing runs beside what is timed."""

import asyncio
import importlib
import io
import json
import os
import signal
import sys
from argparse import ArgumentParser
from pathlib import Path

import psutil
import pytest

from bench.card import Program, Standing, State, is_over, next_turn, outcomes_of, run, told_of
from bench.support import card_steps, turn
from bench.support.card_steps import ON_A_CPU, ON_A_GPU, Step
from bench.support.peers import until
from bench.support.targets import ROOT
from bench.support.turn import READY
from sdstream.worker.server_end.child import KEEP_MEMORY

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


def test_a_step_of_more_worth_that_prepares_is_waited_for_as_long_as_that_is_asked() -> None:
    both = standings("preparing", "ready")
    assert next_turn(both, 60, waits=True) is None
    assert next_turn(both, 60) == both[1].step
    long = Standing(step("long", "", seconds=100), "preparing")
    assert next_turn([long, both[1]], 60, waits=True) == both[1].step, "one that has no time left keeps nobody"


def test_what_times_nothing_runs_beside_what_prepares_and_that_has_its_turn_before_steps_of_less_worth(
    tmp_path: Path,
) -> None:
    order: list[str] = []
    waits = "import sys, pathlib, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)\n"
    tests = Step("tests", ("-c", waits, str(tmp_path / "prepared")), 30, writes=False, times=False)
    prepares = step("prepares", f"open({str(tmp_path / 'prepared')!r}, 'w').close(); {PREPARES}")
    last = step("last", "pass", prepares=False)
    run([tests, prepares, last], tmp_path, seconds=100, tell=lambda line: order.append(line.partition(":")[0]))
    assert order == ["tests", "prepares", "last"], "the first ends when the second, which is not stopped, has prepared"


def test_what_was_measured_is_told_after_each_step(tmp_path: Path) -> None:
    seen: list[dict[str, State]] = []
    writes = "import sys; open(sys.argv[2], 'w').write('{\"ms\": 3}'); print('done')"
    first = Step("first", ("-c", writes), 20)
    run(
        [first, step("second", "raise SystemExit(1)", prepares=False)],
        tmp_path,
        seconds=100,
        tell=lambda line: None,
        note=lambda outcomes: seen.append({name: state for name, (state, _) in outcomes.items()}),
    )
    assert seen == [{"first": "done", "second": "ready"}, {"first": "done", "second": "failed"}]
    told = told_of(first, "done", 1.0, tmp_path)
    assert (told["figures"], told["log"]) == ({"ms": 3}, ["done"])
    (tmp_path / "first.json").write_text('{"ms"')
    assert told_of(first, "late", 1.0, tmp_path)["figures"] is None
    assert json.dumps(told)


def test_what_an_earlier_run_has_left_is_no_figure_of_this_one(tmp_path: Path) -> None:
    (tmp_path / "fails.json").write_text('{"ms": 3}')
    (tmp_path / "late.log").write_text("done")
    fails, late = Step("fails", ("-c", "raise SystemExit(1)"), 20), step("late", "input()", seconds=200)
    ended = run([fails, late], tmp_path, seconds=100, tell=lambda line: None)
    assert {name: state for name, (state, _) in ended.items()} == {"fails": "failed", "late": "not run"}
    assert told_of(fails, "failed", 1.0, tmp_path)["figures"] is None
    assert told_of(late, "not run", 0.0, tmp_path)["log"] == []


@pytest.mark.skipif(sys.platform == "win32", reason="nobody is asked to end there")
async def test_who_is_asked_to_end_takes_all_steps_along(tmp_path: Path) -> None:
    hangs = f"open({str(tmp_path / 'number')!r}, 'w').write(str(__import__('os').getpid())); input()"
    program = (
        "import sys; from bench import card; from bench.support.card_steps import Step; "
        f"card.ON_A_CPU = card.ON_A_GPU = (Step('hangs', ('-c', {hangs!r}), 100, prepares=True, writes=False),); "
        f"sys.argv = ['card', '--results', {str(tmp_path)!r}]; sys.exit(card.main())"
    )
    bench = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT)
    try:
        number = tmp_path / "number"
        await until(lambda: number.exists() and number.read_text() != "", 120, "the step to begin")
        hanging = psutil.Process(int(number.read_text()))
        bench.terminate()
        assert await asyncio.wait_for(bench.wait(), 60) == 128 + signal.SIGTERM
        await until(lambda: has_ended(hanging), 30, "the step to end")
    finally:
        if bench.returncode is None:
            bench.kill()
            await bench.wait()


def test_a_program_whose_turn_nobody_can_give_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    turn.wait()
    with pytest.raises(SystemExit, match="nobody"):
        turn.wait()


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


def test_no_turn_takes_longer_than_there_is_time(tmp_path: Path) -> None:
    program = Program(step("hangs", "input()", seconds=1000, prepares=False), tmp_path)
    program.take_turn(0.2)
    assert program.state == "late"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no groups of processes there")
async def test_what_a_step_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    left = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']).pid)"
    program = Program(step("dies", f"{left}; raise SystemExit(3)", prepares=False), tmp_path)
    program.take_turn(30)
    program.end()
    assert outcomes_of([program])["dies"][0] == "failed"
    number = int((tmp_path / "dies.log").read_text("utf-8"))
    await until(lambda: not psutil.pid_exists(number) or has_ended(psutil.Process(number)), 30, "its child to end")


@pytest.mark.skipif(sys.platform == "win32", reason="a stopped process has another state there")
async def test_what_prepares_is_stopped_with_its_children_while_another_is_timed(tmp_path: Path) -> None:
    child = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE); input()"
    )
    program = Program(step("prepares", child), tmp_path)
    try:
        (ours,) = [each for each in psutil.Process().children() if child in each.cmdline()]
        # One that is stopped before it is its own program keeps its parent from being stopped.
        await until(lambda: [each.cmdline()[-1:] for each in ours.children()] == [["input()"]], 30, "its child")
        everybody = [ours, *ours.children()]
        program.pause()
        await until(lambda: all(each.status() == psutil.STATUS_STOPPED for each in everybody), 30, "all to stop")
        program.go_on()
        await until(lambda: all(each.status() != psutil.STATUS_STOPPED for each in everybody), 30, "all to go on")
    finally:
        program.end()
    await until(lambda: all(has_ended(each) for each in everybody), 30, "all to end")


def test_tests_keep_no_figures_waiting_and_say_what_they_were_at(tmp_path: Path) -> None:
    assert ON_A_GPU[-1] is card_steps.TESTS
    hangs = "import time\n\n\ndef test_well():\n    pass\n\n\ndef test_hangs():\n    time.sleep(600)\n"
    (tmp_path / "test_it.py").write_text(hangs, "utf-8")
    told = (
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
        *card_steps.TOLD,
        "--timeout=1",
        str(tmp_path),
    )
    ended = run([Step("tests", told, 60, writes=False)], tmp_path, seconds=200, tell=lambda line: None)
    log = (tmp_path / "tests.log").read_text("utf-8")
    assert ended["tests"][0] == "failed"
    assert "test_well PASSED" in log
    assert all(words in log for words in ("FAILED", "Timeout", "test_it.py:9"))


@pytest.mark.parametrize("steps", [ON_A_GPU, ON_A_CPU])
def test_each_step_has_a_name_of_its_own(steps: tuple[Step, ...]) -> None:
    assert len({each.name for each in steps}) == len(steps)


class Understood(Exception):
    """A program has read its arguments."""


@pytest.mark.parametrize(
    "step", [each for each in ON_A_GPU + ON_A_CPU if each.arguments[1] != "pytest"], ids=lambda step: step.name
)
def test_each_program_takes_the_words_that_it_is_given(
    step: Step, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read = ArgumentParser.parse_args

    def stop_there(parser: ArgumentParser) -> None:
        read(parser)
        raise Understood

    monkeypatch.setattr(ArgumentParser, "parse_args", stop_there)
    for name, value in KEEP_MEMORY.items():  # with these a program does not begin anew
        monkeypatch.setenv(name, value)
    flag, module, *words = step.command(tmp_path)
    assert flag == "-m"
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(Understood):
        importlib.import_module(module).main()


def test_steps_of_a_run_share_what_their_trials_find(tmp_path: Path) -> None:
    remembering = [each.command(tmp_path) for each in ON_A_GPU if "--remember" in each.arguments]
    assert len(remembering) > 1
    assert {words[words.index("--remember") + 1] for words in remembering} == {str(tmp_path / "findings")}
