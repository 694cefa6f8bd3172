"""`strength`: one number that stands for the denoising steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.params import wire_params
from sdstream.params.strength import spread_steps
from tests.params.requests import DREAMSHAPER, SD_TURBO, SDXL_TURBO, created, refusal, updated


@pytest.mark.parametrize(
    ("strength", "length", "count", "steps"),
    [
        (0.5, 50, 3, [25, 33, 42]),
        (1.0, 50, 3, [0, 17, 33]),
        (0.0, 50, 2, [50, 50]),
        (0.3, 50, 1, [35]),
        (1.0, 1, 4, [0, 0, 1, 1]),
    ],
)
def test_steps_go_evenly_from_where_the_strength_begins(
    strength: float, length: int, count: int, steps: list[int]
) -> None:
    assert spread_steps(strength, length, count) == steps


@given(st.floats(0, 1), st.integers(1, 100), st.integers(1, 4))
def test_any_strength_is_a_list_that_is_accepted(strength: float, length: int, count: int) -> None:
    before = created(SD_TURBO, num_inference_steps=length, t_index_list=[0] * count)
    after = updated(before, strength=strength).params
    assert list(after.t_index_list) == spread_steps(strength, length, count)


def test_a_new_stream_has_as_many_steps_as_its_family_begins_with() -> None:
    assert created(SD_TURBO, strength=0.5).t_index_list == (25, 33, 42)
    assert created(SDXL_TURBO, strength="0.5", num_inference_steps=10).t_index_list == (5,)


def test_an_update_keeps_the_number_of_steps_and_tells_the_list() -> None:
    update = updated(created(DREAMSHAPER, t_index_list=[10, 20]), strength=0.2)
    assert update.params.t_index_list == (40, 45)
    assert update.warnings == ()
    assert "strength" not in wire_params(update.params)


def test_it_lies_on_the_schedule_that_is_sent_with_it() -> None:
    update = updated(created(SD_TURBO), strength=0.5, num_inference_steps=20)
    assert (update.params.t_index_list, update.warnings) == ((10, 13, 17), ())


def test_a_list_beside_it_counts_more() -> None:
    update = updated(created(SD_TURBO), strength=0.5, t_index_list=[7])
    assert update.params.t_index_list == (7,)
    assert update.warnings == ("params.strength has no effect beside t_index_list and was ignored",)


@pytest.mark.parametrize("strength", [-0.1, 1.1, True, "much", [0.5], 1e400, "nan", 10**400])
def test_what_is_no_strength_is_refused_and_changes_nothing(strength: object) -> None:
    assert set(refusal({"params": {"strength": strength}}, created(SD_TURBO))) == {"params.strength"}
    assert set(refusal({"pipeline": "streamdiffusion", "params": {"strength": strength}})) == {"params.strength"}


def test_null_is_absent() -> None:
    assert updated(created(SD_TURBO), strength=None).params == created(SD_TURBO)


def test_a_wrong_schedule_is_told_once() -> None:
    assert set(refusal({"params": {"strength": 0.5, "num_inference_steps": 0}}, created(SD_TURBO))) == {
        "params.num_inference_steps"
    }
