"""The worker process: `python -m sdstream.worker.main`, started by `worker.child` and by nobody else.

The main thread makes pictures; who reads the line, `reception.py` tells. The process ends with its parent: by the
kernel's signal on Linux, and everywhere because its line ends.
"""

import faulthandler
import json
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from sdstream import platform
from sdstream.clock import SystemClock
from sdstream.errors import InternalError, SdstreamError
from sdstream.worker.channel import Channel
from sdstream.worker.messages import (
    TO_WORKER,
    CloseLane,
    Configure,
    OpenLane,
    PictureIn,
    Ping,
    Pong,
    Ready,
    SlotsReturned,
    Stop,
    UpdateLane,
    UseRing,
    Warm,
)
from sdstream.worker.reception import Reception
from sdstream.worker.scheduler import Scheduler, Turn

if TYPE_CHECKING:
    from sdstream.worker.devices import Device
    from sdstream.worker.work import LaneWork


class Worker:
    """The process: lanes, the scheduler between its two threads, and the line to the server."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._clock = SystemClock()
        self._scheduler = Scheduler(self._clock)
        self._lanes: dict[int, LaneWork] = {}
        self._reception = Reception(channel, self._on_message, self._end, self._scheduler.wake)
        self._stopping = False
        self._configured = threading.Event()
        self._configure: Configure | None = None
        self._device: Device | None = None

    def run(self, threads: int) -> None:
        """Import torch, wait for the first message, and work until `Stop`."""
        self._reception.call_helper()  # until torch is there
        import torch

        from sdstream.params import ModelTable
        from sdstream.settings import Settings
        from sdstream.worker.devices import Device
        from sdstream.worker.work import LaneWork

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._channel.send(Warm())
        self._configured.wait()
        if self._configure is None:
            return  # stopped before it began
        self._make_lane = LaneWork
        self._models = ModelTable.from_settings(Settings.model_validate(json.loads(self._configure.models)))
        self._device = Device.choose(self._configure.device)
        self._channel.send(Ready(self._device.name, self._device.processor))
        self._reception.relieve_helper()
        while not self._stopping:
            turn = self._scheduler.take()
            if turn is not None:
                self._serve(turn)
            elif not self._reception.read_here():
                self._scheduler.wait()

    def _serve(self, turn: Turn) -> None:
        assert self._device is not None
        lane = self._lanes.get(turn.lane)
        if lane is None:
            return
        if turn.params is not None or (turn.picture is not None and not lane.is_short(turn.picture)):
            self._reception.call_helper()
        try:
            if turn.params is not None:
                lane.apply(turn.params)
            if turn.picture is not None:
                lane.make(turn.picture)
        except self._device.fatal_errors:
            raise  # the device is lost for every lane; only a new process helps
        except Exception as error:  # noqa: BLE001 - supervises the lanes: one that raises fails alone, by name
            if not isinstance(error, SdstreamError):
                traceback.print_exc()
            lane.fail(error, None if turn.params is None else turn.params.revision, turn.picture)
        if self._reception.helper_reads and not any(lane.is_slow for lane in self._lanes.copy().values()):
            self._reception.relieve_helper()

    def _end(self, error: Exception | None) -> NoReturn:
        if error is not None:
            traceback.print_exception(error)
        os._exit(0 if error is None else 1)  # at once: without its line the process is of no use

    def _on_message(self, message: Any) -> None:
        match message:
            case PictureIn():
                if lane := self._lanes.get(message.lane):
                    lane.accept(message)
            case SlotsReturned():
                if lane := self._lanes.get(message.lane):
                    lane.take_back(message.ring, message.slots)
            case Ping():
                used, total = (None, None) if self._device is None else self._device.memory()
                self._channel.send(
                    Pong(message.number, self._scheduler.busy_seconds, self._scheduler.is_loading, used, total)
                )
            case UseRing():
                if lane := self._lanes.get(message.lane):
                    lane.use_ring(message)
            case UpdateLane():
                if lane := self._lanes.get(message.lane):
                    self._scheduler.update(message.lane, lane.take_params(message))
            case OpenLane():
                self._open(message)
            case CloseLane():
                self._lanes.pop(message.lane, None)
                self._scheduler.close(message.lane)
            case Configure():
                self._configure = message
                self._configured.set()
            case Stop():
                self._stopping = True
                self._configured.set()
                self._scheduler.wake()
            case _:
                raise InternalError(f"a message the worker does not take: {type(message).__name__}")

    def _open(self, message: OpenLane) -> None:
        assert self._device is not None
        assert self._configure is not None
        lane = self._make_lane(
            message.lane,
            message.stream_id,
            device=self._device.torch_device,
            models=self._models,
            memory_prefix=self._configure.memory_prefix,
            scheduler=self._scheduler,
            send=self._channel.send,
            clock=self._clock,
        )
        self._lanes[message.lane] = lane
        self._scheduler.open(message.lane, lane.take_params(message))


def main() -> None:
    """Read the greeting from standard input, then work."""
    greeting = json.loads(sys.stdin.readline())
    platform.die_with_parent(greeting["parent"])
    platform.ignore_interrupts()
    faulthandler.enable()
    channel = Channel(platform.received_socket(greeting["socket"]), TO_WORKER)
    Worker(channel).run(greeting["threads"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # at once: nothing is left to save, and unloading torch takes longer than the server waits


if __name__ == "__main__":
    main()
