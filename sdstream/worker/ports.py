"""What the server sees of the worker process: lanes that take pictures and give processed pictures back.

A lane is one stream's place in the worker. No torch here: the server imports this module.

Threads: `Lane.submit` may be called from any thread and only copies; `LaneListener.on_picture` is called on the
client's reader thread. Everything else runs on the event loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

import msgspec

from sdstream.errors import WorkerUnavailable
from sdstream.frames import I420Frame
from sdstream.params import StreamParams
from sdstream.params.costs import COSTS


class WorkerPhase(StrEnum):
    """Where the worker process stands."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class LanePhase(StrEnum):
    """Where a lane stands. A FAILED one has nothing to run; it still exists and can be updated out of it."""

    WAITING = "waiting"
    """The worker is not ready; the lane will be opened when it is."""
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class ProcessorState(NamedTuple):
    """Where one image processor of a stream stands.

    `place` is where the params name it, such as `image_preprocessing[0]` or `controlnets[1]`, `name` its wire name.
    `phase` is `working`, `loading` (its network is on its way; it is passed over) or `left_out` (it cannot work, and
    `problem` says why). A working one has a `problem`, too, where it does its work without its network. It looks at
    every `interval`-th picture and holds what it made in between. `seen` says whether there is a picture to be looked
    at. `acceleration` is what runs its network, such as `torch` or `tensorrt-rtx`, empty without one; `note` says why
    it is nothing faster, where something was looked for.
    """

    place: str
    name: str
    phase: Literal["working", "loading", "left_out"]
    interval: int = 1
    seen: bool = False
    problem: str = ""
    acceleration: str = ""
    note: str = ""


class Remark(NamedTuple):
    """What the person should know of params that are in force: `place` is where they name it, such as `prompt`."""

    place: str
    message: str


class MissingPart(NamedTuple):
    """Something that a stream's newest params ask for and that could not be had; the rest of them is in force.

    `place` is where the params name it, such as `controlnets[1]`, `ip_adapter`, `lora_dict` or `model_id`, `name` its
    name there where it has one, `code` one of `sdstream.errors`. It was tried `tries` times; `tries_again` says
    whether it is tried again with nothing sent. `next_at`, monotonic seconds, is when the next try comes: None when
    only a request brings one, in the past while one is under way.
    """

    place: str
    name: str
    code: str
    message: str
    tries: int = 1
    tries_again: bool = False
    next_at: float | None = None


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """What a lane reports whenever it changes.

    `revision` is the params revision in force. `effective_sequence` is the sequence of the first picture made under it,
    None until there is one. `percent` is 0 to 100 while loading. `error_code` is a code of `sdstream.errors`.

    `acceleration` is what runs the networks, such as `torch+cuda_graph`; empty without networks, and until it is known.

    A READY lane with an error could not load all of `refused_revision`, which may be newer than `revision`; `missing`
    says what, and the error goes once nothing is missing. A LOADING lane with `missing` starts without that.
    """

    phase: LanePhase
    revision: int = 0
    effective_sequence: int | None = None
    detail: str = ""
    percent: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    refused_revision: int | None = None
    acceleration: str = ""
    loras: tuple[tuple[str, float], ...] = ()
    """What is fused into the stream's model: names, and how strongly."""
    processors: tuple[ProcessorState, ...] = ()
    """Of its blocks and ControlNets, in order."""
    missing: tuple[MissingPart, ...] = ()
    remarks: tuple[Remark, ...] = ()
    """Of a READY lane."""


class ProcessedPicture(msgspec.Struct, frozen=True, eq=False):
    """A picture from the worker.

    `frame` keeps `pts`, `time_base`, `received_at` and `sequence` of the picture it was made from; its planes are
    valid only during `on_picture`. `worker_seconds` is the time the worker spent on it, `queue_seconds` the time it
    waited there.
    """

    frame: I420Frame
    revision: int
    worker_seconds: float
    queue_seconds: float
    skipped: bool = False
    """The similar-image filter left its source out: it is the last picture again."""
    blocked: int = 0
    """How many pictures the safety checker replaced since the last one told."""


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """Counters since the lane was opened."""

    submitted: int = 0
    processed: int = 0
    superseded: int = 0
    """Pictures replaced by a newer one before the worker took them, or that came while no worker or only a failed lane
    was there."""
    lost: int = 0
    """Pictures that were in the worker when it ended."""


@dataclass(frozen=True, slots=True)
class CallKind:
    """What sets the cost of a call of the worker. `model_id` is empty for image processors alone: `steps` are then
    their number and `processors` their names, in order, without those that leave pictures as they are."""

    model_id: str
    width: int
    height: int
    steps: int
    processors: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        """For people."""
        size = f"{self.width}x{self.height}"
        if not self.model_id:
            return f"{', '.join(self.processors) or 'no processor'}, {size}"
        return f"{self.model_id}, {size}, {self.steps} step{'' if self.steps == 1 else 's'}"


