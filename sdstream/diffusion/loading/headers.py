"""safetensors files told by their headers, which also say how long the file is; no weights are read. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors import SafetensorError

from sdstream.model_errors import ModelUnavailable

_open: Any = safetensors.safe_open


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    shapes: Mapping[str, tuple[int, ...]]
    """Of all tensors, by key."""
    metadata: Mapping[str, str]


def read_header(file: Path) -> Header:
    """Read the header, which tells the length too: a file that was cut raises `SafetensorError`. Reads no weights."""
    with _open(file, "np") as source:
        shapes = {str(key): tuple(int(side) for side in source.get_slice(key).get_shape()) for key in source.keys()}  # noqa: SIM118
        metadata: dict[str, str] = source.metadata() or {}
        return Header(shapes, metadata)


def look_into(file: Path) -> Header:
    """Read the header: a broken download is refused before anything is made of it. Raises `ModelUnavailable`, naming
    the file."""
    try:
        return read_header(file)
    except FileNotFoundError:
        raise ModelUnavailable(f"{file} is missing") from None
    except (SafetensorError, OSError) as error:
        raise ModelUnavailable(f"{file} is not a whole safetensors file: {error}") from None


__all__ = ["Header", "SafetensorError", "look_into", "read_header"]
