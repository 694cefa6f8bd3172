"""What the builder prints for people and programs: plans, and what was found about engines."""

import json
import math
import sys
from collections.abc import Iterable
from typing import Any

from builder.baking import BakeOutcome, Plan
from builder.checking import CheckResult
from builder.estimates import Basis, readable_size
from builder.guesses import Guess
from builder.pushing import Pusher


def show_plan(entry: Plan) -> None:
    """What is there and what is missing, and what that takes; why it would fail, if it would."""
    print(f"{entry.profile.name}, {entry.backend} {entry.version}")
    for item in entry.wanted:
        print(f"  {'there' if item.entry else 'MISSING':8}{item.key.readable}")
        if item.entry is None and item.near is not None:
            print(f"          that for {item.near.key.target} is there and serves these cards, too")
    if not entry.missing:
        return
    needed = entry.estimate
    free = [
        "" if count is None else f" of {readable_size(count)} free" for count in (needed.free_memory, needed.free_disk)
    ]
    print(
        f"  to make {len(entry.missing)} ({needed.basis}): about {needed.seconds / 60:.1f} min, "
        f"{readable_size(needed.memory)} of memory ({readable_size(needed.least_memory)} at least){free[0]}, "
        f"{readable_size(needed.disk)} of disk{free[1]}"
    )
    for problem in needed.problems:
        print(f"  NOT ENOUGH: {problem}")


def show_guess(entry: Guess) -> None:
    """What a profile may take that cannot be looked at here."""
    needed = entry.estimate
    print(
        f"{entry.profile}, {entry.backend}: a guess from the sizes of the published models; nothing was looked at\n"
        f"  to make {entry.count}: about {needed.seconds / 60:.0f} min on 2 cores, {readable_size(needed.memory)} of "
        f"memory, {readable_size(needed.disk)} of disk; with what is there already less"
    )
    for problem in needed.problems:
        print(f"  NOT ENOUGH, if so: {problem}")


def guess_json(entry: Guess) -> dict[str, Any]:
    """The same for programs; `engines` is empty, as they are not known."""
    needed = entry.estimate
    return {
        "profile": entry.profile,
        "backend": entry.backend,
        "version": None,
        "engines": [],
        "count": entry.count,
        "seconds": round(needed.seconds),
        "memory": needed.memory,
        "least_memory": needed.least_memory,
        "disk": needed.disk,
        "basis": str(Basis.GUESSED),
        "problems": list(needed.problems),
    }


def plan_json(entry: Plan) -> dict[str, Any]:
    """The same for programs: seconds and bytes."""
    needed = entry.estimate
    return {
        "profile": entry.profile.name,
        "backend": entry.backend,
        "version": entry.version,
        "engines": [
            {"name": item.key.readable, "digest": item.key.digest, "present": item.entry is not None}
            for item in entry.wanted
        ],
        "seconds": round(needed.seconds),
        "memory": needed.memory,
        "least_memory": needed.least_memory,
        "disk": needed.disk,
        "basis": needed.basis,
        "problems": list(needed.problems),
    }


def show_results(results: Iterable[CheckResult], *, as_json: bool) -> None:
    """A line for each engine: whether it is good, why not, what could not be looked at, what was measured.

    JSON has null for a fact that is no finite number; `problems` says of what.
    """
    if as_json:
        print(json.dumps([result_json(result) for result in results], indent=2, allow_nan=False))
    else:
        for result in results:
            _show_result(result)


def result_json(result: CheckResult) -> dict[str, Any]:
    """The members of one of `verify --json`."""
    facts = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in result.facts.items()
    }
    return {"name": result.name, "facts": facts, "problems": result.problems, "not_run": result.not_run}


def _show_result(result: CheckResult) -> None:
    facts = [
        f"{name} {value:.2g}" if isinstance(value, float) else f"{name} {value}" for name, value in result.facts.items()
    ]
    told = [*result.problems, *(f"not run: {text}" for text in result.not_run), *([", ".join(facts)] if facts else [])]
    print(f"{'WRONG' if result.problems else 'good':6}{result.name}: {'; '.join(told)}")


def show_outcome(outcome: BakeOutcome, pusher: Pusher | None, *, as_json: bool) -> None:
    """What became of each engine; on stderr, in either form, what could not be made or pushed, and why."""
    pushed = [] if pusher is None else pusher.pushed
    unpushed = {} if pusher is None else pusher.failed
    if as_json:
        told = {name: f"{error.code}: {error.message}" for name, error in unpushed.items()}
        print(json.dumps({**outcome.as_json(), "pushed": pushed, "unpushed": told}, indent=2))
    else:
        for engine in outcome.engines:
            if engine.error is None:
                print(f"{engine.status:8}{engine.name} {readable_size(engine.size)}, {engine.seconds:.0f} s")
        for name in pushed:
            print(f"pushed  {name}")
    hints: dict[str, None] = {}  # each once, in order
    for engine in outcome.failures:
        if engine.error is not None:
            print(f"builder: {engine.name} could not be made: {engine.error.message}", file=sys.stderr)
            hints[engine.error.hint] = None
    for hint in filter(None, hints):
        print(f"  {hint}", file=sys.stderr)
    for name, error in unpushed.items():
        print(f"builder: {name} is made and could not be pushed: {error.message}", file=sys.stderr)


__all__ = [
    "guess_json",
    "plan_json",
    "show_guess",
    "show_outcome",
    "show_plan",
    "show_results",
]