def kind_of(params: StreamParams) -> CallKind:
    """What calls of a stream with these params are."""
    if not params.skip_diffusion:
        return CallKind(params.model_id, params.width, params.height, len(params.t_index_list))
    blocks = (params.image_preprocessing, params.image_postprocessing)
    names = [each.type for block in blocks if block is not None for each in block.active]
    working = tuple(name for name in names if COSTS[name].at({}) or COSTS[name].milliseconds)
    return CallKind("", params.width, params.height, len(working), working)


@dataclass(frozen=True, slots=True)
class CallCost:
    """What calls of one kind take, measured: mean seconds by the number of streams in a call, and the bytes of the
    device's memory that one stream holds there."""

    kind: CallKind
    seconds: Mapping[int, float]
    stream_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """Facts for `/health`, `doctor` and metrics. `device` is torch's name for it, `processor` the hardware's."""

    phase: WorkerPhase
    restarts: int = 0
    process_id: int | None = None
    device: str = ""
    processor: str = ""
    is_warming: bool = False
    """Whether the server waits for the default model before it calls itself ready."""
    start_seconds: float | None = None
    """From the start of the present process until it was ready; None until then."""
    memory_used: int | None = None
    memory_total: int | None = None
    last_error: str | None = None
    last_error_code: str = WorkerUnavailable.code
    """Of `sdstream.errors`: why the process ended last."""
    last_restart_logs: tuple[str, ...] = ()
    costs: tuple[CallCost, ...] = ()
    """What the present process' calls take."""
    calls: Mapping[int, int] = field(default_factory=dict[int, int])
    """Calls by their number of streams, of all processes so far."""
    call_seconds: Mapping[int, float] = field(default_factory=dict[int, float])
    """The seconds that those took together."""
    faults: int = 0
    """Defects in the supervision of the process that were caught."""
    engine_events: Mapping[str, int] = field(default_factory=dict[str, int])
    """What happened to compiled engines since the server began, by kind."""


class LaneListener(Protocol):
    """Told of what a lane makes."""

    def on_picture(self, picture: ProcessedPicture) -> None:
        """A processed picture, on the reader thread. Must only copy: the planes are valid during the call."""
        ...

    def on_lane_status(self, status: LaneStatus) -> None:
        """The lane changed; on the event loop."""
        ...


class Lane(Protocol):
    """One stream's place in the worker; survives the worker's restarts."""

    def submit(self, frame: I420Frame) -> None:
        """Hand a picture over, replacing one the worker has not taken yet. Copies; never waits."""
        ...

    async def process(self, frame: I420Frame) -> I420Frame:
        """Hand a picture over and wait for its result, in memory of its own: nothing is dropped. For whole files.

        Waits for a worker that is only starting. Raises `WorkerUnavailable` when the worker ends before the result is
        there or the lane is closed, `ModelUnavailable` when the lane failed for want of a model, `InternalError` when
        it failed otherwise.
        Several calls may be under way; results come in order.
        """
        ...

    def update(self, params: StreamParams, revision: int) -> None:
        """Have the worker apply `params` at a picture boundary; newest wins. `on_lane_status` tells when it did.

        What of them cannot be loaded stays as it was, also across a restart of the worker.
        """
        ...

    def try_again(self) -> None:
        """Try to load what is missing; not more often than every few seconds, whoever asks."""
        ...

    @property
    def missing(self) -> tuple[MissingPart, ...]:
        """What the params of the last `update` ask for that is known to be missing, before the worker says anything."""
        ...

    async def tap(self, processor: str) -> bytes | None:
        """What this image processor made last, as a small JPEG; None when there is no such thing."""
        ...

    def statistics(self) -> LaneStatistics: ...

    async def close(self) -> None:
        """Free the lane. Idempotent."""
        ...


class WorkerClient(Protocol):
    """The handle of the worker process in the server: starts it, watches it, starts it again."""

    async def start(self) -> None:
        """Start the process and return at once; `health()` tells when it is ready."""
        ...

    async def wait_ready(self, seconds: float) -> bool:
        """Wait until the worker is ready; False after `seconds`."""
        ...

    async def open_lane(
        self, stream_id: str, params: StreamParams, revision: int, listener: LaneListener, *, partly: bool = False
    ) -> Lane:
        """Open a lane; returns at once, the lane reports its phases to `listener`.

        With `partly` it starts without a part that cannot be had and says what is missing; else it fails then.
        """
        ...

    def health(self) -> WorkerHealth: ...

    async def close(self) -> None:
        """End the process within a few seconds. Idempotent."""
        ...


__all__ = [
    "CallCost",
    "CallKind",
    "Lane",
    "LaneListener",
    "LanePhase",
    "LaneStatistics",
    "LaneStatus",
    "MissingPart",
    "ProcessedPicture",
    "ProcessorState",
    "Remark",
    "WorkerClient",
    "WorkerHealth",
    "WorkerPhase",
    "kind_of",
]
