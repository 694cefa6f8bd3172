"""Blocks with fewer and larger steps: the same answers as the plain ones, on a CPU by torch's own operations, on a GPU
by this project's and cuDNN's."""

import copy
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdstream.diffusion.fused import FusedCrossAttention, FusedGroupNorm, FusedResidualBlock, FusedSmallBlock, fuse
from sdstream.diffusion.fused_switch import are_blocks_fused, plain_blocks, use_fused_blocks
from sdstream.diffusion.fused_trial import kinds_that_work, why_not
from sdstream.diffusion.group_norm import fast_group_norm, group_norm, plain_group_norm
from sdstream.diffusion.group_norm_tiling import tiling_of
from sdstream.diffusion.models import Model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.placing import place
from sdstream.settings import Family
from tests.diffusion.runs import distance

Load = Callable[..., Model]
CPU = torch.device("cpu")
NORMS = ((2, 320, 16, 16, 32), (1, 320, 24, 20, 32), (1, 960, 20, 16, 32), (1, 2560, 8, 8, 32), (3, 64, 20, 20, 4))
"""Pictures, channels, height, width, groups: of one step and of two, and widths that are no powers of two."""
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def answer_of(networks: EagerNetworks, device: torch.device = CPU) -> list[torch.Tensor]:
    """Of the UNet, the encoder and the decoder, for two rows."""
    generator = torch.Generator().manual_seed(3)
    unet: Any = networks.unet
    config = unet.config

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, networks.dtype)

    pooled = sizes = None
    if networks.is_xl:
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        pooled, sizes = noise(2, width), noise(2, 6)
    texts = noise(2, 77, config.cross_attention_dim)
    times = torch.tensor([3, 400], device=device)
    return [
        networks.predict(noise(2, 4, 8, 8), times, texts, pooled, sizes),
        networks.encode(noise(2, 3, 64, 64)),
        networks.decode(noise(2, 4, 8, 8)),
    ]


def networks_of(load: Load, family: Family) -> EagerNetworks:
    model = load(family)
    return copy.deepcopy(EagerNetworks(model.unet, model.vae))


@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo", "sd15"])
def test_fused_blocks_answer_as_plain_ones_and_keep_their_weights(tiny_model: Load, family: Family) -> None:
    networks = networks_of(tiny_model, family)
    with plain_blocks():
        plain, names = answer_of(networks), list(networks.state_dict())
    fuse(networks)
    kinds = {type(module) for module in networks.modules()}
    assert {FusedGroupNorm, FusedResidualBlock, FusedSmallBlock} <= kinds
    assert list(networks.state_dict()) == names
    assert max(distance(a, b) for a, b in zip(answer_of(networks), plain, strict=True)) < 1e-5
    with plain_blocks():
        assert all(torch.equal(a, b) for a, b in zip(answer_of(networks), plain, strict=True))


def test_the_switch_is_put_back_even_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), plain_blocks():
        _ = 1 // are_blocks_fused()
    assert are_blocks_fused()
    use_fused_blocks(False)
    try:
        with plain_blocks():
            pass
        assert not are_blocks_fused()
    finally:
        use_fused_blocks(True)


class Doubtful(torch.nn.Module):
    """Does another thing when blocks are fused."""

    def __init__(self, fused: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._fused = fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._fused(x) if are_blocks_fused() else x


def without_a_compiler(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("Failed to find C compiler\nand more")


@pytest.mark.parametrize(
    ("fused", "problem"),
    [
        (lambda x: x * 1.001, ""),
        (lambda x: x * 1.5, "its answer is 0.5 from the plain one"),
        (lambda x: x * float("nan"), "its answer is nan from the plain one"),
        (without_a_compiler, "RuntimeError: Failed to find C compiler"),
    ],
    ids=["near", "far", "nothing", "impossible"],
)
def test_a_kind_that_does_not_work_here_is_found_out(
    fused: Callable[[torch.Tensor], torch.Tensor], problem: str
) -> None:
    assert why_not(Doubtful(fused), torch.ones(1, 2, 3, 3)) == problem


def test_only_kinds_that_work_are_taken(tiny_model: Load) -> None:
    assert kinds_that_work(CPU) == {FusedCrossAttention, FusedGroupNorm, FusedResidualBlock, FusedSmallBlock}
    networks = networks_of(tiny_model, "sd-turbo")
    fuse(networks, {FusedSmallBlock})
    kinds = {type(module) for module in networks.modules()}
    assert FusedSmallBlock in kinds
    assert FusedGroupNorm not in kinds


def test_a_cpu_keeps_the_blocks_and_the_layout_that_a_network_came_with() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8))
    placed = place(network, CPU)
    assert placed is network
    assert type(network[1]) is torch.nn.GroupNorm
    assert next(network.parameters()).is_contiguous()
    assert not network.training


