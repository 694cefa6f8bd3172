"""Which of torch's attentions is taken: the rule, what is remembered, and who never has anything tried."""

import copy
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from sdstream.diffusion.capture import CudaCapture
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fused import attending
from sdstream.diffusion.fused.attending import (
    BACKENDS,
    AttentionShape,
    Choices,
    attend,
    attention_choices,
    bring_into_force,
    forget_choices,
    plain_attention,
    shape_of,
    use_tried_attention,
)
from sdstream.diffusion.fused.attention_tiling import ATTENTION_TILINGS, AttentionTiling, attention_tiling_named
from sdstream.diffusion.fused.attention_trials import (
    SECONDS,
    settle_attention,
    settle_shape,
    settle_shapes,
    shapes_of_frame,
    tensors_of,
    try_backends,
)
from sdstream.diffusion.fused.blocks import fuse
from sdstream.diffusion.fused.joining import join
from sdstream.diffusion.fused.switch import plain_blocks
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.trials.session import TrialSession
from sdstream.diffusion.trials.stopwatch import IN_A_ROW, CudaStopwatch
from sdstream.worker.conditions import Conditions
from sdstream.worker.groups import GroupKey
from sdstream.worker.loading import tuning
from tests.diffusion.runs import distance, knobs_of, pictures

