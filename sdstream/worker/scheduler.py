"""Which lane of the worker is served next: a fair turn over the lanes, the newest picture of each.

The receiving thread puts in, the working thread takes out. No torch here.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from sdstream.clock import Clock
from sdstream.frames import I420Frame
from sdstream.worker.ring import Arrival, FrameRing, Inbox


@dataclass(frozen=True, slots=True)
class WaitingPicture:
    """A picture in an input slot of the worker. `frame` views the slot."""

    frame: I420Frame
    ring: FrameRing
    slot: int
    arrived_at: float
    keep: bool


@dataclass(frozen=True, slots=True)
class WantedParams:
    """Params that are to be in force from the next picture on; `text` is what `dump_params` wrote."""

    text: str
    revision: int


@dataclass(slots=True)
class Turn:
    """What the working thread does next for one lane: first new params if there are any, else one picture."""

    lane: int
    params: WantedParams | None = None
    picture: WaitingPicture | None = None


@dataclass(slots=True)
class _Queue:
    inbox: Inbox[WaitingPicture] = field(default_factory=Inbox[WaitingPicture])
    params: WantedParams | None = None
    room: bool = True
    """Whether a result could be written now."""


class Scheduler:
    """Lanes take turns; a lane waits at most for one turn of each other lane that has something to do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._queues: OrderedDict[int, _Queue] = OrderedDict()
        self._stopped = False
        self._busy_since: float | None = None

    def open(self, lane: int, params: WantedParams) -> None:
        with self._condition:
            self._queues[lane] = _Queue(params=params)
            self._condition.notify()

    def update(self, lane: int, params: WantedParams) -> None:
        """Newest wins; of an unknown lane nothing happens."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is not None and (queue.params is None or queue.params.revision <= params.revision):
                queue.params = params
                self._condition.notify()

    def close(self, lane: int) -> None:
        """Forget the lane with all that waits in it."""
        with self._condition:
            self._queues.pop(lane, None)

    def put(self, lane: int, picture: WaitingPicture) -> WaitingPicture | None:
        """Store a picture; returns the one whose slot is free now: the replaced one, or this one of no lane."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is None:
                return picture
            replaced = queue.inbox.put(Arrival(picture, picture.keep))
            self._condition.notify()
            return replaced

    def set_room(self, lane: int, room: bool) -> None:
        """Say whether a result of this lane could be written: a lane without room is passed over."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is not None and queue.room != room:
                queue.room = room
                self._condition.notify()

    def stop(self) -> None:
        """Make `next_turn` return None."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def next_turn(self) -> Turn | None:
        """Wait for something to do and take it; None after `stop`. The turn before is over with this call."""
        with self._condition:
            self._busy_since = None
            while not self._stopped:
                turn = self._pick()
                if turn is not None:
                    self._busy_since = self._clock.monotonic()
                    return turn
                self._condition.wait()
            return None

    def drain(self, lane: int) -> list[WaitingPicture]:
        """Take all pictures that wait in a lane."""
        with self._condition:
            queue = self._queues.get(lane)
            return [] if queue is None else queue.inbox.clear()

    @property
    def busy_seconds(self) -> float:
        """How long the present turn has taken so far."""
        since = self._busy_since
        return 0.0 if since is None else self._clock.monotonic() - since

    def _pick(self) -> Turn | None:
        for lane, queue in self._queues.items():
            turn = Turn(lane)
            if queue.params is not None:
                turn.params, queue.params = queue.params, None
            elif queue.room:
                turn.picture = queue.inbox.take()
            if turn.params is not None or turn.picture is not None:
                self._queues.move_to_end(lane)
                return turn
        return None


__all__ = ["Scheduler", "Turn", "WaitingPicture", "WantedParams"]
