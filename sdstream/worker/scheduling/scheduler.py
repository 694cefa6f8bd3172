"""What the working thread does next: the book of all lanes, from which `batching.py` chooses. No torch here.

Whichever thread reads the line puts in, threads that prepare hand in what they made, the working thread takes out.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from sdstream.clock import Clock
from sdstream.worker.ring import Arrival, Inbox
from sdstream.worker.scheduling.batching import (
    FIRST_INTERVAL,
    LONGEST_INTERVAL,
    Call,
    Pause,
    Rider,
    Trial,
    choose,
    may_try,
    next_interval,
)
from sdstream.worker.scheduling.turns import Batch, Leave, Prepare, Swap, Turn, WaitingPicture, WantedParams


@dataclass(slots=True)
class _Queue:
    params: WantedParams | None
    alone: bool
    """The lane is suspected of having ended a process: until it made a good picture it is tried alone."""
    inbox: Inbox[WaitingPicture] = field(default_factory=Inbox[WaitingPicture])
    ready: bool = False
    """Whether pictures can be made: some params are in force."""
    room: bool = True
    """Whether a result could be written now."""
    group: Hashable = None
    since: float | None = None
    interval: float | None = None
    arrived_at: float | None = None
    served: int = 0
    preparing: bool = False
    loading: bool = False
    """What is prepared takes a load, which newer params end."""
    ticket: int = 0
    """Of the newest `Prepare`."""
    fresh: bool = False
    """The next picture is the first under its params."""
    proving: bool = False
    """That picture is being made."""

    @property
    def has_picture(self) -> bool:
        return self.ready and self.room and len(self.inbox) > 0

    @property
    def has_settled(self) -> bool:
        """Whether its params are in force, proven, and no newer ones have come."""
        return self.ready and self.params is None and not (self.preparing or self.fresh or self.proving)

    @property
    def takes_params(self) -> bool:
        return self.params is not None and (self.loading or not self.preparing)

    @property
    def has_untried(self) -> bool:
        return self.takes_params or (self.fresh and self.has_picture)

    def note_arrival(self, now: float, *, keep: bool) -> None:
        """A picture has come; from the gaps between them the next one is expected."""
        if keep:  # of a file: it is in no hurry, however fast it comes
            self.interval = LONGEST_INTERVAL
        elif self.arrived_at is not None:
            self.interval = next_interval(self.interval, now - self.arrived_at)
        self.arrived_at = now


class Scheduler:
    """Gives the working thread its turns: what closes and what changes lanes first, then pictures.

    Lanes that were never put in a group ride alone and take turns. `window` is how long a call may be held for lanes
    that are about to have a picture, in seconds; at most `most` lanes ride in one.
    """

    def __init__(self, clock: Clock, window: float = 0.0, most: int = 8) -> None:
        self._clock = clock
        self._window = window
        self._most = most
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._queues: OrderedDict[int, _Queue] = OrderedDict()
        self._prepared: deque[Swap] = deque()
        self._closed: deque[Leave] = deque()
        self._woken = False
        self._calls = 0

    # -- the reading thread

    def open(self, lane: int, params: WantedParams, *, alone: bool = False) -> None:
        """A new lane; `alone` has its untried work done while no other untried work is."""
        with self._condition:
            self._queues[lane] = _Queue(params, alone)
            self._condition.notify()

    def update(self, lane: int, params: WantedParams) -> None:
        """Newest wins; of an unknown lane nothing happens."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is not None and (queue.params is None or queue.params.revision <= params.revision):
                queue.params = params
                self._condition.notify()

    def close(self, lane: int) -> None:
        """Forget the lane with all that waits in it; the working thread gets a last turn for it."""
        with self._condition:
            if self._queues.pop(lane, None) is not None:
                self._closed.append(Leave(lane))
                self._condition.notify()

    def put(self, lane: int, picture: WaitingPicture) -> WaitingPicture | None:
        """Store a picture; returns the one whose slot is free now: the replaced one, or this one of no lane."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is None:
                return picture
            now = self._clock.monotonic()
            queue.note_arrival(now, keep=picture.message.keep)
            if queue.since is None:
                queue.since = now
            replaced = queue.inbox.put(Arrival(picture, picture.message.keep))
            self._condition.notify()
            return replaced

    def passes(self, lane: int, *, keep: bool) -> bool:
        """Whether a picture that comes now needs no turn: its lane has settled, and none of it waits. Notes that it
        came; `keep` is the picture's."""
        with self._lock:
            queue = self._queues.get(lane)
            if queue is None or not queue.has_settled or len(queue.inbox):
                return False
            queue.note_arrival(self._clock.monotonic(), keep=keep)
            return True

    def set_room(self, lane: int, room: bool) -> None:
        """Say whether a result of this lane could be written: a lane without room is passed over."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is not None and queue.room != room:
                queue.room = room
                self._condition.notify()

    # -- threads that prepare

    def load(self, lane: int, ticket: int) -> None:
        """What is prepared for the `Prepare` of `ticket` takes a load: newer params need not wait for it."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is not None and queue.preparing and queue.ticket == ticket:
                queue.loading = True
                self._condition.notify()

    def offer(self, lane: int, ticket: int, prepared: object) -> bool:
        """Hand in what was made for the `Prepare` of `ticket`, or why it could not be; False when nobody wants that any
        more: newer params were taken up, or the lane is closed."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is None or queue.ticket != ticket:
                return False
            self._prepared.append(Swap(lane, prepared, ticket))
            self._condition.notify()
            return True

    # -- the working thread

    def take(self) -> Turn | None:
        """The next turn; None when there is nothing to do now."""
        with self._lock:
            return self._control() or self._call()

    def wait(self) -> None:
        """Wait until there is something to do, or until `wake`."""
        with self._condition:
            while not self._woken and not self._prepared and not self._closed and self._next_params() is None:
                choice = self._choice()
                if isinstance(choice, Call):
                    break
                self._condition.wait(None if choice is None else max(0.0, choice.until - self._clock.monotonic()))
            self._woken = False

    def wake(self) -> None:
        """Make `wait` return, or the next one if nobody waits now. From any thread."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def settle(self, lane: int, group: Hashable, *, in_force: bool) -> None:
        """A `Prepare` is over, and some params are in force: the lane rides in `group` and takes params again.

        `in_force` says that new params are, so its next picture is untried.
        """
        with self._condition:
            queue = self._queues.get(lane)
            if queue is not None:
                queue.preparing = queue.loading = False
                queue.ready = True
                queue.group = group
                queue.fresh = queue.fresh or in_force

    def hold(self, lane: int, *, preparing: bool) -> None:
        """No params are in force any more, so pictures wait; `preparing` says whether some are on their way."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is not None:
                queue.ready = queue.fresh = queue.proving = False
                queue.preparing, queue.loading = preparing, queue.loading and preparing

    def prove(self, lane: int) -> None:
        """The first picture under its params is made."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is not None:
                queue.proving = queue.alone = False

    def drain(self, lane: int) -> list[WaitingPicture]:
        """Take all pictures that wait in a lane."""
        with self._condition:
            queue = self._queues.get(lane)
            if queue is None:
                return []
            queue.since = None
            return queue.inbox.clear()

    # -- below: with the condition held

    def _control(self) -> Turn | None:
        if self._closed:
            return self._closed.popleft()
        while self._prepared:
            swap = self._prepared.popleft()
            if swap.lane in self._queues:
                return swap
        lane = self._next_params()
        if lane is None:
            return None
        queue = self._queues[lane]
        params, queue.params = queue.params, None
        assert params is not None
        queue.preparing, queue.loading = True, False
        queue.ticket += 1
        self._queues.move_to_end(lane)
        return Prepare(lane, params, queue.ticket)

    def _next_params(self) -> int | None:
        for lane, queue in self._queues.items():
            if queue.takes_params and may_try(self._trial(besides=queue), queue.alone):
                return lane
        return None

    def _call(self) -> Batch | None:
        choice = self._choice()
        if not isinstance(choice, Call):
            return None
        self._calls += 1
        pictures: dict[int, WaitingPicture] = {}
        now = self._clock.monotonic()
        for lane in choice.lanes:
            queue = self._queues[lane]
            picture = queue.inbox.take()
            assert picture is not None
            pictures[lane] = picture
            queue.since = now if len(queue.inbox) else None
            queue.served = self._calls
            queue.proving, queue.fresh = queue.proving or queue.fresh, False
        return Batch(pictures)

    def _choice(self) -> Call | Pause | None:
        ready = {lane: queue for lane, queue in self._queues.items() if queue.has_picture and self._may_ride(queue)}
        if not ready:
            return None
        if len(ready) == 1:
            ((lane, queue),) = ready.items()
            if queue.group is None:
                return Call((lane,))
        return choose(self._riders(ready), self._clock.monotonic(), self._window, self._most)

    def _riders(self, ready: dict[int, _Queue]) -> Iterator[Rider]:
        for lane, queue in self._queues.items():
            waits = lane in ready
            if not waits and queue.group is None:
                continue
            interval = queue.interval or FIRST_INTERVAL
            expected = (
                queue.arrived_at is not None and queue.ready and queue.room and not waits and not len(queue.inbox)
            )
            yield Rider(
                lane,
                lane if queue.group is None else queue.group,
                queue.since if waits else None,
                interval,
                queue.arrived_at + interval if expected and queue.arrived_at is not None else None,
                queue.served,
                queue.alone and queue.fresh,
            )

    def _may_ride(self, queue: _Queue) -> bool:
        return not queue.fresh or may_try(self._trial(), queue.alone)

    def _trial(self, besides: _Queue | None = None) -> Trial:
        """`besides` is a lane that takes params: the load that those end does not count."""
        waiting = self._queues.values()
        under_way = [each for each in waiting if (each.preparing and each is not besides) or each.proving]
        return Trial(
            any_under_way=bool(under_way),
            alone_under_way=any(queue.alone for queue in under_way),
            alone_waits=self._some_wait_alone(self._queues.values()),
        )

    def _some_wait_alone(self, queues: Iterable[_Queue]) -> bool:
        return any(queue.alone and queue.has_untried for queue in queues)


__all__ = ["Scheduler"]
