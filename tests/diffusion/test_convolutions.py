"""Convolutions with what stands around them in one step: torch's answers, from the twin, from the kernels, interpreted
and on a GPU, and from the layers that ask for them."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from sdstream.diffusion.convolving import layers, operation, twins
from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.operation import can_convolve, convolve
from sdstream.diffusion.convolving.shapes import Activation, Shape
from sdstream.diffusion.convolving.switch import use_tuned_convolutions
from sdstream.diffusion.convolving.tilings import BASE, Tiling, candidates, triton_tiling_named
from sdstream.diffusion.convolving.tuning import (
    bring_into_force,
    card_of,
    choices_of,
    known_tiling,
    shapes_asked,
    tuning_of,
)
from sdstream.diffusion.convolving.twins import own_convolution, plain_convolution, prepare_kernels
from sdstream.diffusion.fused.blocks import FusedResidualBlock, fuse
from sdstream.diffusion.libraries import autoencoder_parts, downsampling, residual_blocks, upsampling
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.placing import place
from sdstream.diffusion.trials.memory import keep_findings_in
from tests.diffusion.runs import distance
from tests.diffusion.test_fused import answer_of, networks_of

Load = Callable[..., Model]
CPU = torch.device("cpu")
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed, as torch is for CPUs"
)


class Case(NamedTuple):
    """A convolution, and what stands around it."""

    sizes: tuple[int, int, int, int]
    """Batch, channels, height, width."""
    others: int
    columns: int
    side: int
    stride: int = 1
    doubled: bool = False
    beyond: bool = False
    bias: bool = True
    more: bool = False
    residual: bool = False
    activation: Activation = ""


CASES = (
    Case((1, 32, 5, 7), 0, 24, 3, bias=False),
    Case((2, 32, 5, 6), 32, 40, 1, more=True, residual=True),
    Case((1, 64, 8, 6), 0, 16, 3, stride=2),
    Case((1, 32, 8, 6), 0, 16, 3, stride=2, beyond=True),
    Case((2, 32, 4, 3), 0, 20, 3, doubled=True, activation="relu"),
    Case((1, 3, 9, 6), 0, 24, 3, activation="relu"),
    Case((1, 4, 5, 6), 0, 24, 3, doubled=True),
    Case((2, 32, 3, 5), 0, 20, 3, doubled=True, residual=True, more=True, activation="silu"),
    Case((1, 32, 5, 6), 64, 24, 3, activation="silu"),
    Case((1, 64, 9, 5), 0, 3, 3, residual=True, activation="relu"),
)


def told(case: Case, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> tuple[nn.Conv2d, Any, Any]:
    """A layer, and what `convolve` is called with."""
    generator = torch.Generator().manual_seed(7)
    batch, channels, height, width = case.sizes
    padding = 0 if case.side == 1 or case.beyond else 1
    layer = nn.Conv2d(channels + case.others, case.columns, case.side, case.stride, padding).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.normal_(0, 1 / parameter[0].numel() ** 0.5, generator=generator)

    def noise(*shape: int) -> torch.Tensor:
        made = torch.randn(shape, generator=generator).to(device, dtype)
        return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made

    factor = 2 if case.doubled else 1
    answer = (height * factor // case.stride, width * factor // case.stride)
    given = (noise(*case.sizes), noise(batch, case.others, height, width) if case.others else None)
    named = {
        "bias": case.bias,
        "more": noise(case.columns) if case.more else None,
        "residual": noise(batch, case.columns, *answer) if case.residual else None,
        "doubled": case.doubled,
        "beyond": case.beyond,
        "activation": case.activation,
    }
    layer.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return layer, given, named


def wanted(case: Case, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """By torch's operations one by one, in float64 from values of `dtype`."""
    layer, (x, other), named = told(case, CPU, dtype)
    layer.double()
    x = x.double() if other is None else torch.cat((x, other), 1).double()
    x = functional.interpolate(x, scale_factor=2.0) if case.doubled else x
    x = functional.pad(x, (0, 1, 0, 1)) if case.beyond else x
    made = layer(x)
    if not case.bias:
        made = made - layer.bias.view(-1, 1, 1)  # type: ignore[union-attr]
    if case.more:
        made = made + named["more"].view(-1, 1, 1)
    if case.residual:
        made = made + named["residual"]
    return {"": lambda y: y, "relu": functional.relu, "silu": functional.silu}[case.activation](made)


