"""The tensors of safetensors files, the only kind of weight file that is ever opened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import torch

_open: Any = safetensors.safe_open


def read_tensors(file: Path, wanted: Callable[[str], bool] = lambda key: True) -> dict[str, torch.Tensor]:
    """The tensors with keys that are `wanted`; the others are not read. Raises `SafetensorError` or `OSError`."""
    with _open(file, "pt") as source:
        return {str(key): source.get_tensor(key) for key in source.keys() if wanted(str(key))}  # noqa: SIM118


__all__ = ["read_tensors"]
