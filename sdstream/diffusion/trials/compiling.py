"""Compiling several kernels of Triton at the same time, and launching none of them."""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from triton.runtime._async_compile import AsyncCompileMode

COMPILERS = 8
"""Threads that compile; most of it is done without Python's lock."""

Launch = Callable[[Callable[[Any], Any]], object]
"""Launches kernels, each made ready by what it is given."""


def compile_together(launches: Iterable[Launch]) -> None:
    """Compile what these would launch. What cannot be compiled is left out: it fails again, and says why, when it is
    launched."""
    with ThreadPoolExecutor(COMPILERS) as executor, AsyncCompileMode(executor, ignore_errors=True):
        for launch in launches:
            launch(_Compiled)


class _Compiled:
    """A kernel that is compiled when it is launched, and not launched."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def compile_only(*told: Any, **named: Any) -> None:
            self._kernel.warmup(*told, grid=grid, **named)

        return compile_only


__all__ = ["compile_together"]
