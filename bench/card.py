"""Everything that wants measuring on a GPU, in one go, within so many minutes: the most telling first.

    python -m bench.card [--minutes 12] [--results DIR] [--only frame-sd-turbo-512,live] [--list]

The steps are in `bench.support.card_steps`: what belongs to goals comes first, and nothing of it beside others.
Programs that compile and capture for long are started together, and are timed one after another when they are ready
(`bench.support.turn`); those that still prepare are stopped meanwhile, so that nothing runs beside what is timed. A
step of more worth that still prepares is waited for, three minutes long. DIR gets a file of figures and a log for each
step, and `card.json`, which says what was run, how it ended and what there was no time for, with all figures and the
ends of the logs in it; it is written anew after each step, so that what was measured is there whatever happens then.
Ends with exit code 1 when a step failed or missed its goals, or was not run.

Without a GPU the small models are measured: the same way, at another scale.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import psutil
import torch

from bench.support.card_steps import ON_A_CPU, ON_A_GPU, Step
from bench.support.targets import ROOT, conditions
from bench.support.turn import READY

LOOK = 0.1
"""Seconds between two looks at programs that run."""
PATIENCE = 3.0
"""A step whose turn takes so many times its seconds is ended."""
PREPARING = 180.0
"""Seconds from the start for which turns wait for steps of more worth that still prepare. Whoever has its turn stops
all that prepare: without this they would come to nothing before all others are done."""
LAST_LINES = 60
"""Of each log, that are told in `card.json`."""

State = Literal["preparing", "ready", "done", "failed", "late", "not run"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a step stands."""

    step: Step
    state: State


def next_turn(standings: Iterable[Standing], seconds_left: float, *, waits: bool = False) -> Step | None:
    """Whose turn it is: the first in the order of worth that is ready and fits into what is left; None for nobody.

    With `waits` nobody comes before a step that still prepares and fits.
    """
    for standing in standings:
        if standing.step.seconds > seconds_left:
            continue
        if standing.state == "ready":
            return standing.step
        if waits and standing.state == "preparing":
            return None
    return None


def is_over(standings: Iterable[Standing], seconds_left: float) -> bool:
    """Whether no turn can come any more."""
    waiting = [each for each in standings if each.state in ("preparing", "ready")]
    return all(each.step.seconds > seconds_left for each in waiting)


class Program:
    """A step's process. Its lines go to the log, and the one that it is ready with is noticed."""

    def __init__(self, step: Step, results: Path) -> None:
        self.step = step
        self._results = results
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()
        self._state: State = "preparing" if step.prepares else "ready"
        self.seconds = 0.0
        """What the turn took."""
        for kind in ("json", "log"):  # what an earlier run has left is no figure of this one
            (results / f"{step.name}.{kind}").unlink(missing_ok=True)
        if step.prepares:
            self._start()

    @property
    def state(self) -> State:
        """Where it stands now."""
        if self._state == "preparing" and self._process is not None:
            if self._ready.is_set():
                self._state = "ready"
            elif self._process.poll() is not None:
                self._state = "failed"
        return self._state

    def take_turn(self, most: float) -> None:
        """Let it time, until it is done, or its patience is over or `most` seconds are."""
        began = time.monotonic()
        process = self._process or self._start()
        if self.step.prepares and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("\n")
                process.stdin.flush()
        try:
            self._state = "done" if process.wait(min(PATIENCE * self.step.seconds, most)) == 0 else "failed"
        except subprocess.TimeoutExpired:
            self._state = "late"
            self.end()
        self._end_group()  # what a step that died has left would run beside the next
        self.seconds = time.monotonic() - began

    def pause(self) -> None:
        """Stop it and its children where they are, if it still prepares."""
        if self.state == "preparing":
            self._each(psutil.Process.suspend)

    def go_on(self) -> None:
        """After `pause`."""
        self._each(psutil.Process.resume)

    def end(self) -> None:
        """End it and its children."""
        if self._state in ("preparing", "ready"):
            self._state = "not run"
        self._each(psutil.Process.kill)
        self._end_group()
        if self._process is not None:
            self._process.wait()
            if self._reader is not None:
                self._reader.join(5)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *self.step.command(self._results)],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # what is ended has told all that it had to tell
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=None if sys.platform == "win32" else 0,
        )
        log = (self._results / f"{self.step.name}.log").open("w", encoding="utf-8")
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process.stdout, log), daemon=True)
        self._reader.start()
        return process

    def _read(self, lines: IO[str], log: IO[str]) -> None:
        with log:
            for line in lines:
                log.write(line)
                log.flush()
                if line.strip() == READY:
                    self._ready.set()

    def _end_group(self) -> None:
        """End all that its process has started and not ended, whether it lives or not."""
        if self._process is not None and sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _each(self, act: Callable[[psutil.Process], object]) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            for process in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    act(process)


