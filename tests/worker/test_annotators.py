"""The networks behind image processors: tiny ones with random weights run, full ones are counted on no device."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdstream.model_errors import ModelUnavailable
from sdstream.params.costs import COSTS
from sdstream.worker.annotators.depth import load_depth
from sdstream.worker.annotators.drawing import AnimeNetwork, LineNetwork
from sdstream.worker.annotators.edges import EdgeNetwork, in_steps
from sdstream.worker.annotators.enlarging import EnlargingNetwork
from sdstream.worker.annotators.parts import HAND_POINTS, PartNetwork
from sdstream.worker.annotators.people import PAIRS, PeopleNetwork, group
from sdstream.worker.annotators.poses import load_poses
from sdstream.worker.annotators.shelf import FETCHES, LOADERS, AnnotatorShelf
from sdstream.worker.annotators.skeletons import LIMBS, Skeleton, draw_skeletons
from sdstream.worker.annotators.weights import check, fill, locate
from sdstream.worker.files.published import NETWORKS, PROCESSORS, WeightSource, needed_for
from sdstream.worker.looks import alone
from sdstream.worker.processors import LEARNED
from tests.support.waiting import eventually_sync
from tests.worker.annotators import TINY_LOADERS, make_depth_model, make_pose_models

CPU = torch.device("cpu")
SOURCE = WeightSource("somebody/something", ("weights.pth",), "none")


@pytest.mark.parametrize(
    ("processor", "make", "sides"),
    [
        ("hed", EdgeNetwork, (512, 512)),
        ("lineart", LineNetwork, (512, 512)),
        ("openpose", PeopleNetwork, (368, 368)),
        ("realesrgan_trt", EnlargingNetwork, (512, 512)),
    ],
)
def test_full_networks_cost_what_is_declared(
    processor: str, make: Callable[[], nn.Module], sides: tuple[int, int]
) -> None:
    with torch.device("meta"):
        network = make().eval()
        image = torch.empty(1, 3, *sides)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    assert counter.get_total_flops() / 1e9 == pytest.approx(COSTS[processor].gigaflops, rel=0.01)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (EdgeNetwork, {"norm", "block1.convs.0.weight", "block5.convs.2.bias", "block3.projection.weight"}),
        (LineNetwork, {"model0.1.weight", "model1.3.bias", "model2.2.conv_block.5.weight", "model4.1.weight"}),
        (AnimeNetwork, {"model.model.0.weight", "model.model.1.model.1.weight", "model.model.3.bias"}),
        (PeopleNetwork, {"conv1_1.weight", "conv4_4_CPM.bias", "conv5_5_CPM_L2.weight", "Mconv7_stage6_L1.bias"}),
        (
            lambda: PartNetwork(HAND_POINTS),
            {"conv3_4.weight", "conv5_3_CPM.bias", "conv6_2_CPM.weight", "Mconv7_stage6.bias"},
        ),
        (
            lambda: EnlargingNetwork().enlarge,
            {"conv_first.weight", "body.22.rdb3.conv5.bias", "conv_up2.weight", "conv_last.bias"},
        ),
    ],
)
def test_layers_are_named_as_published_weights_name_them(make: Callable[[], nn.Module], names: set[str]) -> None:
    with torch.device("meta"):
        assert names <= set(make().state_dict())


def test_every_network_says_where_its_weights_are() -> None:
    assert set(NETWORKS) == set(LOADERS) == set(TINY_LOADERS)


def test_safe_edges_have_few_strengths() -> None:
    edges = in_steps(torch.linspace(0, 1, 101).view(1, 1, 1, -1))
    assert edges.unique().tolist() == [0.0, 0.5, 1.0]
    assert bool((edges.diff() >= 0).all())


def person(left: float, top: float, size: float) -> Skeleton:
    """A standing figure of 18 joints in a box, as shares of the picture."""
    places = [
        (0.5, 0.08), (0.5, 0.2), (0.3, 0.2), (0.2, 0.38), (0.15, 0.52), (0.7, 0.2), (0.8, 0.38), (0.85, 0.52),
        (0.38, 0.55), (0.36, 0.75), (0.35, 0.95), (0.62, 0.55), (0.64, 0.75), (0.65, 0.95),
        (0.46, 0.05), (0.54, 0.05), (0.4, 0.07), (0.6, 0.07),
    ]  # fmt: skip
    return Skeleton(tuple((left + x * size, top + y * size) for x, y in places))


def maps_of(people: list[Skeleton], width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a perfect network would say of `people`: a hill at each joint, a field along each limb."""
    joints, fields = torch.zeros(1, 19, height, width), torch.zeros(1, 38, height, width)
    rows, columns = torch.arange(height).view(-1, 1) + 0.5, torch.arange(width).view(1, -1) + 0.5
    for one in people:
        places = [(x * width, y * height) for x, y in (place for place in one.joints if place is not None)]
        for joint, (x, y) in enumerate(places):
            hill = torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2)
            joints[0, joint] = torch.maximum(joints[0, joint], hill)
        for (start, end), channel in PAIRS:
            (x, y), (to_x, to_y) = places[start], places[end]
            length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
            across, down = (to_x - x) / length, (to_y - y) / length
            along = (columns - x) * across + (rows - y) * down
            beside = (columns - x) * down - (rows - y) * across
            on = (along > -1) & (along < length + 1) & (beside.abs() < 1.2)
            fields[0, channel][on], fields[0, channel + 1][on] = across, down
    return fields, joints


