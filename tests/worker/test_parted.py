"""Networks in parts: the same as whole, for any number of pictures, and whoever answers for a part."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sdstream.worker.annotators.answers import MOST_SEATS, EngineAnswers, PartRequest
from sdstream.worker.annotators.depth import DepthNetwork
from sdstream.worker.annotators.detection import Detector
from sdstream.worker.annotators.enlarging import EnlargingNetwork
from sdstream.worker.annotators.parted import PartedNetwork, run_module
from sdstream.worker.annotators.poses import PoseNetwork
from sdstream.worker.annotators.tiny import TINY_NETWORKS, make_depth_model, make_pose_models, make_tiny_network


@pytest.fixture(autouse=True)
def _no_gradients() -> None:
    torch.set_grad_enabled(False)


def pictures(count: int, width: int = 64, height: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def look(network: PartedNetwork, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """All that a network's parts are asked for some pictures."""
    if isinstance(network, PoseNetwork):
        square = torch.nn.functional.interpolate(images, (network.side, network.side))
        return (*network._detect(square), network._mark(images[:, :, : network.height, : network.width]))
    made: Any = network(images)
    return (made,)


def test_the_two_halves_of_the_detector_are_the_whole_one() -> None:
    model, _ = make_pose_models()
    side = 96
    detector = Detector(model, side).eval()
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    whole = model(pixels)
    seen, candidates, scores = detector.looking(pixels)
    classes, boxes = detector.decoding(seen, *detector.choose(candidates, scores))
    assert torch.allclose(classes, whole.logits, atol=1e-6)
    assert torch.allclose(boxes, whole.pred_boxes, atol=1e-6)


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_pictures_of_a_batch_are_answered_as_each_is_alone(name: str) -> None:
    network, images = make_tiny_network(name), pictures(3)
    together = look(network, images)
    for index in range(3):
        for answer, alone in zip(together, look(network, images[index : index + 1]), strict=True):
            assert torch.allclose(answer[index : index + 1], alone, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: DepthNetwork(make_depth_model()), lambda: EnlargingNetwork(8, 1, 4)])
@pytest.mark.parametrize("size", [(512, 512), (1024, 576), (401, 977), (80, 64)])
def test_a_picture_of_the_size_that_a_part_is_asked_for_is_looked_at_as_it_is(
    make: Callable[[], PartedNetwork], size: tuple[int, int]
) -> None:
    """What a build behind a stream counts on: it knows the part's size and not the picture's."""
    network = make()
    shapes = network.shapes(*size)
    ((shape,),) = shapes.values()
    assert network.shapes(shape[2], shape[1]) == shapes


class Engine:
    """An engine that is the module itself, for so many rows, and answers in one memory; it may be told to fail."""

    def __init__(self, request: PartRequest) -> None:
        self.part = request.part
        self.rows: list[int] = []
        self.fails = False
        self._memory: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.fails:
            raise RuntimeError("the card fell off the bus")
        self.rows.append(len(given[0]))
        answers = run_module(self.part, given)
        return tuple(
            self._memory.setdefault((place, *answer.shape), torch.empty_like(answer)).copy_(answer)
            for place, answer in enumerate(answers)
        )


class Desk:
    """Whom a network asks for engines."""

    def __init__(self) -> None:
        self.requests: list[PartRequest] = []

    def put(self, most: int = 1) -> dict[str, Engine]:
        engines: dict[str, Engine] = {}
        for request in self.requests:
            seat = request.seat()
            assert seat is not None
            engines[request.part.name] = engine = Engine(request)
            seat.put(engine, most, "tensorrt-rtx")
        return engines


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_a_network_begins_in_torch_and_goes_over_to_engines_between_two_pictures(name: str) -> None:
    desk, plain, images = Desk(), make_tiny_network(name), pictures(3)
    network = plain.answered_by(EngineAnswers(name, desk.requests.append))
    wanted = look(plain, images)
    before = look(network, images)
    assert network.in_force(64, 64).name == "torch"
    assert {request.part.name for request in desk.requests} == set(network.parts)
    engines = desk.put(most=2)
    after = look(network, images)
    assert network.in_force(64, 64).name == "tensorrt-rtx"
    for answers in (before, after):
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(answers, wanted, strict=True))
    assert all(engine.rows == [2, 1] for engine in engines.values()), "more rows than it takes, in portions"
    assert plain.in_force(64, 64).name == "torch"
    assert len(desk.requests) == len(network.parts), "an engine is looked for once"


def test_an_engine_that_fails_is_not_called_again_and_no_picture_is_lost() -> None:
    desk, plain, images = Desk(), make_tiny_network("realesrgan"), pictures(1)
    network: Any = plain.answered_by(EngineAnswers("realesrgan", desk.requests.append))
    network(images)
    engine = desk.put()["enlarger"]
    network(images)
    engine.fails = True
    made = network(images)
    engine.fails = False
    assert torch.equal(made, network(images))
    assert engine.rows == [1]
    force = network.in_force(64, 64)
    assert force.name == "torch"
    assert "the engine of enlarger failed, so torch runs it: RuntimeError: the card fell off the bus" in force.note


def test_a_part_that_has_no_engine_beside_others_is_named() -> None:
    desk = Desk()
    network = make_tiny_network("pose").answered_by(EngineAnswers("pose", desk.requests.append))
    look(network, pictures(1))
    desk.requests = [request for request in desk.requests if request.part.name != "pose-joints"]
    desk.put()
    force = network.in_force(512, 512)
    assert force.name == "tensorrt-rtx"
    assert force.note == "no engine of pose-joints is in force, so torch runs it"


def test_each_size_has_engines_of_its_own_and_what_is_remembered_is_bounded() -> None:
    desk = Desk()
    network: Any = make_tiny_network("realesrgan").answered_by(EngineAnswers("realesrgan", desk.requests.append))
    network(pictures(1))
    desk.put()
    network(pictures(1, 32, 32))
    assert (network.in_force(64, 64).name, network.in_force(32, 32).name) == ("tensorrt-rtx", "torch")
    for side in range(2, 2 * MOST_SEATS + 2, 2):
        network(pictures(1, side, 16))
    assert desk.requests[0].seat() is None, "an engine of the size asked longest ago is let go"
