"""Convolutions of channels-last pictures by Hopper's own instructions; see `tiles.cu` for how."""

# The bindings have no types, and are installed only where torch is for CUDA.
# pyright: basic

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, cast

import torch

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.hopper.calls import answer_of, call_of
from sdstream.diffusion.convolving.hopper.compiled import KernelShelf
from sdstream.diffusion.convolving.hopper.source import definitions_of, source_of
from sdstream.diffusion.convolving.hopper.tilings import HopperTiling, hopper_tiling_named
from sdstream.diffusion.convolving.shapes import Activation
from sdstream.diffusion.trials.failures import FAILURES

COMPILERS = 8
"""Threads that compile; all of it is done without Python's lock."""

_shelf = KernelShelf()


@torch.library.custom_op("sdstream::hopper_convolution", mutates_args=(), device_types="cuda")
def hopper_convolution(
    x: torch.Tensor,
    other: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    more: torch.Tensor | None,
    residual: torch.Tensor | None,
    stride: int,
    padding: int,
    out_height: int,
    out_width: int,
    doubled: bool,
    activation: str,
    scales: torch.Tensor | None,
    tiling: str,
) -> torch.Tensor:
    """Of what `Arguments` name. `tiling` is the name of one for Hopper. Answers channels last. Raises
    `KernelRefused`."""
    sizes = (stride, padding, out_height, out_width, doubled)
    arguments = Arguments(x, other, weight, bias, more, residual, *sizes, cast("Activation", activation), scales)
    return launch(arguments, hopper_tiling_named(tiling))


@hopper_convolution.register_fake
def _shape_of(*told: Any) -> torch.Tensor:
    return answer_of(Arguments(*told[:-1]))


def launch(arguments: Arguments, tiling: HopperTiling) -> torch.Tensor:
    """As `hopper_convolution`."""
    device = arguments.x.device
    with torch.cuda.device(device):
        out = answer_of(arguments)
        processors: int = torch.cuda.get_device_properties(device).multi_processor_count
        call = call_of(arguments, out, tiling, processors)
        kernel = _shelf.get(source_of(tiling, call.definitions), device.index or 0, call.shared_bytes)
        kernel.launch(call.grid, call.threads, call.told)
    return out


def compile_ahead(arguments: Arguments, tilings: Iterable[str]) -> None:
    """Compile the kernels that `launch` would take for these arguments, all at the same time, and launch none. What
    cannot be compiled is left out: it fails again, and says why, when it is launched."""

    def prepare(name: str) -> None:
        tiling = hopper_tiling_named(name)
        with suppress(*FAILURES):
            _shelf.prepare(source_of(tiling, definitions_of(tiling, arguments)))

    with ThreadPoolExecutor(COMPILERS) as executor:
        list(executor.map(prepare, tilings))


__all__ = ["compile_ahead", "hopper_convolution", "launch"]
