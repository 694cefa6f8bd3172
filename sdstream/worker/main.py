"""The worker process: `python -m sdstream.worker.main`, started by `worker.child` and by nobody else.

Two threads: one receives messages and answers pings, the other (the main one) makes pictures. It ends with its parent:
by the kernel's signal on Linux, and everywhere because its line of messages ends.
"""

import faulthandler
import json
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

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
)
from sdstream.worker.scheduler import Scheduler, WantedParams

if TYPE_CHECKING:
    from sdstream.worker.devices import Device
    from sdstream.worker.work import LaneWork


class Worker:
    """The process: lanes, the scheduler between its two threads, and the line to the server."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._clock = SystemClock()
        self._started = self._clock.monotonic()
        self._scheduler = Scheduler(self._clock)
        self._lanes: dict[int, LaneWork] = {}
        self._configured = threading.Event()
        self._configure: Configure | None = None
        self._device: Device | None = None

    def run(self, threads: int) -> None:
        """Import torch, wait for the first message, and work until `Stop`."""
        threading.Thread(target=self._receive, name="receive", daemon=True).start()
        import torch

        from sdstream.params import ModelTable
        from sdstream.settings import Settings
        from sdstream.worker.devices import Device
        from sdstream.worker.work import LaneWork

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._configured.wait()
        assert self._configure is not None
        self._make_lane = LaneWork
        self._models = ModelTable.from_settings(Settings.model_validate(json.loads(self._configure.models)))
        self._device = Device.choose(self._configure.device)
        self._channel.send(Ready(self._device.name, self._device.processor, self._clock.monotonic() - self._started))
        while (turn := self._scheduler.next_turn()) is not None:
            lane = self._lanes.get(turn.lane)
            if lane is None:
                continue
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

    def _receive(self) -> None:
        try:
            for message in self._channel.receive():
                self._on_message(message)
        except BaseException:  # noqa: BLE001 - the process cannot live without this thread, and the log must say why
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # the server is gone

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
                self._channel.send(Pong(message.number, self._scheduler.busy_seconds, used, total))
            case UseRing():
                if lane := self._lanes.get(message.lane):
                    lane.use_ring(message)
            case UpdateLane():
                self._scheduler.update(message.lane, WantedParams(message.params, message.revision))
            case OpenLane():
                self._open(message)
            case CloseLane():
                self._lanes.pop(message.lane, None)
                self._scheduler.close(message.lane)
            case Configure():
                self._configure = message
                self._configured.set()
            case Stop():
                self._scheduler.stop()
                self._configured.set()
            case _:
                raise InternalError(f"a message the worker does not take: {type(message).__name__}")

    def _open(self, message: OpenLane) -> None:
        assert self._device is not None
        assert self._configure is not None
        self._lanes[message.lane] = self._make_lane(
            message.lane,
            message.stream_id,
            device=self._device.torch_device,
            models=self._models,
            memory_prefix=self._configure.memory_prefix,
            scheduler=self._scheduler,
            send=self._channel.send,
            clock=self._clock,
        )
        self._scheduler.open(message.lane, WantedParams(message.params, message.revision))


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