def interpreted(arguments: Arguments, name: str) -> torch.Tensor:
    """The kernels, in a process that interprets them."""
    from sdstream.diffusion.convolving import kernels

    made: Any = kernels  # Triton's language has no types
    return made.launch(arguments, triton_tiling_named(name), lambda kernel: kernel)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Arguments]:
    """What layers ask `convolve` for on a GPU, answered by the twin on a CPU."""
    seen: list[Arguments] = []
    for room in (layers, operation):
        monkeypatch.setattr(room, "are_convolved", lambda x: True)
    monkeypatch.setattr("sdstream.diffusion.fused.blocks.are_convolved", lambda x: True)
    monkeypatch.setattr(operation, "settled_tiling", lambda *sizes: "one")
    monkeypatch.setattr(
        operation, "own_convolution", lambda arguments, name: seen.append(arguments) or plain_convolution(arguments)
    )
    return seen


@pytest.mark.parametrize("case", CASES)
def test_the_twin_is_torchs_operations_one_by_one(case: Case) -> None:
    layer, given, named = told(case)
    assert can_convolve(layer)
    made = convolve(layer, *given, **named)
    assert distance(made.double(), wanted(case)) < 1e-5


def test_what_no_convolution_takes_along_is_a_step_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        before = getattr(twins, name)

        def call(*given: Any) -> Any:
            asked[name] += 1
            return before(*given)

        return call

    monkeypatch.setattr(twins, "are_stepped", lambda x: True)
    for name in ("doubled", "add_bias"):
        monkeypatch.setattr(twins, name, counted(name))
    for case in CASES:
        layer, given, named = told(case)
        asked.clear()
        assert distance(convolve(layer, *given, **named).double(), wanted(case)) < 1e-5
        assert asked["doubled"] == case.doubled, case
        # On a GPU cuDNN takes the bias along where a ReLU follows, and a sum has it in the sum's step.
        assert asked["add_bias"] == (case.bias and not case.residual), case


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 5, padding=2),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, stride=(1, 2)),
    ],
    ids=str,
)
def test_other_convolutions_are_left_as_they_are(layer: nn.Conv2d) -> None:
    assert not can_convolve(layer)
    fuse(layer)
    assert type(layer) is nn.Conv2d


