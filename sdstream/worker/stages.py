"""Names for the stretches of a picture's way, for NVIDIA's profiler; nothing where there is no CUDA."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

_NOTHING = nullcontext()


def stage(name: str) -> AbstractContextManager[None]:
    """An NVTX range around a `with` block."""
    nvtx: Any = torch.cuda.nvtx
    return nvtx.range(f"sdstream.{name}") if _has_cuda() else _NOTHING


@cache
def _has_cuda() -> bool:
    return torch.cuda.is_available()


__all__ = ["stage"]
