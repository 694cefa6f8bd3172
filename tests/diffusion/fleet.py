"""Lanes of the worker over a tiny model, in this process: the real scheduler, loop and threads, without a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch

from sdstream.clock import Clock, SystemClock
from sdstream.directories import ModelPlaces
from sdstream.frames import I420Frame, PictureSize, split_planes
from sdstream.params import ModelEntry, ModelTable, StreamParams, dump_params, image_apart, parse_create
from sdstream.worker import colour
from sdstream.worker.devices import Device, Mark
from sdstream.worker.loading.preparation import Preparation
from sdstream.worker.messages import CloseLane, LaneReport, Message, PictureIn, PictureOut, SlotsReturned, UseRing
from sdstream.worker.pipelines import Pipeline
from sdstream.worker.ring import FrameRing, memory_prefix, sweep_own_memory
from sdstream.worker.scheduling.load import LoadMeter
from sdstream.worker.scheduling.loop import Loop
from sdstream.worker.scheduling.scheduler import Scheduler
from sdstream.worker.scheduling.turns import WantedParams
from sdstream.worker.work import LaneWork

SIZE = PictureSize(64, 64)
"""Below what the wire allows: the engine does not care, and the tests are quick."""
MODEL = "stabilityai/sd-turbo"
CPU = torch.device("cpu")


def params_of(**fields: Any) -> StreamParams:
    """Params as a client would send them; their size is `SIZE` once a lane of a fleet reads them."""
    body = {"model_id": MODEL, "t_index_list": [20, 35], "prompt": "the cat", **fields}
    return parse_create({"pipeline": "streamdiffusion", "params": body}, ModelTable()).params


def small(params: StreamParams) -> StreamParams:
    return params.model_copy(update={"width": SIZE.width, "height": SIZE.height})


def picture_of(number: int) -> I420Frame:
    """A picture of random colours, another one for each number."""
    random = numpy.random.default_rng(number)
    packed = random.integers(60, 190, SIZE.byte_count, numpy.uint8)
    return I420Frame(*split_planes(packed, SIZE), sequence=number)


def processed(pipeline: Pipeline, frame: I420Frame) -> I420Frame:
    """What the pipeline makes of a picture when nobody rides with it."""
    packed = numpy.empty(SIZE.byte_count, numpy.uint8)
    colour.download(pipeline.process(colour.upload(frame, SIZE, CPU)), packed)
    return I420Frame(*split_planes(packed, SIZE))


def difference(one: I420Frame, other: I420Frame) -> int:
    """The largest, in steps of eight bits."""
    planes = zip(one.planes, other.planes, strict=True)
    return max(int(numpy.abs(a.astype(int) - b.astype(int)).max()) for a, b in planes)


class _Lag:
    """An event of a device that is never done before somebody waits."""

    def __init__(self) -> None:
        self.waited = False

    def query(self) -> bool:
        return self.waited

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, other: "_Lag") -> float:
        return 1.0


class LateDevice(Device):
    """A CPU that behaves as a GPU does: what it was given is done only once somebody waits."""

    def mark(self) -> Mark:
        event: Any = _Lag()
        return Mark(event)


class SmallLane(LaneWork):
    """A lane whose pictures are of `SIZE`."""

    def read(self, wanted: WantedParams) -> StreamParams:
        return small(super().read(wanted))


class FleetLane:
    """One stream: what the server's end of its lane does, by hand."""

    def __init__(self, fleet: "Fleet", number: int, params: StreamParams) -> None:
        self.number = number
        self.reports: list[LaneReport] = []
        self.made: list[tuple[int, int, I420Frame]] = []
        """Sequence, revision and picture of each result, in order."""
        self.returned: list[int] = []
        self.revision = 0
        self._fleet = fleet
        self._ring = FrameRing.create(fleet.prefix, 1, SIZE.byte_count)
        self._output: FrameRing | None = None
        self._sequences: dict[int, int] = {}
        self.work = SmallLane(
            number,
            f"stream {number}",
            device=fleet.device.torch_device,
            models=fleet.models,
            memory_prefix=fleet.prefix,
            scheduler=fleet.scheduler,
            send=fleet.send,
            clock=fleet.clock,
        )
        fleet.lanes[number] = self.work
        self.work.use_ring(UseRing(number, 1, self._ring.name, self._ring.slot_bytes, self._ring.slots))
        self.revision = 1
        fleet.scheduler.open(number, WantedParams(dump_params(params), 1, image_apart(params)))

    def update(self, params: StreamParams, *, keeps_load: bool = False) -> None:
        self.revision += 1
        wanted = WantedParams(dump_params(params), self.revision, image_apart(params), keeps_load)
        self._fleet.scheduler.update(self.number, wanted)

    def put(self, frame: I420Frame, slot: int = 0) -> None:
        self._ring.write(slot, frame)
        self._sequences[slot] = frame.sequence
        now = self._fleet.clock.monotonic()
        message = PictureIn(
            self.number, 1, slot, SIZE.width, SIZE.height, frame.sequence, now, now, False, False, False, 0, []
        )
        self.work.accept(message)

    def on(self, message: Message) -> None:
        match message:
            case LaneReport():
                self.reports.append(message)
            case UseRing():
                self._output = FrameRing.open(message.name, message.ring, message.slot_bytes, message.slots)
                self._output.unlink()
            case SlotsReturned():
                self.returned += message.slots
            case PictureOut():
                assert self._output is not None
                frame = I420Frame(*self._output.planes(message.slot, SIZE)).copy()
                self.made.append((self._sequences[message.source_slot], message.revision, frame))
                self.work.take_back(message.ring, [message.slot])
            case _:
                pass

    @property
    def newest(self) -> I420Frame:
        return self.made[-1][2]


