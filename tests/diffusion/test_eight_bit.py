"""Products in eight bits: the kernels and torch's own products against the plain twin, rows that do not depend on each
other, weights that change, and what chooses where they are used."""

import copy
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sdstream.diffusion.attention import change, share
from sdstream.diffusion.eight_bit import products, trial
from sdstream.diffusion.eight_bit.copies import eight_bit_bytes, follow, memory_of, plain_quantised, source_of
from sdstream.diffusion.eight_bit.layers import make_eight_bit, products_of
from sdstream.diffusion.eight_bit.products import (
    EightBitLinear,
    EightBitRows,
    EightBitWeight,
    Terms,
    Way,
    apart,
    product,
    quantised,
    weight_of,
)
from sdstream.diffusion.eight_bit.trial import MOST_ERROR, lacking
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fused import attention
from sdstream.diffusion.fused.blocks import fuse
from sdstream.diffusion.fused.joining import join
from sdstream.diffusion.fused.switch import plain_blocks
from sdstream.diffusion.fusing import fused, refit
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.lora import read_lora
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.runners import EagerRunner, make_runner
from sdstream.diffusion.state import Knobs, make_memory
from sdstream.diffusion.tiny import write_tiny_lora
from sdstream.diffusion.trials.stopwatch import CudaStopwatch
from sdstream.engines.weights import digest_of_weights
from tests.diffusion.runs import distance, knobs_of, pictures, run

Load = Callable[..., Model]
CPU = torch.device("cpu")
SHAPES = ((2, 30, 48), (1, 5, 1280), (3, 1, 20), (1, 1, 2560))
"""Batch, tokens, width."""
WAYS: tuple[Way, ...] = ("rows", "units")
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def _multiplies(way: Way) -> bool:
    """Whether this torch does so on a CPU: 2.11 knows one scale for a whole tensor there."""
    weight = EightBitWeight(torch.ones(16, 16), Terms(way))
    try:
        product(torch.ones(1, 16, 16), weight)
    except RuntimeError:
        return False
    return True


