"""Which lane of the worker is served next: a fair turn over the lanes, the newest picture of each.

Whichever thread reads the line puts in, the working thread takes out. No torch here.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from sdstream.clock import Clock
from sdstream.frames import I420Frame, PictureSize
from sdstream.params import StyleImage
from sdstream.worker.messages import PictureIn
from sdstream.worker.ring import Arrival, FrameRing, Inbox


@dataclass(frozen=True, slots=True)
class WaitingPicture:
    """A picture in a slot of an input ring, as the server announced it."""

    message: PictureIn
    ring: FrameRing

    @property
    def means_the_same(self) -> bool:
        """Whether its planes mean what output planes mean: BT.601, limited range."""
        return not (self.message.full_range or self.message.bt709)

    @property
    def size(self) -> PictureSize:
        return PictureSize(self.message.width, self.message.height)

    def frame(self) -> I420Frame:
        """The picture, viewed in its slot."""
        message = self.message
        y, u, v = self.ring.planes(message.slot, self.size)
        return I420Frame(
            y,
            u,
            v,
            received_at=message.received_at,
            sequence=message.sequence,
            full_range=message.full_range,
            matrix="bt709" if message.bt709 else "bt601",
        )


@dataclass(frozen=True, slots=True)
class WantedParams:
    """Params that are to be in force from the next picture on; `text` is what `dump_params` wrote, and `image` what it
    left out, if anything."""

    text: str
    revision: int
    image: StyleImage | None = None


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

    @property
    def has_work(self) -> bool:
        return self.params is not None or (self.room and len(self.inbox) > 0)


class Scheduler:
    """Lanes take turns; a lane waits at most for one turn of each other lane that has something to do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._queues: OrderedDict[int, _Queue] = OrderedDict()
        self._woken = False
        self._busy_since: float | None = None
        self.is_loading = False
        """The present turn brings params into force, which may load a model."""

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
            replaced = queue.inbox.put(Arrival(picture, picture.message.keep))
            self._condition.notify()
            return replaced

    def set_room(self, lane: int, room: bool) -> None:
        """Say whether a result of this lane could be written: a lane without room is passed over."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is not None and queue.room != room:
                queue.room = room
                self._condition.notify()

    def take(self) -> Turn | None:
        """The next turn, None when there is nothing to do. The turn before is over with this call."""
        with self._condition:
            turn = self._pick()
            self._busy_since = None if turn is None else self._clock.monotonic()
            self.is_loading = turn is not None and turn.params is not None
            return turn

    def wait(self) -> None:
        """Wait until there is something to do, or until `wake`."""
        with self._condition:
            while not self._woken and not self._has_work():
                self._condition.wait()
            self._woken = False

    def wake(self) -> None:
        """Make `wait` return, or the next one if nobody waits now."""
        with self._condition:
            self._woken = True
            self._condition.notify()

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
            if not queue.has_work:
                continue
            self._queues.move_to_end(lane)
            if queue.params is not None:
                params, queue.params = queue.params, None
                return Turn(lane, params=params)
            return Turn(lane, picture=queue.inbox.take())
        return None

    def _has_work(self) -> bool:
        return any(queue.has_work for queue in self._queues.values())


__all__ = ["Scheduler", "Turn", "WaitingPicture", "WantedParams"]
