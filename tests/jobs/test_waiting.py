"""How long a caller waits for an owner, and what it may say afterwards."""

import pytest

from sdstream.api.answers import error_answer
from sdstream.job_errors import OwnerAsleep, OwnerSilent
from sdstream.jobs.waiting import (
    ANSWER_SECONDS,
    LOOK_SECONDS,
    LOOKS_WITHOUT_OWNER,
    TAKE_SECONDS,
    Step,
    decide_step,
    is_safe_to_repeat,
    pause,
    take_seconds,
)


@pytest.mark.parametrize(
    ("waited", "begun", "looks", "interrupted", "step"),
    [
        (0, False, 0, False, Step.WAIT),
        (TAKE_SECONDS - 0.1, False, 0, True, Step.WAIT),
        (TAKE_SECONDS, False, 0, False, Step.TAKE_BACK),
        (TAKE_SECONDS, False, 0, True, Step.TAKE_BACK),
        (TAKE_SECONDS, True, 0, False, Step.WAIT),
        (TAKE_SECONDS, True, 0, True, Step.ANSWER_LOST),
        (ANSWER_SECONDS - 0.1, True, LOOKS_WITHOUT_OWNER - 1, False, Step.WAIT),
        (TAKE_SECONDS + 1, True, LOOKS_WITHOUT_OWNER, False, Step.OWNER_GONE),
        (ANSWER_SECONDS, True, 0, False, Step.GIVE_UP),
    ],
)
def test_what_is_done_about_a_call_without_an_answer(
    waited: float, begun: bool, looks: int, interrupted: bool, step: Step
) -> None:
    found = decide_step(waited, ANSWER_SECONDS, begun=begun, looks_without_owner=looks, interrupted=interrupted)
    assert found is step


@pytest.mark.parametrize("begun", [False, True])
def test_every_pause_ends_in_time_for_its_step(begun: bool) -> None:
    limit = ANSWER_SECONDS if begun else TAKE_SECONDS
    for waited in (0.0, TAKE_SECONDS / 2, limit - 0.01):
        assert 0 < pause(waited, ANSWER_SECONDS, begun=begun) <= max(LOOK_SECONDS, TAKE_SECONDS)
        assert waited + pause(waited, ANSWER_SECONDS, begun=begun) <= limit
    assert pause(limit + 1, ANSWER_SECONDS, begun=begun) == 0


def test_beginning_has_less_time_than_answering() -> None:
    assert [take_seconds(seconds) for seconds in (15.0, 2.0, 1.5)] == [TAKE_SECONDS, 1.0, 0.75]


def test_what_may_have_been_done_is_called_repeatable_only_where_that_does_no_harm() -> None:
    assert [method for method in ("GET", "HEAD", "PUT", "DELETE", "POST", "PATCH") if is_safe_to_repeat(method)] == [
        "GET",
        "HEAD",
        "PUT",
        "DELETE",
    ]
    for error, after in (
        (OwnerAsleep("x"), "2"),
        (OwnerSilent("x", repeatable=True), "2"),
        (OwnerSilent("x", repeatable=False), None),
    ):
        assert error.retryable is (after is not None)
        assert error_answer(error, {"headers": []}).headers.get("retry-after") == after
    assert OwnerSilent.code != OwnerAsleep.code
