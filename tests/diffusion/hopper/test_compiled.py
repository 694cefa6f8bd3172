"""The kernels for Hopper through NVIDIA's compiler, and as an operation of torch: what needs no card."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode  # the only way to have tensors of a card where there is none

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.hopper.calls import answer_of, call_of
from sdstream.diffusion.convolving.hopper.kept import KeptBinaries
from sdstream.diffusion.convolving.hopper.source import source_of
from sdstream.diffusion.convolving.hopper.tilings import MOST_SHARED_BYTES
from sdstream.diffusion.convolving.trial import arguments_of
from sdstream.diffusion.convolving.twins import has_hopper_kernels, own_convolution
from tests.diffusion.hopper.cases import CASES

pytestmark = pytest.mark.skipif(not has_hopper_kernels(), reason="needs NVIDIA's bindings, which torch for CUDA brings")


def like(arguments: Arguments, **how: Any) -> Arguments:
    """Tensors of the same sizes and orders."""
    tensors = {each: value for each, value in arguments._asdict().items() if isinstance(value, torch.Tensor)}
    return arguments._replace(**{each: torch.empty_like(value, **how) for each, value in tensors.items()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_compiles_and_has_room(name: str, dtype: torch.dtype) -> None:
    from sdstream.diffusion.convolving.hopper.compiled import compile_source

    shape, tiling = CASES[name]
    arguments = like(arguments_of(shape, torch.device("cpu")), dtype=dtype)
    call = call_of(arguments, answer_of(arguments), tiling, processors=132)
    assert call.shared_bytes <= MOST_SHARED_BYTES
    assert compile_source(source_of(tiling, call.definitions)).startswith(b"\x7fELF")


def test_what_is_kept_is_not_compiled_again_unless_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdstream.diffusion.convolving.hopper import compiled

    made: list[str] = []

    def note(source: str) -> bytes:
        made.append(source)
        return compile_source(source)

    compile_source = compiled.compile_source
    monkeypatch.setattr(compiled, "compile_source", note)

    def prepare(source: str) -> None:
        compiled.KernelShelf(KeptBinaries(tmp_path)).prepare(source)

    first, second = (f'extern "C" __global__ void hopper_convolution(int* to) {{ *to = {n}; }}' for n in (1, 2))
    prepare(first)
    prepare(first)
    assert made == [first]
    prepare(second)
    assert made == [first, second], "another program is another kernel"
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    prepare(first)
    assert made == [first, second, first]
    monkeypatch.setattr(compiled, "OPTIONS", (*compiled.OPTIONS, "--fmad=false"))
    prepare(first)
    assert made == [first, second, first, first], "other options make another kernel"
    monkeypatch.setattr(compiled.nvrtc, "nvrtcVersion", lambda: (compiled.nvrtc.nvrtcResult.NVRTC_SUCCESS, 1, 0))
    prepare(first)
    assert len(made) == 5, "so does another compiler"


@pytest.mark.parametrize("name", ["resident", "doubled", "colours"])
def test_compilers_of_networks_see_the_size_and_order_of_the_answer(name: str) -> None:
    shape, tiling = CASES[name]
    arguments = arguments_of(shape, torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        made = own_convolution(like(arguments, device="cuda"), tiling.name)
    assert made.shape == (shape.batch, shape.columns, shape.out_height, shape.out_width)
    assert made.is_contiguous(memory_format=torch.channels_last)