@given(st.integers(1, 20000), st.sampled_from([10, 20, 30, 40, 60, 80, 3, 1]), st.sampled_from([32, 8, 4, 1]))
def test_a_tiling_has_every_value_once(rows: int, width: int, groups: int) -> None:
    tiling = tiling_of(rows, width * groups, groups)
    assert width <= tiling.padded < 2 * width or tiling.padded == width == 1
    assert tiling.blocks * tiling.together >= groups > (tiling.blocks - 1) * tiling.together
    assert tiling.tile_rows % tiling.at_once == 0
    assert tiling.tiles * tiling.tile_rows >= rows
    for size in (tiling.padded, tiling.together, tiling.at_once, tiling.tiles):
        assert size & (size - 1) == 0


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed, as torch is for CPUs")
@pytest.mark.slow
def test_the_kernels_are_the_plain_norm_when_they_are_interpreted() -> None:
    program = "from tests.diffusion.test_fused import compare_interpreted; compare_interpreted()"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def compare_interpreted() -> None:
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    from sdstream.diffusion.group_norm_kernels import launch

    for norm, x, shift, silu in cases(CPU, torch.float32):
        wanted = plain_group_norm(norm, x, shift, silu=silu)
        made = launch(x, shift, norm.weight, norm.bias, norm.num_groups, norm.eps, silu, lambda kernel: kernel)
        assert distance(made, wanted) < 1e-5, (x.shape, silu)


def cases(
    device: torch.device, dtype: torch.dtype
) -> list[tuple[torch.nn.GroupNorm, torch.Tensor, torch.Tensor | None, bool]]:
    generator = torch.Generator().manual_seed(5)
    made: list[tuple[torch.nn.GroupNorm, torch.Tensor, torch.Tensor | None, bool]] = []
    for index, (pictures, channels, height, width, groups) in enumerate(NORMS):
        norm = torch.nn.GroupNorm(groups, channels)
        for parameter in norm.parameters():
            parameter.data.normal_(1.0, 0.5, generator=generator)
        norm.requires_grad_(False).to(device, dtype)
        x = torch.randn(pictures, channels, height, width, generator=generator).mul(2).add(0.5)
        shape = (None, (pictures, channels), (channels,))[index % 3]
        shift = None if shape is None else torch.randn(shape, generator=generator)
        layout = torch.contiguous_format if index == 1 else torch.channels_last
        placed = x.to(device, dtype).contiguous(memory_format=layout)
        made.append((norm, placed, None if shift is None else shift.to(device, dtype), index % 2 == 0))
    return made


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_the_kernels_are_the_plain_norm_on_a_gpu(dtype: torch.dtype, limit: float) -> None:
    assert fast_group_norm() is not None
    for norm, x, shift, silu in cases(torch.device("cuda"), dtype):
        exact = copy.deepcopy(norm).double()
        wanted = plain_group_norm(exact, x.double(), None if shift is None else shift.double(), silu=silu)
        made = group_norm(norm, x, shift, silu=silu)
        assert distance(made.double(), wanted) < limit, (x.shape, silu)
        assert made.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo", "sd15"])
def test_placed_networks_answer_as_plain_ones_on_a_gpu(tiny_model: Load, family: Family) -> None:
    networks, device = networks_of(tiny_model, family), torch.device("cuda")
    networks.to(device)
    plain = answer_of(networks, device)
    place(networks.unet, device)
    place(networks.vae, device)
    assert max(distance(a, b) for a, b in zip(answer_of(networks, device), plain, strict=True)) < 5e-3  # TF32
