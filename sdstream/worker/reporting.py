"""What a lane in the worker tells the server of where it stands."""

from collections.abc import Callable

from sdstream.worker.messages import LaneReport, Message
from sdstream.worker.outcomes import Refusal, code_and_words
from sdstream.worker.pipelines import Pipeline, Told
from sdstream.worker.ports import LanePhase

Send = Callable[[Message], None]


class Reporter:
    """Makes the reports of one lane, and remembers what they said."""

    def __init__(self, number: int, send: Send) -> None:
        self._number = number
        self._send = send
        self.refusal: Refusal | None = None
        """Newer params that could not be brought into force: every report says so."""
        self.told = Told()
        """What the last report of a ready lane said of its pipeline."""

    def report(
        self,
        phase: LanePhase,
        pipeline: Pipeline | None,
        revision: int,
        effective_sequence: int | None,
        *,
        detail: str = "",
        percent: float | None = None,
        error_code: str | None = None,
        error_message: str | None = None,
        part: str = "",
    ) -> None:
        """Say where the lane stands with its `pipeline`, the params `revision` and the first picture made under them.

        Of a ready lane the pipeline has the details, and its first fault is the error; of a failed one `part` is what
        the error comes from, as in `Refusal`.
        """
        refusal, ready = self.refusal, phase is LanePhase.READY
        if ready and pipeline is not None:
            detail = "; ".join(pipeline.notes)
            self.told = pipeline.told
            if self.told.faults:
                error_code, error_message = code_and_words(self.told.faults[0])
        self._send(
            LaneReport(
                self._number,
                phase.value,
                revision,
                effective_sequence if ready else None,
                detail,
                percent,
                error_code if refusal is None else refusal.code,
                error_message if refusal is None else refusal.message,
                None if refusal is None else refusal.revision,
                self.told.acceleration,
                [] if pipeline is None else list(pipeline.loras),
                list(self.told.states) if ready else [],
                part if refusal is None else refusal.part,
                list(pipeline.remarks) if ready and pipeline is not None else [],
            )
        )


__all__ = ["Reporter", "Send"]
