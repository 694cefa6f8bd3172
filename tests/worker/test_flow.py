"""RAFT in the place of OpenCV's flow: where it can be used, and what happens where it cannot."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdstream.model_errors import ModelUnavailable
from sdstream.params.costs import COSTS
from sdstream.worker import sharing
from sdstream.worker.annotators import motion
from sdstream.worker.annotators.flow import FlowNetwork, make_flow
from sdstream.worker.annotators.motion import warp
from sdstream.worker.annotators.shelf import LOADERS, AnnotatorShelf
from sdstream.worker.annotators.weights import check
from sdstream.worker.asked import is_quick
from sdstream.worker.files.presence import processors_of
from sdstream.worker.files.published import ADDRESSES, FLOWS, WeightSource, needed_for
from sdstream.worker.processors import ProcessorChain
from sdstream.worker.sharing import together
from tests.worker.annotators import tiny_flow
from tests.worker.pictures import make_params
from tests.worker.test_chain import scene, shift, wanted

CPU = torch.device("cpu")
NAME = "temporal_net_tensorrt"


class Shifted(nn.Module):
    """Says that everything has moved by the same pixels; `calls` are the pairs of pictures of each call."""

    def __init__(self, right: float, down: float) -> None:
        super().__init__()
        self.back = (-right, -down)
        self.calls: list[int] = []

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(pairs))
        assert pairs.shape[1] == 6
        return torch.tensor(self.back).view(1, 2, 1, 1).expand(len(pairs), 2, *pairs.shape[2:])


def chain_with(load: Any, channels: int = 3, **params: Any) -> ProcessorChain:
    shelf = AnnotatorShelf(CPU, loaders={"raft_small": load}, optical_flow="raft_small")
    made = ProcessorChain([wanted(NAME, channels, **params)], shelf)
    made.wait()
    return made


def missing(find: Any, dtype: torch.dtype) -> nn.Module:
    raise ModelUnavailable("no such file")


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -4), (5, 2)])
def test_a_moved_picture_is_warped_back_within_a_pixel_by_the_flow_that_is_found(right: int, down: int) -> None:
    network = Shifted(right, down)
    made = chain_with(lambda find, dtype: network, 6)
    first = scene(side=160)
    made.run(first)
    result = made.run(shift(first, right, down), previous_output=first)
    assert network.calls == [1]
    inner = slice(8, -8)

    def error(x: int, y: int) -> float:
        return float((shift(first, x, y) - result[:, :3])[..., inner, inner].abs().mean())

    assert error(right, down) < 1e-4
    assert min(((x, y) for x in range(-7, 8) for y in range(-7, 8)), key=lambda place: error(*place)) == (right, down)
    assert not torch.equal(result[:, 3:], torch.ones_like(first)), "the motion is drawn"


def test_a_part_of_a_pixel_is_warped_by_that_part() -> None:
    image = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(1, 3, 16, 64)
    flow = torch.zeros(1, 2, 16, 64)
    flow[:, 0] = -0.5
    moved = warp(image, flow)
    assert torch.allclose(moved[..., 1:], image[..., 1:] - 0.5 / 63, atol=1e-5)


def test_streams_with_a_network_find_their_motion_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MOST_HOST_PIXELS", sharing.MOST_PIXELS)
    network = Shifted(2, 0)
    made = [chain_with(lambda find, dtype: network) for _ in range(2)]
    scenes = [scene(seed, 96) for seed in range(2)]
    for chain, image in zip(made, scenes, strict=True):
        chain.run(image)
    looks = [chain.look(shift(image, 2, 0), image) for chain, image in zip(made, scenes, strict=True)]
    outcomes = together(looks)
    assert network.calls == [2]
    for outcome, image in zip(outcomes, scenes, strict=True):
        assert outcome.result is not None
        assert torch.allclose(outcome.result[..., 8:-8], shift(image, 2, 0)[..., 8:-8], atol=1e-4)


def test_without_the_network_opencv_does_it_and_the_state_says_so() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    made = chain_with(missing)
    first = scene(side=160)
    made.run(first)
    result = made.run(shift(first, 3, 0), previous_output=first)
    assert float((result - shift(first, 3, 0))[..., 24:-24, 24:-24].abs().mean()) < 0.02
    (state,) = made.states
    assert (state.phase, made.faults) == ("working", ())
    assert state.problem == "raft_small is not used, OpenCV finds the motion: no such file"
    assert made.works(0)


def test_without_either_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise ModelUnavailable("OpenCV is not installed", hint="pip install sdstream[flow]")

    monkeypatch.setattr(motion, "_opencv", absent)
    made = chain_with(missing)
    image = scene()
    made.run(image)
    assert made.run(image, previous_output=image) is image
    (state,) = made.states
    assert (state.phase, state.problem) == ("left_out", "OpenCV is not installed")


def test_by_default_no_network_is_asked_for() -> None:
    made = ProcessorChain([wanted(NAME)], AnnotatorShelf(CPU, loaders={}))
    assert made.loading == ()
    assert (made.states[0].phase, made.states[0].problem) == ("working", "")


def test_a_stream_with_it_is_prepared_beside_the_pictures() -> None:
    assert is_quick(make_params("blur"))
    assert not is_quick(make_params(NAME)), "its network may have to be waited for"


def test_its_weights_are_fetched_for_who_names_it_and_not_with_a_controlnet() -> None:
    ((repository, files),) = needed_for(NAME)
    assert set(files) == set(ADDRESSES[repository]) == {source.files[0] for source in FLOWS.values()}
    assert repository not in dict(needed_for("controlnet:temporal"))
    assert set(FLOWS) <= set(LOADERS)
    assert processors_of("raft_small") == processors_of("raft_large") == (NAME,)


def test_its_files_are_checked_against_the_hash_in_their_names(tmp_path: Path) -> None:
    source = FLOWS["raft_small"]
    file = tmp_path / source.files[0]
    file.write_bytes(b"something else")
    assert source.beginnings[file.name] == "01064c6d"
    with pytest.raises(ModelUnavailable, match=r"is not what was published: its hash is .* and not 01064c6d"):
        check(file, source.beginnings[file.name])
    assert check(file, _beginning(file))


def _beginning(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]


@pytest.fixture
def raft() -> FlowNetwork:
    try:
        torch.manual_seed(0)
        return tiny_flow().eval()
    except ModelUnavailable as error:
        pytest.skip(error.message)


@torch.no_grad()
def test_rafts_flow_has_the_size_of_the_pictures_and_is_the_same_each_time_and_in_a_batch(raft: FlowNetwork) -> None:
    pairs = torch.cat([torch.cat((scene(seed, 100), scene(seed + 9, 100)), 1) for seed in range(2)])
    flow = raft(pairs)
    assert flow.shape == (2, 2, 100, 100)
    assert bool(flow.isfinite().all())
    assert torch.equal(flow, raft(pairs))
    alone = torch.cat([raft(pair[None]) for pair in pairs])
    assert float((flow - alone).abs().max()) <= 1e-4, "pixels"
    assert raft.raft.corr_block.corr_pyramid == []


@torch.no_grad()
def test_raft_looks_at_pictures_of_any_shape(raft: FlowNetwork) -> None:
    assert raft(torch.rand(1, 6, 40, 700)).shape == (1, 2, 40, 700)


@pytest.mark.usefixtures("raft")
def test_its_weights_are_loaded_from_a_file_of_that_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(make_flow("raft_small").raft.state_dict(), tmp_path / "weights.pth")
    source = WeightSource(
        "pytorch/vision", ("weights.pth",), "none", {"weights.pth": _beginning(tmp_path / "weights.pth")}
    )
    monkeypatch.setitem(FLOWS, "raft_small", source)
    shelf = AnnotatorShelf(CPU, find=lambda source: tmp_path, optical_flow="raft_small")
    made = ProcessorChain([wanted(NAME)], shelf)
    made.wait()
    assert (made.states[0].phase, made.states[0].problem) == ("working", "")


@pytest.mark.usefixtures("raft")
def test_the_full_networks_have_the_weights_that_were_published() -> None:
    for name, numbers in (("raft_small", 990_162), ("raft_large", 5_257_536)):
        assert sum(each.numel() for each in make_flow(name).parameters()) == numbers
    assert COSTS[NAME].milliseconds
