"""Whether blocks that can work fused do so. Of this process; without diffusers, so that anybody may ask."""

from collections.abc import Generator
from contextlib import contextmanager


class _Switch:
    on = True


def are_blocks_fused() -> bool:
    """Whether fused blocks do as such now, or as the plain ones that they were made of."""
    return _Switch.on


def use_fused_blocks(wanted: bool) -> None:
    """Fused or plain from now on."""
    _Switch.on = wanted


@contextmanager
def plain_blocks() -> Generator[None]:
    """Within it, fused blocks do as the plain ones do: for exports, and to compare."""
    before, _Switch.on = _Switch.on, False
    try:
        yield
    finally:
        _Switch.on = before


__all__ = ["are_blocks_fused", "plain_blocks", "use_fused_blocks"]
