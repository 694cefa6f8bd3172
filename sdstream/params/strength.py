"""`strength`, a short way to say which denoising steps: one number for how far the picture may go from the camera's.

It is an extension for requests: what is stored and answered is the `t_index_list` that it stands for.
"""

import math
from collections.abc import Mapping
from typing import Any

from sdstream.params.preparation import whole_number
from sdstream.params.problems import Notes, Problem

NAME, STEPS, LENGTH = "strength", "t_index_list", "num_inference_steps"
STRENGTH_SCHEMA: dict[str, Any] = {
    "type": "number",
    "minimum": 0,
    "maximum": 1,
    "description": "Extension, in requests only: how far the picture may go from the camera's, 0 not at all, 1 all the "
    "way. Stands for a `t_index_list` of as many steps as before.",
}


def spread_steps(strength: float, length: int, count: int) -> list[int]:
    """`count` steps of a schedule of `length`, evenly from where `strength` (0 to 1) begins to the schedule's end.

    1 begins with noise alone, 0 is the last step each time. With one step it is what diffusers' img2img does.
    """
    first = _round_up((1.0 - strength) * length)
    return [first + _round_up(index * (length - first) / count) for index in range(count)]


def _round_up(value: float) -> int:
    # Python rounds halves to even numbers, and the playground's JavaScript up: both make the same list.
    return math.floor(value + 0.5)


def take_strength(values: dict[str, Any], wanted: Mapping[str, Any], notes: Notes, problems: list[Problem]) -> None:
    """Put the steps that `strength` of `values` stands for in its place, as many as `wanted` has, on its schedule.

    `values` are the members that were sent, `wanted` those and the ones that they are laid over. A list that was sent,
    too, counts more.
    """
    strength = values.pop(NAME, None)
    if strength is None:
        return
    if STEPS in values:
        notes.add(f"params.{NAME} has no effect beside {STEPS} and was ignored")
        return
    number = _number(strength)
    if number is None or not 0.0 <= number <= 1.0:
        problems.append(Problem(f"params.{NAME}", "must be a number from 0 (the camera's picture) to 1 (all new)"))
        return
    length = whole_number(wanted.get(LENGTH))
    if length is not None and 1 <= length <= 100:  # else the checks say what is wrong with it
        values[STEPS] = spread_steps(number, length, len(wanted[STEPS]))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


__all__ = ["STRENGTH_SCHEMA", "spread_steps", "take_strength"]
