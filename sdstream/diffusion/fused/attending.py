"""Which of torch's attentions computes each shape on a GPU: tried once where it is met first, and remembered.

Torch has an order of its own that no shape changes, and its first may take the longest: what it does around its kernel,
such as clearing memory, counts in a captured frame, too. So what is timed are calls as such a frame makes them, on the
tensors that were met. Nothing is tried while a frame is captured: its runs before that have met all shapes.

The plain twin is torch's choice: on a CPU, for a compiler, and where blocks are plain.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn import functional

from sdstream.diffusion.capture import CudaCapture, Recording, one_at_a_time
from sdstream.diffusion.fused.switch import are_blocks_fused
from sdstream.diffusion.trials.memory import store_of
from sdstream.diffusion.trials.store import Finding, Subject, TrialStore

CALLS = 16
"""In a row in what is timed, so that what lies between two of them counts."""
ROUNDS = 7
"""Times that each way is timed, by turns."""
LEAST_GAIN = 1.03
"""How many times as fast as torch's choice another one has to be to be taken."""
TOLERANCE = 0.02
"""Of the largest value, by which the answers of two ways may differ in half precision."""
LEAST_WIDTH = 32
"""Of a head: those of the published models have 40 and more."""
DTYPES = (torch.float16, torch.bfloat16)

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Of queries [B, heads, queries, width], and keys and values [B, heads, keys, width], of any strides."""


def plain_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """By what torch takes by itself."""
    return functional.scaled_dot_product_attention(query, keys, values)


# Asked for by name and not by torch's switches, which are those of the whole process, other threads and all.
def _cudnn(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    operations: Any = torch.ops.aten
    made: torch.Tensor = operations._scaled_dot_product_cudnn_attention(query, keys, values, None, False)[0]
    return made


def _flash(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    operations: Any = torch.ops.aten
    made: torch.Tensor = operations._scaled_dot_product_flash_attention(query, keys, values)[0]
    return made


def _efficient(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    operations: Any = torch.ops.aten
    made: torch.Tensor = operations._scaled_dot_product_efficient_attention(query, keys, values, None, False)[0]
    return made


BACKENDS: Mapping[str, Attention] = {"cudnn": _cudnn, "flash": _flash, "efficient": _efficient}
"""What there is on a GPU. None of them keeps what a gradient would need."""


class AttentionShape(NamedTuple):
    """What a choice is made for. `stride` is from one query to the next, in numbers: three times the width of all heads
    where queries, keys and values are one product."""

    rows: int
    heads: int
    queries: int
    keys: int
    width: int
    stride: int
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """What it is remembered by: every field is in it."""
        number = str(self.dtype).removeprefix("torch.")
        tokens = f"{self.queries} to {self.keys} tokens"
        return f"{self.rows} x {self.heads} heads of {self.width}, {tokens} {self.stride} apart, {number}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What calls of one way took, milliseconds each; `backend` is empty for torch's choice."""

    backend: str
    milliseconds: tuple[float, ...]


class Stopwatch(Protocol):
    """How long calls take on a device."""

    def time(self, calls: Sequence[Callable[[], torch.Tensor]]) -> list[tuple[float, ...]]:
        """The milliseconds of each call, several times, by turns; none of one that cannot be timed."""
        ...


class RecordedCalls:
    """Times calls as a captured frame makes them: `CALLS` of them one after another in a CUDA graph.

    For who captures anyhow, and has the card as far as that goes: it waits for nobody's turn.
    """

    def __init__(self, device: torch.device, rounds: int = ROUNDS) -> None:
        self._device = device
        self._rounds = rounds

    def time(self, calls: Sequence[Callable[[], torch.Tensor]]) -> list[tuple[float, ...]]:
        cuda: Any = torch.cuda
        times: list[list[float]] = [[] for _ in calls]
        recorded: list[tuple[Recording[torch.Tensor], list[float]]] = []
        with one_at_a_time(), cuda.device(self._device):
            capture = CudaCapture(self._device)
            try:
                for call, took in zip(calls, times, strict=True):
                    recording = _recorded(capture, call)
                    if recording is not None:
                        recorded.append((recording, took))
                for _ in range(self._rounds):
                    for recording, took in recorded:
                        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
                        recording.replay()  # while it runs all that follows is queued
                        begin.record()
                        recording.replay()
                        end.record()
                        cuda.synchronize()
                        took.append(float(begin.elapsed_time(end)) / CALLS)
            finally:
                for recording, _ in recorded:
                    recording.forget()
        return [tuple(took) for took in times]


def _recorded(capture: CudaCapture, call: Callable[[], torch.Tensor]) -> Recording[torch.Tensor] | None:
    """`CALLS` of it; None where that cannot be captured."""
    try:
        return capture.record(lambda: _in_a_row(call))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if not capture.is_refusal(error):
            raise
        return None


def _in_a_row(call: Callable[[], torch.Tensor]) -> torch.Tensor:
    made = call()
    for _ in range(CALLS - 1):
        made = call()
    return made


