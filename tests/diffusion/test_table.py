"""Streams that share a pass of the networks come out as they would alone, whoever comes and goes beside them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.runners import EagerRunner
from sdstream.diffusion.state import Knobs, Memory, copy_into, gather, make_memory, scatter, stack
from sdstream.diffusion.table import StreamTable
from sdstream.settings import Family
from tests.diffusion.runs import distance, frame_of, knobs_of, pictures, run

Load = Callable[..., Model]
SLOTS = 2
IMAGES = pictures(6)
KNOBS: tuple[dict[str, Any], ...] = (
    {"steps": (32, 45), "guidance": 1.0},
    {"steps": (0, 20), "guidance": 2.0, "prompt": "a dog", "seed": 5},
    {"steps": (10, 11), "guidance": 1.5, "delta": 0.4, "negative": "rain", "seed": -7},
    {"steps": (25, 49), "guidance": 4.0, "renoise": False, "prompt": "in the can"},
    {"steps": (7, 80), "length": 100, "guidance": 1.2, "delta": 0.0},
)
kinds = st.integers(0, len(KNOBS) - 1)
actions = st.one_of(
    st.tuples(st.just("join"), kinds),
    st.tuples(st.just("leave"), st.integers(0, 2)),
    st.tuples(st.just("turn"), st.integers(0, 2), kinds),
    st.tuples(st.just("run"), st.sets(st.integers(0, 2), min_size=1), st.integers(0, len(IMAGES) - 1)),
    st.tuples(st.just("run"), st.just({0, 1, 2}), st.integers(0, len(IMAGES) - 1)),
)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(actions, min_size=8, max_size=14), st.sampled_from(["none", "self", "initialize", "full"]))
def test_streams_together_are_the_streams_alone(
    tiny_model: Load, family: Family, script: list[tuple[Any, ...]], guidance: str
) -> None:
    model = tiny_model(family)
    made = [knobs_of(model, **options) for options in KNOBS]
    frame = frame_of(model, SLOTS, guidance)
    table = StreamTable(EagerRunner(frame), made[0], 3)
    alone: dict[int, tuple[Knobs, Memory]] = {}
    for action, *rest in [("join", 0), ("join", 1), *script]:
        if action == "join" and len(alone) < 3:
            seat = table.join(made[rest[0]])
            alone[seat] = (made[rest[0]], make_memory(made[rest[0]]))
        elif action == "leave" and rest[0] in alone:
            left = table.leave(rest[0])
            assert distance(left.residual + 1, alone.pop(rest[0])[1].residual + 1) < 1e-4
        elif action == "turn" and rest[0] in alone:
            table.turn(rest[0], made[rest[1]])
            alone[rest[0]] = (made[rest[1]], alone[rest[0]][1])
        elif action == "run":
            given_images = {seat: IMAGES[(rest[1] + seat) % len(IMAGES)] for seat in rest[0] & alone.keys()}
            together = table.run(given_images)
            assert together.keys() == given_images.keys()
            for seat, image in given_images.items():
                knobs, memory = alone[seat]
                result = frame(image, knobs, memory)
                alone[seat] = (knobs, result.memory)
                assert distance(together[seat], result.image) < 1e-4
        assert table.seats == alone.keys()


CHANGES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "a dog in rain"},
    "negative": {"negative": "the can"},
    "guidance": {"guidance": 3.0},
    "delta": {"delta": 0.2},
    "seed": {"seed": 11},
    "steps": {"steps": (5, 30)},
    "length": {"length": 90},
    "renoise": {"renoise": False},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_turned_knob_is_that_of_a_run_that_had_it_from_there(tiny_model: Load, name: str) -> None:
    model = tiny_model("sd-turbo")
    before: dict[str, Any] = {"guidance": 1.6, "delta": 0.7}
    old, new = knobs_of(model, **before), knobs_of(model, **(before | CHANGES[name]))
    frame = frame_of(model, SLOTS, "full" if name == "negative" else "self")
    table = StreamTable(EagerRunner(frame), old, 1)
    seat = table.join(old)
    for image in IMAGES[:3]:
        table.run({seat: image})
    table.turn(seat, new)
    turned = [table.run({seat: image})[seat] for image in IMAGES[3:]]
    memory = run(frame, old, IMAGES[:3])[-1].memory
    expected = run(frame, new, IMAGES[3:], memory)
    unturned = run(frame, old, IMAGES[3:], memory)
    assert all(distance(a, b.image) < 1e-4 for a, b in zip(turned, expected, strict=True))
    assert distance(turned[-1], unturned[-1].image) > 1e-3


def test_storages_never_move(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs = [knobs_of(model, **options) for options in KNOBS]
    table = StreamTable(EagerRunner(frame_of(model, SLOTS)), knobs[0], 2)
    tensors = [*table._knobs, *table._memory]
    places = [tensor.data_ptr() for tensor in tensors]
    seat = table.join(knobs[0])
    table.run({seat: IMAGES[0]})
    table.turn(seat, knobs[1])
    other = table.join(knobs[2])
    table.run({seat: IMAGES[1], other: IMAGES[2]})
    table.leave(seat)
    assert [tensor.data_ptr() for tensor in [*table._knobs, *table._memory]] == places


def test_a_seat_taken_again_remembers_nothing_of_the_one_before(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs = knobs_of(model)
    frame = frame_of(model, SLOTS)
    table = StreamTable(EagerRunner(frame), knobs, 1)
    for image in IMAGES[:2]:
        table.run({table.join(knobs) if not table.seats else 0: image})
    table.leave(0)
    seat = table.join(knobs)
    assert torch.equal(table.run({seat: IMAGES[3]})[seat], run(frame, knobs, [IMAGES[3]])[0].image)


def test_a_stream_takes_its_memory_to_another_table(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs = knobs_of(model, guidance=1.5)
    frame = frame_of(model, SLOTS)
    first, second = StreamTable(EagerRunner(frame), knobs, 1), StreamTable(EagerRunner(frame), knobs, 3)
    first.join(knobs)
    for image in IMAGES[:3]:
        first.run({0: image})
    seat = second.join(knobs, first.leave(0))
    moved = second.run({seat: IMAGES[3]})[seat]
    assert distance(moved, run(frame, knobs, IMAGES[:4])[-1].image) < 1e-5


def test_what_does_not_fit_is_refused_and_changes_nothing(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs, longer = knobs_of(model), knobs_of(model, (1, 2, 3))
    table = StreamTable(EagerRunner(frame_of(model, SLOTS)), knobs, 1)
    with pytest.raises(ValueError, match="another kind"):
        table.join(longer)
    with pytest.raises(ValueError, match="another kind"):
        table.join(knobs, make_memory(stack([knobs, knobs])))
    assert not table.seats
    seat = table.join(knobs)
    with pytest.raises(ValueError, match="all 1 seats"):
        table.join(knobs)
    before = [tensor.clone() for tensor in table._knobs]
    with pytest.raises(ValueError, match="another kind"):
        table.turn(seat, longer)
    assert all(torch.equal(a, b) for a, b in zip(before, table._knobs, strict=True))
    with pytest.raises(ValueError, match="nobody"):
        table.run({1: IMAGES[0]})
    table.leave(seat)
    with pytest.raises(ValueError, match="nobody"):
        table.leave(seat)
    with pytest.raises(ValueError, match="at least one seat"):
        StreamTable(EagerRunner(frame_of(model, SLOTS)), knobs, 0)


def test_blocks_are_stacked_gathered_and_scattered_by_stream(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    blocks = [knobs_of(model, **options) for options in KNOBS[:3]]
    whole = stack(blocks)
    picked = gather(whole, torch.tensor([2, 0]))
    assert all(torch.equal(a, b) for a, b in zip(picked, stack([blocks[2], blocks[0]]), strict=True))
    scatter(whole, torch.tensor([1]), blocks[2])
    assert all(torch.equal(a, b) for a, b in zip(whole, stack([blocks[0], blocks[2], blocks[2]]), strict=True))
    with pytest.raises(ValueError, match="same shapes"):
        copy_into(whole, blocks[0])
