"""Checks whole parameters and reports everything that is wrong at once."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sdstream.params.controlnets import CONTROLNETS, ControlNetFacts
from sdstream.params.preparation import nearest_side
from sdstream.params.problems import Notes, Problem, describe
from sdstream.params.unknown import note_unknown
from sdstream.params.variants import VARIANTS, StreamParams
from sdstream.settings import Family

PATH = "params"


def check(
    values: Mapping[str, Any],
    family: Family,
    notes: Notes,
    doubtful: frozenset[str] = frozenset(),
    controlnets: Mapping[str, ControlNetFacts] = CONTROLNETS,
) -> tuple[StreamParams | None, list[Problem]]:
    """Parameters of `family` from wire values, or None and all that is wrong with them.

    Rules between fields are checked even when other fields are wrong; those that read a wrong field, or one of
    `doubtful`, are left out, since they could only repeat or mislead. `controlnets` are those of this server.
    """
    variant = VARIANTS[family]
    note_unknown(values, variant, notes, PATH)
    context: dict[str, Any] = {"controlnets": controlnets}
    try:
        return variant.model_validate(values, context=context), []
    except ValidationError as error:
        problems = [_improve(problem) for problem in describe(error, PATH)]
        wrong = {str(found["loc"][0]) for found in error.errors(include_url=False) if found["loc"]}
    if wrong:
        try:
            right = {name: value for name, value in values.items() if name not in wrong}
            variant.model_validate(right, context={"controlnets": controlnets})
        except ValidationError as error:
            problems += describe(error, PATH)
    return None, [problem for problem in problems if not problem.reads & (wrong | doubtful)]


def _improve(problem: Problem) -> Problem:
    # pydantic reports the first broken bound of a side only; callers want to know all that a side must be.
    if problem.field in {f"{PATH}.width", f"{PATH}.height"} and problem.problem.startswith("must be "):
        number = problem.problem.rpartition(" ")[2]
        try:
            near = f"use {nearest_side(float(number))}"
        except ValueError:
            return problem
        return Problem(problem.field, f"must be a multiple of 64 from 384 to 1024, not {number}", near)
    return problem


__all__ = ["PATH", "check"]