def run(
    steps: Sequence[Step],
    results: Path,
    seconds: float,
    tell: Callable[[str], None] = print,
    note: Callable[[Mapping[str, tuple[State, float]]], None] = lambda outcomes: None,
    preparing: float = PREPARING,
) -> Mapping[str, tuple[State, float]]:
    """Run the steps; how each ended, and the seconds of its turn. Nothing runs any more when this returns or raises.

    `note` is told the same of all steps after each of them. Turns wait for `preparing` seconds (`PREPARING`).
    """
    results.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    ends = began + seconds
    programs: list[Program] = []
    pause = threading.Event()
    try:
        programs.extend(Program(step, results) for step in steps)
        while not is_over(standings := standings_of(programs), ends - time.monotonic()):
            now = time.monotonic()
            step = next_turn(standings, ends - now, waits=now - began < preparing)
            if step is None:
                pause.wait(LOOK)
                continue
            program = next(each for each in programs if each.step is step)
            for each in programs if step.times else ():
                each.pause()
            program.take_turn(ends - time.monotonic())
            for each in programs if step.times else ():
                each.go_on()
            note(outcomes_of(programs))
            left = max(0.0, ends - time.monotonic())
            tell(f"{step.name}: {program.state}, {program.seconds:.0f} s; {left:.0f} s are left")
    finally:
        for each in programs:
            each.end()
    return outcomes_of(programs)


def outcomes_of(programs: Iterable[Program]) -> Mapping[str, tuple[State, float]]:
    return {each.step.name: (each.state, round(each.seconds, 1)) for each in programs}


def standings_of(programs: Iterable[Program]) -> list[Standing]:
    return [Standing(each.step, each.state) for each in programs]


def told_of(step: Step, state: State, seconds: float, results: Path) -> dict[str, Any]:
    """How a step ended, with its figures and the end of its log."""
    figures, log = results / f"{step.name}.json", results / f"{step.name}.log"
    told: dict[str, Any] = {"name": step.name, "command": f"python {' '.join(step.command(results))}"}
    told |= {"ended": state, "seconds": seconds, "figures": None, "log": []}
    if log.exists():
        told["log"] = log.read_text("utf-8", errors="replace").splitlines()[-LAST_LINES:]
    if figures.exists():
        with contextlib.suppress(ValueError):  # it was ended while it wrote
            told["figures"] = json.loads(figures.read_text("utf-8"))
    return told


def end_with_steps(number: int, frame: object) -> None:
    """A signal's handler: leave through `run`, which ends all programs, as they would run on beside what comes next."""
    raise SystemExit(128 + number)


def main() -> int:
    signal.signal(signal.SIGTERM, end_with_steps)
    on_gpu = torch.cuda.is_available()
    steps = ON_A_GPU if on_gpu else ON_A_CPU
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0, help="for all of them together")
    parser.add_argument("--results", type=Path, default=Path("artifacts", "card"))
    parser.add_argument("--only", help="only these steps, separated by commas, in this order")
    parser.add_argument("--list", action="store_true", help="say what the steps are, and run none")
    options = parser.parse_args()
    if options.only:
        by_name = {step.name: step for step in steps}
        unknown = [name for name in options.only.split(",") if name not in by_name]
        if unknown:
            parser.error(f"there is no step {', '.join(unknown)}; there are {', '.join(by_name)}")
        steps = tuple(by_name[name] for name in options.only.split(","))
    if options.list:
        for step in steps:
            print(f"{step.name:28} python {' '.join(step.command(options.results))}")
        return 0
    results: Path = options.results.resolve()
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    card: dict[str, Any] = {**conditions(), "device": device}
    card["minutes"] = options.minutes

    def note(outcomes: Mapping[str, tuple[State, float]]) -> None:
        card["steps"] = [told_of(step, *outcomes[step.name], results) for step in steps]
        (results / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")

    outcomes = run(steps, results, 60 * options.minutes, note=note)
    note(outcomes)
    bad = [f"{name} ({state})" for name, (state, _) in outcomes.items() if state != "done"]
    print(f"figures and logs are in {results}" + (f"; not well: {', '.join(bad)}" if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
