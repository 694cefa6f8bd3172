"""Convolutions in eight bits: what stands before them, residual blocks and UNets against half precision, weights that
change, and where they are in force."""

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdstream.diffusion.attention import share
from sdstream.diffusion.convolving import preparation, tuning
from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.hopper.tilings import CHANNELS
from sdstream.diffusion.convolving.preparation import compile_frames
from sdstream.diffusion.convolving.shapes import EIGHT_BIT, Card, Shape
from sdstream.diffusion.eight_bit import convolution_trial
from sdstream.diffusion.eight_bit.convolution_trial import block_error, lacking_for_convolutions
from sdstream.diffusion.eight_bit.copies import copy_of, eight_bit_layers, follow, memory_of, note_of
from sdstream.diffusion.eight_bit.filters import (
    EightBitFilter,
    bound_of,
    factor_of,
    filter_of,
    has_eight_bit_form,
)
from sdstream.diffusion.eight_bit.layers import (
    convolutions_of,
    make_eight_bit_convolutions,
    place_eight_bit,
)
from sdstream.diffusion.eight_bit.products import apart
from sdstream.diffusion.eight_bit.switch import use_eight_bit
from sdstream.diffusion.eight_bit.trial import MOST_ERROR
from sdstream.diffusion.fused.blocks import fuse
from sdstream.diffusion.fused.group_norm import plain_group_norm
from sdstream.diffusion.fused.switch import plain_blocks
from sdstream.diffusion.libraries import residual_blocks
from sdstream.diffusion.placing import place
from sdstream.diffusion.trials.session import TrialSession
from tests.diffusion.runs import distance

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block_of(channels: int = 128, columns: int = 192) -> Any:
    """A fused residual block of random weights, channels last."""
    generator = torch.Generator().manual_seed(3)
    block: Any = residual_blocks.ResnetBlock2D(in_channels=channels, out_channels=columns, temb_channels=16)
    block.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    for weight in block.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5)
    fuse(block)
    return block


def run(block: Any, image: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = block(image, noise(image.shape[0], 16, seed=5))
    return made


@given(st.integers(0, 10_000), st.floats(1.0, 1e4), st.floats(1e-3, 30.0))
def test_nothing_of_a_group_is_cut_off_however_far_one_number_is_from_the_others(
    seed: int, size: float, weight: float
) -> None:
    norm = nn.GroupNorm(2, 4).requires_grad_(False)
    norm.weight.copy_(noise(4, seed=seed) * weight)
    norm.bias.copy_(noise(4, seed=seed + 1))
    image = noise(1, 4, 40, 40, seed=seed)
    image[0, seed % 4, 7, 7] = size * 100
    factor = factor_of(float(bound_of(norm)))
    exact = plain_group_norm(norm, image) * factor
    assert exact.abs().max() <= 448.0
    small = plain_group_norm(norm, image, factor=factor).float()
    assert ((small - exact).abs() <= exact.abs() / 16 + 2**-10).all()


def test_what_a_norm_of_nothing_gives_is_nothing() -> None:
    norm = nn.GroupNorm(2, 4).requires_grad_(False)
    norm.weight.zero_()
    made = plain_group_norm(norm, noise(1, 4, 8, 8), factor=factor_of(float(bound_of(norm))))
    assert torch.equal(made.float(), torch.zeros(1, 4, 8, 8))


def test_a_block_is_as_far_from_half_precision_as_rounding_to_eight_bits_makes_it() -> None:
    assert 0.005 < block_error(CPU, torch.float32) < MOST_ERROR


def test_a_picture_is_the_same_in_any_company() -> None:
    block = block_of()
    assert make_eight_bit_convolutions(block) == 2
    images = noise(3, 128, 8, 8)
    images[1] *= 1000.0
    together = run(block, images)
    times = noise(3, 16, seed=5)
    for number in range(3):
        alone = block(images[number : number + 1], times[number : number + 1])
        assert distance(together[number : number + 1], alone) < 1e-5


def test_what_is_not_finite_shows() -> None:
    block = block_of()
    make_eight_bit_convolutions(block)
    image = noise(2, 128, 8, 8)
    image[1, 5, 2, 2] = torch.nan
    made = run(block, image)
    assert made[0].isfinite().all()
    assert made[1].isnan().any()


def test_plain_blocks_know_nothing_of_it() -> None:
    block, image = block_of(), noise(1, 128, 8, 8)
    with plain_blocks():
        plain = run(block, image)
    make_eight_bit_convolutions(block)
    assert distance(run(block, image), plain) > 1e-3
    with plain_blocks():
        assert torch.equal(run(block, image), plain)


def test_weights_that_are_written_are_in_the_eight_bits_then_in_the_same_memory() -> None:
    block, image = block_of(), noise(1, 128, 8, 8)
    make_eight_bit_convolutions(block)
    small = filter_of(block.conv2)
    assert small is not None
    places = small.values.data_ptr(), small.answers.data_ptr()
    block.conv2.weight.mul_(2.0)
    follow(block, memory_of([block.conv2.weight]))
    assert filter_of(block.conv2) is small
    assert (small.values.data_ptr(), small.answers.data_ptr()) == places, "a captured frame reads them there"
    again = copy.deepcopy(block)
    make_eight_bit_convolutions(again)
    assert filter_of(again.conv2) is not small
    assert torch.equal(run(block, image), run(again, image))


def test_networks_that_share_weights_share_the_eight_bits_and_another_weight_has_its_own() -> None:
    block = block_of()
    make_eight_bit_convolutions(block)
    other: Any = share(block)
    follow(other)
    assert filter_of(other.conv1) is filter_of(block.conv1)
    other.conv1.weight = nn.Parameter(block.conv1.weight * 3.0, requires_grad=False)
    follow(other)
    one, mine = filter_of(block.conv1), filter_of(other.conv1)
    assert one is not None
    assert mine is not None
    assert torch.allclose(mine.answers, 3.0 * one.answers)


def test_a_block_compiles_to_one_graph_that_is_in_eight_bits() -> None:
    block, image = block_of(), noise(1, 128, 8, 8)
    make_eight_bit_convolutions(block)
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph.graph)
        return graph.forward

    compiled: Any = torch.compile(block, backend=backend, fullgraph=True)
    assert torch.equal(run(compiled, image), run(block, image))
    assert len(graphs) == 1
    assert str(graphs[0]).count("float8_e4m3fn") >= 2


