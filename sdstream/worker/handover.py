"""Which params a worker is given next: the book of one lane, kept by the server's end of it."""

from dataclasses import replace
from typing import NamedTuple

from sdstream.params import StreamParams, StyleImage, dump_params, image_apart
from sdstream.worker.messages import LaneReport
from sdstream.worker.ports import LanePhase, LaneStatus


class Wanted(NamedTuple):
    """Params and their revision."""

    params: StreamParams
    revision: int


class Given(NamedTuple):
    """What is sent: `text` is what `dump_params` wrote, `image` what it left out and the worker does not have yet."""

    text: str
    revision: int
    image: str | None


class ParamsHandover:
    """What is wanted of a lane, what its worker was given, and what that said of it. Not for two threads at a time.

    One update is under way at a time and newer ones wait for its answer, of which only the newest is sent. While the
    worker loads for it a newer one is sent at once: the worker gives that load up.
    """

    def __init__(self, params: StreamParams, revision: int) -> None:
        self._wanted = self._given = self._in_force = Wanted(params, revision)
        self._unanswered: int | None = None
        """The revision of the update under way."""
        self._loads = False
        """The worker said, since it was given that update, that it loads."""
        self._before: Wanted | None = None
        """What was given before, while it was not answered: it may have come into force all the same."""
        self._refusal: LaneStatus | None = None
        """What the worker said of the params it was given last, if it could not load them and runs older ones."""
        self._image: StyleImage | None = None
        """The last style image that this worker was given."""

    @property
    def revision(self) -> int:
        """The newest that is wanted."""
        return self._wanted.revision

    def want(self, params: StreamParams, revision: int) -> bool:
        """Note new params; False when newer ones are wanted already."""
        if revision < self._wanted.revision:
            return False
        self._wanted = Wanted(params, revision)
        return True

    def begin(self) -> Given:
        """What a new worker is to open the lane with."""
        self._image = None
        # Params that the worker before could not load would leave this one with nothing to run.
        if self._refusal is not None and self._given.revision == self._wanted.revision:
            return self._send(self._in_force)
        return self._give()

    def next(self) -> Given | None:
        """What the worker is to be given now, if anything."""
        # Of one revision there may be two: a style image's picture can come after its address.
        if self._given is self._wanted or (self._unanswered is not None and not self._loads):
            return None
        return self._give()

    def stop(self) -> None:
        """The worker is gone; it answers nothing any more."""
        self._unanswered = self._before = None
        self._loads = False

    def hear(self, status: LaneStatus) -> LaneStatus:
        """Take a report of the worker; returns it, with what the worker before could not load if that still holds."""
        if self._unanswered is not None and max(status.revision, status.refused_revision or 0) >= self._unanswered:
            self._unanswered = None
        if status.phase is LanePhase.LOADING:
            self._loads = True
        if status.phase is not LanePhase.READY:
            return status
        if self._before is not None and status.revision == self._before.revision:
            self._in_force = self._before
        if status.refused_revision == self._given.revision:
            self._refusal = status
        elif status.revision == self._given.revision:
            self._in_force, self._refusal = self._given, None
        elif self._refusal is not None:
            return replace(
                status,
                error_code=self._refusal.error_code,
                error_message=self._refusal.error_message,
                refused_revision=self._refusal.refused_revision,
            )
        return status

    def _give(self) -> Given:
        self._before = self._given if self._unanswered is not None else None
        self._given = self._wanted
        self._refusal = None
        return self._send(self._wanted)

    def _send(self, wanted: Wanted) -> Given:
        self._unanswered = wanted.revision
        self._loads = False
        image = image_apart(wanted.params)
        if image is None or image == self._image:
            return Given(dump_params(wanted.params), wanted.revision, None)
        self._image = image
        return Given(dump_params(wanted.params), wanted.revision, str(image))


def status_of(report: LaneReport) -> LaneStatus:
    """What the worker reported, as the server tells it."""
    return LaneStatus(
        LanePhase(report.phase),
        report.revision,
        report.effective_sequence,
        report.detail,
        report.percent,
        report.error_code,
        report.error_message,
        report.refused_revision,
        report.acceleration,
        tuple(report.loras),
        tuple(report.processors),
    )


__all__ = ["Given", "ParamsHandover", "status_of"]