LAYERS: dict[str, tuple[Callable[[], Any], tuple[Any, ...], int]] = {
    "upsampler": (lambda: upsampling.Upsample2D(32, use_conv=True), (), 1),
    "uneven upsampler": (lambda: upsampling.Upsample2D(32, use_conv=True), ((15, 11),), 1),
    "downsampler": (lambda: downsampling.Downsample2D(32, use_conv=True), (), 1),
    "downsampler of a VAE": (lambda: downsampling.Downsample2D(32, use_conv=True, padding=0), (), 1),
    "residual block": (lambda: residual_blocks.ResnetBlock2D(in_channels=32, temb_channels=None), (None,), 2),
    "wider block": (
        lambda: residual_blocks.ResnetBlock2D(in_channels=32, out_channels=64, temb_channels=None),
        (None,),
        3,
    ),
    "small decoder": (lambda: autoencoder_parts.DecoderTiny(32, 3, (1, 1), (32, 32), 2, "relu", "nearest"), (), 9),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_around_convolutions_answer_as_diffusers(name: str, asked: list[Arguments]) -> None:
    make, more, convolutions = LAYERS[name]
    torch.manual_seed(1)
    layer = make().requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.randn(2, 32, 8, 6)
    plain = layer(x, *more)
    assert not asked
    fuse(layer)
    assert distance(layer(x, *more), plain) < 1e-5
    assert len(asked) == convolutions
    doubled = sum(arguments.doubled for arguments in asked)
    assert doubled == (name in ("upsampler", "small decoder"))


def test_a_block_gives_its_last_convolution_all_that_follows(asked: list[Arguments]) -> None:
    block: Any = residual_blocks.ResnetBlock2D(in_channels=32, out_channels=64, temb_channels=None)
    block.requires_grad_(False).to(memory_format=torch.channels_last)
    fuse(block)
    assert isinstance(block, FusedResidualBlock)
    block(torch.randn(1, 32, 4, 4), None)
    follow = [tuple(given is not None for given in (each.bias, each.more, each.residual)) for each in asked]
    assert follow == [(False, False, False), (False, False, False), (True, True, True)]


def test_a_weight_that_lies_otherwise_is_torchs_matter(asked: list[Arguments]) -> None:
    layer = nn.Conv2d(32, 16, 3, padding=1).requires_grad_(False)
    fuse(layer)
    layer(torch.randn(1, 32, 4, 4))
    assert not asked
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer(torch.randn(1, 32, 4, 4))
    assert len(asked) == 1


def test_nothing_is_tried_unless_it_is_wanted() -> None:
    assert known_tiling(0, "torch.float16", 1, 8, 8, 64, 0, 64, 3, 1, 1, 8, 8, False, 1, False, "") == ""
    assert choices_of() == {}


@needs_triton
@pytest.mark.slow
def test_the_kernels_are_the_twin_when_they_are_interpreted() -> None:
    program = "from tests.diffusion.test_convolutions import compare_interpreted; compare_interpreted()"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def compare_interpreted() -> None:
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    from bench.support.interpreting import mend_interpreter

    mend_interpreter()
    chosen = Tiling(32, 16, 32, 4, 2, together=2)
    ways = (chosen, replace(chosen, parts=3))
    patched: Any = operation
    patched.are_convolved = lambda x: True
    patched.own_convolution = interpreted
    for case in CASES:
        layer, given, named = told(case)
        for way in (*ways, *(replace(way, phased=True) for way in ways if case.doubled)):
            name = way.name
            patched.settled_tiling = lambda *sizes, name=name: name
            made = convolve(layer, *given, **named)
            assert distance(made.double(), wanted(case)) < 1e-5, (case, name)
            assert made.is_contiguous(memory_format=torch.channels_last)
            if case is CASES[0]:
                assert torch.equal(made, convolve(layer, *given, **named)), "the same picture gives the same answer"
            if way.phased:
                layer.weight.neg_()
                arguments = _arguments(layer, given[0], given[1], named)
                made = interpreted(arguments, name)
                assert distance(made, plain_convolution(arguments)) < 1e-5, "what is written into weights counts"
                layer.weight.neg_()


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is None, reason="needs a torch for CUDA, but no card")
def test_a_compiler_sees_the_way_that_was_chosen_of_every_convolution() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from bench.launches import H100, cudnn_by_shape, give_memory, shapes_of
    from sdstream.diffusion.convolving.tuning import assumed_choices

    networks = shapes_of("tiny")
    seen: Counter[str] = Counter()

    def look(graph: Any, inputs: Any) -> Any:
        for node in graph.graph.nodes:
            if node.op == "call_function" and "onv" in str(node.target):
                seen[f"{node.target} {node.args[-1]}"] += 1
        return graph.forward

    library: Any = torch
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), cudnn_by_shape(), assumed_choices(H100) as shapes:
        give_memory(networks.vae, "cuda")
        decode = library.compile(networks.vae.decoder, backend=look, fullgraph=True, dynamic=False)
        decode(torch.empty(1, 4, 16, 16, dtype=torch.half, device="cuda"))
    assert seen.total() == 35
    assert all("sdstream.convolution" in name and "w" in name.split()[-1] for name in seen)
    assert sum(shapes.values()) >= 35


HALVES = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
LARGE = (
    Case((2, 320, 16, 16), 0, 320, 3, residual=True),
    Case((1, 640, 8, 8), 320, 640, 1),
    Case((1, 320, 16, 16), 0, 320, 3, doubled=True),
)
"""So large that every tiling is worth a trial. Each tiling is a program of its own for each of these, and so there are
few: half a second for a compiler, which eight of them do side by side."""