def test_people_are_read_from_the_maps_of_joints_and_limbs() -> None:
    people = [person(0.02, 0.05, 0.4), person(0.55, 0.3, 0.42)]
    found = group(*maps_of(people, 64, 64), width=512, height=512)
    assert len(found) == 2
    for expected in people:
        nearest = min(found, key=lambda one: abs((one.joints[1] or (9, 9))[0] - (expected.joints[1] or (0, 0))[0]))
        for place, other in zip(expected.joints, nearest.joints, strict=True):
            assert place is not None
            assert other is not None
            assert other == pytest.approx(place, abs=0.015)


def test_nobody_is_read_from_noise_and_from_nothing() -> None:
    assert group(torch.zeros(1, 38, 16, 16), torch.zeros(1, 19, 16, 16), 128, 128) == []
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(1, 38, 16, 16, generator=generator) - 0.5, torch.rand(1, 19, 16, 16, generator=generator)
    assert len(group(*noise, 128, 128)) <= 32


def test_stick_figures_are_drawn_where_the_joints_are() -> None:
    one = person(0.1, 0.1, 0.8)
    picture = draw_skeletons([one], 256, 192, CPU)
    assert picture.shape == (1, 3, 192, 256)
    for index, place in enumerate(one.joints):
        assert place is not None
        assert float(picture[0, :, int(place[1] * 192), int(place[0] * 256)].max()) > 0.5, f"joint {index}"
    for start, end in LIMBS:
        (x, y), (to_x, to_y) = one.joints[start] or (0, 0), one.joints[end] or (0, 0)
        assert float(picture[0, :, int((y + to_y) * 96), int((x + to_x) * 128)].max()) > 0.4
    assert float(picture[:, :, :, :16].max()) == 0.0
    assert draw_skeletons([], 64, 64, CPU).max() == 0


def test_poses_are_found_in_boxes_and_written_as_shares_of_the_picture() -> None:
    detector, joints = make_pose_models()
    network: Any = TINY_LOADERS["pose"](lambda source: None, torch.float32)
    people = alone(network.find(torch.rand(1, 3, 80, 96), 0.0))
    assert len(people) == detector.config.num_queries
    assert all(len(one.joints) == 18 for one in people)
    assert alone(network.find(torch.rand(1, 3, 80, 96), 1.0)) == []
    assert (network.height, network.width) == tuple(joints.config.backbone_config.image_size)


def test_transformers_folders_are_loaded(tmp_path: Path) -> None:
    detector, joints = make_pose_models()
    depth = make_depth_model()
    for name, model in (("detector", detector), ("joints", joints), ("depth", depth)):
        model.save_pretrained(tmp_path / name)
    image = torch.rand(1, 3, 60, 84)
    near = load_depth(tmp_path / "depth", torch.float32).eval()(image)
    assert near.shape == (1, 1, 60, 84)
    assert load_poses(tmp_path / "detector", tmp_path / "joints", torch.float32).person == 0


