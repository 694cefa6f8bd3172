"""The working thread's loop: the plain one, and the one that overlaps, side by side.

The plain loop begins a call, waits for it and delivers it before it looks for the next. The overlapped one looks for
the next call first and gives it to the device while that still works on the one before: uploads and the host's own
work then cost the device no pause. Where nothing else waits, and on a CPU, which is done when a call returns, both do
the same.
"""

from collections.abc import Callable, Mapping

from sdstream.clock import Clock
from sdstream.worker.devices import Device
from sdstream.worker.loading.preparation import Preparation
from sdstream.worker.outcomes import Prepared
from sdstream.worker.scheduling.card_turns import CardTurns, turns
from sdstream.worker.scheduling.flight import Flight
from sdstream.worker.scheduling.load import LoadMeter
from sdstream.worker.scheduling.scheduler import Scheduler
from sdstream.worker.scheduling.turns import Batch, Leave, Prepare, Swap, Turn, WaitingPicture
from sdstream.worker.work import LaneWork


class Loop:
    """Takes turns from the scheduler and carries them out. `lanes` are those that exist, by number, and `shared` has
    what several look at looked at in one call.

    `before_long` is called before a turn that may take long.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        lanes: dict[int, LaneWork],
        preparation: Preparation,
        device: Device,
        meter: LoadMeter,
        clock: Clock,
        *,
        overlap: bool,
        shared: bool = True,
        before_long: Callable[[], None],
        card_turns: CardTurns = turns,
    ) -> None:
        self._scheduler = scheduler
        self._lanes = lanes
        self._preparation = preparation
        self._device = device
        self._meter = meter
        self._clock = clock
        self._shared = shared
        self._before_long = before_long
        self._flight: Flight | None = None
        self._busy_since: float | None = None
        self._usual: float | None = 0.0
        self._step: Callable[[], bool] = self.overlapped_step if overlap else self.plain_step
        self._turns = card_turns

    def step(self) -> bool:
        """Do one turn; False, at once, when there is none. Trials have the card in between (`card_turns`)."""
        if self._turns.are_wanted:
            # Whoever watches over the process sees a trial that never ends; it is no first picture of anything.
            self._busy_since, self._usual = self._clock.monotonic(), 0.0
            before, self._flight = self._flight, None
            if before is not None:
                before.land()
            self._turns.give_way()
        self._turns.take()
        done = self._step()
        if not done:
            self._turns.rest()
        return done

    @property
    def busy_seconds(self) -> float:
        """How long the present turn has taken so far. From any thread."""
        since = self._busy_since
        return 0.0 if since is None else self._clock.monotonic() - since

    @property
    def usual_seconds(self) -> float | None:
        """What calls like the last that was begun take; None when it is the first of its kind. From any thread."""
        return self._usual

    def plain_step(self) -> bool:
        turn = self._scheduler.take()
        self._busy_since = None if turn is None else self._clock.monotonic()
        if turn is None:
            return False
        if isinstance(turn, Batch):
            self._launch(turn).land()
        else:
            self._control(turn)
        return True

    def overlapped_step(self) -> bool:
        turn = self._scheduler.take()
        before, self._flight = self._flight, None
        self._busy_since = None if turn is None and before is None else self._clock.monotonic()
        if isinstance(turn, Batch):
            flight = self._launch(turn)
            if before is not None:
                before.land()
            if flight.has_arrived:
                flight.land()
            else:
                self._flight = flight
            return True
        # Lanes change only when nothing of them is under way.
        if before is not None:
            before.land()
        if turn is not None:
            self._control(turn)
        return turn is not None or before is not None

    def _launch(self, turn: Batch) -> Flight:
        pictures = {lane: each for number, each in turn.pictures.items() if (lane := self._lanes.get(number))}
        if not all(lane.is_short(picture) for lane, picture in pictures.items()):
            self._before_long()
        self._usual = self._usual_of(pictures)
        flight = Flight(self._device, self._meter, self._clock, shared=self._shared)
        flight.launch(pictures)
        return flight

    def _usual_of(self, pictures: Mapping[LaneWork, WaitingPicture]) -> float | None:
        making = [lane for lane, picture in pictures.items() if not lane.stays(picture)]
        pipeline = making[0].pipeline if making else None
        return 0.0 if pipeline is None else self._meter.usual(pipeline.kind, len(making))

    def _control(self, turn: Turn) -> None:
        self._usual = 0.0
        lane = self._lanes.get(turn.lane) if isinstance(turn, Prepare | Swap | Leave) else None
        if lane is None:
            return
        self._before_long()
        match turn:
            case Prepare():
                self._preparation.begin(lane, turn.params, turn.ticket)
            case Swap():
                assert isinstance(turn.prepared, Prepared)
                self._preparation.finish(lane, turn.prepared, turn.ticket)
            case Leave():
                del self._lanes[turn.lane]
                lane.close()
                self._preparation.leave(lane)
            case _:
                pass


def any_slow(lanes: Mapping[int, LaneWork]) -> bool:
    """Whether some lane's work is expected to take long."""
    return any(lane.is_slow for lane in list(lanes.values()))


__all__ = ["Loop", "any_slow"]
