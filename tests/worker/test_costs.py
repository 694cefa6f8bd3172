"""What image processors are declared to cost, at which size and how often they look."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdstream.diffusion.libraries import transformers
from sdstream.params import IMAGE_PROCESSORS
from sdstream.params.catalogue import processor_catalogue
from sdstream.params.costs import COSTS, describe_cost, interval_of
from sdstream.params.document import render_parameters_page
from sdstream.worker.annotators import depth, people
from sdstream.worker.annotators.depth import DepthNetwork
from sdstream.worker.annotators.drawing import AnimeNetwork
from sdstream.worker.annotators.parts import FACE_POINTS, HAND_POINTS, PartNetwork
from sdstream.worker.processors import LEARNED, PROCESSORS, ProcessorContext, changes_nothing, run_processor
from tests.worker.operations import count_operations
from tests.worker.test_chain import scene


def test_every_processor_declares_its_cost_its_largest_picture_and_its_rate() -> None:
    assert len(IMAGE_PROCESSORS) == 19
    assert set(COSTS) == set(IMAGE_PROCESSORS)
    for name, cost in COSTS.items():
        assert bool(cost.gigaflops or cost.milliseconds) != changes_nothing(name), name
        assert not (cost.gigaflops and cost.milliseconds), "either the device works or the host does"
        assert cost.largest in (1024, 4096), name
        assert interval_of(IMAGE_PROCESSORS[name].defaults) >= 1, name
        steady = name in LEARNED and LEARNED[name].steady
        assert ("interval" in IMAGE_PROCESSORS[name].defaults) == steady, "who holds its map can be told how long"


def test_the_page_of_parameters_and_the_catalogue_say_so() -> None:
    page = render_parameters_page()
    for entry in processor_catalogue():
        if entry["kind"] == "image":
            section = page.partition(f"### `{entry['name']}` (image)")[2].partition("###")[0]
            assert describe_cost(entry["name"]) in section
            assert entry["cost"]["largest"] == COSTS[entry["name"]].largest
            assert entry["cost"]["interval"] >= 1


@pytest.mark.parametrize("name", sorted(PROCESSORS))
def test_processors_without_weights_cost_what_is_declared(name: str) -> None:
    image = scene(0, 512)
    context, params = ProcessorContext(image.flip(3)), IMAGE_PROCESSORS[name].defaults
    counted = count_operations(lambda: run_processor(name, image, params, context))
    # How far edges are followed depends on the picture.
    assert counted == pytest.approx(COSTS[name].gigaflops, rel=0.1 if name == "canny" else 0.03, abs=3e-5)


@pytest.mark.parametrize(
    ("points", "switch", "parts"), [(HAND_POINTS, "include_hands", 2), (FACE_POINTS, "include_face", 1)]
)
def test_hands_and_faces_cost_what_is_declared(points: int, switch: str, parts: int) -> None:
    with torch.device("meta"):
        network, image = PartNetwork(points).eval(), torch.empty(parts, 3, 368, 368)
        counted = count_operations(lambda: network(image))
    assert counted == pytest.approx(COSTS["openpose"].extra[switch], rel=0.01)


def test_depth_costs_what_is_declared() -> None:
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        network = DepthNetwork(transformers.DepthAnythingForDepthEstimation(transformers.DepthAnythingConfig()).eval())
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 512, 512))
    assert counter.get_total_flops() / 1e9 == pytest.approx(COSTS["depth"].gigaflops, rel=0.01)
    assert COSTS["depth_tensorrt"] == COSTS["depth"]


def test_what_is_held_costs_less_and_what_is_switched_on_more() -> None:
    cost = COSTS["openpose"]
    told: dict[str, Any] = {"interval": 1}
    assert cost.at(told) == pytest.approx(271.9)
    assert cost.at(told | {"interval": 4}) == pytest.approx(271.9 / 4)
    assert cost.at(told | {"include_face": True}) == pytest.approx(271.9 + 213.1)


def test_no_style_of_lineart_costs_more_than_is_declared() -> None:
    with torch.device("meta"):
        network, image = AnimeNetwork().eval(), torch.empty(1, 3, 512, 512)
        assert count_operations(lambda: network(image)) < COSTS["lineart"].gigaflops


def test_the_sizes_that_networks_are_given_are_those_that_are_told() -> None:
    assert f"at most {depth.SIDE} on the shorter side" in describe_cost("depth")
    assert f"{people.HEIGHT} pixels high" in describe_cost("openpose")
