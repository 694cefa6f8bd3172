"""How a frame is run: as it is, compiled, or captured once and replayed. Each faster way has the plain one as its twin.

Tensors that a runner gives are valid until it runs again: a captured frame writes into the same memory each time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from sdstream.diffusion.capture import Capture, Recording, cuda_capture
from sdstream.diffusion.convolving.tuning import unsettled_shapes
from sdstream.diffusion.frame import Frame, Result
from sdstream.diffusion.state import Knobs, Memory, clone, copy_into, count, first, gather, keep, scatter

BUCKETS = (1, 2, 4, 8)
"""Numbers of streams that a captured frame is made for; others take the next one, and beyond the last, twice that."""

MOST_GRAPHS = 64
"""Graphs that torch.compile may make of a frame."""
REMEMBERED = 256
"""Sets of rows whose numbers are kept on the device."""


class Runner(Protocol):
    """Runs one kind of frame. Used by one thread."""

    @property
    def in_force(self) -> str:
        """What runs the networks now, such as `torch` or `torch+cuda_graph`."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Why something faster that was asked for is not in force."""
        ...

    def complete(self, knobs: Knobs) -> Knobs:
        """See `Frame.complete`."""
        ...

    def run(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> Result:
        """One frame of S streams, as `Frame.forward`."""
        ...

    def run_rows(self, image: torch.Tensor, knobs: Knobs, memory: Memory, rows: Sequence[int]) -> Result:
        """One frame of the K streams at `rows` of two tables, whose memory is written back in place.

        `image` is of K pictures, and so is what is given, but for the memory there, which may be anything. Other rows
        are not touched.
        """
        ...


class EagerRunner:
    """The plain twin: the frame as it is."""

    def __init__(self, frame: Frame) -> None:
        self._call: Callable[[torch.Tensor, Knobs, Memory], Result] = frame
        self._complete = frame.complete
        self._in_force = frame.networks.back_end
        self._notes: tuple[str, ...] = frame.networks.notes
        self._rows: dict[tuple[int, ...], torch.Tensor] = {}

    @property
    def in_force(self) -> str:
        return self._in_force

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    def complete(self, knobs: Knobs) -> Knobs:
        return self._complete(knobs)

    def run(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> Result:
        return self._call(image, knobs, memory)

    def run_rows(self, image: torch.Tensor, knobs: Knobs, memory: Memory, rows: Sequence[int]) -> Result:
        if _are_first(rows):
            given = first(memory, len(rows))
            result = self.run(image, first(knobs, len(rows)), given)
            keep(given, result.memory)
        else:
            chosen = self._on_device(tuple(rows), image.device)
            given = gather(memory, chosen)
            result = self.run(image, gather(knobs, chosen), given)
            if result.memory is not given:
                scatter(memory, chosen, result.memory)
        return result

    def _on_device(self, rows: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """The numbers of rows, int64; kept, because bringing them to a GPU waits for the GPU."""
        kept = self._rows.get(rows)
        if kept is None:
            if len(self._rows) >= REMEMBERED:
                self._rows.clear()
            kept = self._rows[rows] = torch.tensor(rows, device=device)
        return kept


class CompiledRunner(EagerRunner):
    """The frame through `torch.compile`. The first run of each number of streams takes as long as compiling does.

    Where compiling fails (no compiler on the machine, an operation that the compiler does not know) the frame runs as
    it is from then on, and `notes` say why.
    """

    def __init__(self, frame: Frame, compiler: Callable[..., Any] | None = None) -> None:
        """`compiler` is called as `torch.compile` is, which it is by default."""
        super().__init__(frame)
        library: Any = torch
        self._plain = self._call
        self._in_force += "+compile"
        # A graph for each number of streams: shapes are few, and a shape that is known is faster. Whole or not at all:
        # pieces with Python between them would be neither fast nor fit to be captured, and nobody would be told.
        # Numbers of streams times forms of pictures are more graphs than torch makes of one function by itself.
        config: Any = library._dynamo.config
        config.recompile_limit = max(config.recompile_limit, MOST_GRAPHS)
        self._flat = (compiler or library.compile)(_Flat(frame), dynamic=False, fullgraph=True)
        self._call = self._compiled

    def _compiled(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> Result:
        picture, latent, planes, finite, *kept = self._flat(image, knobs, memory)
        return Result(picture, latent, Memory(*kept), planes, finite)

    def run(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> Result:
        if self._call is self._plain:
            return self._plain(image, knobs, memory)
        try:
            return self._call(image, knobs, memory)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # no fault of the compiler's
        except (RuntimeError, OSError, ImportError) as error:  # dynamo's and inductor's errors are RuntimeErrors
            self._call = self._plain
            self._in_force = self._in_force.removesuffix("+compile")
            self._notes += (f"torch.compile failed, so frames run without it: {_summary(error)}",)
            return self._plain(image, knobs, memory)


class _Flat(nn.Module):
    """A frame that answers with a flat tuple: torch 2.11's compiler breaks named tuples that were replaced."""

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self.frame = frame

    def forward(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> tuple[torch.Tensor | None, ...]:
        result: Result = self.frame(image, knobs, memory)
        return (result.image, result.latent, result.planes, result.finite, *result.memory)


class _Key(NamedTuple):
    """What a captured frame is made for. Storages count: a replay reads and writes where the capture did. `chosen` says
    that it brings rows together from all over its tables; else it works on all of them where they lie."""

    streams: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    storages: tuple[int, ...]
    chosen: bool = False


@dataclass(slots=True)
class _Captured:
    """A captured frame with all tensors that it works on, which live as long as it does.

    `chosen` are the rows of the tables, int64 [streams], and `rows` what they hold now; None for all of them.
    `unsettled` are the shapes of convolutions that had no choice when it was captured.
    """

    recording: Recording[Result]
    image: torch.Tensor
    knobs: Knobs
    memory: Memory
    chosen: torch.Tensor | None
    rows: list[int]
    unsettled: frozenset[str] = frozenset()


class GraphRunner:
    """Captures what `inner` does once for each number of streams, and replays it: one launch instead of hundreds.

    Knobs, pictures and memory are read and written in place, so everything that keeps shapes stays hot. At most `most`
    captures are kept, the least used go first. They share one pool of memory, so the largest should be made first:
    `prepare` does. Where capturing fails, `inner` runs as it is from then on, and `notes` say why.
    """

    def __init__(self, inner: Runner, capture: Capture, *, most: int = 8) -> None:
        if most < 1:
            raise ValueError(f"at least one capture must be kept, not {most}")
        self._inner = inner
        self._capture = capture
        self._most = most
        self._captured: OrderedDict[_Key, _Captured] = OrderedDict()
        self._notes: tuple[str, ...] = ()

    @property
    def in_force(self) -> str:
        return self._inner.in_force if self._notes else f"{self._inner.in_force}+{self._capture.name}"

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._inner.notes, *self._notes)

    @property
    def captured(self) -> tuple[int, ...]:
        """The numbers of streams that are captured, the least used first."""
        return tuple(key.streams for key in self._captured)

    def complete(self, knobs: Knobs) -> Knobs:
        return self._inner.complete(knobs)

    def run(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> Result:
        """As `Frame.forward`; the memory given back is the capture's own, and is not copied when it is given again."""
        made = None
        if not self._notes:
            key = _Key(len(image), tuple(image.shape[1:]), image.dtype, ())
            made = self._get(key, lambda: self._record(image, knobs, memory))
        if made is None:
            return self._inner.run(image, knobs, memory)
        made.image.copy_(image)
        copy_into(made.knobs, knobs)
        if made.memory is not memory:
            copy_into(made.memory, memory)
        made.recording.replay()
        return made.recording.result

    def run_rows(self, image: torch.Tensor, knobs: Knobs, memory: Memory, rows: Sequence[int]) -> Result:
        """See `Runner.run_rows`; the whole of it is one replay. The last stream fills what its bucket has too much."""
        padded = [*rows, *([rows[-1]] * (bucket(len(rows)) - len(rows)))]
        made = None
        if not self._notes:
            storages = tuple(tensor.data_ptr() for tensor in (*knobs, *memory))
            key = _Key(len(padded), tuple(image.shape[1:]), image.dtype, storages, not _are_all(padded, knobs))
            made = self._get(key, lambda: self._record(image, knobs, memory, padded))
        if made is None:
            return self._inner.run_rows(image, knobs, memory, rows)
        if made.chosen is not None and made.rows != padded:
            self._capture.upload(torch.tensor(padded), made.chosen)
            made.rows = padded
        made.image[: len(rows)].copy_(image)
        if len(padded) > len(rows):
            made.image[len(rows) :].copy_(image[-1:].expand(len(padded) - len(rows), *image.shape[1:]))
        made.recording.replay()
        return _first(made.recording.result, len(rows))

    def prepare(self, image: torch.Tensor, knobs: Knobs, memory: Memory, streams: Iterable[int]) -> None:
        """Capture for these numbers of streams of two tables, the largest first; `image` is of one picture.

        The tables stay as they are. A full table has a capture of its own, which brings nothing together.
        """
        kept = clone(memory)
        for number in sorted({bucket(number) for number in streams}, reverse=True):
            several = image.expand(min(number, count(knobs)), *image.shape[1:])
            self.run_rows(several, knobs, memory, list(range(len(several))))
        copy_into(memory, kept)

    def renew(self, decided: frozenset[str]) -> None:
        """Let go of the captures in which one of these shapes is computed by torch for lack of a choice."""
        for key in [key for key, made in self._captured.items() if made.unsettled & decided]:
            self._captured.pop(key).recording.forget()

    def forget(self) -> None:
        """Let go of all captures and their memory."""
        while self._captured:
            self._captured.popitem()[1].recording.forget()

    def _get(self, key: _Key, record: Callable[[], _Captured]) -> _Captured | None:
        made = self._captured.get(key)
        if made is not None:
            self._captured.move_to_end(key)
            return made
        while len(self._captured) >= self._most:
            self._captured.popitem(last=False)[1].recording.forget()
        try:
            made = record()
        except RuntimeError as error:
            if not self._capture.is_refusal(error):
                raise
            self.forget()
            self._notes = (f"frames could not be captured, so they run one by one: {_summary(error)}",)
            return None
        self._captured[key] = made
        return made

    def _record(
        self, image: torch.Tensor, knobs: Knobs, memory: Memory, rows: Sequence[int] | None = None
    ) -> _Captured:
        """Capture one frame: of all streams of blocks of its own, or of `rows` of the given tables."""
        inner, streams = self._inner, len(image) if rows is None else len(rows)
        pictures = image.new_zeros((streams, *image.shape[1:]))
        pictures[: len(image)].copy_(image)
        chosen = None
        if rows is None:
            knobs, memory = clone(knobs), clone(memory)
        elif not _are_all(rows, knobs):
            chosen = torch.tensor(rows, device=image.device)

        def step() -> Result:
            if chosen is None:
                result = inner.run(pictures, knobs, memory)
                keep(memory, result.memory)
            else:
                result = inner.run(pictures, gather(knobs, chosen), gather(memory, chosen))
                scatter(memory, chosen, result.memory)
            return result._replace(memory=memory)

        kept = clone(memory)
        try:
            with unsettled_shapes() as unsettled:
                recording = self._capture.record(step)
        except RuntimeError as error:
            if self._capture.is_refusal(error):
                copy_into(memory, kept)
            raise
        copy_into(memory, kept)  # recording runs the step a few times, which must leave no trace
        return _Captured(recording, pictures, knobs, memory, chosen, list(rows or ()), frozenset(unsettled))


def _are_first(rows: Sequence[int]) -> bool:
    """Whether these are the first rows of a table in their order, so that nothing need be brought together."""
    return list(rows) == list(range(len(rows)))


def _are_all(rows: Sequence[int], knobs: Knobs) -> bool:
    """Whether these are all rows of a table in their order. Captures ask for no less, lest there be two for many a
    number of streams."""
    return len(rows) == count(knobs) and _are_first(rows)


def bucket(streams: int) -> int:
    """The number of streams that a captured frame for `streams` of them is made for."""
    if streams < 1:
        raise ValueError(f"a frame has at least one stream, not {streams}")
    for size in BUCKETS:
        if streams <= size:
            return size
    size = BUCKETS[-1]
    while size < streams:
        size *= 2
    return size


def make_runner(frame: Frame, device: torch.device, *, compiled: bool = False, graphs: bool = True) -> Runner:
    """The runner of a frame on `device`: compiled where that is wanted, captured where the device can and may."""
    runner: Runner = CompiledRunner(frame) if compiled else EagerRunner(frame)
    if device.type != "cuda" or not graphs or not frame.networks.capturable:
        return runner
    return GraphRunner(runner, cuda_capture(device))


def _first(result: Result, streams: int) -> Result:
    planes, finite = result.planes, result.finite
    return Result(
        result.image[:streams],
        result.latent[:streams],
        result.memory,
        None if planes is None else planes[:streams],
        None if finite is None else finite[:streams],
    )


def _summary(error: BaseException) -> str:
    """One line: compilers say first that they failed, and then with what."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([f"{type(error).__name__}:", *lines[:2]]) if lines else type(error).__name__


__all__ = [
    "BUCKETS",
    "CompiledRunner",
    "EagerRunner",
    "GraphRunner",
    "Runner",
    "bucket",
    "make_runner",
]
