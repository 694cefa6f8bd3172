"""Products with a gate in one step: the kernel's answers, which layers it is for, and that trials choose."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from sdstream.diffusion.capture import CudaCapture
from sdstream.diffusion.convolving.tilings import Tiling, tiling_named
from sdstream.diffusion.eight_bit.products import EightBitLinear
from sdstream.diffusion.fused import gating
from sdstream.diffusion.fused.attending import plain_attention
from sdstream.diffusion.fused.attention_tiling import ATTENTION_TILINGS, AttentionTiling, attention_tiling_named
from sdstream.diffusion.fused.gating import (
    GATED_TILINGS,
    gate_choices,
    gated_product,
    is_asked,
    plain_gated_product,
    shape_of,
    try_tilings,
    use_tried_gates,
)
from sdstream.diffusion.fused.switch import plain_blocks
from sdstream.diffusion.trials.session import without_trials
from sdstream.diffusion.trials.ways import RecordedCalls
from tests.diffusion.runs import distance

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def layer_of(depth: int = 64, columns: int = 24, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Linear:
    made = nn.Linear(depth, 2 * columns).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.normal_(0.0, depth**-0.5, generator=generator)
    return made.to(device, dtype)


def rows_of(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


@needs_triton
def test_the_kernels_are_the_plain_operations_when_they_are_interpreted() -> None:
    program = "from tests.diffusion.test_gating import compare_interpreted; compare_interpreted()"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def compare_interpreted() -> None:
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    from bench.support.interpreting import mend_interpreter
    from sdstream.diffusion.fused import attention_kernels, gated_product_kernels

    mend_interpreter()
    gates: Any = gated_product_kernels  # Triton's language has no types
    attentions: Any = attention_kernels

    def same(kernel: Any) -> Any:
        return kernel

    for rows, columns in ((70, 24), (32, 40)):  # more than whole blocks, and less
        layer, x = layer_of(64, columns), rows_of(2, rows, 64)
        for bias in (layer.bias, None):
            made = gates.launch(x, layer.weight, bias, Tiling(32, 16, 32, 4, 3, together=2), same)
            value, gate = nn.functional.linear(x, layer.weight, bias).chunk(2, -1)
            assert distance(made, value * nn.functional.gelu(gate)) < 1e-4
    for rows, heads, queries, keys, width in ((2, 3, 70, 77, 32), (1, 2, 32, 64, 40), (1, 1, 33, 32, 64)):
        parts = rows_of(rows, queries, 3, heads, width).permute(2, 0, 3, 1, 4)  # as one product has them
        told, seen = (rows_of(rows, keys, heads, width).transpose(1, 2) for _ in range(2))
        made = attentions.launch(parts[0], told, seen.neg(), AttentionTiling(32, 32, 4, 3), same)
        assert distance(made, plain_attention(parts[0], told, seen.neg())) < 1e-4
        assert made.transpose(1, 2).is_contiguous(), "as the layer behind it reads it"


def test_names_of_tilings_are_those_of_their_fields() -> None:
    assert [attention_tiling_named(each.name) for each in ATTENTION_TILINGS] == list(ATTENTION_TILINGS)
    assert {tiling_named(name).depth for name in GATED_TILINGS} == {gating.DEPTH}
    with pytest.raises(ValueError, match="no tiling of attention"):
        attention_tiling_named("64x64w4")


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is tried of tensors that pass for a GPU's, on a CPU, where every trial says `backwards`."""
    seen: list[str] = []

    def settle(shape: Any, *told: Any) -> str:
        seen.append(shape.name)
        return "backwards"

    monkeypatch.setattr(gating, "_settle", settle)
    monkeypatch.setattr(gating, "are_joined", lambda x: True)
    monkeypatch.setattr(gating, "gated", lambda x: x[..., : x.shape[-1] // 2])
    monkeypatch.setattr(gating, "_kernels", object())
    monkeypatch.setattr(gating, "DTYPES", (torch.float32,))
    monkeypatch.setattr(gating._State, "choices", {})
    monkeypatch.setattr(gating, "in_one", lambda layer, x, way: -plain_gated_product(layer, x))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    yield seen
    use_tried_gates(True)


def test_a_shape_is_tried_once_and_never_for_calls_of_no_frame(tried: list[str]) -> None:
    layer, x = layer_of(), rows_of(3, 5, 64)
    wanted = plain_gated_product(layer, x)
    with without_trials():
        assert torch.equal(gated_product(layer, x), wanted)
    assert not tried
    for _ in range(2):
        assert torch.equal(gated_product(layer, x), -wanted)
    with without_trials():
        assert torch.equal(gated_product(layer, x), -wanted), "a choice that was made before counts"
    gated_product(layer, x[:1])
    assert tried == [shape_of(layer, x).name, shape_of(layer, x[:1]).name]
    assert set(gate_choices().values()) == {"backwards"}


def test_other_layers_odd_widths_plain_blocks_and_the_switch_keep_two_steps(tried: list[str]) -> None:
    layer, x = layer_of(), rows_of(3, 64)
    assert is_asked(layer, x)
    small = layer_of()
    small.__class__ = EightBitLinear
    assert not is_asked(small, x)
    assert not is_asked(layer_of(40), rows_of(3, 40))
    assert not is_asked(layer, x.double())
    with plain_blocks():
        assert not is_asked(layer, x)
    use_tried_gates(False)
    assert not is_asked(layer, x)
    assert not tried


@pytest.mark.gpu
@needs_a_gpu
def test_what_is_chosen_on_a_gpu_answers_as_torch_and_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gating._State, "choices", {})
    device = torch.device("cuda", 0)
    layer, x = layer_of(320, 1280, torch.float16, "cuda"), rows_of(2, 200, 320).to(device, torch.float16)
    wanted = plain_gated_product(layer, x)
    samples = try_tilings(layer, x, RecordedCalls(device))
    assert {sample.way for sample in samples} == {"", *GATED_TILINGS}, "all answer rightly"
    recording = CudaCapture(device).record(lambda: gated_product(layer, x))
    recording.replay()
    assert distance(recording.result, wanted) < 0.02
    (way,) = gate_choices().values()
    assert way in {"", *GATED_TILINGS}
    recording.forget()