def test_weights_are_filled_in_from_pickles_of_tensors_and_wrapped_ones(tmp_path: Path) -> None:
    source, target = LineNetwork(4, 1), LineNetwork(4, 1)
    torch.save(
        {"params_ema": {f"module.{name}": value for name, value in source.state_dict().items()}}, tmp_path / "a.pth"
    )
    fill(target, tmp_path / "a.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    with pytest.raises(ModelUnavailable, match=r"a\.pth is of another network"):
        fill(LineNetwork(8, 1), tmp_path / "a.pth")


class Evil:
    def __reduce__(self) -> Any:
        return print, ("ran",)


def test_a_pickle_of_anything_else_is_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": Evil()}, tmp_path / "weights.pth")
    with pytest.raises(ModelUnavailable, match=r"weights\.pth cannot be read as weights alone"):
        fill(LineNetwork(4, 1), tmp_path / "weights.pth")
    (tmp_path / "weights.pth").write_bytes(b"cut")
    with pytest.raises(ModelUnavailable, match=r"weights\.pth"):
        fill(LineNetwork(4, 1), tmp_path / "weights.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("large", [True, False])
def test_a_file_is_checked_against_the_name_that_the_hub_gave_it(tmp_path: Path, large: bool) -> None:
    content = b"weights"
    digest = hashlib.sha256(content) if large else hashlib.sha1(b"blob 7\0" + content)
    blob = tmp_path / digest.hexdigest()
    blob.write_bytes(content)
    file = tmp_path / "snapshots" / "weights.pth"
    file.parent.mkdir()
    file.symlink_to(blob)
    assert check(file)
    blob.write_bytes(b"another")
    with pytest.raises(ModelUnavailable, match="is not what was published"):
        check(file)


def test_a_pinned_hash_counts_more_and_a_plain_file_without_one_is_unchecked(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"weights")
    assert not check(tmp_path / "weights.pth")
    assert check(tmp_path / "weights.pth", hashlib.sha256(b"weights").hexdigest())
    with pytest.raises(ModelUnavailable, match="is not what was published"):
        check(tmp_path / "weights.pth", "0" * 64)


def test_missing_weights_are_named_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"hed needs weights\.pth of somebody/something") as caught:
        locate(SOURCE, lambda source: None, "hed")
    assert "models pull --for hed" in caught.value.hint
    with pytest.raises(ModelUnavailable, match=r"weights\.pth, which is missing"):
        locate(SOURCE, lambda source: tmp_path, "hed")


def test_a_failed_load_is_tried_again_and_a_good_one_is_shared(tmp_path: Path) -> None:
    answers: list[Path | None] = [None]
    network = LineNetwork(4, 1)

    def load(find: Any, dtype: torch.dtype) -> nn.Module:
        locate(SOURCE, find, "lineart")
        return network

    shelf = AnnotatorShelf(CPU, find=lambda source: answers[-1], loaders={"lineart": load})
    assert isinstance(shelf.request("lineart").exception(), ModelUnavailable)
    (tmp_path / "weights.pth").write_bytes(b"")
    answers.append(tmp_path)
    first = shelf.request("lineart")
    assert first.result() is network
    assert shelf.request("lineart") is first


class Fetches:
    """A finder that hangs until it is let go, loaders that use it, and how many of either are at work."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.begun: list[str] = []
        self.makes = self.most_makes = 0

    def find(self, source: WeightSource) -> Path | None:
        self.begun.append(source.repository)
        assert source.repository == "at hand" or self.let_go.wait(60)
        return None

    def loader(self, repository: str) -> Callable[[Any, torch.dtype], nn.Module]:
        def load(find: Any, dtype: torch.dtype) -> nn.Module:
            find(WeightSource(repository, (), "none"))
            self.makes += 1
            self.most_makes = max(self.makes, self.most_makes)
            network = LineNetwork(4, 1)
            self.makes -= 1
            return network

        return load


def test_a_fetch_that_hangs_holds_up_no_other_network_and_networks_are_made_in_turn() -> None:
    fetches = Fetches()
    names = [f"hangs {number}" for number in range(FETCHES - 1)]
    loaders = {name: fetches.loader(name) for name in (*names, "at hand")}
    shelf = AnnotatorShelf(CPU, find=fetches.find, loaders=loaders)
    hanging = [shelf.request(name) for name in names]
    try:
        assert isinstance(shelf.request("at hand").result(30), LineNetwork)
        assert not any(each.done() for each in hanging)
    finally:
        fetches.let_go.set()
    assert all(isinstance(each.result(30), LineNetwork) for each in hanging)
    assert fetches.most_makes == 1


def test_no_more_networks_are_fetched_side_by_side_than_may_be() -> None:
    fetches = Fetches()
    names = [f"hangs {number}" for number in range(FETCHES + 1)]
    shelf = AnnotatorShelf(CPU, find=fetches.find, loaders={name: fetches.loader(name) for name in names})
    loads = [shelf.request(name) for name in names]
    try:
        eventually_sync(lambda: len(fetches.begun) == FETCHES, what="the fetches")
        assert not loads[-1].running()
    finally:
        fetches.let_go.set()
    assert all(each.result(30) for each in loads)


def test_weights_that_are_not_finite_are_refused() -> None:
    network = LineNetwork(4, 1)
    first: Any = network.model0[1]
    first.bias.data[0] = float("nan")
    shelf = AnnotatorShelf(CPU, loaders={"lineart": lambda find, dtype: network})
    with pytest.raises(ModelUnavailable, match=r"not finite numbers, such as model0\.1\.bias"):
        shelf.request("lineart").result()


def test_what_is_needed_is_told_by_name_and_every_learned_processor_is_known() -> None:
    assert set(PROCESSORS) == {name for name, kind in LEARNED.items() if name != "temporal_net_tensorrt"}
    assert needed_for("hed") == (("lllyasviel/Annotators", ("ControlNetHED.pth",)),)
    depth = dict(needed_for("controlnet:depth"))
    assert {"xinsir/controlnet-depth-sdxl-1.0", "lllyasviel/control_v11f1p_sd15_depth"} < set(depth)
    assert "depth-anything/Depth-Anything-V2-Small-hf" in depth
    one = dict(needed_for("xinsir/controlnet-canny-sdxl-1.0"))
    assert one == {"xinsir/controlnet-canny-sdxl-1.0": ("config.json", "diffusion_pytorch_model.safetensors")}
    (adapter,) = needed_for("ip_adapter:sd15")
    assert adapter[0] == "h94/IP-Adapter"
    assert len(adapter[1]) == 3
    with pytest.raises(ValueError, match="did you mean 'controlnet:depth'"):
        needed_for("controlnet:dept")