def ran(fleet: "Fleet", stream: FleetLane, number: int) -> int:
    """Give one picture and have it made; the revision it was made under."""
    stream.put(picture_of(number))
    fleet.work()
    sequence, revision, _ = stream.made[-1]
    assert sequence == number
    return revision


class Fleet:
    """The worker without its process."""

    def __init__(
        self,
        directory: Path,
        *,
        overlap: bool = False,
        shared: bool = True,
        late: bool = False,
        most: int = 8,
        window: float = 0.0,
        clock: Clock | None = None,
        models: ModelTable | None = None,
        places: ModelPlaces | None = None,
        device: Device | None = None,
    ) -> None:
        self.prefix = f"{memory_prefix()}fleet-"
        self.clock = clock or SystemClock()
        here = ModelEntry(MODEL, "sd-turbo", str(directory))
        self.models = models or ModelTable([here], places=places or ModelPlaces())
        self.scheduler = Scheduler(self.clock, window, most)
        self.device = device or (LateDevice(CPU, "late") if late else Device.choose("cpu"))
        self.meter = LoadMeter()
        self.lanes: dict[int, LaneWork] = {}
        self.preparation = Preparation(self.scheduler, self.device, self.clock)
        self.loop = Loop(
            self.scheduler,
            self.lanes,
            self.preparation,
            self.device,
            self.meter,
            self.clock,
            overlap=overlap,
            shared=shared,
            before_long=lambda: None,
        )
        self.sent: list[Message] = []
        self._streams: dict[int, FleetLane] = {}
        self._opened = 0

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._streams):
            self.close(self._streams[number])
        sweep_own_memory(self.prefix)

    def send(self, message: Any) -> None:
        self.sent.append(message)
        if not isinstance(message, CloseLane) and (stream := self._streams.get(message.lane)) is not None:
            stream.on(message)

    def open(self, params: StreamParams, *, settled: bool = True) -> FleetLane:
        self._opened += 1
        stream = self._streams[self._opened] = FleetLane(self, self._opened, params)
        if settled:
            self.settle()
        return stream

    def close(self, stream: FleetLane) -> None:
        del self._streams[stream.number]
        self.scheduler.close(stream.number)
        self.work()

    def update(self, stream: FleetLane, params: StreamParams) -> None:
        """Have params prepared and brought into force, or refused."""
        stream.update(params)
        self.settle()

    def work(self) -> None:
        """Do all there is to do just now."""
        while self.loop.step():
            pass

    def settle(self) -> None:
        """Do all there is to do, until nothing is being prepared."""
        self.work()
        while any(lane.preparing for lane in self.lanes.values()):
            self.scheduler.wait()
            self.work()

    def calls(self) -> Iterator[int]:
        """The number of streams in each call so far, in any order."""
        for streams, count in self.meter.totals()[0].items():
            yield from [streams] * count


def come_turn_and_go(fleet: Fleet, stays: FleetLane, number: int) -> None:
    """A stream that comes beside one that stays, changes its params and goes; every twentieth makes a picture, too."""
    stream = fleet.open(params_of(seed=number, prompt=("the cat", "a dog")[number % 2]))
    fleet.update(stream, params_of(seed=number + 1, negative_prompt="rain", guidance_scale=2.0))
    if number % 20 == 0:
        for each in (stays, stream):
            each.put(picture_of(number))
        fleet.work()
    fleet.close(stream)
    for each in (stays, stream):
        each.made.clear()
        each.reports.clear()
    fleet.sent.clear()