def test_weights_of_very_different_sizes_stay_in_half_precision() -> None:
    block = block_of()
    block.conv2.weight[:, 0] *= 2.0**18
    assert make_eight_bit_convolutions(block) == 1
    assert filter_of(block.conv1) is not None
    assert copy_of(block.conv2) is None


@pytest.mark.parametrize(
    ("layer", "has"),
    [
        (nn.Conv2d(320, 320, 3, padding=1), True),
        (nn.Conv2d(192, 64, 3, padding=1), True),
        (nn.Conv2d(64, 128, 3, padding=1), False),
        (nn.Conv2d(128, 4, 3, padding=1), False),
        (nn.Conv2d(160, 128, 3, padding=1), False),
        (nn.Conv2d(128, 128, 1), False),
        (nn.Conv2d(128, 128, 3, stride=2, padding=1), False),
        (nn.Conv2d(128, 128, 3), False),
    ],
    ids=str,
)
def test_other_convolutions_have_no_such_form(layer: nn.Conv2d, has: bool) -> None:
    assert has_eight_bit_form(layer) is has


def test_a_unet_has_those_of_its_residual_blocks_and_no_others(wide_unet: Any) -> None:
    unet = copy.deepcopy(wide_unet)
    names = {id(module): name for name, module in unet.named_modules()}
    found = [names[id(layer)] for layer, _ in convolutions_of(unet)]
    blocks = [name for name in names.values() if ".resnets." in name and name.rpartition(".")[2].isdigit()]
    assert sorted(found) == sorted(f"{block}.{which}" for block in blocks for which in ("conv1", "conv2"))


def test_a_unet_in_eight_bits_answers_nearly_as_before(wide_unet: Any) -> None:
    unet = copy.deepcopy(wide_unet)
    told = (noise(1, 4, 16, 16), torch.tensor([700]), noise(1, 5, 32))
    plain = unet(*told, return_dict=False)[0]
    assert make_eight_bit_convolutions(unet) == len(list(convolutions_of(unet)))
    assert 1e-3 < float(apart(unet(*told, return_dict=False)[0], plain)) < 0.1


@pytest.fixture(scope="module")
def wide_unet() -> Any:
    """Fused, channels last, of random weights."""
    torch.manual_seed(0)
    library: Any = diffusers
    unet: Any = library.UNet2DConditionModel(
        block_out_channels=(128, 192),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        sample_size=16,
    )
    unet.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    fuse(unet)
    return unet


