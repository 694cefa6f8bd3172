"""How a shape of convolution comes to its way: what is worth a trial, what a trial says, what is remembered of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.choices import PLAIN, Choice, choice_by
from sdstream.diffusion.convolving.hopper.tilings import HopperTiling, Kind, cycles_of
from sdstream.diffusion.convolving.shapes import EIGHT_BIT, Card, Shape
from sdstream.diffusion.convolving.tilings import (
    BASE,
    LEAST_STEPS,
    MOST_HOPPER,
    MOST_TRIED,
    AnyTiling,
    Tiling,
    candidates,
    shared_limit,
    tiling_named,
)
from sdstream.diffusion.convolving.trial import try_tilings
from sdstream.diffusion.convolving.tuning import Tuning
from sdstream.diffusion.convolving.twins import plain_convolution
from sdstream.diffusion.trials.session import TrialSession
from sdstream.diffusion.trials.store import MOST_ATTEMPTS, Known, Origin, TrialStore
from sdstream.diffusion.trials.ways import Sample

H100 = Card((9, 0), 132)
CPU = torch.device("cpu")
SHAPE = Shape(1, 32, 32, 640, 0, 640, 3, 1, 1, 32, 32, False, 1, True, "", "float16")
SMALL = Shape(1, 3, 4, 32, 0, 16, 3, 1, 1, 3, 4, False, 1, True, "relu", "float32")
CHANNELS = st.sampled_from([3, 4, 32, 64, 320, 640, 1280, 1920])
COLUMNS = st.sampled_from([3, 4, 64, 320, 1280])
FAST, BEST = (tiling.name for tiling in BASE[:2])
CARDS = [Card((8, 0), 108), Card((8, 6), 84), Card((8, 9), 128), H100, Card((12, 0), 170), Card((13, 7), 10)]


def picture(
    batch: int, height: int, width: int, channels: int, columns: int, *, doubled: bool = False, residual: bool = False
) -> Shape:
    """Of which filters of three times three places keep the size, but that `doubled` makes it twice as large."""
    factor = 2 if doubled else 1
    return replace(
        SHAPE,
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        columns=columns,
        out_height=factor * height,
        out_width=factor * width,
        doubled=doubled,
        residual=residual,
    )


def triton_ways(shape: Shape, card: Card) -> list[Tiling]:
    return [way for way in candidates(shape, card) if isinstance(way, Tiling)]


def hopper_ways(shape: Shape, card: Card, most: int = MOST_HOPPER) -> list[HopperTiling]:
    return [way for way in candidates(shape, card, hopper=most) if isinstance(way, HopperTiling)]


@given(CHANNELS, st.sampled_from([0, 320, 64]), COLUMNS, st.integers(1, 9), st.sampled_from(CARDS))
def test_what_is_tried_fits_the_card_and_leaves_no_part_without_work(
    channels: int, others: int, columns: int, batch: int, card: Card
) -> None:
    shape = replace(SHAPE, batch=batch, channels=channels, other_channels=others, columns=columns)
    ways = triton_ways(shape, card)
    assert len(ways) == len(set(ways)) <= MOST_TRIED
    assert bool(ways) == (channels % 32 == 0 or not others), "two sources are read a block's depth at a time"
    for tiling in ways:
        assert tiling.shared_bytes < shared_limit(card.capability)
        assert tiling_named(tiling.name) == tiling
        steps = -(-shape.depth // tiling.depth)
        assert -(-steps // -(-steps // tiling.parts)) == tiling.parts
        assert tiling.parts == 1 or steps >= LEAST_STEPS * tiling.parts


@given(CHANNELS, st.integers(1, 4), st.sampled_from(CARDS))
def test_of_doubled_pictures_ways_with_phases_are_tried_beside_those_without(
    channels: int, batch: int, card: Card
) -> None:
    shape = replace(SHAPE, batch=batch, channels=channels, out_height=64, out_width=64, doubled=True)
    ways = triton_ways(shape, card)
    assert len(ways) == len(set(ways)) <= MOST_TRIED
    assert {way.phased for way in ways} == {True, False}
    for tiling in ways:
        assert tiling_named(tiling.name) == tiling
        steps = -(-shape.depth * (4 if tiling.phased else 9) // 9 // tiling.depth)
        assert -(-steps // -(-steps // tiling.parts)) == tiling.parts
    for other in (replace(shape, doubled=False), replace(shape, side=1, padding=0)):
        assert not any(way.phased for way in triton_ways(other, card))


def test_sums_are_cut_where_blocks_alone_would_leave_processors_idle() -> None:
    small = replace(SHAPE, height=8, width=8, channels=1280, columns=1280, out_height=8, out_width=8)
    assert triton_ways(small, H100)[0].parts >= 4
    assert triton_ways(replace(SHAPE, batch=16), H100)[0].parts == 1


@given(CHANNELS, COLUMNS, st.booleans(), st.integers(1, 9), st.sampled_from(CARDS))
def test_ways_for_hopper_come_first_and_on_no_other_card(
    channels: int, columns: int, doubled: bool, batch: int, card: Card
) -> None:
    shape = picture(batch, 32, 32, channels, columns, doubled=doubled)
    ways, without = candidates(shape, card), candidates(shape, card, hopper=0)
    first = [way for way in ways if isinstance(way, HopperTiling)]
    assert not first or card == H100
    assert list(ways[: len(first)]) == first
    assert not any(isinstance(way, HopperTiling) for way in without)
    assert len(ways) - len(first) <= (MOST_TRIED // 2 if first else MOST_TRIED)
    assert ways[len(first)] == without[0], "the best of the others is still tried"


def test_where_there_are_ways_for_hopper_half_of_the_others_rounded_up_are_enough() -> None:
    large = picture(1, 64, 64, 320, 320)
    for most, others in ((6, 3), (5, 3), (1, 1)):
        ways = candidates(large, H100, most, 2)
        assert [isinstance(way, HopperTiling) for way in ways] == [True] * 2 + [False] * others
        assert len(candidates(large, H100, most, 0)) == most


@given(
    st.builds(
        picture,
        st.integers(1, 9),
        st.integers(1, 130),
        st.integers(1, 130),
        CHANNELS,
        COLUMNS,
        doubled=st.booleans(),
        residual=st.booleans(),
    ),
    st.integers(1, 200),
    st.booleans(),
)
def test_ways_for_hopper_have_room_and_leave_no_part_without_work(shape: Shape, processors: int, small: bool) -> None:
    if small:
        shape = replace(shape, dtype=EIGHT_BIT)
    ways = hopper_ways(shape, Card((9, 0), processors), 100)
    assert len(ways) == len(set(ways))
    for way in ways:
        assert way.shared_bytes(shape.channels) <= shared_limit(H100.capability), way
        assert (way.kind == "eight_bit") is small
        steps = -(-shape.channels // way.step_channels)
        assert -(-steps // -(-steps // way.parts)) == way.parts, way
        assert not (shape.residual and way.kind in ("doubled", "colours")), "they add nothing"
        assert way.kind != "doubled" or shape.height % (8 * way.down) == 0, "a tile would be of two pictures"


def test_every_kind_of_way_for_hopper_is_tried_for_some_picture() -> None:
    shapes = [picture(1, 64, 64, channels, columns) for channels, columns in ((64, 64), (4, 64), (64, 3))]
    shapes.append(picture(1, 64, 64, 64, 64, doubled=True))
    shapes.append(replace(picture(1, 64, 64, 320, 64), dtype=EIGHT_BIT))
    found = {way.kind for shape in shapes for way in hopper_ways(shape, H100, 100)}
    assert found == set(get_args(Kind))


@pytest.mark.parametrize(
    "changed",
    [
        {"side": 1, "padding": 0},
        {"stride": 2, "out_height": 16, "out_width": 16},
        {"other_channels": 64},
        {"out_height": 33, "out_width": 33},
    ],
    ids=["1x1", "stride 2", "two sources", "beyond"],
)
def test_other_filters_have_no_ways_for_hopper(changed: dict[str, int]) -> None:
    make: Any = replace
    shape: Shape = make(SHAPE, **changed)
    assert hopper_ways(SHAPE, H100)
    assert not hopper_ways(shape, H100)
    assert triton_ways(shape, H100)


def test_ways_that_differ_are_remembered_apart() -> None:
    hopper = [HopperTiling(kind, 2, 1, 64, 2, parts) for kind in get_args(Kind) for parts in (1, 3)]
    hopper += [HopperTiling("stepped", *sizes) for sizes in ((1, 2, 64, 2), (2, 1, 128, 2), (2, 1, 64, 1))]
    ways: list[AnyTiling] = [*BASE, *(replace(way, phased=True) for way in BASE), *hopper]
    assert [tiling_named(way.name) for way in ways] == ways
    assert len({way.name for way in ways}) == len(ways)


def test_pictures_in_eight_bits_are_half_as_many_steps_for_as_many_bytes() -> None:
    large = picture(8, 64, 64, 640, 320)
    best = {small: hopper_ways(replace(large, dtype=EIGHT_BIT) if small else large, H100)[0] for small in (True, False)}
    whole, half = (replace(best[False], kind=kind) for kind in ("stepped", "eight_bit"))
    assert whole.shared_bytes(640) <= half.shared_bytes(640) <= whole.shared_bytes(640) + 4 * whole.columns
    ratio = cycles_of(best[True], replace(large, dtype=EIGHT_BIT), H100) / cycles_of(best[False], large, H100)
    assert 0.45 < ratio < 0.65


@pytest.mark.parametrize(
    ("shape", "card"),
    [
        (SHAPE, Card((7, 5), 40)),
        (replace(SHAPE, dtype="float32"), H100),
        (replace(SHAPE, dtype=EIGHT_BIT), Card((8, 9), 128)),
        (replace(SHAPE, dtype=EIGHT_BIT, columns=4), H100),
        (replace(SHAPE, dtype=EIGHT_BIT, channels=64), H100),
    ],
    ids=["old", "float32", "eight bits on Ada", "few columns", "half a step"],
)
def test_what_the_kernel_cannot_do_is_not_tried(shape: Shape, card: Card) -> None:
    assert candidates(shape, card) == ()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "128x64",
        "128x64x64w4s4p1",
        "128x64x64w4s4p1g8x",
        "128x64x64w4s4p1g8phases",
        "hopper ",
        "hopper stepped 2x2x64g2",
        "hopper stepped 2x2x64g2p1x",
        "hopper guessed 2x2x64g2p1",
    ],
)
def test_what_is_no_name_of_a_tiling_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no tiling"):
        tiling_named(name)


def test_shapes_that_differ_in_anything_are_remembered_apart() -> None:
    others = [
        replace(SHAPE, **{name: 7 if isinstance(value, int) and not isinstance(value, bool) else other})
        for name, value in ((each, getattr(SHAPE, each)) for each in Shape.__dataclass_fields__)
        for other in [not value if isinstance(value, bool) else "bfloat16" if name == "dtype" else "silu"]
    ]
    assert len({shape.name for shape in (SHAPE, *others)}) == len(Shape.__dataclass_fields__) + 1


def test_a_choice_has_the_medians_of_its_way_and_of_torchs() -> None:
    faster = [Sample("", (2.0, 2.1, 9.0)), Sample(FAST, (1.0, 1.2, 1.3)), Sample(BEST, (0.9, 1.1, 1.0))]
    assert choice_by(faster) == Choice(BEST, 1.0, 2.1)
    assert choice_by(faster[:1]) == Choice("", 2.1, 2.1)
    assert choice_by([]) == PLAIN


def test_answers_are_compared_before_times_and_what_fails_is_left_out() -> None:
    tilings = [Tiling(16, 16, depth, 4, 2) for depth in (16, 32, 64)]
    timed: list[int] = []

    class Stopwatch:
        def time(self, calls: Sequence[Callable[[], torch.Tensor]]) -> list[tuple[float, ...]]:
            timed.append(len(calls))
            return [(float(index),) for index, _ in enumerate(calls)]

    def own(arguments: Arguments, name: str) -> torch.Tensor:
        if name == tilings[0].name:
            raise RuntimeError("out of shared memory")
        made = plain_convolution(arguments)
        return made * 1.5 if name == tilings[1].name else made

    found = try_tilings(SMALL, tilings, CPU, Stopwatch(), own=own, prepare=lambda arguments, names: None)
    assert timed == [2]
    assert found == [Sample("", (0.0,), 0.0), Sample(tilings[2].name, (1.0,), 0.0)]
    over = try_tilings(SMALL, tilings, CPU, Stopwatch(), lambda: True, own, lambda arguments, names: None)
    assert over is None
    assert timed == [2]


class Trials:
    """Trials that take `seconds` of a clock of their own, and say what they are told to."""

    def __init__(self, *answers: list[Sample] | BaseException | None, seconds: float = 1.0, works: bool = True) -> None:
        self.answers = list(answers)
        self.seconds = seconds
        self.works = works
        self.now = 0.0
        self.made: list[Shape] = []
        self.proofs = 0

    def tuning(self, folder: Path | None) -> Tuning:
        store = TrialStore(None if folder is None else folder / ORIGIN.file_name, ORIGIN)
        return Tuning(H100, CPU, store, self.trial, self.proof, lambda: self.now)

    def trial(
        self, shape: Shape, tilings: Sequence[AnyTiling], device: torch.device, is_over: Callable[[], bool]
    ) -> list[Sample] | None:
        self.made.append(shape)
        self.now += self.seconds
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return None if is_over() else answer

    def proof(self, shape: Shape, tiling: AnyTiling, device: torch.device) -> bool:
        self.proofs += 1
        return self.works


GOOD = [Sample("", (2.0,)), Sample(FAST, (1.0,))]
ORIGIN = Origin("NVIDIA H100", ("2.11", "3.6"))
TWO, THREE = replace(SHAPE, batch=2), replace(SHAPE, batch=3)


def test_frames_take_what_was_found_from_when_it_is_brought_into_force(tmp_path: Path) -> None:
    trials = Trials(GOOD)
    tuning = trials.tuning(tmp_path)
    assert tuning.look_up(SHAPE) is None
    assert not trials.made, "no frame tries anything"
    tuning.settle([{SHAPE: 1}], 10.0)
    assert tuning.look_up(SHAPE) is None
    assert tuning.bring_into_force() == {SHAPE.name}
    assert tuning.look_up(SHAPE) == Choice(FAST, 1.0, 2.0)
    assert not tuning.untried
    later = trials.tuning(tmp_path)
    later.settle([{SHAPE: 1}], 0.0)
    later.bring_into_force()
    assert later.look_up(SHAPE) == Choice(FAST, 1.0, 2.0)
    assert (len(trials.made), trials.proofs) == (1, 1), "it outlives the process, and is proved"


def test_what_a_frame_met_untried_is_tried_after_what_is_prepared() -> None:
    trials = Trials(GOOD, GOOD)
    tuning = trials.tuning(None)
    tuning.look_up(TWO)
    tuning.settle([{SHAPE: 1}], 10.0)
    assert trials.made == [SHAPE, TWO]


def test_what_is_remembered_must_work_here(tmp_path: Path) -> None:
    Trials(GOOD).tuning(tmp_path).settle([{SHAPE: 1}], 10.0)
    tuning = Trials(works=False).tuning(tmp_path)
    tuning.settle([{SHAPE: 1}], 10.0)
    tuning.bring_into_force()
    assert tuning.look_up(SHAPE) == PLAIN
    assert SHAPE.name in tuning.store.names("convolutions"), "another machine may be able to"


def test_what_there_is_no_time_for_is_torchs_own_until_the_next_preparation(tmp_path: Path) -> None:
    trials = Trials(GOOD, GOOD, GOOD, seconds=6.0)
    tuning = trials.tuning(tmp_path)
    standing = tuning.settle([{SHAPE: 1}, {TWO: 1}, {THREE: 1}], 10.0)
    assert (standing.settled, standing.passed) == ({SHAPE.name}, {TWO.name})
    assert trials.made == [SHAPE, TWO], "the second was broken off"
    assert tuning.store.known.attempts == {}
    assert tuning.settle([{TWO: 1}], 10.0).settled == {TWO.name}


def test_a_trial_that_ends_the_process_is_not_made_for_ever(tmp_path: Path) -> None:
    trials = Trials(*[KeyboardInterrupt()] * MOST_ATTEMPTS)
    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            trials.tuning(tmp_path).settle([{SHAPE: 1}], 10.0)
    trials.tuning(tmp_path).settle([{SHAPE: 1}], 10.0)
    assert len(trials.made) == MOST_ATTEMPTS


def test_a_trial_without_memory_leaves_the_shape_to_torch(tmp_path: Path) -> None:
    tuning = Trials(torch.OutOfMemoryError()).tuning(tmp_path)
    assert tuning.settle([{SHAPE: 1}], 10.0).passed == {SHAPE.name}
    assert tuning.bring_into_force() == frozenset()
    assert tuning.store.known == Known()


def test_trials_end_when_nobody_waits_for_them() -> None:
    trials = Trials(GOOD)
    trials.tuning(None).settle([{SHAPE: 1}], 10.0, TrialSession(tell=lambda percent: False))
    assert not trials.made
