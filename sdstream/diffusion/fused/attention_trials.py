"""Trials of attention for frames that are being prepared: the shapes they ask for, and what is the fastest for each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch

from sdstream.clock import SystemClock
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fused.attending import (
    BACKENDS,
    Attention,
    AttentionShape,
    attention_asked,
    bring_into_force,
    has_choice,
    plain_attention,
    prepare_kernels,
)
from sdstream.diffusion.state import Knobs, make_memory
from sdstream.diffusion.trials.memory import store_of
from sdstream.diffusion.trials.session import ALONE, TrialSession, card_turn, trial_session, without_trials
from sdstream.diffusion.trials.stopwatch import IN_A_ROW, CudaStopwatch, Stopwatch
from sdstream.diffusion.trials.store import Subject
from sdstream.diffusion.trials.ways import (
    Sample,
    answers_rightly,
    choose,
    settled,
    try_ways,
)

SECONDS = 10.0
"""Of trials for each preparation, and the end of the one that is under way then. A shape takes under a second on an
H200, and the first ones some more for the compiler."""


def settle_attention(
    shapes: Sequence[AttentionShape],
    device: torch.device,
    numbers: Sequence[int],
    session: TrialSession = ALONE,
    clock: Callable[[], float] = SystemClock().monotonic,
    settle: Callable[[AttentionShape, torch.device], str] | None = None,
) -> int:
    """Find out what computes the attention of frames of so many streams, the first number first; `shapes` are those of
    one stream, in their order. How many were tried; what was found is in force."""
    ends = clock() + SECONDS
    several = [shape._replace(rows=shape.rows * number) for number in numbers for shape in shapes]
    with trial_session(session), torch.no_grad():
        return settle_shapes(several, device, lambda: clock() >= ends or not session.tell(0.0), settle or settle_shape)


@torch.no_grad()
def shapes_of_frame(frame: Frame, image: torch.Tensor, knobs: Knobs) -> tuple[AttentionShape, ...]:
    """What a frame of one stream asks for, found by running it once, plainly; what takes the most operations first.
    `image` is as `Frame.forward` takes it. Nothing where there is no memory for that."""
    with card_turn(), attention_asked() as asked, without_trials():
        try:
            completed = frame.complete(knobs)
            frame(image, completed, make_memory(completed))
        except torch.OutOfMemoryError:
            return ()  # of a stream that may not fit beside those that run: torch's choice for it
    return tuple(sorted(asked, key=lambda shape: -asked[shape] * shape.operations))


def try_backends(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    stopwatch: Stopwatch,
    backends: Mapping[str, Attention] = BACKENDS,
) -> list[Sample]:
    """See `try_ways`."""
    told = (query, keys, values)
    ways = {name: partial(way, *told) for name, way in backends.items()}
    return try_ways(partial(plain_attention, *told), ways, stopwatch) or []


def tensors_of(shape: AttentionShape, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random queries, keys and values that lie as they do in a frame: parts of one product where queries lie further
    apart than all heads are wide, else the keys and values of a text."""
    generator = torch.Generator(device).manual_seed(0)
    inside = shape.heads * shape.width

    def noise(tokens: int, width: int) -> torch.Tensor:
        size = (shape.rows, tokens, width)
        return torch.randn(size, generator=generator, device=device, dtype=shape.dtype)

    def heads(part: torch.Tensor) -> torch.Tensor:
        return part.view(shape.rows, -1, shape.heads, shape.width).transpose(1, 2)

    if shape.stride == 3 * inside and shape.keys == shape.queries:
        query, keys, values = noise(shape.queries, 3 * inside).chunk(3, 2)
        return heads(query), heads(keys), heads(values)
    return heads(noise(shape.queries, inside)), heads(noise(shape.keys, inside)), heads(noise(shape.keys, inside))


def settle_shapes(
    shapes: Iterable[AttentionShape],
    device: torch.device,
    is_over: Callable[[], bool],
    settle: Callable[[AttentionShape, torch.device], str],
) -> int:
    """Have these shapes tried in their order until `is_over`, those that were not before; the number that was. What is
    found is in force at once: each way is right at any time. Not on the thread that makes pictures.

    Raises what tells of a lost device (`torch.AcceleratorError`).
    """
    number = 0
    for shape in shapes:
        if has_choice(device, shape):
            continue
        if is_over():
            break
        bring_into_force(device, shape, settle(shape, device))
        number += 1
    return number


def settle_shape(shape: AttentionShape, device: torch.device) -> str:
    def works(name: str) -> bool:
        with card_turn():
            told = tensors_of(shape, device)
            wanted = plain_attention(*told)
        return answers_rightly(lambda: BACKENDS[name](*told), wanted)

    def tried() -> str:
        with card_turn():
            told = tensors_of(shape, device)
        prepare_kernels(*told)
        return choose(try_backends(*told, CudaStopwatch(device, in_a_row=IN_A_ROW)))

    return settled(store_of(device), Subject("attention", shape.name), BACKENDS.keys(), tried, works)


__all__ = [
    "SECONDS",
    "settle_attention",
    "settle_shape",
    "settle_shapes",
    "shapes_of_frame",
    "tensors_of",
    "try_backends",
]
