"""Chains of image processors: what is passed over, what is held, what is remembered, and what moves."""

from typing import Any

import pytest
import torch

from sdstream.model_errors import ModelUnavailable
from sdstream.params import IMAGE_PROCESSORS
from sdstream.worker.annotators.motion import FlowFinder, draw_flow, searched_size, warp
from sdstream.worker.annotators.people import HEIGHT, WIDEST
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.outcomes import LoadGivenUp
from sdstream.worker.processors import LEARNED, PROCESSORS, ProcessorChain, Wanted
from tests.worker.annotators import TINY_LOADERS, tiny_shelf

CPU = torch.device("cpu")


def wanted(name: str, channels: int = 3, /, **params: Any) -> Wanted:
    return Wanted(name, IMAGE_PROCESSORS[name].defaults | params, channels)


def chain(*links: Wanted, shelf: AnnotatorShelf | None = None, before: ProcessorChain | None = None) -> ProcessorChain:
    made = ProcessorChain(links, tiny_shelf() if shelf is None else shelf, before)
    made.wait()
    return made


def _missing(find: Any, dtype: torch.dtype) -> Any:
    raise ModelUnavailable("no such file")


def scene(seed: int = 0, side: int = 96) -> torch.Tensor:
    """float32 [1, 3, side, side] with detail at several scales, so that motion can be seen."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, side, side)
    for cells in (4, 9, 20):
        patch = torch.rand(1, 3, cells, cells, generator=generator)
        image += torch.nn.functional.interpolate(patch, (side, side), mode="bicubic", align_corners=False)
    return (image / 3).clamp(0, 1)


def test_every_processor_of_the_wire_is_one_without_weights_or_learned() -> None:
    assert set(IMAGE_PROCESSORS) == set(PROCESSORS) | set(LEARNED)
    assert not set(PROCESSORS) & set(LEARNED)
    needing = {kind.name for kind in IMAGE_PROCESSORS.values() if kind.needs_model}
    assert needing == set(LEARNED) - {"temporal_net_tensorrt"}, "that one needs a library alone"


@pytest.mark.parametrize("name", sorted(LEARNED))
def test_learned_processors_give_pictures_in_range_and_the_same_each_time(name: str) -> None:
    if name == "temporal_net_tensorrt":
        pytest.importorskip("cv2", reason="OpenCV is not installed")
    image = scene()
    before = image.clone()
    factor = 2 if name == "realesrgan_trt" else 1
    one, other = chain(wanted(name)), chain(wanted(name))
    result = one.run(image)
    assert one.faults == ()
    assert result.shape == (1, 3, 96 * factor, 96 * factor)
    assert result.dtype == torch.float32
    assert bool(result.isfinite().all())
    assert torch.equal(image, before)
    assert torch.equal(result, other.run(image))
    if name != "realesrgan_trt":  # whose range is kept where all chains end
        assert 0 <= float(result.min()) <= float(result.max()) <= 1


@pytest.mark.parametrize("size", [(1, 1), (7, 15), (512, 1), (1, 512)])
@pytest.mark.parametrize("name", sorted(LEARNED))
def test_learned_processors_work_at_every_size_that_the_wire_allows(name: str, size: tuple[int, int]) -> None:
    if name == "temporal_net_tensorrt":
        pytest.importorskip("cv2", reason="OpenCV is not installed")
    factor = 2 if name == "realesrgan_trt" else 1
    made = chain(wanted(name, image_width=size[0], image_height=size[1]))
    for number in range(2):
        result = made.run(scene(number), scene(number))
        assert result.shape == (1, 3, 96 * factor, 96 * factor)
        assert bool(result.isfinite().all())


def test_a_picture_that_is_all_width_is_looked_at_no_wider_than_people_are_found() -> None:
    seen: list[tuple[int, ...]] = []
    network = TINY_LOADERS["openpose"](lambda source: None, torch.float32)
    network.get_submodule("body").register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[2:])))
    shelf = AnnotatorShelf(CPU, loaders={"openpose": lambda find, dtype: network})
    chain(wanted("openpose", image_width=512, image_height=1), shelf=shelf).run(scene())
    assert seen == [(HEIGHT, WIDEST)]


@pytest.mark.parametrize(
    ("size", "searched"),
    [
        ((1024, 384), (1024, 384)),
        ((384, 1024), (384, 1024)),
        ((16, 16), (16, 16)),
        ((3, 5), (16, 16)),
        ((256, 24), (256, 64)),
        ((1024, 16), (1024, 256)),
        ((4096, 1), (4096, 1024)),
    ],
)
def test_flow_is_looked_for_where_a_patch_is_left_of_the_halved_picture(
    size: tuple[int, int], searched: tuple[int, int]
) -> None:
    assert searched_size(*size) == searched


def test_flow_of_pictures_that_are_stretched_for_it_is_in_their_own_pixels() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    wide = scene(side=512)
    after, before = wide[:, :, 100:140, 6:506], wide[:, :, 100:140, :500]  # too low for its width
    flow = FlowFinder().find(after, before)
    assert flow.shape == (1, 2, 40, 500)
    assert float(flow[:, 0, 10:30, 50:450].median()) == pytest.approx(6.0, abs=1.0)
    assert float(flow[:, 1, 10:30, 50:450].median()) == pytest.approx(0.0, abs=0.5)


@pytest.mark.parametrize("styles", [{"coarse": False}, {"coarse": True}, {"anime_style": True}])
def test_each_style_of_lineart_has_its_network(styles: dict[str, bool]) -> None:
    asked: list[str] = []

    class Shelf(AnnotatorShelf):
        def request(self, name: str, *, engines: bool = False) -> Any:
            asked.append(name)
            return super().request(name)

    chain(wanted("lineart", **styles), shelf=Shelf(CPU, loaders=TINY_LOADERS)).run(scene(side=64))
    assert asked == [
        "lineart_anime" if "anime_style" in styles else "lineart_coarse" if styles["coarse"] else "lineart"
    ]


def test_a_processor_without_its_weights_is_passed_over_and_named() -> None:
    made = chain(wanted("hed"), wanted("blur"), shelf=AnnotatorShelf(CPU, find=lambda source: None))
    image = scene()
    assert torch.equal(made.run(image), chain(wanted("blur")).run(image))
    assert [type(fault) for fault in made.faults] == [ModelUnavailable]
    assert "hed needs ControlNetHED.pth" in made.faults[0].message
    assert not made.works(0)
    assert made.works(1)


def test_the_states_say_who_works_who_is_left_out_and_who_holds_its_map() -> None:
    shelf = AnnotatorShelf(CPU, loaders={"depth": TINY_LOADERS["depth"], "hed": _missing})
    made = chain(wanted("hed"), wanted("depth", interval=3), wanted("blur"), shelf=shelf)
    assert [state.seen for state in made.states] == [False, False, False]
    made.run(scene())
    hed, depth, blur = made.states
    assert (hed.name, hed.phase, hed.seen) == ("hed", "left_out", False)
    assert "no such file" in hed.problem
    assert (depth.name, depth.phase, depth.interval, depth.seen) == ("depth", "working", 3, True)
    assert (blur.phase, blur.interval, blur.seen, blur.problem) == ("working", 1, True, "")


def test_a_network_on_its_way_is_not_waited_for() -> None:
    from threading import Event

    gate = Event()

    def load(find: Any, dtype: torch.dtype) -> Any:
        assert gate.wait(30)
        return TINY_LOADERS["hed"](find, dtype)

    shelf = AnnotatorShelf(CPU, loaders={"hed": load})
    made = ProcessorChain([wanted("hed")], shelf)
    image = scene()
    assert made.run(image) is image
    assert made.loading == ("hed",)
    assert made.states[0].phase == "loading"
    assert not made.works(0)
    gate.set()
    made.wait()
    assert made.loading == ()
    assert not torch.equal(made.run(image), image)


def test_who_waits_for_a_network_that_hangs_is_told_and_can_give_up() -> None:
    from threading import Event

    gate, told = Event(), list[str]()

    def load(find: Any, dtype: torch.dtype) -> Any:
        assert gate.wait(30)
        return TINY_LOADERS["hed"](find, dtype)

    def progress(detail: str, percent: float | None) -> None:
        told.append(detail)
        raise LoadGivenUp

    made = ProcessorChain([wanted("hed")], AnnotatorShelf(CPU, loaders={"hed": load}))
    with pytest.raises(LoadGivenUp):
        made.wait(progress)
    assert told == ["loading the network of hed"]
    gate.set()
    made.wait()
    made.wait(progress)  # it is there: nobody is told


def test_a_slow_processor_looks_at_every_so_many_pictures_and_holds_its_map() -> None:
    made = chain(wanted("hed", safe=False, interval=3))
    results = [made.run(scene(seed)) for seed in range(5)]
    assert results[0] is results[1]
    assert results[1] is results[2]
    assert not torch.equal(results[2], results[3])
    assert results[3] is results[4]


def test_a_processor_that_stays_in_place_keeps_its_memory_and_another_does_not() -> None:
    shelf = tiny_shelf()
    first = chain(wanted("hed", safe=False, interval=9), wanted("blur"), shelf=shelf)
    held = first.run(scene(0))
    after = chain(wanted("hed", safe=False, interval=9), shelf=shelf, before=first)
    assert torch.equal(chain(wanted("blur")).run(after.run(scene(1))), held)
    moved = chain(wanted("blur"), wanted("hed", safe=False, interval=9), shelf=shelf, before=first)
    assert not torch.equal(moved.run(scene(1)), held)


def test_pictures_larger_than_a_network_looks_at_come_back_at_their_size() -> None:
    result = chain(wanted("hed")).run(torch.rand(1, 3, 64, 1200))
    assert result.shape == (1, 3, 64, 1200)


def shift(image: torch.Tensor, right: int, down: int) -> torch.Tensor:
    return torch.roll(image, (down, right), (2, 3))


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -4), (5, 2)])
def test_a_moved_picture_is_warped_back_within_a_pixel(right: int, down: int) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    made = chain(wanted("temporal_net_tensorrt", 6))
    first = scene(side=160)
    rest = made.run(first)
    assert torch.equal(rest[:, :3], first)
    assert torch.equal(rest[:, 3:], torch.ones_like(first))
    second = shift(first, right, down)
    result = made.run(second, previous_output=first)[:, :3]
    inner = slice(24, -24)

    def error(x: int, y: int) -> float:
        return float((shift(first, x, y) - result)[..., inner, inner].abs().mean())

    best = min(((x, y) for x in range(-7, 8) for y in range(-7, 8)), key=lambda place: error(*place))
    assert abs(best[0] - right) <= 1
    assert abs(best[1] - down) <= 1
    assert error(right, down) < 0.02


def test_the_flow_goes_back_to_the_picture_that_the_output_was_made_of() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    made = chain(wanted("temporal_net_tensorrt"))
    first = scene(side=160)
    for step in range(3):
        made.run(shift(first, 2 * step, 0))
    result = made.run(shift(first, 6, 0), previous_output=first, delay=2)
    # of the pictures 0, 2, 4 pixels to the right the first belongs to the output, so it moves by 6
    inner = slice(24, -24)
    assert float((result - shift(first, 6, 0))[..., inner, inner].abs().mean()) < 0.02


def test_a_strength_of_zero_moves_nothing() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    made = chain(wanted("temporal_net_tensorrt", flow_strength=0.0))
    first = scene()
    made.run(first)
    assert torch.allclose(made.run(shift(first, 5, 0), previous_output=first), first, atol=1e-5)


def test_without_opencv_the_fault_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdstream.worker.annotators import motion

    def absent() -> Any:
        raise ModelUnavailable("OpenCV is not installed", hint="pip install sdstream[flow]")

    monkeypatch.setattr(motion, "_opencv", absent)
    made = chain(wanted("temporal_net_tensorrt"))
    image = scene()
    made.run(image)
    assert made.run(scene(1), previous_output=image).shape == image.shape
    assert "OpenCV" in made.faults[0].message


def test_flow_is_drawn_in_the_colours_of_its_direction() -> None:
    flow = torch.zeros(1, 2, 4, 4)
    flow[0, 0, :, 0], flow[0, 0, :, 1] = 4.0, -4.0
    picture = draw_flow(flow)
    assert picture.shape == (1, 3, 4, 4)
    assert torch.equal(picture[..., 2:], torch.ones(1, 3, 4, 2))
    assert not torch.allclose(picture[..., 0], picture[..., 1])
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1


def test_warping_by_whole_pixels_is_exact() -> None:
    image = scene()
    flow = torch.zeros(1, 2, 96, 96)
    flow[:, 0] = -3.0
    assert torch.allclose(warp(image, flow)[..., 3:], shift(image, 3, 0)[..., 3:], atol=1e-4)