HERE = [way for way in WAYS if _multiplies(way)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_unet(model: Model, way: Way = "plain", device: torch.device = CPU, dtype: torch.dtype | None = None) -> Any:
    """The UNet of a tiny model with all layers that can in eight bits."""
    unet: Any = copy.deepcopy(model.unet)
    fuse(unet)
    unet.to(device, dtype or model.dtype, memory_format=torch.channels_last)
    join(unet)
    assert make_eight_bit(unet, lambda out, width: Terms(way)) == 32
    return unet


def frame_of(model: Model, unet: nn.Module) -> Frame:
    return Frame(EagerNetworks(unet, model.vae), slots=2, guidance="self", prediction=model.schedule.prediction)


@given(st.integers(0, 10_000), st.floats(1e-6, 1e4), st.integers(1, 40))
def test_numbers_in_eight_bits_are_within_a_sixteenth_and_each_row_uses_all_of_them(
    seed: int, size: float, width: int
) -> None:
    x = noise(3, width, seed=seed) * size
    values, scales = plain_quantised(x)
    near = values.float() * scales
    assert torch.all((near - x).abs() <= x.abs() / 16 + scales * 2**-10 + 1e-12)
    assert torch.equal(values.float().abs().amax(-1), torch.full((3,), 448.0))


def test_rows_of_nothing_stay_nothing_and_what_is_not_finite_shows() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")], [3.0, 4.0]])
    values, scales = plain_quantised(x)
    near = values.float() * scales
    assert torch.equal(near[0], x[0])
    assert not near[1].isfinite().all()
    assert not near[2].isfinite().all()
    assert near[3].isfinite().all()


@pytest.mark.parametrize("way", HERE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_torchs_products_are_those_of_the_plain_twin(way: Way, dtype: torch.dtype) -> None:
    x, weight, bias = noise(2, 24, 64).to(dtype), (noise(48, 64, seed=1) / 8).to(dtype), noise(48, seed=2).to(dtype)
    wanted, made = (EightBitWeight(weight, Terms(each)) for each in ("plain", way))
    for each in (bias, None):
        assert distance(product(x, made, each), product(x, wanted, each)) < 2e-3
        exact = functional.linear(x.float(), weight.float(), None if each is None else each.float())
        assert 0.02 < float(apart(product(x, made, each), exact)) < MOST_ERROR


def test_a_row_is_the_same_in_any_company() -> None:
    x, weight = noise(4, 16, 320), EightBitWeight(noise(64, 320, seed=1), Terms("plain"))
    x[2] *= 1000.0  # a picture that is much larger than its neighbours
    together = product(x, weight)
    assert all(torch.equal(product(each[None], weight)[0], row) for each, row in zip(x, together, strict=True))


def test_one_large_number_costs_its_own_row_only() -> None:
    x, weight = noise(1, 8, 320), EightBitWeight(noise(64, 320, seed=1), Terms("plain"))
    before = product(x, weight)
    x[0, 3, 5] = 5000.0
    after = product(x, weight)
    others = [row for row in range(8) if row != 3]
    assert torch.equal(after[0, others], before[0, others])
    exact = functional.linear(x, weight.source)
    assert float(apart(after[0, 3], exact[0, 3])) < MOST_ERROR


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed, as torch is for CPUs")
def test_the_kernels_are_the_plain_operations_when_they_are_interpreted() -> None:
    program = "from tests.diffusion.test_eight_bit import compare_interpreted; compare_interpreted()"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def compare_interpreted() -> None:
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    from sdstream.diffusion.eight_bit import kernels

    def launched(name: str) -> Callable[..., Any]:
        launch: Any = getattr(kernels, f"launch_{name}")
        return lambda *told: launch(*told, lambda kernel: kernel, torch.float32)

    interpreted = SimpleNamespace(**{name: launched(name) for name in OPERATIONS})
    for (made, scales), wanted in answers(interpreted, CPU, torch.float32):
        top = wanted.abs().amax(-1, keepdim=True)
        assert distance(made * scales.view(top.shape), wanted) < 1e-5, made.shape
        assert distance(scales.view(top.shape), torch.where(top == 0, 448.0, top) / 448) < 1e-5, made.shape
    launch: Any = kernels.launch_scaled
    told = (noise(17, 48), noise(17, 1, seed=1), noise(1, 48, seed=2), noise(48, seed=3))
    assert distance(launch(*told, lambda kernel: kernel), products.plain_scaled(*told)) < 1e-5


OPERATIONS = ("quantised", "gated_quantised", "normed_quantised", "summed_norm_quantised")


def answers(
    kernels: Any, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Values and scales of each operation, and what they are of."""
    for shape in SHAPES:
        x, other, more = (noise(*shape, seed=seed).to(device, dtype) for seed in range(3))
        x[0, 0] = 0.0
        bias = noise(shape[2], seed=4).to(device, dtype)
        norm = nn.LayerNorm(shape[2]).requires_grad_(False)
        norm.weight.copy_(noise(shape[2], seed=5))
        norm.to(device, dtype)
        told = (norm.weight, norm.bias, norm.eps)
        yield kernels.quantised(x), x
        both = torch.cat([other, more], -1)
        yield kernels.gated_quantised(both), products.plain_gated(both)
        yield kernels.normed_quantised(other, *told), norm(other)
        for after in (None, x[0, -1]):
            sums, values, scales = kernels.summed_norm_quantised(other, more, bias, *told, after)
            wanted, normed = products.plain_summed_norm(other, more, bias, norm, after)
            assert distance(sums, wanted) < 1e-2
            yield (values, scales), normed


@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo", "sd15"])
def test_networks_in_eight_bits_answer_nearly_as_before_and_keep_their_weights(
    tiny_model: Load, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = tiny_model(family)
    unet = small_unet(model)
    assert digest_of_weights(unet) == digest_of_weights(model.unet)
    frame, knobs, images = frame_of(model, unet), knobs_of(model), pictures(2)
    assert frame.networks.back_end == "torch+eight_bit"
    with plain_blocks():
        wanted = run(frame, knobs, images)
    made = run(frame, knobs, images)
    plain = run(frame_of(model, model.unet), knobs, images)
    for one, other, original in zip(made, wanted, plain, strict=True):
        assert distance(other.image, original.image) < 1e-5, "the switch brings half precision back"
        assert 1e-4 < float(apart(one.image, other.image)) < 0.05
    # As on a GPU, where a norm or a gate answers in eight bits at once.
    monkeypatch.setattr(attention, "are_joined", lambda x: True)
    given: list[type] = []
    monkeypatch.setattr(attention, "product", lambda x, *told: given.append(type(x)) or product(x, *told))
    joined = run(frame, frame.complete(knobs), images)
    assert set(given) == {torch.Tensor, EightBitRows}
    assert max(float(apart(a.image, b.image)) for a, b in zip(joined, made, strict=True)) < 0.02


@pytest.mark.parametrize("wide", [True, False])
def test_layers_in_eight_bits_stand_beside_others_in_half_precision(
    tiny_model: Load, monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    model = tiny_model("sd-turbo")
    unet: Any = copy.deepcopy(model.unet)
    fuse(unet)
    join(unet)
    # Either what makes queries, keys, values and gates, or what answers after them.
    assert 0 < make_eight_bit(unet, lambda out, width: Terms("plain") if (out > width) == wide else None) < 32
    frame, knobs, images = frame_of(model, unet), knobs_of(model), pictures(2)
    wanted = run(frame, knobs, images)
    monkeypatch.setattr(attention, "are_joined", lambda x: True)
    made = run(frame, frame.complete(knobs), images)
    assert max(float(apart(a.image, b.image)) for a, b in zip(made, wanted, strict=True)) < 0.02


def test_what_is_made_of_text_and_time_is_never_in_eight_bits(tiny_model: Load) -> None:
    unet = small_unet(tiny_model("sdxl-turbo"))
    small = {name for name, module in unet.named_modules() if weight_of(module) is not None}
    assert not any(part in name for name in small for part in ("attn2.to_k", "attn2.to_v", "time_emb", "conv", "add_"))
    assert {name.rpartition("transformer_blocks.0.")[2] for name in small} >= {
        *("attn1", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"),
    }
    linear = {name for name, module in unet.named_modules() if type(module) is EightBitLinear}
    assert linear == small - {name for name in small if name.endswith("attn1")}
    assert eight_bit_bytes(unet) > sum(
        weight.numel() for layer in products_of(unet) for weight in [layer_weight(layer)]
    )


def layer_weight(layer: Any) -> torch.Tensor:
    weight = weight_of(layer)
    assert weight is not None
    return weight.source


def test_small_pictures_stay_in_half_precision_whatever_rides_with_them(tiny_model: Load) -> None:
    layer: Any = nn.Linear(32, 32)
    layer.__class__ = EightBitLinear
    layer.eight_bit = EightBitWeight(layer.weight.detach(), Terms("plain", least_tokens=16))
    x = noise(8, 15, 32)
    assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))
    x = noise(1, 16, 32)
    assert torch.equal(layer(x), product(x, layer.eight_bit, layer.bias))


def test_a_lora_is_in_the_eight_bits_before_the_next_picture_and_in_the_same_memory(
    tiny_model: Load, tmp_path: Path
) -> None:
    model = tiny_model("sd-turbo")
    write_tiny_lora(tmp_path / "one.safetensors", model.unet, strength=0.4)
    lora = read_lora(tmp_path / "one.safetensors", "one", model.family, {"unet": model.unet})
    base = replace(model, unet=small_unet(model))
    kept = [weight.values.clone() for weight in map(weight_of, products_of(base.unet)) if weight is not None]
    made = fused(base, [(lora, 1.0)])
    networks = EagerNetworks(made.unet, made.vae)
    weights = [weight_of(layer) for layer in products_of(made.unet)]
    places = [weight.values.data_ptr() for weight in weights if weight is not None]
    refit(made, [(lora, 0.5)], made.prompts)
    for layer, place_before in zip(products_of(made.unet), places, strict=True):
        weight = weight_of(layer)
        assert weight is not None
        assert weight.values.data_ptr() == place_before, "a captured frame reads them there"
        values, _ = plain_quantised(source_of(layer))
        assert torch.equal(weight.values.float(), values.float())
    unet = small_unet(fused(model, [(lora, 0.5)]))
    frame = Frame(networks, slots=2, guidance="self", prediction=model.schedule.prediction)
    knobs, images = knobs_of(model), pictures(1)
    assert distance(run(frame, knobs, images)[0].image, run(frame_of(model, unet), knobs, images)[0].image) < 0.02
    now = [weight.values for weight in map(weight_of, products_of(base.unet)) if weight is not None]
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(now, kept, strict=True)), "the base is as it was"


def test_copies_share_the_eight_bits_and_have_their_own_where_their_weight_is_another(tiny_model: Load) -> None:
    model = tiny_model("sd15")
    unet = small_unet(model)
    shared: Any = share(unet)
    EagerNetworks(shared, model.vae)
    assert all(weight_of(a) is weight_of(b) for a, b in zip(products_of(shared), products_of(unet), strict=True))
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    width = unet.get_submodule(name).in_features
    change(shared, {name: (noise(width, 2), noise(2, width))})
    EagerNetworks(shared, model.vae)
    one, other = weight_of(shared.get_submodule(name)), weight_of(unet.get_submodule(name))
    assert one is not None
    assert one is not other
    assert torch.equal(one.values.float(), plain_quantised(shared.get_submodule(name).weight)[0].float())


def test_weights_of_very_different_sizes_stay_in_half_precision(tiny_model: Load) -> None:
    unet: Any = copy.deepcopy(tiny_model("sd-turbo").unet)
    layers: Any = unet.mid_block.attentions[0].transformer_blocks[0].ff.net
    layers[2].weight[:, 0] = 2**18 * layers[2].weight.abs().max()  # the rest is below the least step of e4m3 then
    layers[0].proj.weight[:, 0] *= 1000.0
    make_eight_bit(unet, lambda out, width: Terms("plain"))
    assert weight_of(layers[2]) is None
    assert weight_of(layers[0].proj) is not None


@pytest.mark.parametrize("way", HERE)
def test_a_transformer_compiles_to_one_graph_that_multiplies_in_eight_bits(tiny_model: Load, way: Way) -> None:
    model = tiny_model("sd-turbo")
    unet = small_unet(model, way)
    transformer: Any = unet.mid_block.attentions[0]
    targets: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    hidden, texts = noise(2, transformer.config.in_channels, 4, 4), noise(2, 77, unet.config.cross_attention_dim)
    compiled: Any = torch.compile(transformer, backend=backend, fullgraph=True, dynamic=False)
    made = compiled(hidden, encoder_hidden_states=texts, return_dict=False)[0]
    assert sum("_scaled_mm" in target for target in targets) == 8
    assert torch.equal(made, transformer(hidden, encoder_hidden_states=texts, return_dict=False)[0])


def test_a_runner_says_that_eight_bits_are_in_force(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    frame = frame_of(model, small_unet(model))
    assert make_runner(frame, CPU).in_force == "torch+eight_bit"
    assert make_runner(frame, CPU, compiled=True).in_force == "torch+eight_bit+compile"


@pytest.mark.gpu
@needs_a_gpu
def test_the_kernels_are_the_plain_operations_on_a_gpu() -> None:
    from sdstream.diffusion.eight_bit import kernels

    device = torch.device("cuda")
    if lacking(device):
        pytest.skip(lacking(device))
    assert not trial.kernel_problem(device)
    for (values, scales), wanted in answers(kernels, device, torch.float16):
        exact, like = plain_quantised(wanted)
        near = values.float() * scales.view(like.shape)
        assert float(apart(near, exact.float() * like)) < 0.02
    assert not quantised(torch.full((1, 1, 32), float("nan"), device=device)).scales.isfinite().any()


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo", "sd15"])
def test_a_captured_frame_in_eight_bits_is_the_plain_twin_and_follows_its_weights(
    tiny_model: Load, family: str
) -> None:
    device, half = torch.device("cuda"), torch.float16
    if lacking(device):
        pytest.skip(lacking(device))
    model = tiny_model(family)
    vae: Any = copy.deepcopy(model.vae).to(device, half)
    fast: Way = next(
        way for way in WAYS if not trial.look(device, half, 256, 256, way, CudaStopwatch(device))[0].problem
    )
    knobs = Knobs(*(tensor.to(device) for tensor in knobs_of(model)))
    image = pictures(1)[0].to(device)
    unets = [small_unet(model, fast, device, half), small_unet(model, "plain", device, half)]
    frames = [frame_of(replace(model, vae=vae), unet) for unet in unets]
    captured, eager = make_runner(frames[0], device), EagerRunner(frames[1])
    for _ in range(2):
        made = captured.run(image, knobs, make_memory(knobs)).image.clone()
        assert float(apart(made, eager.run(image, knobs, make_memory(knobs)).image)) < 0.03
        assert captured.notes == ()
        for unet in unets:  # as a LoRA that is written into running weights
            weight = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.ff.net.2").weight
            weight.mul_(-2.0)
            follow(unet, memory_of([weight]))
