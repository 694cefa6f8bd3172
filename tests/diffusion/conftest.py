"""Tiny models, made once for all tests of this folder; torch keeps to one core."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from sdstream.diffusion.models import Model, load_model
from sdstream.diffusion.schedule import Prediction
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.settings import Family

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a tiny model of a family once; do not change it."""

    @cache
    def write(family: Family, prediction: Prediction = "epsilon") -> Path:
        directory = tmp_path_factory.mktemp("models") / family
        write_tiny_model(directory, family, width=16, prediction=prediction)
        return directory

    return write


@pytest.fixture(scope="session")
def tiny_model(tiny_directory: Callable[..., Path]) -> Callable[..., Model]:
    """Loads a tiny model of a family once."""

    @cache
    def load(family: Family, prediction: Prediction = "epsilon", taesd: bool = True) -> Model:
        return load_model(tiny_directory(family, prediction), family, CPU, taesd=taesd)

    return load