def choose(samples: Sequence[Sample]) -> str:
    """The backend to take; empty for torch's choice, and where there are no times of that."""
    took = {sample.backend: median(sample.milliseconds) for sample in samples}
    best = min(took, key=lambda backend: took[backend], default="")
    return best if took.get("", 0.0) >= LEAST_GAIN * took.get(best, 1.0) else ""


def try_backends(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    stopwatch: Stopwatch,
    backends: Mapping[str, Attention] = BACKENDS,
) -> list[Sample]:
    """What torch's choice and each of the backends take; those are left out that answer wrongly, or not at all, or
    cannot be captured.

    Raises what tells of a lost or full device (`torch.AcceleratorError`, `torch.OutOfMemoryError`).
    """
    told = (query, keys, values)
    wanted = plain_attention(*told)
    right = {name: way for name, way in backends.items() if answers_rightly(way, told, wanted)}
    ways = {"": plain_attention, **right}
    times = stopwatch.time([lambda way=way: way(*told) for way in ways.values()])
    return [Sample(name, took) for name, took in zip(ways, times, strict=True) if took]


def answers_rightly(
    way: Attention, told: tuple[torch.Tensor, torch.Tensor, torch.Tensor], wanted: torch.Tensor
) -> bool:
    """Whether a way gives these answers here."""
    try:
        made = way(*told)
        distance = float((made.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-6))
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise  # the device is lost, or full
    except (RuntimeError, ValueError, NotImplementedError):
        return False  # it does not know this shape, or this card
    return made.shape == wanted.shape and distance <= TOLERANCE


def settled(store: TrialStore, shape: AttentionShape, tried: Callable[[], str], works: Callable[[str], bool]) -> str:
    """The backend that is remembered, if it works here, too; else what a trial says, which is remembered then.

    Empty for torch's choice, which it stays where there was no memory for a trial, or where trials ended the process.
    """
    subject = Subject("attention", shape.name)
    finding = store.finding(subject)
    before = None if finding is None else backend_of(finding)
    try:
        if before is not None:
            return before if not before or works(before) else ""
        if store.is_given_up(subject):
            return ""
        store.begin(subject)
        backend = tried()
    except torch.OutOfMemoryError:
        store.settle({subject: None})
        return ""
    store.settle({subject: {"backend": backend}})
    return backend


def backend_of(finding: Finding) -> str | None:
    """The backend that is remembered; None where it is none."""
    backend = finding.get("backend")
    return backend if backend == "" or (isinstance(backend, str) and backend in BACKENDS) else None


class _State:
    on = True
    choices: dict[tuple[torch.device, AttentionShape], str] = {}  # noqa: RUF012  (of this process, as the switch)


def use_tried_attention(wanted: bool) -> None:
    """Have attention computed by what trials choose from now on, or by what torch takes by itself."""
    _State.on = wanted


def attention_choices() -> dict[str, str]:
    """What was chosen in this process by the names of shapes; empty for torch's choice."""
    return {shape.name: backend for (_, shape), backend in _State.choices.items()}


def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of queries [B, heads, queries, width] to keys and values [B, heads, keys, width], of any strides."""
    if torch.compiler.is_compiling() or not is_on_a_gpu(query):
        return plain_attention(query, keys, values)
    backend = _chosen(query, keys, values)
    return BACKENDS[backend](query, keys, values) if backend else plain_attention(query, keys, values)


def is_on_a_gpu(query: torch.Tensor) -> bool:
    """Whether it lies there, with memory: tensors of shapes alone are of another class."""
    return query.is_cuda and type(query) is torch.Tensor


def shape_of(query: torch.Tensor, keys: torch.Tensor) -> AttentionShape:
    """What a choice for these is made for."""
    rows, heads, queries, width = query.shape
    return AttentionShape(rows, heads, queries, keys.shape[2], width, query.stride(2), query.dtype)


def _chosen(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> str:
    wanted = _State.on and are_blocks_fused() and query.dtype in DTYPES and query.shape[-1] >= LEAST_WIDTH
    if not wanted or (torch.is_grad_enabled() and query.requires_grad):
        return ""
    place = (query.device, shape_of(query, keys))
    known = _State.choices.get(place)
    if known is not None:
        return known
    if torch.cuda.is_current_stream_capturing():
        return ""
    with one_at_a_time(), torch.no_grad():
        known = _State.choices.get(place)  # another thread may have met it meanwhile
        if known is None:
            known = _State.choices[place] = _settle(place[1], query, keys, values)
    return known


def _settle(shape: AttentionShape, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> str:
    told = (query, keys, values)
    return settled(
        store_of(query.device),
        shape,
        lambda: choose(try_backends(*told, RecordedCalls(query.device))),
        lambda backend: answers_rightly(BACKENDS[backend], told, plain_attention(*told)),
    )


__all__ = [
    "BACKENDS",
    "CALLS",
    "Attention",
    "AttentionShape",
    "RecordedCalls",
    "Sample",
    "Stopwatch",
    "answers_rightly",
    "attend",
    "attention_choices",
    "backend_of",
    "choose",
    "plain_attention",
    "settled",
    "shape_of",
    "try_backends",
    "use_tried_attention",
]