SHAPE = AttentionShape(1, 5, 4096, 4096, 64, 960, torch.float16)
CPU = torch.device("cpu")
Load = Callable[..., Model]
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def tensors(device: str = "cpu", tokens: int = 12, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Parts of one product, as self attention has them: 2 rows, 3 heads of 32."""
    made = torch.randn(2, tokens, 3 * 96, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    return made.view(2, tokens, 3, 3, 32).permute(2, 0, 3, 1, 4).unbind()


def test_every_field_of_a_shape_is_in_its_name() -> None:
    others = [SHAPE._replace(**{field: 7}) for field in SHAPE._fields if field != "dtype"]
    names = {shape.name for shape in (SHAPE, SHAPE._replace(dtype=torch.bfloat16), *others)}
    assert len(names) == len(SHAPE._fields) + 1


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors of a CPU pass for a GPU's, of any width, and there is one more way: backwards."""
    monkeypatch.setattr(attending, "is_on_a_gpu", lambda query: True)
    monkeypatch.setattr(attending, "DTYPES", (torch.float32,))
    monkeypatch.setattr(attending, "LEAST_WIDTH", 1)
    monkeypatch.setattr(attending, "BACKENDS", {"backwards": lambda query, keys, values: -query})
    forget_choices()
    yield
    forget_choices()
    use_tried_attention(True)


def test_rows_that_were_not_tried_have_the_choice_of_the_nearest_that_were() -> None:
    choices = Choices().with_one(SHAPE, "one").with_one(SHAPE._replace(rows=8), "eight")
    assert choices.of(SHAPE) == "one"
    assert choices.of(SHAPE._replace(rows=2)) == "one"
    assert choices.of(SHAPE._replace(rows=4)) == "eight"
    assert choices.of(SHAPE._replace(rows=64)) == "eight"
    assert choices.with_one(SHAPE._replace(rows=4), "").of(SHAPE._replace(rows=4)) == ""
    assert choices.of(SHAPE._replace(heads=7)) == "", "of another shape nothing is known"


@pytest.mark.usefixtures("on_a_gpu")
def test_frames_take_what_was_found_and_torchs_choice_before() -> None:
    query, keys, values = tensors()
    wanted = plain_attention(query, keys, values)
    with torch.no_grad():
        assert torch.equal(attend(query, keys, values), wanted)
        bring_into_force(query.device, shape_of(query, keys), "backwards")
        assert torch.equal(attend(query, keys, values), -query)
        assert torch.equal(attend(query[:1], keys[:1], values[:1]), -query[:1]), "of fewer rows"
        lies_elsewhere = query.contiguous()
        assert torch.equal(attend(lies_elsewhere, keys, values), wanted), "another layout is another shape"
    assert attention_choices() == {shape_of(query, keys).name: "backwards"}


@pytest.mark.usefixtures("on_a_gpu")
def test_plain_blocks_the_switch_and_gradients_have_torchs_choice() -> None:
    told: Any = tensors()
    wanted = plain_attention(*told)
    bring_into_force(CPU, shape_of(*told[:2]), "backwards")
    with plain_blocks():
        assert torch.equal(attend(*told), wanted)
    use_tried_attention(False)
    assert torch.equal(attend(*told), wanted)
    use_tried_attention(True)
    with torch.enable_grad():
        assert torch.equal(attend(told[0].clone().requires_grad_(), *told[1:]), wanted)
    assert torch.equal(attend(*told), -told[0])


@pytest.mark.usefixtures("on_a_gpu")
def test_a_preparation_tries_what_frames_ask_for_for_all_numbers_of_streams(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    unet = copy.deepcopy(model.unet)
    fuse(unet)
    join(unet)
    frame = Frame(EagerNetworks(unet, model.vae), slots=2, guidance="full", prediction=model.schedule.prediction)
    shapes = shapes_of_frame(frame, pictures(1)[0], knobs_of(model, guidance=1.8))
    seen: list[AttentionShape] = []

    def settle(shape: AttentionShape, device: torch.device) -> str:
        assert torch.equal(*(attend(*told) for told in (tensors(), tensors()))), "frames go on meanwhile"
        seen.append(shape)
        return ""

    assert settle_attention(shapes, CPU, (1, 3), settle=settle) == len(seen) > 4
    assert {shape.rows for shape in seen} == {4, 2, 12, 6}, "two steps with both prompts; each text is asked by two"
    assert [shape.rows <= 4 for shape in seen] == sorted((shape.rows <= 4 for shape in seen), reverse=True)
    assert {shape.keys for shape in seen} > {77}
    assert settle_attention(shapes, CPU, (1, 3), settle=settle) == 0, "once"
    assert settle_attention(shapes, CPU, (2,), settle=settle) > 0
    moments = iter((0.0, 1.0, SECONDS - 0.1, SECONDS, SECONDS))
    assert settle_attention(shapes, CPU, (5, 6), clock=lambda: next(moments), settle=settle) == 2
    over = TrialSession(tell=lambda percent: False)
    assert settle_attention(shapes, CPU, (7,), over, settle=settle) == 0, "nobody waits for it any more"


def test_frames_of_the_same_forms_are_run_once_to_see_their_shapes(
    tiny_model: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_known", {})
    monkeypatch.setattr(tuning, "MOST_KINDS", 2)
    model = tiny_model("sd-turbo")
    looked: list[int] = []

    def shapes(side: int, found: tuple[AttentionShape, ...] = (SHAPE,), **changes: Any) -> tuple[AttentionShape, ...]:
        def look() -> tuple[AttentionShape, ...]:
            looked.append(side)
            return found

        key = GroupKey(model, side, side, 2, "self", True, **changes)
        return tuning._asked_for(key, look)

    assert shapes(64, ()) == (), "there was no memory for it: it is looked for again"
    assert shapes(64) == shapes(64) == (SHAPE,)
    net = torch.nn.Linear(1, 1)
    net.config = {"channels": 3}  # type: ignore[assignment]
    shapes(64, conditions=Conditions(controlnets=(net,)))
    shapes(128)
    shapes(64)
    assert looked == [64, 64, 64, 128, 64], "the first looked at went"


@pytest.mark.parametrize(("keys", "stride"), [(12, 3 * 96), (12, 96), (77, 96)])
def test_what_is_tried_lies_as_in_a_frame(keys: int, stride: int) -> None:
    shape = AttentionShape(2, 3, 12, keys, 32, stride, torch.float32)
    query, looked_at, seen = tensors_of(shape, CPU)
    assert shape_of(query, looked_at) == shape
    assert seen.shape == looked_at.shape
    assert (looked_at.stride(2) == stride) == (seen.stride(2) == stride)


@pytest.mark.usefixtures("on_a_gpu")
def test_a_compiler_is_given_torchs_own_operation() -> None:
    seen: list[str] = []

    def look(graph: Any, inputs: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    told: Any = tensors()
    library: Any = torch
    made = library.compile(attend, backend=look, fullgraph=True)(*told)
    assert torch.equal(made, plain_attention(*told))
    assert any("scaled_dot_product_attention" in name for name in seen)


def test_a_cpu_has_torchs_choice() -> None:
    told: Any = tensors()
    assert torch.equal(attend(*told), plain_attention(*told))
    assert attention_choices() == {}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed, as torch is for CPUs")
def test_the_kernel_is_torchs_attention_when_it_is_interpreted() -> None:
    program = "from tests.diffusion.test_attending import compare_interpreted; compare_interpreted()"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def compare_interpreted() -> None:
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    from bench.support.interpreting import mend_interpreter
    from sdstream.diffusion.fused import attention_kernels

    mend_interpreter()
    kernels: Any = attention_kernels  # Triton's language has no types
    generator = torch.Generator().manual_seed(2)
    for rows, heads, queries, keys, width in ((2, 3, 70, 77, 32), (1, 2, 32, 64, 40), (1, 1, 33, 32, 64)):
        parts = torch.randn(rows, queries, 3, heads, width, generator=generator).permute(2, 0, 3, 1, 4)
        both = torch.randn(2, rows, keys, heads, width, generator=generator).transpose(2, 3)
        told = (parts[0], both[0], both[1])  # of one product, and of a text
        made = kernels.launch(*told, AttentionTiling(32, 32, 4, 3), lambda kernel: kernel)
        assert distance(made, plain_attention(*told)) < 1e-4
        assert made.transpose(1, 2).is_contiguous(), "as the layer behind it reads it"


def test_names_of_tilings_are_those_of_their_fields() -> None:
    assert [attention_tiling_named(each.name) for each in ATTENTION_TILINGS] == list(ATTENTION_TILINGS)
    with pytest.raises(ValueError, match="no tiling of attention"):
        attention_tiling_named("64x64w4")


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize("keys", [64, 77])
def test_what_is_chosen_on_a_gpu_answers_as_torch_and_is_captured(keys: int) -> None:
    forget_choices()
    device = torch.device("cuda", 0)
    query = tensors("cuda", 64, torch.float16)[0]
    _, looked_at, seen = tensors("cuda", keys, torch.float16)
    wanted = plain_attention(query, looked_at, seen)
    samples = try_backends(query, looked_at, seen, CudaStopwatch(device, in_a_row=IN_A_ROW))
    assert {sample.way for sample in samples} > {""}, "some way of its own is right on every card"
    assert all(0 < took < 100 for sample in samples for took in sample.milliseconds)
    assert settle_shapes([shape_of(query, looked_at)], device, lambda: False, settle_shape) == 1
    recording = CudaCapture(device).record(lambda: attend(query, looked_at, seen))
    recording.replay()
    assert distance(recording.result, wanted) < 0.02
    (backend,) = attention_choices().values()
    assert backend in {"", *BACKENDS}
    recording.forget()
    forget_choices()
