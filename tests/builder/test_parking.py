"""Weights in a file while engines are built: the same network, in hardly any memory."""

import mmap
from pathlib import Path

import pytest
import torch

from builder.parking import park
from sdstream.platform import LINUX
from sdstream.platform.memory import process_memory


def test_a_parked_network_answers_as_before_and_may_forget_and_be_changed(tmp_path: Path) -> None:
    torch.set_grad_enabled(False)
    first = torch.nn.Conv2d(3, 5, 3).half()
    first.weight.data = first.weight.data.contiguous(memory_format=torch.channels_last)
    network = torch.nn.Sequential(first, torch.nn.BatchNorm2d(5).half()).eval()
    image = torch.rand(1, 3, 8, 8).half()
    before, weights_before = network(image), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = park([network, first], tmp_path / "weights")
    assert weights.size == (tmp_path / "weights").stat().st_size
    for _ in range(2):
        # Where weights lie decides how a CPU multiplies: the last bit of an answer may be another.
        torch.testing.assert_close(network(image), before)
        parked = network.state_dict()
        assert list(parked) == list(weights_before)
        assert all(torch.equal(parked[name], tensor) for name, tensor in weights_before.items())
        weights.forget()
    written = (tmp_path / "weights").read_bytes()
    first.weight.mul_(2)
    assert not torch.equal(network(image), before)
    assert (tmp_path / "weights").read_bytes() == written


def test_a_network_without_weights_is_parked_too(tmp_path: Path) -> None:
    park([torch.nn.ReLU()], tmp_path / "weights").forget()


@pytest.mark.skipif(not LINUX, reason="memory is counted on Linux")
def test_what_is_forgotten_takes_no_memory(tmp_path: Path) -> None:
    torch.set_grad_enabled(False)
    network = torch.nn.Linear(4096, 4096, bias=False)
    weights = park([network], tmp_path / "weights")
    network.weight.sum()
    held = process_memory()
    weights.forget()
    left = process_memory()
    assert held is not None
    assert left is not None
    assert held - left > weights.size * 0.9 - 100 * mmap.PAGESIZE
