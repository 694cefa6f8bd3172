"""Torch keeps to one core here, so that its tests do not wait for those of others."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
