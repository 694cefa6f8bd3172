"""Loads of a stream: each step to the events once, begin, steps and end to the log."""

from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from sdstream.clock import ManualClock
from sdstream.streams.loading import LoadingBook
from sdstream.worker.ports import LanePhase, LaneStatus


class Told:
    """A book, what it emitted, and its clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.events: list[Mapping[str, Any]] = []
        self.book = LoadingBook("str_1", self.clock, lambda kind, data: self.events.append({"kind": kind, **data}))

    def note(self, phase: LanePhase, detail: str = "", percent: float | None = None, **more: Any) -> None:
        self.book.note(LaneStatus(phase, detail=detail, percent=percent, **more))


def test_events_have_each_whole_percent_and_the_log_each_step() -> None:
    told = Told()
    with capture_logs() as lines:
        for percent in (0.0, 0.4, 1.0, 1.9):
            told.note(LanePhase.LOADING, "fetching the UNet", percent)
        told.note(LanePhase.LOADING, "making the UNet")
    assert [event["percent"] for event in told.events] == [0.0, 1.0, None]
    assert [(line["event"], line["detail"]) for line in lines] == [
        ("stream loading", "fetching the UNet"),
        ("stream loading", "making the UNet"),
    ]


def test_the_end_says_how_long_it_took_and_what_runs() -> None:
    told = Told()
    with capture_logs() as lines:
        told.note(LanePhase.LOADING, "making the UNet")
        told.clock.advance(45.25)
        told.note(LanePhase.READY, acceleration="torch")
        told.note(LanePhase.READY, acceleration="torch")
    assert lines[1:] == [
        {
            "event": "stream loaded",
            "log_level": "info",
            "stream_id": "str_1",
            "seconds": 45.25,
            "phase": "ready",
            "acceleration": "torch",
        }
    ]
    assert (dict(told.book.ended), told.book.seconds) == ({"ready": 1}, {"ready": 45.25})


def test_a_load_that_fails_ends_with_its_error() -> None:
    told = Told()
    with capture_logs() as lines:
        told.note(LanePhase.LOADING, "making the UNet")
        told.note(LanePhase.FAILED, error_message="unet.safetensors is damaged")
    assert (lines[-1]["phase"], lines[-1]["error"]) == ("failed", "unet.safetensors is damaged")
    assert dict(told.book.ended) == {"failed": 1}


@pytest.mark.parametrize("phase", [LanePhase.WAITING, LanePhase.READY])
def test_what_does_not_load_is_not_in_the_log(phase: LanePhase) -> None:
    told = Told()
    with capture_logs() as lines:
        told.note(phase)
        told.note(LanePhase.READY)
    assert lines == []
