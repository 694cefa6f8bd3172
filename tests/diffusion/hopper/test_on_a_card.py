"""The kernels for Hopper on such a card: the cases of a processor, the twin's answers, and being captured."""

from dataclasses import replace

import pytest
import torch

from sdstream.diffusion.capture import CudaCapture
from sdstream.diffusion.convolving.shapes import EIGHT_BIT
from sdstream.diffusion.convolving.trial import arguments_of
from sdstream.diffusion.convolving.twins import own_convolution, plain_convolution
from tests.diffusion.hopper.cases import CASES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU"
    ),
]
DEVICE = torch.device("cuda", 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_answers_as_its_twin(name: str, dtype: str) -> None:
    shape, tiling = CASES[name]
    small = shape.dtype == EIGHT_BIT
    arguments = arguments_of(shape if small else replace(shape, dtype=dtype), DEVICE)
    if small and dtype == "bfloat16":
        beside = {"bias": arguments.bias, "more": arguments.more, "residual": arguments.residual}
        arguments = arguments._replace(**{name: term.bfloat16() for name, term in beside.items() if term is not None})
    tensors = {each: value for each, value in arguments._asdict().items() if isinstance(value, torch.Tensor)}
    # In float32: in half precision the twin rounds more than once.
    wanted = plain_convolution(arguments._replace(**{each: value.float() for each, value in tensors.items()}))
    made = own_convolution(arguments, tiling.name).float()
    rounding = 2.0**-8 if dtype == "bfloat16" else 2.0**-10
    if small:  # of which Hopper adds products with fewer digits than float32 has
        rounding = max(rounding, 2.0**-7)
    assert (made - wanted).abs().max() <= rounding * wanted.abs().max()


@pytest.mark.parametrize("name", ["resident", "three parts", "doubled", "eight bits"])
def test_a_captured_kernel_reads_what_is_there_when_it_is_replayed(name: str) -> None:
    shape, tiling = CASES[name]
    arguments = arguments_of(shape, DEVICE)
    recording = CudaCapture(DEVICE).record(lambda: own_convolution(arguments, tiling.name))
    arguments.x.copy_(arguments.x.float() * 2.0)
    recording.replay()
    assert torch.equal(recording.result, own_convolution(arguments, tiling.name))
    recording.forget()


@pytest.mark.parametrize("name", CASES)
def test_the_same_picture_has_the_same_answer(name: str) -> None:
    shape, tiling = CASES[name]
    arguments = arguments_of(shape, DEVICE)
    first = own_convolution(arguments, tiling.name)
    assert all(torch.equal(own_convolution(arguments, tiling.name), first) for _ in range(5))
