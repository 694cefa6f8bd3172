"""Blocks with fewer and larger steps: the same answers as the plain ones, on a CPU by torch's own operations, on a GPU
by this project's and cuDNN's."""

import copy
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdstream.diffusion.attention import share
from sdstream.diffusion.convolving.layers import (
    FusedConvolution,
    FusedDownsampler,
    FusedSmallDecoder,
    FusedUpsampler,
)
from sdstream.diffusion.fused.attention import (
    FusedCrossAttention,
    FusedGate,
    FusedSelfAttention,
    FusedTransformer,
    FusedTransformerBlock,
)
from sdstream.diffusion.fused.blocks import FusedGroupNorm, FusedResidualBlock, FusedSmallBlock, fuse
from sdstream.diffusion.fused.group_norm import (
    Two,
    fast_group_norm,
    group_norm,
    group_norm_kept,
    group_norm_of_two,
    plain_group_norm,
    plain_group_norm_kept,
)
from sdstream.diffusion.fused.group_norm_tiling import Rule, Tiles, Whole, tiling_of
from sdstream.diffusion.fused.joining import join
from sdstream.diffusion.fused.switch import are_blocks_fused, plain_blocks, use_fused_blocks
from sdstream.diffusion.fused.trial import kinds_that_work, why_not
from sdstream.diffusion.fused.up import FusedCrossUpBlock, FusedUpBlock
from sdstream.diffusion.fusing import can_refit, fused, refit
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.lora import read_lora
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.placing import place
from sdstream.diffusion.question import Question, Subject
from sdstream.diffusion.tiny import write_tiny_lora
from sdstream.engines.weights import digest_of_weights
from sdstream.settings import Family
from tests.diffusion.runs import distance

Load = Callable[..., Model]
CPU = torch.device("cpu")
NORMS = ((2, 320, 16, 16, 32), (1, 320, 24, 20, 32), (1, 960, 20, 16, 32), (1, 2560, 8, 8, 32), (3, 64, 20, 20, 4))
"""Pictures, channels, height, width, groups: of one step and of two, and widths that are no powers of two."""
EVERYWHERE = {FusedCrossAttention, FusedResidualBlock}
"""Kinds that a CPU takes as well."""
FUSED_ON_A_GPU = {
    *(FusedGate, FusedGroupNorm, FusedSelfAttention, FusedSmallBlock),
    *(FusedTransformer, FusedTransformerBlock, FusedCrossUpBlock),
    *(FusedConvolution, FusedDownsampler, FusedSmallDecoder, FusedUpsampler),
}
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
        networks.predict(Question(noise(2, 4, 8, 8), Subject(times, texts, pooled, sizes))),
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
    join(networks)
    kinds = {type(module) for module in networks.modules()}
    assert kinds >= EVERYWHERE | FUSED_ON_A_GPU
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
    attentions = {FusedCrossAttention, FusedGate, FusedSelfAttention, FusedTransformer, FusedTransformerBlock}
    ups = {FusedCrossUpBlock, FusedUpBlock}
    convolutions = {FusedConvolution, FusedDownsampler, FusedSmallBlock, FusedSmallDecoder, FusedUpsampler}
    assert kinds_that_work(CPU) == attentions | ups | convolutions | {FusedGroupNorm, FusedResidualBlock}
    networks = networks_of(tiny_model, "sd-turbo")
    fuse(networks, {FusedSmallBlock})
    kinds = {type(module) for module in networks.modules()}
    assert FusedSmallBlock in kinds
    assert not kinds & {FusedGroupNorm, FusedSelfAttention, FusedTransformer}


def test_a_cpu_keeps_the_blocks_and_the_layout_that_a_network_came_with() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8))
    placed = place(network, CPU)
    assert placed is network
    assert type(network[1]) is torch.nn.GroupNorm
    assert next(network.parameters()).is_contiguous()
    assert not network.training


