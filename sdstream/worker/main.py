"""The worker process: `python -m sdstream.worker.main`, started by `worker.server_end.child` and by nobody else.

The main thread makes pictures; who reads the line, `reception.py` tells. The process ends with its parent: by the
kernel's signal on Linux, and everywhere because its line ends.
"""

import faulthandler
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from sdstream.clock import SystemClock
from sdstream.errors import ConfigurationError, InternalError
from sdstream.platform.processes import die_with_parent, ignore_interrupts, received_socket
from sdstream.worker.channel import Channel
from sdstream.worker.messages import (
    TO_WORKER,
    CloseLane,
    Configure,
    Ending,
    OpenLane,
    PictureIn,
    Ping,
    Pong,
    Ready,
    SlotsReturned,
    Stop,
    TapLane,
    TapOut,
    UpdateLane,
    UseRing,
    Warm,
)
from sdstream.worker.reception import Reception
from sdstream.worker.scheduling.load import LoadMeter
from sdstream.worker.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from sdstream.worker.devices import Device
    from sdstream.worker.loading.preparation import Preparation
    from sdstream.worker.scheduling.loop import Loop
    from sdstream.worker.work import LaneWork


class Worker:
    """The process: lanes, the scheduler between its two threads, and the line to the server."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._clock = SystemClock()
        self._scheduler = Scheduler(self._clock)  # until it is configured
        self._meter = LoadMeter()
        self._lanes: dict[int, LaneWork] = {}
        self._reception = Reception(channel, self._on_message, self._end, lambda: self._scheduler.wake())
        self._preparation: Preparation | None = None
        self._loop: Loop | None = None
        self._stopping = False
        self._configured = threading.Event()
        self._configure: Configure | None = None
        self._device: Device | None = None
        self._engine_events: Callable[[], dict[str, int]] = dict

    def run(self, threads: int, device_here: str) -> None:
        """Import torch, wait for the first message, and work until `Stop`.

        `device_here` is how torch calls the device of the settings in this process.
        """
        self._reception.call_helper()  # until torch is there
        import torch

        from sdstream.diffusion.convolving.switch import use_tuned_convolutions
        from sdstream.diffusion.eight_bit.switch import use_eight_bit
        from sdstream.diffusion.fused.switch import use_fused_blocks
        from sdstream.diffusion.graph_editing.switch import use_kernel_memsets
        from sdstream.diffusion.trials.memory import keep_findings_in
        from sdstream.directories import choose_data_directory
        from sdstream.params import ModelTable
        from sdstream.settings import Settings
        from sdstream.worker.devices import Device
        from sdstream.worker.engines import setup
        from sdstream.worker.loading.preparation import Preparation
        from sdstream.worker.options import EngineOptions
        from sdstream.worker.scheduling.loop import Loop, any_slow
        from sdstream.worker.work import LaneWork

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._channel.send(Warm())
        self._configured.wait()
        if self._configure is None:
            return  # stopped before it began
        settings = Settings.model_validate(json.loads(self._configure.settings))
        use_kernel_memsets(settings.kernel_memsets)
        use_fused_blocks(settings.fused_blocks)
        keep_findings_in(choose_data_directory(settings).absolute_path / "trials")
        wanted = settings.tuned_convolutions and settings.fused_blocks
        use_tuned_convolutions(wanted, settings.convolution_trial_seconds)
        use_eight_bit(settings.eight_bit)
        self._make_lane = LaneWork
        self._options = EngineOptions.of(settings)
        self._models = ModelTable.from_settings(settings)
        self._device = Device.choose(self._configure.device, device_here)
        device = self._device.torch_device
        setup.install(lambda: setup.WorkerEngines(settings, device))
        self._engine_events = setup.event_counts
        self._scheduler = Scheduler(self._clock, settings.batch_window, settings.batch_size)
        self._preparation = Preparation(self._scheduler, self._device, self._clock)
        self._loop = loop = Loop(
            self._scheduler,
            self._lanes,
            self._preparation,
            self._device,
            self._meter,
            self._clock,
            overlap=settings.worker_overlap,
            shared=settings.share_processors,
            before_long=self._reception.call_helper,
        )
        self._channel.send(Ready(self._device.name, self._device.processor))
        self._reception.relieve_helper()
        try:
            while not self._stopping:
                if loop.step():
                    if self._reception.helper_reads and not any_slow(self._lanes):
                        self._reception.relieve_helper()
                elif not self._reception.read_here():
                    self._scheduler.wait()
        except (torch.OutOfMemoryError, *self._device.fatal_errors) as error:
            # The device is lost for every lane, or full; only a new process helps.
            from sdstream.worker.outcomes import code_and_words

            self._channel.send(Ending(*code_and_words(error)))
            raise

    def _end(self, error: Exception | None) -> NoReturn:
        if error is not None:
            traceback.print_exception(error)
        os._exit(0 if error is None else 1)  # at once: without its line the process is of no use

    def _on_message(self, message: Any) -> bool:
        match message:
            case PictureIn():
                lane = self._lanes.get(message.lane)
                return lane is not None and lane.accept(message, at_once=not self._reception.helper_reads)
            case SlotsReturned():
                if lane := self._lanes.get(message.lane):
                    lane.take_back(message.ring, message.slots)
            case TapLane():
                lane = self._lanes.get(message.lane)
                picture = None if lane is None else lane.tap(message.processor)
                self._channel.send(TapOut(message.number, picture))
            case Ping():
                self._channel.send(self._pong(message.number))
            case UseRing():
                if lane := self._lanes.get(message.lane):
                    lane.use_ring(message)
            case UpdateLane():
                if lane := self._lanes.get(message.lane):
                    self._scheduler.update(message.lane, lane.take_params(message))
            case OpenLane():
                self._open(message)
            case CloseLane():
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
        return True

    def _pong(self, number: int) -> Pong:
        used, total = (None, None) if self._device is None else self._device.memory()
        calls, seconds = self._meter.totals()
        return Pong(
            number,
            0.0 if self._loop is None else self._loop.busy_seconds,
            0.0 if self._loop is None else self._loop.usual_seconds,
            0.0 if self._preparation is None else self._preparation.loading_seconds,
            used,
            total,
            self._meter.loads(),
            calls,
            seconds,
            self._engine_events(),
        )

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
            options=self._options,
        )
        self._lanes[message.lane] = lane
        self._scheduler.open(message.lane, lane.take_params(message), alone=message.alone)


def main() -> None:
    """Read the greeting from standard input, then work."""
    greeting = json.loads(sys.stdin.readline())
    die_with_parent(greeting["parent"])
    ignore_interrupts()
    faulthandler.enable()
    channel = Channel(received_socket(greeting["socket"]), TO_WORKER)
    status = 0
    try:
        Worker(channel).run(greeting["threads"], greeting["device"])
    except ConfigurationError as error:  # what it says is for the operator, and where it was raised is not
        channel.send(Ending(error.code, error.message))
        status = 1
    except Exception:  # noqa: BLE001 - the process ends with it, and must not wait for threads that load
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # at once: nothing is left to save, and unloading torch takes longer than the server waits


if __name__ == "__main__":
    main()
