"""Which words are shown when."""

from dataclasses import replace

import pytest
from hypothesis import given

from sdstream.media.ports import Placard, PublisherState
from sdstream.streams.placards import QUIET_SECONDS, choose_placard
from sdstream.streams.state import Moments
from sdstream.worker.ports import LanePhase, LaneStatus, WorkerPhase
from tests.streams.test_state import FRESH, GOOD, NOW, THRESHOLDS, moments

QUIET = replace(GOOD, last_output_at=NOW - 1)


@given(moments)
def test_a_young_picture_is_never_covered(given_moments: Moments) -> None:
    assert choose_placard(replace(given_moments, last_output_at=NOW - 0.1), NOW, THRESHOLDS) is None


@given(moments)
def test_a_viewer_who_has_seen_no_picture_sees_words(given_moments: Moments) -> None:
    placard = choose_placard(replace(given_moments, last_output_at=None), NOW, THRESHOLDS)
    assert isinstance(placard, Placard)
    assert placard.title


@pytest.mark.parametrize(
    ("given_moments", "title"),
    [
        (replace(QUIET, publisher=PublisherState.ABSENT), "Waiting for the camera"),
        (replace(QUIET, lane=LaneStatus(LanePhase.LOADING)), "Loading"),
        (replace(QUIET, lane=LaneStatus(LanePhase.WAITING), worker=WorkerPhase.STARTING), "Starting"),
        (replace(QUIET, lane=LaneStatus(LanePhase.WAITING), worker=WorkerPhase.RESTARTING), "Restarting"),
        (replace(QUIET, worker=WorkerPhase.FAILED), "The worker does not run"),
        (replace(QUIET, lane=LaneStatus(LanePhase.FAILED)), "This stream cannot be processed"),
        (replace(QUIET, last_input_at=NOW - 3), "Waiting for the camera"),
        (replace(QUIET, last_output_at=NOW - 3), "Waiting for the worker"),
        (replace(QUIET, lane=FRESH, lane_changed_at=NOW - 90, last_output_at=NOW - 95), "Starting"),
        (replace(QUIET, lane=FRESH, lane_changed_at=NOW - 0.9), None),
        (QUIET, None),
        (replace(QUIET, last_input_at=NOW - 1.5, last_output_at=NOW - 1.5), None),  # a hiccup: the last picture stands
    ],
)
def test_the_words_name_the_cause(given_moments: Moments, title: str | None) -> None:
    placard = choose_placard(given_moments, NOW, THRESHOLDS)
    assert (placard.title if placard else None) == title


def test_words_come_half_a_second_after_the_last_picture_of_a_lost_camera() -> None:
    gone = replace(GOOD, publisher=PublisherState.ABSENT, last_output_at=NOW)
    assert choose_placard(gone, NOW + QUIET_SECONDS - 0.01, THRESHOLDS) is None
    assert choose_placard(gone, NOW + QUIET_SECONDS, THRESHOLDS) is not None


def test_loading_keeps_detail_and_percent() -> None:
    lane = LaneStatus(LanePhase.LOADING, detail="compiling", percent=12.5)
    assert choose_placard(replace(QUIET, lane=lane), NOW, THRESHOLDS) == Placard("Loading", "compiling", 12.5)
    slow = replace(QUIET, lane=lane, load_seconds_left=130.0)
    assert choose_placard(slow, NOW, THRESHOLDS) == Placard("Loading", "compiling\nabout 3 min left", 12.5)


def test_a_reload_that_has_said_nothing_yet_shows_no_remarks_on_what_ran_before() -> None:
    lane = replace(FRESH, detail="no engine is here")
    assert choose_placard(replace(QUIET, lane=lane, reloading=True), NOW, THRESHOLDS) == Placard("Loading", "")
