"""Targets as answers show them, sent back: which stored one each stands for."""

import pytest

from sdstream.params.delivery import Delivery, read_delivery
from sdstream.params.problems import Notes, Problem

FIRST, SECOND = "rtmp://a.example/live/one", "rtmp://a.example/live/two"
OTHER = "rtmps://b.example/app/key"
SHOWN = "rtmp://a.example/live/***"


def sent(*outputs: str, stored: tuple[str, ...] = (FIRST, SECOND, OTHER)) -> tuple[tuple[str, ...], list[Problem]]:
    problems: list[Problem] = []
    current = Delivery(outputs=stored)
    return read_delivery({"outputs": list(outputs)}, current, Notes(), problems, allow_private=False).outputs, problems


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([SHOWN, SHOWN, "rtmps://b.example/app/***"], [FIRST, SECOND, OTHER]),
        ([SHOWN, "rtmps://b.example/app/***", SHOWN], [FIRST, OTHER, SECOND]),
        ([SECOND, SHOWN], [SECOND, FIRST]),
        ([SHOWN, FIRST], [SECOND, FIRST]),
        ([FIRST, SECOND, SHOWN], [FIRST, SECOND]),
        (["rtmps://b.example/app/***"], [OTHER]),
        ([], []),
    ],
)
def test_targets_that_are_shown_alike_are_not_taken_for_one(outputs: list[str], expected: list[str]) -> None:
    assert sent(*outputs) == (tuple(expected), [])


def test_one_that_may_be_either_of_two_is_refused() -> None:
    _, problems = sent(SHOWN)
    assert [(problem.field, "any of 2 targets" in problem.problem) for problem in problems] == [("outputs[0]", True)]


def test_one_that_stands_for_none_is_refused() -> None:
    _, problems = sent(OTHER, SHOWN, stored=(OTHER,))
    assert [(problem.field, "send its key" in problem.problem) for problem in problems] == [("outputs[1]", True)]
