"""The short way through the worker: a picture that nothing changes is answered where it is read, without a turn.

Its plain twin is the turn that every other picture waits for; see `LaneWork.accept`.
"""

from collections.abc import Callable

from sdstream.clock import Clock
from sdstream.frames import PictureSize
from sdstream.worker.messages import IN_PLACE, Message, PictureIn, PictureOut
from sdstream.worker.scheduling.scheduler import Scheduler


class Passage:
    """The short way of one lane, shut at first. For the working thread."""

    def __init__(self, lane: int, scheduler: Scheduler, send: Callable[[Message], None], clock: Clock) -> None:
        self._lane = lane
        self._scheduler = scheduler
        self._send = send
        self._clock = clock
        self._width = self._height = 0
        self._revision = 0

    def open(self, size: PictureSize, revision: int) -> None:
        """Pictures of `size` pass from now on, under the params of `revision`, until `shut`."""
        self._width, self._height, self._revision = size.width, size.height, revision

    def shut(self) -> None:
        """Nothing passes any more."""
        self._width = self._height = 0

    def takes(self, message: PictureIn) -> bool:
        """Answer this picture, if it may pass now: it overtakes none of its lane, and no params that came before it."""
        if message.width != self._width or message.height != self._height or message.full_range or message.bt709:
            return False
        started = self._clock.monotonic()
        if not self._scheduler.passes(self._lane, keep=message.keep):
            return False
        self._send(
            PictureOut(
                self._lane,
                message.ring,
                message.slot,
                IN_PLACE,
                message.slot,
                message.width,
                message.height,
                self._revision,
                self._clock.monotonic() - started,
                started - message.sent_at,
            )
        )
        return True


__all__ = ["Passage"]