def wrong_ways(case: Case, dtype: torch.dtype, most: int) -> list[str]:
    """The ways of computing this, of the `most` most promising ones and each of them in two parts, that do not answer
    as torch does in float64, or twice the same, and how."""
    device = torch.device("cuda")
    layer, (x, other), named = told(case, device, dtype)
    arguments = _arguments(layer, x, other, named)
    make: Any = Shape
    shape: Shape = make(*arguments.sizes, str(dtype).removeprefix("torch."))
    ways = [way for way in candidates(shape, card_of(device), most, hopper=0) if isinstance(way, Tiling)]
    names = dict.fromkeys(replace(way, parts=parts).name for way in ways for parts in (1, 2))
    assert names, "there is a way"
    prepare_kernels(arguments, list(names))
    exact, wrong = wanted(case, dtype), list[str]()
    for name in names:
        made = own_convolution(arguments, name)
        apart = distance(made.cpu().double(), exact)
        # The filters of phases are rounded once more.
        if not apart < HALVES[dtype] * (2 if "phased" in name else 1):
            wrong.append(f"{name} is {apart:.2g} apart")
        if not torch.equal(made, own_convolution(arguments, name)):
            wrong.append(f"{name} answers otherwise the second time")
    return wrong


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize("case", LARGE, ids=lambda case: f"side {case.side}{' doubled' * case.doubled}")
def test_every_tiling_is_the_twin_on_a_gpu(case: Case) -> None:
    assert wrong_ways(case, torch.float16, len(BASE) + 1) == []


@pytest.mark.gpu
@needs_a_gpu
def test_bfloat16_is_the_twin_on_a_gpu() -> None:
    for case, most in ((LARGE[0], 6), (CASES[5], 1)):
        assert wrong_ways(case, torch.bfloat16, most) == []


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize("number", range(len(CASES)))
def test_what_stands_around_a_convolution_is_in_the_kernels_on_a_gpu(number: int) -> None:
    assert wrong_ways(CASES[number], torch.float16, 2) == []


def _arguments(layer: nn.Conv2d, x: torch.Tensor, other: torch.Tensor | None, named: dict[str, Any]) -> Arguments:
    seen: list[Arguments] = []
    before = operation._tiling_of
    patched: Any = operation
    patched._tiling_of = lambda arguments: seen.append(arguments) or ""
    try:
        convolve(layer, x, other, **named)
    finally:
        patched._tiling_of = before
    return seen[0]


TRIAL_SECONDS = 6.0
"""Of a minute and more that all shapes of a tiny model take: what was not reached is torch's own, and stays so."""


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize("family", ["sd-turbo", "sdxl-turbo"])
def test_networks_answer_the_same_with_what_trials_chose(tiny_model: Load, tmp_path: Path, family: Any) -> None:
    networks, device = networks_of(tiny_model, family), torch.device("cuda")
    networks = EagerNetworks(networks.unet.half(), networks.vae.half())
    for network in (networks.unet, networks.vae):
        place(network, device)
    plain = answer_of(networks, device)
    try:
        keep_findings_in(tmp_path)
        use_tuned_convolutions(True, TRIAL_SECONDS)
        with shapes_asked() as asked:
            answer_of(networks, device)
        tuning_of(0).settle([asked], TRIAL_SECONDS)
        bring_into_force()
        made = answer_of(networks, device)
        found = choices_of()
        assert any(choice.plain_milliseconds for choice in found.values()), "something was tried"
        assert max(distance(one, other) for one, other in zip(made, plain, strict=True)) < 2e-2
        assert tuning_of(0).store.names("convolutions") == {
            name for name, choice in found.items() if choice.plain_milliseconds
        }
        use_tuned_convolutions(True, 0.0)
        tuning_of(0).settle([asked], 0.0)
        bring_into_force()
        again = answer_of(networks, device)
        assert all(torch.equal(one, other) for one, other in zip(again, made, strict=True))
        assert choices_of() == found
    finally:
        use_tuned_convolutions(False)
        keep_findings_in(None)


@pytest.mark.gpu
@needs_a_gpu
def test_a_convolution_in_parts_is_captured() -> None:
    from sdstream.diffusion.capture import CudaCapture

    device = torch.device("cuda")
    layer, (x, other), named = told(Case((1, 640, 8, 8), 0, 640, 3, residual=True), device, torch.float16)
    arguments = _arguments(layer, x, other, named)
    recording = CudaCapture(device).record(lambda: own_convolution(arguments, "64x64x64w4s4p4g8"))
    x.mul_(2.0)
    recording.replay()
    assert torch.equal(recording.result, own_convolution(arguments, "64x64x64w4s4p4g8"))
    recording.forget()
