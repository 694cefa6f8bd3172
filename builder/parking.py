"""Weights that lie in a file while engines are built of them, so that memory holds what is being read of them only."""

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdstream.platform.memory import forget_pages

ALIGNMENT = 64
"""Bytes; each tensor begins at a multiple of as many."""


@dataclass(frozen=True, slots=True)
class ParkedWeights:
    """The weights of some modules, mapped from a file that must stay as long as the modules are used."""

    size: int
    _mapping: mmap.mmap | None

    def forget(self) -> None:
        """Let go of the memory of what was read so far; it is read again when somebody asks."""
        if self._mapping is not None:
            forget_pages(self._mapping)


def park(modules: Iterable[nn.Module], file: Path) -> ParkedWeights:
    """Move the tensors of `modules`, all on the CPU, into `file`, where they are read from as they are needed.

    They keep their values, types and shapes; what is written to them from now on stays in memory. Raises `OSError`, and
    nothing has moved then.
    """
    tensors = {id(tensor): tensor for module in modules for tensor in (*module.parameters(), *module.buffers())}
    places: list[tuple[torch.Tensor, int]] = []
    size = 0
    with file.open("wb") as target:
        for tensor in tensors.values():
            if not tensor.numel():
                continue
            plain: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            size += target.write(bytes(-size % ALIGNMENT))
            places.append((tensor, size))
            size += target.write(plain.data)
    if not places:
        return ParkedWeights(0, None)
    with file.open("rb") as source:
        mapping = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_COPY)  # torch wants what could be written to
    for tensor, start in places:
        read = torch.frombuffer(mapping, dtype=tensor.dtype, count=tensor.numel(), offset=start)
        tensor.data = read.view(tensor.shape)
    return ParkedWeights(size, mapping)


__all__ = ["ParkedWeights", "park"]
