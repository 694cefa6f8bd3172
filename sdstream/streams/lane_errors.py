"""The errors of a stream's lane: each told once, and once more that it is over."""

from collections.abc import Callable

from sdstream.worker.ports import LanePhase, LaneStatus


class LaneErrors:
    """Is shown each status of a lane. `on_error` is given a code and a message, `on_recovery` the message when the lane
    runs without that error again."""

    def __init__(self, on_error: Callable[[str, str], None], on_recovery: Callable[[str], None]) -> None:
        self._on_error = on_error
        self._on_recovery = on_recovery
        self._last: tuple[str, int | None] | None = None
        """The last error and what it refused, until the lane is ready without one."""

    def note(self, before: LaneStatus | None, status: LaneStatus) -> None:
        """The lane says where it stands; `before` is what it said last."""
        message = status.error_message
        if message is not None:
            error = message, status.refused_revision
            known = before is not None and error == (before.error_message, before.refused_revision)
            if not known and (status.refused_revision is None or error != self._last):
                self._on_error(status.error_code or "INTERNAL/ERROR", message)
            self._last = error
        elif status.phase is LanePhase.READY and self._last is not None:
            (recovered, _), self._last = self._last, None
            self._on_recovery(recovered)


__all__ = ["LaneErrors"]
