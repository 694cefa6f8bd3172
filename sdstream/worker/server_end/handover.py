"""Which params a worker is given next: the book of one lane, kept by the server's end of it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from sdstream.errors import NoFace
from sdstream.model_errors import ModelDownloadFailed
from sdstream.params import StreamParams, StyleImage, dump_params, image_apart
from sdstream.params.attainable import Failed, attainable, place_of, startable, with_hot
from sdstream.worker.messages import LaneReport
from sdstream.worker.ports import LanePhase, LaneStatus, MissingPart

FIRST_RETRY = 15.0
LONGEST_RETRY = 600.0
"""Seconds until what failed on the way here is fetched again by itself: the first time, and at most."""
REPEAT_SECONDS = 5.0
"""Whoever asks for what is missing is heard so often: some clients send everything with each change of a slider."""
REPEAT_SECONDS_LARGE = 60.0
"""The same where a try may cost the picture: what did not fit into memory, and what nobody foresaw."""


class Wanted(NamedTuple):
    """Params and their revision on the wire. `number` is what the worker knows them by: it grows with each time that
    anything is sent, and is the revision where nothing was sent twice."""

    params: StreamParams
    revision: int
    number: int


class Given(NamedTuple):
    """What is sent: `text` is what `dump_params` wrote, `image` what it left out and the worker does not have yet.
    `revision` is a number of `Wanted`. With `keeps_load` others follow, which may want what is loaded now."""

    text: str
    revision: int
    image: str | None
    keeps_load: bool = False


@dataclass(slots=True)
class Failure:
    """Something that could not be had, and when it is tried again: None for not by itself."""

    failed: Failed
    revision: int
    """On the wire: the params that asked for it first."""
    code: str
    message: str
    at: float
    tries: int = 1
    next_at: float | None = None
    under_way: bool = False
    """It is being tried again."""

    @property
    def comes_again(self) -> bool:
        """Whether time alone may mend it."""
        return self.code == ModelDownloadFailed.code

    @property
    def repeat_seconds(self) -> float:
        """How often those are heard who ask for it."""
        cheap = self.code.startswith("MODELS/") or self.code == NoFace.code
        return REPEAT_SECONDS if cheap else REPEAT_SECONDS_LARGE

    def plan(self, now: float) -> None:
        """Decide when it is tried again after a try that ended at `now`."""
        self.under_way, self.at = False, now
        self.next_at = now + min(FIRST_RETRY * 2 ** (self.tries - 1), LONGEST_RETRY) if self.comes_again else None


class ParamsHandover:
    """What is wanted of a lane, what its worker was given, and what that said of it. Not for two threads at a time.

    One update is under way at a time and newer ones wait for its answer, of which only the newest is sent. While the
    worker loads for it a newer one is sent at once: the worker gives that load up, or goes on with it for this. What
    cannot be had is left out of what is given, and tried again now and then; without `partly` a lane that runs nothing
    yet fails instead. `now` is monotonic seconds throughout.
    """

    def __init__(self, params: StreamParams, revision: int, *, partly: bool = False) -> None:
        self._partly = partly
        self._wanted = self._given = self._in_force = Wanted(params, revision, revision)
        self._numbers = {revision: revision}
        """Revisions on the wire by number."""
        self._last_number = revision - 1
        self._runs = False
        """The worker, or the one before, made pictures under what is in force."""
        self._unanswered: int | None = None
        """The number of the update under way."""
        self._loads = False
        """The worker said, since it was given that update, that it loads."""
        self._before: Wanted | None = None
        """What was given before, while it was not answered: it may have come into force all the same."""
        self._failures: list[Failure] = []
        self._refused: int | None = None
        """The last number that this worker refused."""
        self._refused_revision: int | None = None
        """On the wire: the last that any refused."""
        self._ready: LaneStatus | None = None
        """What it said last while it made pictures."""
        self._failed = self._again = False
        """The worker has nothing to run for the lane; and somebody asked for it once more since."""
        self._image: StyleImage | None = None
        """The last style image that this worker was given."""

    @property
    def revision(self) -> int:
        """The newest that is wanted."""
        return self._wanted.revision

    @property
    def next_at(self) -> float | None:
        """When `next` may have something to give with nothing else happening."""
        return min((each.next_at for each in self._failures if each.next_at is not None), default=None)

    @property
    def missing(self) -> tuple[MissingPart, ...]:
        """What the newest wanted params ask for that could not be had."""
        wanted, failures = self._wanted.params, self._asked_failures
        # Beside what comes into force in a moment: a knob that was just turned is not what cannot be had.
        comes = attainable(wanted, self._in_force.params, [each.failed for each in failures])
        return tuple(
            MissingPart(
                *place_of(each.failed, wanted, comes),
                each.code,
                each.message,
                each.tries,
                each.comes_again,
                each.at if each.under_way else each.next_at,
            )
            for each in failures
        )

    def retold(self) -> LaneStatus | None:
        """The last status of a lane that runs, with what is missing as it is now; None where nothing is."""
        if self._ready is None or not self._asked_failures:
            return None
        self._ready = self._with_failures(self._ready)
        return self._ready

    def revision_of(self, number: int) -> int:
        """What the worker's number is on the wire."""
        return self._numbers.get(number, number)

    def want(self, params: StreamParams, revision: int, now: float) -> bool:
        """Note new params; False when newer ones are wanted already."""
        if revision < self._wanted.revision:
            return False
        turns_knobs = with_hot(self._wanted.params, params) == params
        self._wanted = Wanted(params, revision, 0)
        if not turns_knobs:
            self._stop_trying(now)  # what is to be loaded besides comes into force first
        self._failures = [each for each in self._failures if each.failed.is_asked_by(params)]
        return True

    def try_again(self, now: float) -> None:
        """Somebody asks for what is missing, or for what a lane that failed has: all of it."""
        self._again = self._failed
        for each in self._failures:
            if not each.under_way:
                due = max(now, each.at + each.repeat_seconds)
                each.next_at = due if each.next_at is None else min(due, each.next_at)

    def begin(self, now: float) -> Given:
        """What a new worker is to open the lane with."""
        self._image = self._refused = None
        self._last_number, self._numbers = 0, {}
        self._in_force = self._in_force._replace(number=self._in_force.revision)
        target = self._target(now)
        # Params that the worker before could not load would leave this one with nothing to run.
        if self._failures and target == self._in_force.params:
            self._last_number = self._in_force.number
            return self._send(self._in_force)
        return self._give(target, self._wanted.revision)

    def next(self, now: float) -> Given | None:
        """What the worker is to be given now, if anything."""
        busy = self._unanswered is not None
        if busy and not self._loads:
            return None
        target = self._target(now, start=not busy)
        # Of one revision there may be two: a style image's picture can come after its address.
        same = (target, self._wanted.revision) == (self._given.params, self._given.revision)
        if same and self._given.number != self._refused and not self._again:
            return None
        if busy and self._runs:
            # What runs takes the knobs at once; what the worker loaded for is given to it anew after that.
            hot, revision = self._knobs(target)
            if hot != target and (hot, revision) != (self._in_force.params, self._in_force.revision):
                if (hot, revision) == (self._given.params, self._given.revision):
                    return None  # it has them already, and says so in a moment
                return self._give(hot, revision)._replace(keeps_load=True)
        stays = not busy and target == self._in_force.params
        if stays and self._refused_revision == self._wanted.revision:
            return None
        return self._give(target, self._wanted.revision)

    def stop(self, now: float) -> None:
        """The worker is gone; it answers nothing any more."""
        self._unanswered = self._before = None
        self._loads = False
        self._stop_trying(now)

    def hear(self, status: LaneStatus, now: float, part: str = "") -> LaneStatus:
        """Take a report of the worker, `part` being the part of what it refused; returns it as it is to be told."""
        number, refused = status.revision, status.refused_revision
        if self._unanswered is not None and max(number, refused or 0) >= self._unanswered:
            self._unanswered = None
        if status.phase is LanePhase.LOADING:
            self._loads = True
        told = replace(
            status,
            revision=self.revision_of(number),
            refused_revision=None if refused is None else self.revision_of(refused),
        )
        if status.phase is LanePhase.FAILED:
            self._runs = False
            if self._starts_without(status, part, now):
                detail = f"starting without {', '.join(each.name or each.place for each in self.missing)}"
                told = LaneStatus(LanePhase.LOADING, told.revision, detail=detail, missing=self.missing)
            else:
                self._failures, self._failed = [], True
        if status.phase is LanePhase.LOADING and self._ready is not None and self._is_trying:
            return replace(self._ready, detail=status.detail, percent=status.percent)
        if status.phase is not LanePhase.READY:
            self._ready = None
            return told
        self._runs = True
        if self._before is not None and number == self._before.number:
            self._come_into_force(self._before)
        if number == self._given.number:
            self._come_into_force(self._given)
        if refused is not None and refused == self._given.number and refused != self._refused:
            self._refused, self._refused_revision = refused, self._given.revision
            self._note_failure(status, part, now)
        self._ready = self._with_failures(told)
        return self._ready

    # -- below

    @property
    def _asked_failures(self) -> list[Failure]:
        return [each for each in self._failures if each.failed.is_asked_by(self._wanted.params)]

    def _starts_without(self, status: LaneStatus, part: str, now: float) -> bool:
        """Note what kept the lane from starting; False if it cannot do without that."""
        if not (self._partly and part):
            return False
        self._note_failure(status, part, now)
        target = startable(self._wanted.params, [each.failed for each in self._failures])
        return target is not None and target != self._given.params

    @property
    def _is_trying(self) -> bool:
        return any(each.under_way for each in self._failures)

    def _target(self, now: float, *, start: bool = False) -> StreamParams:
        """What shall be in force now; with `start` that may be what is due to be tried again."""
        if not self._runs:
            return startable(self._wanted.params, [each.failed for each in self._failures]) or self._wanted.params
        for each in self._failures:
            if start and each.next_at is not None and each.next_at <= now:
                each.under_way, each.next_at = True, None
        failed = [each.failed for each in self._failures if not each.under_way]
        return attainable(self._wanted.params, self._in_force.params, failed)

    def _knobs(self, target: StreamParams) -> tuple[StreamParams, int]:
        """What runs, with all of `target` that nothing is loaded for, and the revision that this is."""
        in_force, wanted = self._in_force, self._wanted
        hot = with_hot(in_force.params, target)
        # Where `target` asks for nothing more but what is being tried again, the rest of it is all that can be had.
        rest = attainable(wanted.params, in_force.params, [each.failed for each in self._failures])
        return hot, wanted.revision if hot == rest and self._is_trying else in_force.revision

    def _stop_trying(self, now: float) -> None:
        for each in self._failures:
            if each.under_way:
                each.plan(now)

    def _come_into_force(self, wanted: Wanted) -> None:
        self._in_force = wanted
        self._failures = [each for each in self._failures if not each.failed.is_asked_by(wanted.params)]
        self._numbers = {number: known for number, known in self._numbers.items() if number >= wanted.number}

    def _note_failure(self, status: LaneStatus, part: str, now: float) -> None:
        failed = Failed.of(self._given.params, part)
        code, message = status.error_code or "", status.error_message or ""
        for each in self._failures:
            if each.failed.part == failed.part and each.under_way:
                each.code, each.message, each.tries = code, message, each.tries + 1
                each.plan(now)
                break
        else:
            failure = Failure(failed, self._given.revision, code, message, now)
            failure.plan(now)
            self._failures.append(failure)
        self._stop_trying(now)

    def _with_failures(self, status: LaneStatus) -> LaneStatus:
        """`status` with what is missing; the error is that of the last."""
        failures = self._asked_failures
        if not failures:
            return status
        last = failures[-1]
        return replace(
            status,
            error_code=last.code,
            error_message=last.message,
            refused_revision=last.revision,
            missing=self.missing,
        )

    def _give(self, params: StreamParams, revision: int) -> Given:
        self._before = self._given if self._unanswered is not None else None
        self._last_number = max(self._last_number + 1, revision)
        self._given = Wanted(params, revision, self._last_number)
        self._numbers[self._last_number] = revision
        return self._send(self._given)

    def _send(self, wanted: Wanted) -> Given:
        self._unanswered = wanted.number
        self._loads = self._failed = self._again = False
        image = image_apart(wanted.params)
        if image is None or image == self._image:
            return Given(dump_params(wanted.params), wanted.number, None)
        self._image = image
        return Given(dump_params(wanted.params), wanted.number, str(image))


def status_of(report: LaneReport) -> LaneStatus:
    """What the worker reported, with its numbers for revisions; `ParamsHandover.hear` makes of it what is told."""
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
        remarks=tuple(report.remarks),
    )


__all__ = ["FIRST_RETRY", "LONGEST_RETRY", "REPEAT_SECONDS", "Given", "ParamsHandover", "status_of"]
