"""What is asked of NVIDIA's management library, with one in its place that knows more or less."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sdstream.commands import machine
from sdstream.commands.machine import Gpu, find_gpus


class Unknown(Exception):
    """In the place of `NVMLError`."""


def refuse(*_: object) -> Any:
    raise Unknown("function not found")


def library(**other: Callable[..., Any]) -> SimpleNamespace:
    functions: dict[str, Any] = {
        "NVMLError": Unknown,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.95",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=23 * 2**30),
        "nvmlDeviceGetName": lambda _: "NVIDIA L4",
        "nvmlDeviceGetCudaComputeCapability": lambda _: (8, 9),
    }
    return SimpleNamespace(**(functions | other))


def test_a_card_with_what_its_driver_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "nvml", library())
    assert find_gpus() == ((Gpu(0, "NVIDIA L4", 23 * 2**30, "580.95", 13000, 89),), "")


def test_a_card_whose_driver_does_not_tell_all_is_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container without the driver's libraries for computing, say."""
    silent = library(nvmlSystemGetCudaDriverVersion_v2=refuse, nvmlDeviceGetCudaComputeCapability=refuse)
    monkeypatch.setattr(machine, "nvml", silent)
    assert find_gpus() == ((Gpu(0, "NVIDIA L4", 23 * 2**30, "580.95", 0, 0),), "")


def test_a_driver_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "nvml", library(nvmlDeviceGetCount=refuse))
    assert find_gpus() == ((), "the NVIDIA driver does not answer (function not found)")
