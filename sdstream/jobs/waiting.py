"""How long whoever calls waits for the worker that has a session: decided from what is known of the call so far."""

from enum import Enum, auto

ANSWER_SECONDS = 15.0
"""How long the owner of a session may take for a call."""
TAKE_SECONDS = 3.0
"""How long it may take to begin with one, which needs no work: an owner that is well does so within milliseconds."""
LOOK_SECONDS = 1.0
"""How often a caller looks whether the owner that has begun still listens."""
LOOKS_WITHOUT_OWNER = 2
"""So many in a row tell that it is gone; a single one may meet the moment in which it connects to Redis anew."""
SAFE_TO_REPEAT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods that do no more when they are done twice (RFC 9110). What may have been done is asked for again with these
alone."""


class Step(Enum):
    """What to do about a call that has no answer yet."""

    WAIT = auto()
    TAKE_BACK = auto()
    """Unless the owner has begun with it, it shall not any more: then it is certain that nothing was done."""
    GIVE_UP = auto()
    """It had all its time. Whether it was done is not known, here and below."""
    OWNER_GONE = auto()
    ANSWER_LOST = auto()
    """The caller has not listened for a moment, in which an answer would have come."""


def take_seconds(answer_seconds: float) -> float:
    """How long an owner may take to begin with a call that it may take so long for."""
    return min(TAKE_SECONDS, answer_seconds / 2)


def decide_step(
    waited: float, answer_seconds: float, *, begun: bool, looks_without_owner: int, interrupted: bool
) -> Step:
    """For a call that was sent `waited` seconds ago. `begun`: the owner has said so, which is asked once.

    `interrupted`: the caller's own mailbox was closed since.
    """
    if not begun:
        return Step.TAKE_BACK if waited >= take_seconds(answer_seconds) else Step.WAIT
    if looks_without_owner >= LOOKS_WITHOUT_OWNER:
        return Step.OWNER_GONE
    if interrupted:
        return Step.ANSWER_LOST
    return Step.GIVE_UP if waited >= answer_seconds else Step.WAIT


def pause(waited: float, answer_seconds: float, *, begun: bool) -> float:
    """Seconds until the next step has to be decided on."""
    if not begun:
        return max(0.0, take_seconds(answer_seconds) - waited)
    return max(0.0, min(LOOK_SECONDS, answer_seconds - waited))


def is_safe_to_repeat(method: str) -> bool:
    """Whether a call that may have been carried out can be sent again without a thought."""
    return method in SAFE_TO_REPEAT


__all__ = [
    "ANSWER_SECONDS",
    "LOOK_SECONDS",
    "TAKE_SECONDS",
    "Step",
    "decide_step",
    "is_safe_to_repeat",
    "pause",
    "take_seconds",
]
