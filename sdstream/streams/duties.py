"""What has to be done about a stream that nobody acts on: a pure decision, carried out by the service's ticker."""

from dataclasses import dataclass
from enum import StrEnum

from sdstream.media.ports import PublisherState
from sdstream.streams.state import latest


class Duty(StrEnum):
    """One thing to do now."""

    NOTHING = "nothing"
    END_PUBLISHER = "end_publisher"
    """It has been silent for too long: free its place."""
    CLOSE_LANE = "close_lane"
    """The publisher is gone for good: free the worker, keep the viewers."""
    CLOSE_LIVE = "close_live"
    """Nobody publishes or watches any more."""
    COLLECT = "collect"
    """The stream is not used any more: delete it."""


@dataclass(frozen=True, slots=True)
class Use:
    """How a stream is used; times are monotonic seconds, None for what never happened."""

    touched_at: float
    """The last request that named the stream."""
    is_live: bool = False
    has_lane: bool = False
    publisher: PublisherState = PublisherState.ABSENT
    publisher_at: float | None = None
    publisher_left_at: float | None = None
    last_input_at: float | None = None
    viewers: int = 0


def decide_duty(use: Use, now: float, publisher_timeout: float, idle_stream_timeout: float) -> Duty:
    """The duty at `now`. A publisher that went may come back within `publisher_timeout` and find all as it was."""
    if not use.is_live:
        return Duty.COLLECT if now - use.touched_at > idle_stream_timeout else Duty.NOTHING
    if use.publisher is not PublisherState.ABSENT:
        heard_at = latest(use.publisher_at, use.last_input_at)
        silent = heard_at is not None and now - heard_at > publisher_timeout
        return Duty.END_PUBLISHER if silent else Duty.NOTHING
    left_at = latest(use.publisher_at, use.publisher_left_at)
    if left_at is None or now - left_at <= publisher_timeout:
        return Duty.NOTHING
    if use.viewers == 0:
        return Duty.CLOSE_LIVE
    return Duty.CLOSE_LANE if use.has_lane else Duty.NOTHING


__all__ = ["Duty", "Use", "decide_duty"]