@pytest.mark.parametrize(
    ("capability", "bindings", "lacks"),
    [
        ((9, 0), True, ""),
        ((9, 0), False, "NVIDIA's bindings (cuda-bindings) are not installed"),
        ((8, 9), True, "a card has compute capability 8.9, and they are written for 9.0"),
        ((10, 0), True, "a card has compute capability 10.0, and they are written for 9.0"),
    ],
)
def test_only_hopper_with_the_bindings_has_what_they_need(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], bindings: bool, lacks: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(convolution_trial, "has_hopper_kernels", lambda: bindings)
    assert lacking_for_convolutions(torch.device("cuda")) == lacks


@pytest.mark.filterwarnings("ignore:products in eight bits")
def test_a_device_that_cannot_runs_in_half_precision_and_says_so_of_both(wide_unet: Any) -> None:
    unet = copy.deepcopy(wide_unet)
    with pytest.warns(RuntimeWarning, match="convolutions in eight bits were asked for"):
        place_eight_bit(unet, CPU, convolutions=True)
    assert eight_bit_layers(unet) == 0
    assert "convolutions in eight bits" in note_of(unet)
    assert "products in eight bits" in note_of(unet)


@pytest.mark.parametrize(("wanted", "both"), [("linear", False), ("all", True)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_convolutions_are_made_so_where_all_is_wanted(wide_unet: Any, wanted: Any, both: bool) -> None:
    use_eight_bit(wanted)
    try:
        unet = place(copy.deepcopy(wide_unet), CPU)
    finally:
        use_eight_bit("off")
    assert ("convolutions in eight bits" in note_of(unet)) is both


def test_before_a_trial_eight_bits_go_the_most_promising_way_and_others_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "card_of", lambda device: Card((9, 0), 132))
    monkeypatch.setattr(tuning, "has_hopper_kernels", lambda: True)
    sizes = (1, 32, 32, 10 * CHANNELS, 0, 10 * CHANNELS, 3, 1, 1, 32, 32, False, 1, True, "")
    assert tuning.settled_tiling(0, f"torch.{EIGHT_BIT}", *sizes).startswith("hopper eight_bit ")
    assert tuning.settled_tiling(0, "torch.float16", *sizes) == ""
    monkeypatch.setattr(tuning, "card_of", lambda device: Card((8, 9), 128))
    assert tuning.settled_tiling(0, f"torch.{EIGHT_BIT}", *sizes) == ""


def test_what_frames_take_without_a_trial_is_compiled_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "card_of", lambda device: Card((9, 0), 132))
    monkeypatch.setattr(tuning, "has_hopper_kernels", lambda: True)
    half = Shape(1, 8, 8, 1280, 0, 1280, 3, 1, 1, 8, 8, False, 1, True, "", "float16")
    small = replace(half, dtype=EIGHT_BIT)
    asked = Counter({half: 2, small: 3, replace(small, residual=False): 4})
    monkeypatch.setattr(preparation, "shapes_of_frame", lambda *told: asked)
    compiled: list[tuple[str, torch.dtype, bool]] = []

    def prepare(arguments: Arguments, tilings: Iterable[str]) -> None:
        compiled.extend((name, arguments.x.dtype, arguments.residual is not None) for name in tilings)

    told: Any = (None, torch.zeros(1), None, [1, 8])
    compile_frames(*told, prepare=prepare)
    wanted = {
        (tuning.untried_tiling(replace(shape, batch=number), 0), torch.float8_e4m3fn, shape.residual)
        for shape in (small, replace(small, residual=False))
        for number in (1, 8)
    }
    assert set(compiled) == wanted
    assert len(compiled) == len(wanted), "none twice"
    given_up = TrialSession(tell=lambda percent: False)
    compile_frames(*told, session=given_up, prepare=prepare)
    assert len(compiled) == len(wanted)


def test_a_filter_answers_as_the_weight_it_was_made_of() -> None:
    layer = nn.Conv2d(128, 64, 3, padding=1).requires_grad_(False)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    made = EightBitFilter(layer.weight.permute(0, 2, 3, 1).flatten(1), 1.75)
    assert made.filters.is_contiguous(memory_format=torch.channels_last)
    near = made.filters.float() * (made.answers * 1.75).view(-1, 1, 1, 1)
    assert ((near - layer.weight).abs() <= layer.weight.abs() / 16 + made.scales.T.view(-1, 1, 1, 1) * 2**-10).all()
