"""What new params need before they can come into force, made beside the pictures that go on meanwhile.

Several threads, so that a model that takes minutes to load holds up no prompt of another stream: one makes plans for
pipelines that run, the others load pipelines. The working thread gives out work and takes what was made at a boundary
between two pictures.
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
from sdstream.worker.outcomes import LoadGivenUp, Prepared
from sdstream.worker.scheduler import Scheduler, WantedParams
from sdstream.worker.tidying import HeapTidier
from sdstream.worker.work import LaneWork

LOADERS = 3
"""Threads that load. One model is loaded at a time, and meanwhile streams find those that are in memory already."""


class Preparation:
    """The threads. All methods are for the working thread, but `loading_seconds`, which any may ask."""

    def __init__(self, scheduler: Scheduler, device: Device, clock: Clock) -> None:
        self._scheduler = scheduler
        self._device = device
        self._clock = clock
        self._told_at: dict[int, float] = {}
        """By lane that loads: when its load began, or last told of progress."""
        # Unbounded, but a lane has one piece of work under way at most.
        self._plans: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._loads: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._tidier = HeapTidier()
        for work in (self._plans, *[self._loads] * LOADERS):
            threading.Thread(target=_run, args=(work,), name="preparation", daemon=True).start()

    @property
    def loading_seconds(self) -> float:
        """How long the load that was heard of longest ago has said nothing; 0 without one."""
        since = min(self._told_at.copy().values(), default=None)
        return 0.0 if since is None else self._clock.monotonic() - since

    def tidy(self) -> None:
        """Something large was let go: give its memory back to the system, a little later and on another thread."""
        self._tidier.request()

    def begin(self, lane: LaneWork, wanted: WantedParams) -> None:
        """Take params up. What became of them is a `Swap` of the scheduler in the end, with a `Prepared`.

        Params of image processors alone, without networks, and those that cannot be read, are done with on return.
        """
        try:
            params = lane.begin(wanted)
            if not is_quick(params):
                self._plans.put(lambda: self._plan(lane, wanted, params))
                return
            prepared = lane.prepare(wanted, params) or lane.load(wanted, params, lane.progress)
        except Exception as error:  # noqa: BLE001 - supervises the lanes: one that raises fails alone, by name
            prepared = Prepared(wanted, error=error)
        self.finish(lane, prepared)

    def finish(self, lane: LaneWork, prepared: Prepared) -> None:
        """Bring what was prepared into force, or say why that is not possible. Raises what ends the process."""
        wanted, error = prepared.wanted, prepared.error
        if error is None and not lane.takes(prepared):
            self._reload(lane, wanted, prepared.params)
            return
        if error is None:
            try:
                lane.swap(prepared)
            except Exception as reason:  # noqa: BLE001 - supervises the lanes: one that raises fails alone, by name
                error = reason
            else:
                if prepared.beside:
                    self.tidy()
                return
        if isinstance(error, self._device.fatal_errors):
            raise error
        if isinstance(error, LoadGivenUp):
            lane.give_way()
            return
        if isinstance(error, torch.OutOfMemoryError):
            self._device.give_back()
            if prepared.beside and lane.is_running:
                self._load_in_turn(lane, wanted, prepared.params)
                return
        if not isinstance(error, SdstreamError):
            traceback.print_exception(error)
        lane.refuse(error, wanted.revision)

    def _load_in_turn(self, lane: LaneWork, wanted: WantedParams, params: StreamParams | None) -> None:
        """There is no memory for two: let the present pipeline go first. If the other fails even so, it comes back."""
        before = lane.make_room()
        self._device.give_back()
        assert before is not None
        assert params is not None

        def load() -> None:
            prepared = self._load(lane, wanted, params)
            if prepared.error is not None:
                if not isinstance(prepared.error, LoadGivenUp):
                    lane.note_refusal(prepared.error, wanted.revision)
                self._device.give_back()
                prepared = self._load(lane, before, None, gives_way=False)
            self._scheduler.offer(lane.number, prepared)

        self._loads.put(load)

    def _reload(self, lane: LaneWork, wanted: WantedParams, params: StreamParams | None) -> None:
        self._loads.put(
            lambda: self._scheduler.offer(lane.number, replace(self._load(lane, wanted, params), beside=True))
        )

    def _plan(self, lane: LaneWork, wanted: WantedParams, params: StreamParams) -> None:
        try:
            prepared = lane.prepare(wanted, params)
        except Exception as error:  # noqa: BLE001 - supervises the thread: the working thread is told, and decides
            prepared = Prepared(wanted, params, error=error)
        if prepared is None:
            self._reload(lane, wanted, params)
        else:
            self._scheduler.offer(lane.number, prepared)

    def _load(
        self, lane: LaneWork, wanted: WantedParams, params: StreamParams | None, *, gives_way: bool = True
    ) -> Prepared:
        """Load; `gives_way` has it end when newer params come."""

        def progress(detail: str, percent: float | None) -> None:
            if gives_way and self._scheduler.is_superseded(lane.number):
                raise LoadGivenUp
            self._told_at[lane.number] = self._clock.monotonic()
            lane.progress(detail, percent)

        self._told_at[lane.number] = self._clock.monotonic()
        try:
            return lane.load(wanted, lane.read(wanted) if params is None else params, progress)
        except Exception as error:  # noqa: BLE001 - supervises the thread: the working thread is told, and decides
            return Prepared(wanted, params, error=error)
        finally:
            self._told_at.pop(lane.number, None)


def _run(work: "queue.SimpleQueue[Callable[[], None]]") -> None:
    torch.set_grad_enabled(False)  # it is a setting of each thread
    while True:
        work.get()()


__all__ = ["Preparation"]
