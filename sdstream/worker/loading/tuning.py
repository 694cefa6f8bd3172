"""Trials of attention and of convolutions for streams that are being prepared, beside those that run."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from sdstream.diffusion.convolving.preparation import compile_frames, settle_frames
from sdstream.diffusion.convolving.tuning import are_convolutions_tuned, bring_into_force
from sdstream.diffusion.eight_bit.switch import eight_bit_wanted
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fused.attending import AttentionShape, is_attention_tried
from sdstream.diffusion.fused.attention_trials import settle_attention, shapes_of_frame
from sdstream.diffusion.runners import BUCKETS
from sdstream.diffusion.state import Knobs
from sdstream.diffusion.trials.planning import numbers_of_streams
from sdstream.diffusion.trials.session import TrialSession, trial_session
from sdstream.worker.groups import GroupKey, frame_of, groups
from sdstream.worker.outcomes import LoadGivenUp
from sdstream.worker.pipelines import Progress
from sdstream.worker.scheduling.card_turns import turns

WORDS = "tuning kernels"
"""What the state of a stream says meanwhile."""
MOST_KINDS = 64
"""Of frames whose shapes of attention are remembered; those that were looked at first go."""

_known: dict[object, tuple[AttentionShape, ...]] = {}


def tune(key: GroupKey, knobs: Knobs, progress: Progress) -> None:
    """Decide how attention and convolutions of frames of this key are computed, for all numbers of streams that will
    ride together once one more sits down. `progress` may raise `LoadGivenUp`."""
    device = key.model.device
    if device.type != "cuda" or not (is_attention_tried() or are_convolutions_tuned() or eight_bit_wanted() == "all"):
        return
    progress(WORDS, None)
    with turns.slice(lambda: progress(WORDS, None)):
        frame = frame_of(key)
    numbers = numbers_of_streams(
        groups.seated(key), key.options.batch_size, BUCKETS if key.options.cuda_graphs else None
    )
    image = torch.zeros(1, 3 * (1 + len(key.conditions.controlnets)), key.height, key.width, device=device)
    session = _session(progress)
    if is_attention_tried():
        shapes = _asked_for(key, lambda: _shapes_of(frame, image, knobs, session))
        settle_attention(shapes, image.device, numbers, session)
    if are_convolutions_tuned():
        settle_frames(frame, image, knobs, numbers, session)
    elif eight_bit_wanted() == "all":
        compile_frames(frame, image, knobs, numbers, session)
    progress(WORDS, 100.0)


def _shapes_of(frame: Frame, image: torch.Tensor, knobs: Knobs, session: TrialSession) -> tuple[AttentionShape, ...]:
    with trial_session(session):
        return shapes_of_frame(frame, image, knobs)


def _asked_for(key: GroupKey, look: Callable[[], tuple[AttentionShape, ...]]) -> tuple[AttentionShape, ...]:
    """The shapes of attention in a frame of this key. Looked for once for all that have networks of the same forms: it
    takes a whole frame's time of running streams."""
    conditions = key.conditions
    networks: list[Any] = [key.model.unet, *conditions.controlnets]
    adapter = conditions.adapter
    others = (None if adapter is None else len(adapter.layers), conditions.wanted.recalled)
    forms = tuple(str(network.config) for network in networks)
    kind = (forms, key.width, key.height, key.steps, key.guidance, key.batched, others)
    known = _known.get(kind)
    if known is None:
        known = look()
        if known:  # nothing: there was no memory for it
            while len(_known) >= MOST_KINDS:
                _known.pop(next(iter(_known)), None)
            _known[kind] = known
    return known


def choices_in_force() -> frozenset[str]:
    """Have frames take what was found, and say of which shapes. For the working thread, between two pictures."""
    return bring_into_force()


def session_of(progress: Progress) -> AbstractContextManager[None]:
    """Trials of this thread take turns with frames within it."""
    return trial_session(_session(progress))


def _session(progress: Progress) -> TrialSession:
    def tell(percent: float | None) -> bool:
        try:
            progress(WORDS, percent)
        except LoadGivenUp:
            return False
        return True

    return TrialSession(lambda: turns.slice(lambda: tell(None)), tell)


__all__ = ["choices_in_force", "session_of", "tune"]
