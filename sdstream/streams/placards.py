"""Which words a viewer sees while there is no processed picture to see."""

from sdstream.media.ports import Placard, PublisherState
from sdstream.streams.remaining import words_left
from sdstream.streams.state import FIRST_PICTURE, Moments, Thresholds, is_ready, latest, load_words, makes_first_picture
from sdstream.worker.ports import LanePhase, WorkerPhase

QUIET_SECONDS = 0.5
"""A processed picture younger than this is good and is never covered."""


def choose_placard(moments: Moments, now: float, thresholds: Thresholds) -> Placard | None:
    """The words to show at `now` (monotonic seconds), None while pictures flow or the last one may stand still.

    What a viewer can do something about comes first: an error, then an absent camera, then our own loading.
    """
    if moments.last_output_at is not None and now - moments.last_output_at < QUIET_SECONDS:
        return None
    return (
        _error(moments)
        or _no_camera(moments)
        or _loading(moments)
        or _no_input(moments, now, thresholds)
        or _no_output(moments, now, thresholds)
    )


def _error(moments: Moments) -> Placard | None:
    if moments.worker in (WorkerPhase.FAILED, WorkerPhase.STOPPED):
        return Placard("The worker does not run", moments.worker_error or "The server's log has the reason.")
    if moments.lane is not None and moments.lane.phase is LanePhase.FAILED:
        return Placard("This stream cannot be processed", moments.lane.error_message or "")
    return None


def _no_camera(moments: Moments) -> Placard | None:
    if moments.publisher is PublisherState.ABSENT:
        if moments.publisher_problem:
            return Placard("Waiting for the camera", "The last one could not connect.")
        return Placard("Waiting for the camera", "Nobody publishes to this stream.")
    return None


def _loading(moments: Moments) -> Placard | None:
    if is_ready(moments):
        return None
    if moments.worker is WorkerPhase.RESTARTING:
        return Placard("Restarting", "The worker ended and is being started again.")
    if moments.worker is WorkerPhase.STARTING or moments.lane is None:
        detail = "" if moments.lane is None else moments.lane.detail
        return Placard("Starting", detail or "The worker is starting.")
    detail, left = load_words(moments.lane), moments.load_seconds_left
    if left is not None:
        detail = f"{detail}\n{words_left(left)}".lstrip()
    return Placard("Loading", detail, moments.lane.percent)


def _no_input(moments: Moments, now: float, thresholds: Thresholds) -> Placard | None:
    if moments.publisher is PublisherState.CONNECTING and moments.last_output_at is None:
        return Placard("Waiting for the camera", "The connection is being made.")
    since = latest(moments.publisher_at, moments.last_input_at)
    idle = 0.0 if since is None else now - since
    if moments.last_input_at is None or idle > thresholds.input_idle:
        return Placard("Waiting for the camera", "No picture arrives." if idle > thresholds.input_idle else "")
    return None


def _no_output(moments: Moments, now: float, thresholds: Thresholds) -> Placard | None:
    since = latest(moments.first_input_at, moments.lane_changed_at, moments.last_output_at)
    idle = since is not None and now - since > thresholds.output_idle
    makes_first = makes_first_picture(moments, now, thresholds)
    if idle and not makes_first:
        return Placard("Waiting for the worker", "Pictures go in and none comes out.")
    if idle or moments.last_output_at is None:  # else the last picture stands
        return Placard("Starting", FIRST_PICTURE if makes_first else "The first picture is on its way.")
    return None


__all__ = ["QUIET_SECONDS", "choose_placard"]
