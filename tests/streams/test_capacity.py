"""How many streams the worker carries, from what its calls were measured to take: tables, and the whole service."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.errors import CapacityReached
from sdstream.params.costs import COSTS
from sdstream.streams.capacity import (
    MOST_ROOM,
    Demand,
    Supply,
    find_cost,
    load_of,
    nearest_that_fits,
    room_for,
    seconds_of,
    why_not,
    why_not_change,
)
from sdstream.worker.ports import CallCost, CallKind, kind_of
from tests.streams.conftest import SceneMaker
from tests.worker.pictures import make_params

TURBO = CallKind("stabilityai/sd-turbo", 512, 512, 2)
LARGE = CallKind("stabilityai/sdxl-turbo", 1024, 1024, 1)
COST = CallCost(TURBO, {1: 0.020, 2: 0.030, 4: 0.050}, 100 * 2**20)
measured = st.dictionaries(st.integers(1, 8), st.floats(0.001, 1.0), min_size=1)


@pytest.mark.parametrize(
    ("streams", "seconds"),
    [(0, 0.0), (1, 0.020), (2, 0.030), (3, 0.040), (4, 0.050), (6, 0.070), (8, 0.090), (9, 0.110), (16, 0.180)],
)
def test_a_call_of_a_size_that_was_not_measured_is_on_the_line_through_those_that_were(
    streams: int, seconds: float
) -> None:
    assert seconds_of(COST, streams, 8) == pytest.approx(seconds)


def test_with_one_size_measured_each_further_stream_is_taken_to_cost_as_much() -> None:
    assert seconds_of(CallCost(TURBO, {2: 0.030}), 6, 8) == pytest.approx(0.090)
    assert seconds_of(CallCost(TURBO, {2: 0.030}), 1, 8) == pytest.approx(0.030)


@given(measured, st.integers(1, 30), st.integers(1, 8))
def test_no_call_is_thought_to_take_no_time(times: dict[int, float], streams: int, batch_size: int) -> None:
    assert seconds_of(CallCost(TURBO, times), streams, batch_size) > 0


def test_streams_that_have_fewer_pictures_ride_in_fewer_calls() -> None:
    supply = Supply([COST])
    together = load_of([Demand(TURBO, 10.0)] * 2, supply)
    assert together == pytest.approx(10 * 0.030)
    apart = load_of([Demand(TURBO, 10.0), Demand(TURBO, 4.0)], supply)
    assert apart == pytest.approx(4 * 0.030 + 6 * 0.020)


def test_streams_of_different_kinds_add_up_and_what_was_not_measured_counts_nothing() -> None:
    supply = Supply([COST, CallCost(LARGE, {1: 0.1})])
    assert load_of([Demand(TURBO, 10.0), Demand(LARGE, 5.0)], supply) == pytest.approx(0.2 + 0.5)
    assert load_of([Demand(CallKind("another", 512, 512, 1), 30.0)], supply) == 0.0


def test_another_size_of_a_measured_model_is_scaled_by_pixels_and_steps() -> None:
    cost = find_cost(replace(TURBO, width=1024, steps=4), [CallCost(LARGE, {1: 9.0}), COST])
    assert cost is not None
    assert cost.seconds[1] == pytest.approx(0.080)
    assert cost.stream_bytes == 400 * 2**20


def test_a_stream_alone_is_taken_however_slow_it_is() -> None:
    slow = Supply([CallCost(TURBO, {1: 5.0})], memory_used=99, memory_total=100)
    assert why_not(Demand(TURBO, 10.0), [], slow) == ""


def test_who_would_not_fit_is_refused_with_the_numbers() -> None:
    supply = Supply([CallCost(TURBO, {1: 0.03, 2: 0.055})])
    demands = [Demand(TURBO, 10.0)] * 2
    assert why_not(Demand(TURBO, 10.0), demands[:1], supply) == ""
    assert room_for(Demand(TURBO, 10.0), demands[:1], supply) == 2
    assert why_not(Demand(TURBO, 20.0), demands, supply) == (
        "One more stream (stabilityai/sd-turbo, 512x512, 2 steps) at 20 pictures a second would ask for 110% of the "
        "worker's time; 2 streams now ask for 55%."
    )


def test_what_costs_nothing_is_taken_by_a_worker_that_has_too_much_to_do() -> None:
    supply = Supply([CallCost(TURBO, {1: 1.0})])
    demands = [Demand(TURBO, 10.0)]
    assert "1000%" in why_not(Demand(TURBO, 10.0), demands, supply) or why_not(Demand(TURBO, 10.0), demands, supply)
    passed_on = Demand(CallKind("", 512, 512, 0), 10.0)
    assert why_not(passed_on, demands, supply) == ""
    assert room_for(passed_on, demands, supply) == MOST_ROOM


def test_a_full_device_is_named_with_its_numbers() -> None:
    full = Supply([COST], memory_used=900 * 2**20, memory_total=1000 * 2**20)
    assert why_not(Demand(TURBO, 1.0), [Demand(TURBO, 1.0)], full) == (
        "One more stream (stabilityai/sd-turbo, 512x512, 2 steps) needs 100 MiB of memory, and 900 MiB of 1000 MiB "
        "are in use."
    )
    assert room_for(Demand(TURBO, 1.0), [Demand(TURBO, 1.0)], replace(full, memory_used=700 * 2**20)) > 0


def test_the_nearest_that_fits_keeps_most_of_the_work_and_the_shape() -> None:
    wide = CallKind("stabilityai/sd-turbo", 1024, 512, 2)
    tried: list[CallKind] = []
    assert nearest_that_fits(wide, lambda kind: bool(tried.append(kind))) is None
    assert wide not in tried
    assert max(kind.width for kind in tried) == 1024
    assert {(kind.width, kind.height) for kind in tried} >= {(1024, 512), (960, 512), (896, 448), (768, 384)}
    assert all(384 <= kind.height <= kind.width and kind.steps in (1, 2) for kind in tried)
    small = nearest_that_fits(wide, lambda kind: kind.width * kind.height * kind.steps <= 800 * 448 * 2)
    assert small == replace(wide, width=768, height=384)
    assert nearest_that_fits(wide, lambda kind: True, resizable=False) == replace(wide, steps=1)
    assert nearest_that_fits(replace(wide, steps=1), lambda kind: True, resizable=False) is None


async def test_who_is_refused_is_told_what_would_fit(make_scene: SceneMaker) -> None:
    scene = await make_scene(stream_frame_rate=10.0)
    kind = kind_of((await scene.create_live(t_index_list=[10, 20, 30])).params)
    scene.worker.facts = replace(scene.worker.facts, costs=(CallCost(kind, {1: 0.055}),))
    with pytest.raises(CapacityReached, match=r"110% .* It would fit as stabilityai/sd-turbo, 448x448, 3 steps\.$"):
        await scene.create()


async def test_a_live_stream_is_told_how_many_steps_would_fit_and_no_other_size(make_scene: SceneMaker) -> None:
    scene = await make_scene(stream_frame_rate=10.0)
    stream, _ = await scene.create_live(t_index_list=[20]), await scene.create_live(t_index_list=[20])
    kind = kind_of(stream.params)
    costs = tuple(CallCost(replace(kind, steps=steps), {1: 0.021 * steps}) for steps in (1, 2, 3, 4))
    scene.worker.facts = replace(scene.worker.facts, costs=costs)
    with pytest.raises(CapacityReached, match=r"It would fit as stabilityai/sd-turbo, 512x512, 3 steps\.$"):
        await scene.service.update(stream.id, {"params": {"t_index_list": [10, 20, 30, 40]}})


async def test_a_stream_that_the_worker_cannot_carry_is_refused_at_creation_and_at_its_offer(
    make_scene: SceneMaker,
) -> None:
    scene = await make_scene(stream_frame_rate=10.0)
    first = await scene.create_live()
    waiting = await scene.create()
    kind = kind_of(first.params)
    scene.worker.facts = replace(scene.worker.facts, costs=(CallCost(kind, {1: 0.06}),))
    capacity = scene.service.capacity()
    assert (capacity.accepting, capacity.frame_rate) == (False, 10.0)
    assert "120% of the worker's time" in capacity.reason
    assert [(each.publishing, each.frame_seconds, each.room) for each in capacity.kinds] == [(1, {"1": 0.06}, 0)]
    with pytest.raises(CapacityReached, match="120%"):
        await scene.create()
    with pytest.raises(CapacityReached, match="120%"):
        await scene.publish(waiting)
    await scene.publish(first)  # another publisher of a stream that is carried already
    scene.worker.facts = replace(scene.worker.facts, costs=(CallCost(kind, {1: 0.04}),))
    await scene.publish(waiting)
    assert scene.service.capacity().load == pytest.approx(0.8)


async def test_a_live_stream_is_not_made_heavier_than_the_worker_carries(make_scene: SceneMaker) -> None:
    scene = await make_scene(stream_frame_rate=10.0)
    first, second = await scene.create_live(), await scene.create_live()
    cost = CallCost(kind_of(first.params), {1: 0.03, 2: 0.05})
    heavy = {"t_index_list": [10, 20, 30, 40]}
    scene.worker.facts = replace(scene.worker.facts, costs=(cost,))
    before = scene.service.get(first.id)
    factor = 4 / len(first.params.t_index_list)
    scene.worker.facts = replace(
        scene.worker.facts, costs=(cost, CallCost(kind_of(first.params.model_copy(update=heavy)), {1: 0.08 * factor}))
    )
    for dry_run in (True, False):
        with pytest.raises(CapacityReached, match=r"4 steps at 10 pictures .* now they ask for 50%"):
            await scene.service.update(first.id, {"params": heavy}, dry_run=dry_run)
    assert scene.service.get(first.id) == before
    assert (await scene.service.update(first.id, {"params": {"prompt": "x"}})).record.revision > before.revision
    await scene.service.delete(second.id)
    assert (await scene.service.update(first.id, {"params": heavy})).record.params.t_index_list == (10, 20, 30, 40)


def test_a_lighter_kind_is_taken_by_a_worker_that_has_too_much_to_do_and_a_larger_one_needs_memory() -> None:
    supply = Supply([CallCost(TURBO, {1: 1.0}, 100 * 2**20)], memory_used=900 * 2**20, memory_total=1000 * 2**20)
    others, light, heavy = [Demand(TURBO, 10.0)], replace(TURBO, steps=1), replace(TURBO, steps=4)
    assert why_not_change(Demand(TURBO, 10.0), Demand(light, 10.0), others, supply) == ""
    assert "worker's time" in why_not_change(Demand(TURBO, 10.0), Demand(heavy, 10.0), others, supply)
    quick = replace(supply, costs=[CallCost(TURBO, {1: 0.001}, 100 * 2**20)])
    assert why_not_change(Demand(TURBO, 10.0), Demand(heavy, 10.0), others, quick) == (
        "As stabilityai/sd-turbo, 512x512, 4 steps this stream needs 200 MiB of memory where it has 100 MiB, and "
        "900 MiB of 1000 MiB are in use."
    )
    assert why_not_change(Demand(TURBO, 10.0), Demand(heavy, 10.0), [], quick) == ""


async def test_with_nothing_promised_streams_are_taken_whatever_they_cost(make_scene: SceneMaker) -> None:
    scene = await make_scene(stream_frame_rate=0.0)
    first = await scene.create_live()
    scene.worker.facts = replace(scene.worker.facts, costs=(CallCost(kind_of(first.params), {1: 9.0}),))
    await scene.create_live()
    assert scene.service.capacity().accepting
    assert scene.service.capacity().kinds[0].room is None


def alone(*processors: str, side: int = 512) -> CallKind:
    return CallKind("", side, side, len(processors), processors)


def test_what_processors_cost_says_nothing_of_streams_without_any() -> None:
    sharpening = CallCost(alone("sharpen"), {1: 0.2})
    unchanged = Demand(alone(), 10.0)
    assert why_not(unchanged, [unchanged] * 50, Supply((sharpening,))) == ""
    assert why_not(Demand(sharpening.kind, 10.0), [unchanged, Demand(sharpening.kind, 10.0)], Supply((sharpening,)))


def test_a_processor_says_nothing_of_another_unless_networks_are_counted() -> None:
    costs = [CallCost(alone("sharpen"), {1: 0.02}), CallCost(alone("hed"), {1: 0.1, 2: 0.12})]
    assert find_cost(alone("blur"), costs) is None
    assert find_cost(alone("mediapipe_pose"), costs) is None, "it works on the host"
    large = find_cost(alone("sharpen", side=1024), costs)
    assert large is not None
    assert large.seconds == {1: pytest.approx(0.08)}
    depth = find_cost(alone("depth"), costs)
    assert depth is not None
    share = COSTS["depth"].gigaflops / COSTS["hed"].gigaflops
    assert depth.seconds == {1: pytest.approx(0.1 * share), 2: pytest.approx(0.12 * share)}


def test_streams_that_look_together_are_counted_as_they_look() -> None:
    supply = Supply([CallCost(alone("hed"), {1: 0.05, 2: 0.06})])
    assert load_of([Demand(alone("hed"), 10.0)] * 2, supply) == pytest.approx(0.6)


def test_a_kind_names_the_processors_that_do_something() -> None:
    params = make_params("passthrough", "blur", "canny")
    assert kind_of(params).processors == ("blur", "canny")
    assert kind_of(params).described == f"blur, canny, {params.width}x{params.height}"
    assert kind_of(make_params("passthrough")) == kind_of(make_params())
