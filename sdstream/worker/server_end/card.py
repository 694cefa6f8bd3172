"""The card that a worker is to use: its process sees no other.

CUDA keeps a current device for each thread, the first card of those that the process sees. Events, kernels and graphs
go there unless every thread of every library is told otherwise, and so a worker for another card would record its
marks, and start its kernels, on the wrong one.
"""

from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable that CUDA reads when a process uses it for the first time."""


@dataclass(frozen=True, slots=True)
class CardChoice:
    """How torch calls the device in the worker, and what the worker is to see; None leaves that as it is."""

    device: str
    visible: str | None = None


def choose_card(wanted: str, visible: str | None) -> CardChoice:
    """The choice for the setting `worker_device`, where this process sees the cards `visible` (None: all).

    A card that is not among them is left to torch, which says so.
    """
    kind, _, number = wanted.partition(":")
    if kind != "cuda" or not number.isdigit() or int(number) == 0:
        return CardChoice(wanted)
    if visible is None:
        return CardChoice("cuda:0", number)
    cards = [card.strip() for card in visible.split(",")]
    return CardChoice("cuda:0", cards[int(number)]) if int(number) < len(cards) else CardChoice(wanted)


__all__ = ["VISIBLE", "CardChoice", "choose_card"]
