"""Whether blocks, and a frame's own steps, that can work fused do so. Of this process; without diffusers, so that
anybody may ask."""

from collections.abc import Generator
from contextlib import contextmanager

import torch


class _Switch:
    on = True
    devices: frozenset[torch.device] = frozenset()


def are_blocks_fused() -> bool:
    """Whether fused blocks do as such now, or as the plain ones that they were made of."""
    return _Switch.on


def use_fused_blocks(wanted: bool) -> None:
    """Fused or plain from now on."""
    _Switch.on = wanted


def are_steps_joined(x: torch.Tensor) -> bool:
    """Whether a frame does what is around its networks in one step each where `x` is: on devices where that was tried,
    and not for a compiler, which joins torch's own operations by itself."""
    return x.device in _Switch.devices and _Switch.on and not torch.compiler.is_compiling()


def join_steps_on(*devices: torch.device) -> None:
    """These are the devices where a frame's own steps were found to work, as tensors name them."""
    _Switch.devices |= frozenset(devices)


@contextmanager
def plain_blocks() -> Generator[None]:
    """Within it, fused blocks do as the plain ones do: for exports, and to compare."""
    before, _Switch.on = _Switch.on, False
    try:
        yield
    finally:
        _Switch.on = before


__all__ = ["are_blocks_fused", "are_steps_joined", "join_steps_on", "plain_blocks", "use_fused_blocks"]
