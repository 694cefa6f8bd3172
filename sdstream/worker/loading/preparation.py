"""What new params need before they can come into force, made beside the pictures that go on meanwhile.

Several threads, so that a model that takes minutes to load holds up no prompt, of its own stream or another: one makes
plans for pipelines that run, the others load pipelines. The working thread gives out work and takes what was made at a
boundary between two pictures. What newer params have taken the place of is given back when it comes.
"""

import queue
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace

import torch

from sdstream.clock import Clock
from sdstream.errors import SdstreamError
from sdstream.params import StreamParams
from sdstream.worker.asked import is_quick
from sdstream.worker.devices import Device
from sdstream.worker.loading.lane_loads import Aim, Fate, LaneLoad, LaneLoads, fate_of
from sdstream.worker.loading.loaders import Loaders
from sdstream.worker.outcomes import LoadGivenUp, Prepared
from sdstream.worker.scheduling.scheduler import Scheduler
from sdstream.worker.scheduling.turns import WantedParams
from sdstream.worker.tidying import HeapTidier
from sdstream.worker.work import LaneWork


class Preparation:
    """The threads. All methods are for the working thread, but `loading_seconds`, which any may ask.

    `ticket` is that of the lane's `Prepare` throughout.
    """

    def __init__(self, scheduler: Scheduler, device: Device, clock: Clock) -> None:
        self._scheduler = scheduler
        self._device = device
        self._clock = clock
        self._told_at: dict[int, float] = {}
        """By the number of a load: when that began, or last told of progress."""
        # Unbounded, but a lane has one plan under way at most.
        self._plans: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._loaders = Loaders()
        self._loads = LaneLoads()
        self._tidier = HeapTidier()
        threading.Thread(target=self._make_plans, name="preparation", daemon=True).start()

    @property
    def loading_seconds(self) -> float:
        """How long the load that was heard of longest ago has said nothing; 0 without one."""
        since = min(self._told_at.copy().values(), default=None)
        return 0.0 if since is None else self._clock.monotonic() - since

    def tidy(self) -> None:
        """Something large was let go: give its memory back to the system, a little later and on another thread."""
        self._tidier.request()

    def leave(self, lane: LaneWork) -> None:
        """The lane is closed: what is loaded for it is given up."""
        self._give_up(lane)
        self.tidy()

    def begin(self, lane: LaneWork, wanted: WantedParams, ticket: int) -> None:
        """Take params up, and give up what is loaded for those before where these want something else. What became of
        them is a `Swap` of the scheduler in the end, with a `Prepared`.

        Params of image processors alone, without networks, and those that cannot be read, are done with on return.
        """
        try:
            params = lane.begin(wanted)
            if self._goes_on(lane, Aim(wanted, params, ticket)):
                return
            if not is_quick(params):
                self._plans.put(lambda: self._plan(lane, wanted, params, ticket))
                return
            prepared = lane.prepare(wanted, params) or lane.load(wanted, params, lane.progress)
        except Exception as error:  # noqa: BLE001 - supervises the lanes: one that raises fails alone, by name
            prepared = Prepared(wanted, error=error)
        self.finish(lane, prepared, ticket)

    def finish(self, lane: LaneWork, prepared: Prepared, ticket: int) -> None:
        """Bring what was prepared into force, or say why that is not possible. Raises what ends the process."""
        wanted, error = prepared.wanted, prepared.error
        if error is None and not lane.takes(prepared):
            prepared.give_back()
            self._reload(lane, wanted, prepared.params, ticket)
            return
        if error is None:
            try:
                lane.swap(prepared)
            except Exception as reason:  # noqa: BLE001 - supervises the lanes: one that raises fails alone, by name
                error = reason
                if lane.pipeline is not prepared.pipeline:
                    prepared.give_back()
            else:
                if prepared.beside:
                    self.tidy()
                return
        if isinstance(error, self._device.fatal_errors):
            raise error
        if isinstance(error, torch.OutOfMemoryError):
            self._device.give_back()
            if prepared.beside and lane.is_running:
                self._load_in_turn(lane, wanted, prepared.params, ticket)
                return
        if not isinstance(error, SdstreamError):
            traceback.print_exception(error)
        before = lane.made_way
        if before is not None and before is not wanted:
            lane.note_refusal(error, wanted.revision)
            self._device.give_back()
            self._ask(lane, before, None, ticket)
            return
        lane.refuse(error, wanted.revision)

    def _load_in_turn(self, lane: LaneWork, wanted: WantedParams, params: StreamParams | None, ticket: int) -> None:
        """There is no memory for two: let the present pipeline go first. If what is loaded then fails even so, it comes
        back."""
        lane.make_room()
        self._device.give_back()
        self._ask(lane, wanted, params, ticket)

    def _reload(self, lane: LaneWork, wanted: WantedParams, params: StreamParams | None, ticket: int) -> None:
        self._ask(lane, wanted, params, ticket, beside=True)

    def _give_up(self, lane: LaneWork) -> None:
        self._loaders.supersede(lane.number)
        self._loads.give_up(lane.number)

    def _goes_on(self, lane: LaneWork, aim: Aim) -> bool:
        """Whether these params take the load under way over. If not, it is given up, unless it waits for the next."""
        load = self._loads.under_way(lane.number)
        if load is None or aim.params is None:
            return False
        fate = fate_of(load.aim.params, aim.params, keeps=aim.wanted.keeps_load)
        if fate is Fate.WAITS:
            load.put_aside()
            return False
        made = load.take_over(aim) if fate is Fate.GOES_ON else None
        if fate is Fate.GIVEN_UP or (made is not None and made.error is not None):
            self._give_up(lane)
            return False
        if made is not None:
            self._loaders.ask(lane.number, lambda number: self._carry_out(lane, load, number, made))
        self._scheduler.load(lane.number, aim.ticket)
        if load.told is not None:
            lane.progress(*load.told)
        return True

    def _ask(
        self, lane: LaneWork, wanted: WantedParams, params: StreamParams | None, ticket: int, *, beside: bool = False
    ) -> None:
        """Have a thread load, in the place of what is loaded for the lane."""
        load = LaneLoad(Aim(wanted, params, ticket), beside)
        self._loads.begin(lane.number, load)
        self._loaders.ask(lane.number, lambda number: self._carry_out(lane, load, number))
        self._scheduler.load(lane.number, ticket)

    def _carry_out(self, lane: LaneWork, load: LaneLoad, number: int, made: Prepared | None = None) -> None:
        """Load for the newest params that take this load; `number` is its own, and `made` what was loaded already."""
        handed_in = False
        while not handed_in:
            aim = load.aim
            made = replace(self._make(lane, load, aim, number, made), beside=load.beside)
            handed_in = load.hand_in(aim, made, lambda it, to=aim: self._scheduler.offer(lane.number, to.ticket, it))
        if load.given_up:
            self.tidy()

    def _make(self, lane: LaneWork, load: LaneLoad, aim: Aim, number: int, made: Prepared | None) -> Prepared:
        """What these params need, out of what was made for older ones where that can be turned to them."""
        if made is None or made.error is not None:  # an error of theirs need not be one of these
            return self._load(lane, load, aim, number)
        if made.wanted is aim.wanted:
            return made
        try:
            plan = None if made.pipeline is None or aim.params is None else made.pipeline.plan(aim.params)
        except Exception as error:  # noqa: BLE001 - supervises the thread: the working thread is told, and decides
            made.give_back()
            return Prepared(aim.wanted, aim.params, error=error)
        if plan is not None:
            return replace(made, wanted=aim.wanted, params=aim.params, plan=plan)
        again = self._load(lane, load, aim, number)
        made.give_back()
        return again

    def _offer(self, lane: LaneWork, prepared: Prepared, ticket: int) -> None:
        if not self._scheduler.offer(lane.number, ticket, prepared):
            prepared.give_back()
            self.tidy()

    def _make_plans(self) -> None:
        torch.set_grad_enabled(False)  # it is a setting of each thread
        while True:
            self._plans.get()()

    def _plan(self, lane: LaneWork, wanted: WantedParams, params: StreamParams, ticket: int) -> None:
        try:
            prepared = lane.prepare(wanted, params)
        except Exception as error:  # noqa: BLE001 - supervises the thread: the working thread is told, and decides
            prepared = Prepared(wanted, params, error=error)
        if prepared is None:
            self._reload(lane, wanted, params, ticket)
        else:
            self._offer(lane, prepared, ticket)

    def _load(self, lane: LaneWork, load: LaneLoad, aim: Aim, number: int) -> Prepared:
        """Load, until that is given up; `number` is that of the load."""

        def progress(detail: str, percent: float | None) -> None:
            with self._loaders.telling(number) as counts:
                if not counts:
                    raise LoadGivenUp
                self._told_at[number] = self._clock.monotonic()
                load.told = detail, percent
                if not load.waits:
                    lane.progress(detail, percent)

        self._told_at[number] = self._clock.monotonic()
        try:
            return lane.load(aim.wanted, lane.read(aim.wanted) if aim.params is None else aim.params, progress)
        except Exception as error:  # noqa: BLE001 - supervises the thread: the working thread is told, and decides
            return Prepared(aim.wanted, aim.params, error=error)
        finally:
            self._told_at.pop(number, None)


__all__ = ["Preparation"]
