"""One picture on its way through the worker: what is remembered of it, and how whoever waits for it is told."""

import asyncio
from fractions import Fraction

import msgspec

from sdstream.errors import InternalError, NoFace, OutOfMemory, PictureNotFinite, RequestError, WorkerEndedByStream
from sdstream.frames import I420Frame
from sdstream.model_errors import ModelUnavailable
from sdstream.worker.ring import FrameRing

LANE_ERRORS: dict[str | None, type[RequestError]] = {
    kind.code: kind
    for kind in (
        *ModelUnavailable.__subclasses__(),
        ModelUnavailable,  # after those that have no code of their own
        NoFace,
        WorkerEndedByStream,
        OutOfMemory,
        PictureNotFinite,
    )
}
"""What a lane may fail with, by the code."""


class Submission(msgspec.Struct, frozen=True, eq=False):
    """What is remembered of a picture while the worker has it. `result` belongs to a waiting `process` call."""

    pts: int
    time_base: Fraction
    received_at: float
    sequence: int
    ring: FrameRing
    result: "asyncio.Future[I420Frame] | None"


def resolve(result: "asyncio.Future[I420Frame]", frame: I420Frame) -> None:
    """Give the picture to the call, unless that was given up."""
    if not result.done():
        result.set_result(frame)


def reject(result: "asyncio.Future[I420Frame]", error: RequestError) -> None:
    """Raise `error` in the call, unless that was given up."""
    if not result.done():
        result.set_exception(error)


def failure(code: str | None, message: str | None) -> RequestError:
    """The error of a lane's status, as an exception."""
    kind = LANE_ERRORS.get(code, InternalError)
    return kind(message or "the lane gave the picture up")


__all__ = ["Submission", "failure", "reject", "resolve"]
