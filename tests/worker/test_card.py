"""A worker for one card of several sees that card alone."""

import pytest
import torch

from sdstream.worker.devices import Device
from sdstream.worker.server_end.card import CardChoice, choose_card


@pytest.mark.parametrize("wanted", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:one"])
@pytest.mark.parametrize("visible", [None, "2,3", ""])
def test_the_first_card_and_what_is_none_are_left_as_they_are(wanted: str, visible: str | None) -> None:
    assert choose_card(wanted, visible) == CardChoice(wanted)


@pytest.mark.parametrize(
    ("wanted", "visible", "card"),
    [("cuda:1", None, "1"), ("cuda:1", "4,6", "6"), ("cuda:2", "0, GPU-8b, MIG-1c", "MIG-1c"), ("cuda:12", None, "12")],
)
def test_another_card_is_counted_among_those_that_the_server_sees(wanted: str, visible: str | None, card: str) -> None:
    assert choose_card(wanted, visible) == CardChoice("cuda:0", card)


@pytest.mark.parametrize("visible", ["", "4,6"])
def test_a_card_that_the_server_does_not_see_is_left_to_torch(visible: str) -> None:
    assert choose_card("cuda:2", visible) == CardChoice("cuda:2")


def test_a_card_keeps_the_name_that_the_operator_gave_it() -> None:
    assert Device(torch.device("cuda", 0), "H200", "cuda:1").name == "cuda:1"
    assert Device(torch.device("cuda", 0), "H200").name == "cuda:0"