@given(st.integers(1, 20000), st.sampled_from([10, 20, 30, 40, 60, 80, 3, 1]), st.sampled_from([32, 8, 4, 1]))
def test_a_tiling_has_every_value_once(rows: int, width: int, groups: int) -> None:
    channels = width * groups
    whole = tiling_of(rows, channels, groups)
    if isinstance(whole, Whole):
        assert rows <= whole.padded_rows < 2 * rows
        assert width <= whole.padded < 2 * width
    tiling = tiling_of(rows, channels, groups, Rule(most_whole=0))
    assert isinstance(tiling, Tiles)
    assert tiling.blocks * tiling.columns >= channels > (tiling.blocks - 1) * tiling.columns
    assert tiling.tile_rows % tiling.at_once == 0
    assert tiling.tiles * tiling.tile_rows >= rows
    for size in (tiling.columns, tiling.spans, tiling.tiles, tiling.at_once):
        assert size & (size - 1) == 0
    in_block = {(channel // tiling.columns, channel // width) for channel in range(channels)}
    assert max(Counter(block for block, _ in in_block).values()) <= tiling.spans
    assert max(Counter(group for _, group in in_block).values()) == tiling.shares


def test_what_is_done_with_skipped_pictures_before_keeps_a_way_up_plain(tiny_model: Load) -> None:
    networks = networks_of(tiny_model, "sd-turbo")
    unet: Any = networks.unet
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    with plain_blocks():
        plain = answer_of(networks)[0]
    fuse(networks)
    join(networks)
    assert {type(block) for block in unet.up_blocks} == {FusedUpBlock, FusedCrossUpBlock}
    assert distance(answer_of(networks)[0], plain) < 1e-5
    unet.disable_freeu()
    assert distance(answer_of(networks)[0], plain) > 1e-3


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
    from sdstream.diffusion.fused import group_norm_kernels as kernels

    made_of: Any = kernels  # Triton's language has no types

    def same(kernel: Any) -> Any:
        return kernel

    for norm, x, shift, silu in cases(CPU, torch.float32):
        wanted = plain_group_norm(norm, x, shift, silu=silu)
        told = (made_of.Norm(norm.weight, norm.bias, norm.num_groups, norm.eps, silu), same)
        assert distance(made_of.launch(x, shift, *told), wanted) < 1e-5, (x.shape, silu)
        for parts, bias in kept_cases(x):
            one, other = parts if isinstance(parts, Two) else (parts, None)
            wanted, whole = plain_group_norm_kept(norm, parts, bias, silu=silu)
            made, kept = made_of.launch_two(one, other, bias, *told)
            assert distance(made, wanted) < 1e-5, (x.shape, silu)
            assert torch.equal(kept, whole)
            if other is not None:
                assert torch.equal(made_of.launch_two(one, other, None, *told, keeps=False)[0], made)
        # Triton's interpreter rounds to eight bits in a way of its own: up to there.
        large = (told[0]._replace(factor=3.0, small=torch.float32), same)
        assert distance(made_of.launch(x, shift, *large), 3.0 * plain_group_norm(norm, x, shift, silu=silu)) < 1e-5
        cut = made_of.launch(x, shift, large[0]._replace(factor=1e4), same)
        assert distance(cut, (1e4 * plain_group_norm(norm, x, shift, silu=silu)).clamp(-448.0, 448.0)) < 1e-4


def kept_cases(x: torch.Tensor) -> list[tuple[torch.Tensor | Two, torch.Tensor | None]]:
    """`x` whole and of two parts, of which one group of channels may have some of both."""
    first = x.shape[1] // 3
    return [(Two(x[:, :first], x[:, first:]), None), (x, x[0, :, 0, 0].clone()), (x, None)]


def test_joined_weights_are_written_saved_and_shared_as_if_they_were_not(tiny_model: Load, tmp_path: Path) -> None:
    unet: Any = networks_of(tiny_model, "sd-turbo").unet
    digest, plain = digest_of_weights(unet), copy.deepcopy(unet)
    fuse(unet)
    join(unet)
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    weights = [attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]
    assert {weight.untyped_storage().data_ptr() for weight in weights} == {
        attention.joined.weight.untyped_storage().data_ptr()
    }
    join(unet)
    assert attention.to_q.weight is weights[0], "what is joined stays where it is"
    assert digest_of_weights(unet) == digest
    unet.save_pretrained(tmp_path, safe_serialization=True)
    read = type(unet).from_pretrained(tmp_path)
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in unet.state_dict().items())
    shared = share(unet)
    assert shared.mid_block.attentions[0].transformer_blocks[0].attn1.to_k.weight is weights[1]
    for each in (unet, plain):  # as a LoRA that is fused in place
        each.get_parameter("mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight").mul_(3.0)
    moved = copy.deepcopy(unet)
    moved.get_parameter("mid_block.attentions.0.transformer_blocks.0.attn1.to_v.weight").mul_(0.1)
    vae = tiny_model("sd-turbo").vae
    with plain_blocks():
        wanted, other = (answer_of(EagerNetworks(each, vae))[0] for each in (plain, moved))
    assert distance(answer_of(EagerNetworks(unet, vae))[0], wanted) < 1e-5
    assert distance(answer_of(EagerNetworks(shared, vae))[0], wanted) < 1e-5
    assert distance(answer_of(EagerNetworks(moved, vae))[0], other) < 1e-5, "a copy is joined anew"
    assert distance(wanted, other) > 1e-3


def test_loras_are_fused_into_joined_weights(tiny_model: Load, tmp_path: Path) -> None:
    model = tiny_model("sd-turbo")
    write_tiny_lora(tmp_path / "one.safetensors", model.unet, strength=0.4)
    lora = read_lora(tmp_path / "one.safetensors", "one", model.family, {"unet": model.unet})
    some = {name: change for name, change in lora.changes["unet"].items() if "attn1.to_k" not in name}
    wanted = fused(model, [(replace(lora, changes={"unet": some}), 0.5)])
    base = replace(model, unet=copy.deepcopy(model.unet))
    fuse(base.unet)
    join(base.unet)
    digest = digest_of_weights(base.unet)
    made = fused(base, [(replace(lora, changes={"unet": some}), 1.0)])
    networks = EagerNetworks(made.unet, made.vae)
    assert can_refit(made, [(lora, 0.5)]), "keys and values moved with the queries"
    refit(made, [(replace(lora, changes={"unet": some}), 0.5)], made.prompts)
    with plain_blocks():
        expected = answer_of(EagerNetworks(wanted.unet, wanted.vae))[0]
    assert distance(answer_of(networks)[0], expected) < 1e-5
    assert digest_of_weights(base.unet) == digest, "the base is as it was"


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
        # As a part of what the time adds in all blocks: rows lie further apart than they are long.
        wide = None if shape is None else torch.randn((*shape[:-1], shape[-1] + 16), generator=generator)
        layout = torch.contiguous_format if index == 1 else torch.channels_last
        placed = x.to(device, dtype).contiguous(memory_format=layout)
        shift = None if wide is None else wide.to(device, dtype)[..., 16:]
        made.append((norm, placed, shift, index % 2 == 0))
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
        for parts, bias in kept_cases(x):
            made, kept = group_norm_kept(norm, parts, bias, silu=silu)
            assert distance(made.double(), plain_group_norm(exact, x.double(), silu=silu)) < limit, (x.shape, silu)
            assert distance(kept, plain_group_norm_kept(norm, parts, bias)[1]) < limit
            assert kept.is_contiguous(memory_format=torch.channels_last)
            if isinstance(parts, Two):
                assert torch.equal(group_norm_of_two(norm, parts, silu=silu), made)


@pytest.mark.gpu
@needs_a_gpu
def test_the_kernels_give_the_plain_norm_in_eight_bits_on_a_gpu() -> None:
    for norm, x, shift, silu in cases(torch.device("cuda"), torch.float16):
        wanted = 1.75 * plain_group_norm(copy.deepcopy(norm).float(), x.float(), shift, silu=silu)
        parts = kept_cases(x)[0][0]
        assert isinstance(parts, Two)
        made = [group_norm(norm, x, shift, silu=silu, factor=1.75)]
        if shift is None:
            made.append(group_norm_kept(norm, parts, silu=silu, factor=1.75)[0])
            made.append(group_norm_of_two(norm, parts, silu=silu, factor=1.75))
        for small in made:
            assert small.dtype == torch.float8_e4m3fn
            assert small.is_contiguous(memory_format=torch.channels_last)
            # Half a step of three bits behind the first, or of the smallest numbers; and what half precision rounds.
            assert ((small.float() - wanted).abs() <= 0.0635 * wanted.abs() + 2**-10 + 2e-3).all(), (x.shape, silu)


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
