"""Which device is taken when the setting leaves the choice."""

import pytest
import torch

from sdstream.engines.registry import has_usable_card
from sdstream.worker.devices import Device

BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A torch for CUDA that sees a card."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return monkeypatch


@pytest.mark.parametrize(("capability", "usable"), [((6, 1), False), ((7, 0), False), ((7, 5), True), ((8, 9), True)])
def test_a_card_is_taken_if_torch_has_programs_for_it(
    capability: tuple[int, int], usable: bool, card: pytest.MonkeyPatch
) -> None:
    card.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert has_usable_card() is usable


def test_cards_of_other_makers_are_not_judged(card: pytest.MonkeyPatch) -> None:
    """torch for AMD's cards speaks of them as CUDA, and names their architectures otherwise."""
    card.setattr(torch.version, "cuda", None)
    card.setattr(torch.cuda, "get_arch_list", lambda: ["gfx1100"])
    assert has_usable_card()


def test_beside_a_card_that_is_too_old_the_cpu_is_taken(card: pytest.MonkeyPatch) -> None:
    """The server starts and streams; with the card every worker would end at its first use."""
    card.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
    assert Device.choose("auto").name in {"cpu", "mps"}
