"""Newer params that want the very same load take it over; nothing that was made is lost or used twice."""

from typing import Any

import pytest

from sdstream.params import StreamParams
from sdstream.worker.loading.lane_loads import Aim, Fate, LaneLoad, LaneLoads, fate_of
from sdstream.worker.outcomes import Prepared
from sdstream.worker.scheduling.turns import WantedParams
from tests.params.requests import SDXL_CANNY, SDXL_TURBO, created, updated

CANNY: dict[str, Any] = {"model_id": SDXL_CANNY, "preprocessor": "canny", "conditioning_scale": 0.5}
PARAMS = created(SDXL_TURBO, prompt="old", controlnets=[CANNY], lora_dict={"a/one": 1.0})


@pytest.mark.parametrize(
    ("change", "fate"),
    [
        ({}, Fate.GOES_ON),
        ({"prompt": "new", "seed": 7, "guidance_scale": 1.5, "delta": 0.5}, Fate.GOES_ON),
        ({"controlnets": [{**CANNY, "conditioning_scale": 0.9}]}, Fate.GOES_ON),
        ({"width": 640}, Fate.GIVEN_UP),
        ({"t_index_list": [10, 20, 30]}, Fate.GIVEN_UP),
        ({"lora_dict": {"a/one": 0.5}}, Fate.GIVEN_UP),
        ({"lora_dict": None}, Fate.GIVEN_UP),
        ({"controlnets": []}, Fate.GIVEN_UP),
        ({"skip_diffusion": True}, Fate.GIVEN_UP),
        ({"use_lcm_lora": False}, Fate.GIVEN_UP),
    ],
)
def test_a_load_goes_on_for_what_asks_for_no_other_files_and_shapes(change: dict[str, Any], fate: Fate) -> None:
    newer = updated(PARAMS, **change).params
    assert fate_of(PARAMS, newer, keeps=False) is fate
    kept = Fate.WAITS if fate is Fate.GIVEN_UP else fate
    assert fate_of(PARAMS, newer, keeps=True) is kept, "kept where others follow"


def test_a_load_of_which_nothing_is_known_is_given_up() -> None:
    assert fate_of(None, PARAMS, keeps=False) is Fate.GIVEN_UP


class Made:
    """A pipeline that counts how often it was given back."""

    def __init__(self) -> None:
        self.ended = 0

    def end(self) -> None:
        self.ended += 1


def aim(ticket: int, params: StreamParams = PARAMS) -> Aim:
    return Aim(WantedParams("", ticket), params, ticket)


def prepared(made: Made) -> Prepared:
    pipeline: Any = made
    return Prepared(WantedParams("", 1), PARAMS, pipeline=pipeline)


def test_what_was_made_for_older_params_is_not_offered_but_made_for_the_newer_ones() -> None:
    first, second, made, offered = aim(1), aim(2), Made(), list[Prepared]()
    load = LaneLoad(first, beside=True)
    assert load.take_over(second) is None
    assert not load.hand_in(first, prepared(made), lambda it: not offered.append(it))
    assert offered == []
    assert load.hand_in(second, prepared(made), lambda it: not offered.append(it))
    assert (len(offered), made.ended, load.over) == (1, 0, True)


@pytest.mark.parametrize("waits", [True, False])
def test_what_nobody_takes_yet_is_kept_for_who_takes_the_load_over(waits: bool) -> None:
    first, made = aim(1), Made()
    load = LaneLoad(first, beside=True)
    if waits:
        load.put_aside()
    assert load.hand_in(first, prepared(made), lambda it: False)
    assert not load.over
    kept = load.take_over(aim(2))
    assert kept is not None
    assert kept.pipeline is made
    assert made.ended == 0
    assert load.take_over(aim(3)) is None, "it is taken once"


def test_what_is_kept_or_comes_after_the_load_was_given_up_is_given_back() -> None:
    loads, kept, late = LaneLoads(), Made(), Made()
    for number, made in enumerate((kept, late)):
        first = aim(number)
        load = LaneLoad(first, beside=True)
        loads.begin(1, load)
        if made is late:
            loads.give_up(1)
        assert load.hand_in(first, prepared(made), lambda it: False)
        assert made.ended == (made is late)
    loads.begin(1, LaneLoad(aim(5), beside=True))
    loads.give_up(1)
    assert loads.under_way(1) is None
    assert (kept.ended, late.ended) == (1, 1)
