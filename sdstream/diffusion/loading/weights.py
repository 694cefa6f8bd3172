"""safetensors files: their headers and their tensors, the only kind of weight file that is ever opened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError

_open: Any = safetensors.safe_open


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    shapes: Mapping[str, tuple[int, ...]]
    """Of all tensors, by key."""
    metadata: Mapping[str, str]


def read_header(file: Path) -> Header:
    """Read the header, which tells the length too: a file that was cut raises `SafetensorError`. Reads no weights."""
    with _open(file, "pt") as source:
        shapes = {str(key): tuple(int(side) for side in source.get_slice(key).get_shape()) for key in source.keys()}  # noqa: SIM118
        metadata: dict[str, str] = source.metadata() or {}
        return Header(shapes, metadata)


def read_tensors(file: Path, wanted: Callable[[str], bool] = lambda key: True) -> dict[str, torch.Tensor]:
    """The tensors with keys that are `wanted`; the others are not read. Raises `SafetensorError` or `OSError`."""
    with _open(file, "pt") as source:
        return {str(key): source.get_tensor(key) for key in source.keys() if wanted(str(key))}  # noqa: SIM118


__all__ = ["Header", "SafetensorError", "read_header", "read_tensors"]
