"""What is due when nobody acts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.media.ports import PublisherState
from sdstream.streams.duties import Duty, Use, decide_duty

NOW = 10_000.0
LIVE = Use(NOW, is_live=True, has_lane=True, publisher=PublisherState.CONNECTED, publisher_at=NOW - 500)
LEFT = replace(LIVE, publisher=PublisherState.ABSENT, publisher_left_at=NOW - 61)


def duty_of(use: Use) -> Duty:
    return decide_duty(use, NOW, publisher_timeout=60, idle_stream_timeout=3600)


@pytest.mark.parametrize(
    ("use", "duty"),
    [
        (Use(NOW - 3600), Duty.NOTHING),
        (Use(NOW - 3601), Duty.COLLECT),
        (replace(LIVE, last_input_at=NOW - 60), Duty.NOTHING),
        (replace(LIVE, last_input_at=NOW - 61), Duty.END_PUBLISHER),
        (LIVE, Duty.END_PUBLISHER),  # it never sent anything
        (replace(LIVE, publisher_at=NOW - 5), Duty.NOTHING),
        (replace(LIVE, publisher_at=NOW - 5, last_input_at=NOW - 100), Duty.NOTHING),  # the input of the one before
        (LEFT, Duty.CLOSE_LIVE),
        (replace(LEFT, publisher_left_at=NOW - 60), Duty.NOTHING),
        (replace(LEFT, viewers=1), Duty.CLOSE_LANE),
        (replace(LEFT, viewers=1, has_lane=False), Duty.NOTHING),
    ],
)
def test_the_table(use: Use, duty: Duty) -> None:
    assert duty_of(use) is duty


times = st.none() | st.floats(0, NOW)


@given(
    st.builds(
        Use,
        touched_at=st.floats(0, NOW),
        is_live=st.booleans(),
        has_lane=st.booleans(),
        publisher=st.sampled_from(PublisherState),
        publisher_at=times,
        publisher_left_at=times,
        last_input_at=times,
        viewers=st.integers(0, 3),
    )
)
def test_viewers_and_young_publishers_are_never_thrown_out(use: Use) -> None:
    duty = duty_of(use)
    if use.is_live and use.viewers:
        assert duty not in (Duty.CLOSE_LIVE, Duty.COLLECT)
    if use.is_live and use.publisher_at is not None and NOW - use.publisher_at <= 60:
        assert duty is Duty.NOTHING
