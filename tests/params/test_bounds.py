"""The limits on any JSON, looked at before anything else is."""

from collections.abc import Iterator
from typing import Any

import pytest

from sdstream.params.bounds import MAX_DEPTH, MAX_VALUES, find_out_of_bounds


class Counted(list[Any]):
    """A list of as many values as are too many, which nobody may go through."""

    def __len__(self) -> int:
        return MAX_VALUES

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("a list that is too long was gone through")


class CountedObject(dict[str, Any]):
    def __len__(self) -> int:
        return MAX_VALUES

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("an object that is too large was gone through")

    def items(self) -> Any:
        raise AssertionError("an object that is too large was gone through")


@pytest.mark.parametrize("inside", [Counted(), CountedObject()], ids=["a list", "an object"])
def test_what_holds_too_many_values_is_refused_unseen(inside: object) -> None:
    """Five million steps of a schedule held the event loop for half a minute before they were refused."""
    found = find_out_of_bounds({"params": {"t_index_list": inside}})
    assert [problem.problem for problem in found] == [f"holds more than {MAX_VALUES} values"]


def test_as_many_values_as_are_allowed_pass_wherever_they_are() -> None:
    assert find_out_of_bounds({"a": [1] * (MAX_VALUES - 2)}) == []
    assert find_out_of_bounds({"a": [1] * (MAX_VALUES - 1)}) != []
    assert find_out_of_bounds([[[1]] * 2500]) != []


def test_depth_is_limited() -> None:
    value: object = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert find_out_of_bounds(value) == []
    assert "nested" in find_out_of_bounds([value])[0].problem
