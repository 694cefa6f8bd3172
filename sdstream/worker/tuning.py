"""Trials of attention and of convolutions for streams that are being prepared, beside those that run."""

from contextlib import AbstractContextManager

import torch

from sdstream.diffusion.convolving.preparation import settle_frames
from sdstream.diffusion.convolving.tuning import are_convolutions_tuned, bring_into_force
from sdstream.diffusion.fused.attending import is_attention_tried
from sdstream.diffusion.fused.attention_trials import settle_attention
from sdstream.diffusion.runners import BUCKETS
from sdstream.diffusion.state import Knobs
from sdstream.diffusion.trials.planning import numbers_of_streams
from sdstream.diffusion.trials.session import TrialSession, trial_session
from sdstream.worker.card_turns import turns
from sdstream.worker.groups import GroupKey, frame_of, groups
from sdstream.worker.outcomes import LoadGivenUp
from sdstream.worker.pipelines import Progress

WORDS = "tuning kernels"
"""What the state of a stream says meanwhile."""


def tune(key: GroupKey, knobs: Knobs, progress: Progress) -> None:
    """Decide how attention and convolutions of frames of this key are computed, for all numbers of streams that will
    ride together once one more sits down. `progress` may raise `LoadGivenUp`."""
    device = key.model.device
    if device.type != "cuda" or not (is_attention_tried() or are_convolutions_tuned()):
        return
    progress(WORDS, None)
    with turns.slice(lambda: progress(WORDS, None)):
        frame = frame_of(key)
    numbers = numbers_of_streams(
        groups.seated(key), key.options.batch_size, BUCKETS if key.options.cuda_graphs else None
    )
    image = torch.zeros(1, 3 * (1 + len(key.conditions.controlnets)), key.height, key.width, device=device)
    if is_attention_tried():
        settle_attention(frame, image, knobs, numbers, _session(progress))
    if are_convolutions_tuned():
        settle_frames(frame, image, knobs, numbers, _session(progress))
    progress(WORDS, 100.0)


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
