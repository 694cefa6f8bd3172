"""Whether memset nodes of recorded graphs are replaced by kernels. Of this process; without any library."""

from collections.abc import Generator
from contextlib import contextmanager


class _Switch:
    on = True


def are_memsets_replaced() -> bool:
    """Whether graphs that are recorded now get kernels in the place of small memsets."""
    return _Switch.on


def use_kernel_memsets(wanted: bool) -> None:
    """Replace them from now on, or leave graphs as they are recorded; what was recorded stays as it is."""
    _Switch.on = wanted


@contextmanager
def recorded_memsets() -> Generator[None]:
    """Within it graphs stay as they are recorded: to compare."""
    before, _Switch.on = _Switch.on, False
    try:
        yield
    finally:
        _Switch.on = before


__all__ = ["are_memsets_replaced", "recorded_memsets", "use_kernel_memsets"]
