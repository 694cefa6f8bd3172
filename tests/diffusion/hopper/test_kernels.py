"""The kernels for Hopper, run on a processor: every index of every tile, and the order of copies and products."""

from pathlib import Path

import pytest
import torch

from sdstream.diffusion.convolving.trial import arguments_of
from sdstream.diffusion.convolving.twins import plain_convolution
from tests.diffusion.hopper.cases import CASES
from tests.diffusion.hopper.emulation import HAS_COMPILER, built, emulated

pytestmark = pytest.mark.skipif(not HAS_COMPILER, reason="needs g++")


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_answers_as_its_twin_whenever_boxes_come_and_products_read(name: str, tmp_path: Path) -> None:
    shape, tiling = CASES[name]
    arguments = arguments_of(shape, torch.device("cpu"))
    tensors = {each: value for each, value in arguments._asdict().items() if isinstance(value, torch.Tensor)}
    wanted = plain_convolution(arguments._replace(**{each: value.float() for each, value in tensors.items()}))
    program = built(arguments, tiling, tmp_path)
    for late in (False, True):
        made = emulated(program, arguments, tiling, late=late).float()
        assert (made - wanted).abs().max() < 1e-3 * wanted.abs().max(), late


@pytest.mark.parametrize("name", ["gathered", "doubled", "stepped in two regions", "five parts"])
def test_what_is_no_number_shows_behind_a_relu(name: str, tmp_path: Path) -> None:
    shape, tiling = CASES[name]
    assert shape.activation == "relu"
    arguments = arguments_of(shape, torch.device("cpu"))
    arguments.x[-1, 1, 2, 3] = torch.nan
    wanted = plain_convolution(arguments).isnan()
    assert wanted.any()
    assert not wanted.all()
    made = emulated(built(arguments, tiling, tmp_path), arguments, tiling, late=False)
    assert torch.equal(made.isnan(), wanted)
