"""The shapes of convolutions in whole frames, and having them tried before the frames are made."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.shapes import Shape
from sdstream.diffusion.convolving.switch import wanted_of_convolutions
from sdstream.diffusion.convolving.trial import arguments_of
from sdstream.diffusion.convolving.tuning import shapes_asked, tuning_of, untried_tiling
from sdstream.diffusion.convolving.twins import prepare_kernels
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.state import Knobs, make_memory
from sdstream.diffusion.trials.planning import Standing
from sdstream.diffusion.trials.session import ALONE, TrialSession, card_turn, trial_session


@torch.no_grad()
def shapes_of_frame(frame: Frame, image: torch.Tensor, knobs: Knobs) -> Counter[Shape]:
    """What a frame of one stream asks for, found by running it once, plainly. `image` is as `Frame.forward` takes it,
    `knobs` are those of the stream. Nothing of either is changed."""
    completed = frame.complete(knobs)
    with shapes_asked() as asked:
        frame(image, completed, make_memory(completed))
    return asked


def for_streams(shapes: Counter[Shape], streams: int) -> Counter[Shape]:
    """The same of a frame of several streams: each brings as many rows, and as many calls are made."""
    return Counter({replace(shape, batch=shape.batch * streams): calls for shape, calls in shapes.items()})


def settle_frames(
    frame: Frame, image: torch.Tensor, knobs: Knobs, numbers: Sequence[int], session: TrialSession = ALONE
) -> Standing:
    """Find out how the convolutions of frames of so many streams are computed, the first number first, within the
    seconds that are wanted. It comes into force later (`sdstream.diffusion.convolving.tuning`)."""
    with trial_session(session), card_turn():
        try:
            shapes = shapes_of_frame(frame, image, knobs)
        except torch.OutOfMemoryError:
            shapes = Counter[Shape]()  # of a stream that may not fit beside those that run: torch's own for it
    tuning = tuning_of(image.device.index or 0)
    return tuning.settle([for_streams(shapes, number) for number in numbers], wanted_of_convolutions().seconds, session)


def compile_frames(
    frame: Frame,
    image: torch.Tensor,
    knobs: Knobs,
    numbers: Sequence[int],
    session: TrialSession = ALONE,
    prepare: Callable[[Arguments, Iterable[str]], None] = prepare_kernels,
) -> None:
    """Where nothing is tried, compile what frames of so many streams are computed by without a choice, so that none of
    them waits for the compiler."""
    with trial_session(session), card_turn():
        try:
            shapes = shapes_of_frame(frame, image, knobs)
        except torch.OutOfMemoryError:
            return  # of a stream that may not fit beside those that run
    device = image.device.index or 0
    programs: dict[tuple[str, bool], Shape] = {}
    for number in numbers:
        for shape in for_streams(shapes, number):
            if tiling := untried_tiling(shape, device):
                programs.setdefault((tiling, shape.residual), replace(shape, batch=1))
    for index, ((tiling, _), shape) in enumerate(programs.items()):
        if not session.tell(100.0 * index / len(programs)):
            return
        with trial_session(session), card_turn():
            arguments = arguments_of(shape, image.device)
        prepare(arguments, [tiling])


__all__ = ["compile_frames", "for_streams", "settle_frames", "shapes_of_frame"]
