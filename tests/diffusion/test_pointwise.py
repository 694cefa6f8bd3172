"""Operations joined into one step: the plain ones' answers, from the kernels and from the blocks that ask for them."""

import copy
import importlib.util
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdstream.diffusion.convolving import twins
from sdstream.diffusion.eight_bit import products
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fused import attention, blocks, pointwise
from sdstream.diffusion.fused.blocks import fuse
from sdstream.diffusion.fused.joining import join
from sdstream.diffusion.fused.steps_trial import try_steps
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.networks import EagerNetworks
from tests.diffusion.runs import distance, knobs_of, pictures, run

Load = Callable[..., Model]
CPU = torch.device("cpu")
SHAPES = ((2, 20, 7, 9), (1, 320, 8, 8), (3, 64, 1, 1))
"""Batch, channels, height, width."""
WIDTHS = ((2, 30, 48), (1, 7, 320), (1, 5, 1280), (3, 1, 20), (1, 3, 2560))
"""Batch, tokens, width."""
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def answers(device: torch.device, dtype: torch.dtype, kernels: Any = None) -> list[torch.Tensor]:
    """Of all operations, of `kernels` or, without them, as a frame asks for them."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype).to(device)

    made: list[torch.Tensor] = []
    for shape in SHAPES:
        one, other = (noise(*shape).contiguous(memory_format=torch.channels_last) for _ in range(2))
        bias, more = noise(shape[1]), noise(shape[1])
        made += [(kernels or pointwise).biased_sum(one, other, bias, extra) for extra in (None, more)]
        made += [(kernels or pointwise).doubled(one), (kernels or pointwise).add_bias(other, bias)]
    for shape in WIDTHS:
        made.append((kernels or pointwise).gated(noise(*shape[:2], 2 * shape[2])))
        norm = torch.nn.LayerNorm(shape[2]).requires_grad_(False)
        for parameter in norm.parameters():
            parameter.normal_(1.0, 0.5, generator=generator)
        norm.to(device, dtype)
        told = (noise(*shape), noise(*shape), noise(shape[2]))
        for after in (None, noise(shape[2])):
            if kernels is None:
                made += pointwise.summed_norm(*told, norm, after)
            else:
                made += kernels.summed_norm(*told, norm.weight, norm.bias, norm.eps, after)
        if kernels is None:
            made.append(pointwise.normed(told[0], norm))
        else:
            made.append(kernels.normed(told[0], norm.weight, norm.bias, norm.eps))
    return made


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed, as torch is for CPUs")
def test_the_kernels_are_the_plain_operations_when_they_are_interpreted() -> None:
    program = "from tests.diffusion.test_pointwise import compare_interpreted; compare_interpreted()"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def compare_interpreted() -> None:
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    from sdstream.diffusion.fused import pointwise_kernels as kernels

    def same(kernel: Any) -> Any:
        return kernel

    made: Any = kernels  # Triton's language has no types
    interpreted = SimpleNamespace(
        biased_sum=lambda *told: made.launch_biased_sum(*told, same),
        gated=lambda x: made.launch_gated(x, same),
        summed_norm=lambda *told: made.launch_summed_norm(*told, same),
        normed=lambda *told: made.launch_normed(*told, same),
        doubled=lambda x: made.launch_doubled(x, same),
        add_bias=lambda x, bias: made.launch_add_bias(x, bias, same) or x,
    )
    for one, other in zip(answers(CPU, torch.float32, interpreted), answers(CPU, torch.float32), strict=True):
        assert distance(one, other) < 1e-5, one.shape
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for shape in (*SHAPES, (2, 3, 5, 70)):
            picture = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)
            large = interpreted.doubled(picture)
            assert torch.equal(large, pointwise.plain_doubled(picture))
            assert large.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float16, 4e-3)])
def test_the_kernels_are_the_plain_operations_on_a_gpu(dtype: torch.dtype, limit: float) -> None:
    device = torch.device("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert try_steps(device)
    assert pointwise.are_stepped(torch.zeros(1, device=device))
    made = answers(device, dtype)
    for one, other in zip(made, answers(CPU, dtype), strict=True):
        assert distance(one.cpu(), other) < limit, one.shape


@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo", "sd15"])
def test_blocks_that_ask_for_joined_operations_answer_as_plain_ones(
    tiny_model: Load, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = tiny_model(family)
    unet = copy.deepcopy(model.unet)
    fuse(unet)
    join(unet)
    frame = Frame(EagerNetworks(unet, model.vae), slots=2, guidance="full", prediction=model.schedule.prediction)
    knobs, images = knobs_of(model, guidance=1.8), pictures(2)
    wanted = run(frame, knobs, images)
    asked: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        before = getattr(pointwise, name)

        def call(*told: Any) -> Any:
            asked[name] += 1
            return before(*told)

        return call

    for room in (blocks, attention):
        monkeypatch.setattr(room, "are_joined", lambda x: True)
    for room, name in (
        (twins, "biased_sum"),
        (attention, "add_product"),
        (attention, "gated"),
        (products, "summed_norm"),
        (products, "normed"),
    ):
        monkeypatch.setattr(room, name, counted(name))
    made = run(frame, frame.complete(knobs), images)
    assert asked.keys() == {"add_product", "biased_sum", "gated", "normed", "summed_norm"}
    kinds = (attention.FusedTransformer, attention.FusedTransformerBlock)
    adding = sum(isinstance(module, kinds) for module in unet.modules())
    assert asked["add_product"] == len(images) * adding, "the last product of each, be it a layer or a convolution"
    assert max(distance(one.image, other.image) for one, other in zip(made, wanted, strict=True)) < 1e-5
