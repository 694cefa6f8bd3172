"""How long image processors take for several streams: stream by stream, and together, in turns."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdstream.diffusion.libraries import transformers
from sdstream.params import IMAGE_PROCESSORS
from sdstream.worker import sharing
from sdstream.worker.annotators.depth import DepthNetwork
from sdstream.worker.annotators.drawing import LineNetwork
from sdstream.worker.annotators.edges import EdgeNetwork
from sdstream.worker.annotators.enlarging import EnlargingNetwork
from sdstream.worker.annotators.parts import WholeNetwork
from sdstream.worker.annotators.people import PeopleNetwork
from sdstream.worker.annotators.shelf import AnnotatorShelf, Loader
from sdstream.worker.processors import ProcessorChain, Wanted
from tests.worker.annotators import TINY_LOADERS

NAMES = ("depth", "hed", "lineart", "openpose", "pose_tensorrt", "realesrgan_trt", "canny", "sharpen")
WAYS = ("apart", "as it runs", "always together")
"""Stream by stream; as the worker does it, which on a CPU leaves large pictures apart; and whatever their size."""


def _empty(network: PeopleNetwork) -> WholeNetwork:
    """It sees nobody: how long the host takes to put people together is no affair of batches."""
    for head in ("L1", "L2"):
        last: Any = network.get_submodule(f"Mconv7_stage6_{head}")
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return WholeNetwork(network)


def _full_depth() -> nn.Module:
    config = transformers.DepthAnythingConfig()
    return DepthNetwork(transformers.DepthAnythingForDepthEstimation(config).eval())


def _half(make: Callable[[], nn.Module], *, typed: bool) -> Loader:
    return lambda find, dtype: make().to(dtype) if typed else make()


SMALL: Mapping[str, Loader] = {**TINY_LOADERS, "openpose": lambda find, dtype: _empty(PeopleNetwork(divisor=16))}
FULL: Mapping[str, Loader] = {
    **TINY_LOADERS,  # those of `pose_tensorrt`, which no configuration in full size is here for
    "depth": _half(_full_depth, typed=False),
    "hed": _half(EdgeNetwork, typed=False),
    "lineart_coarse": _half(LineNetwork, typed=False),
    "openpose": lambda find, dtype: _empty(PeopleNetwork()),
    "realesrgan": _half(EnlargingNetwork, typed=True),
}


def compare_processors(
    device: torch.device, sides: Sequence[int], streams: Sequence[int], rounds: int, names: Sequence[str] = NAMES
) -> None:
    """Print a table: milliseconds of each way, what the first takes longer than the others, and the operations of a
    call in those of one stream's. On a CPU time is the processor's own, which other programs disturb less."""
    shelf = AnnotatorShelf(device, loaders=SMALL if device.type == "cpu" else FULL)
    print(f"{'':18}{'side':>6}{'streams':>9}" + "".join(f"{way:>17}" for way in WAYS) + f"{'operations':>12}")
    for name in names:
        for side in sides:
            one = 0.0
            for count in streams:
                runs = _runs(name, device, side, count, shelf)
                operations = _operations(runs["always together"])
                one = one or operations
                times = _times(runs, device, rounds)
                apart = times["apart"]
                cells = "".join(f"{times[way] * 1e3:9.2f} ({apart / times[way]:.2f})"[:17].rjust(17) for way in WAYS)
                share = f"{operations / one:12.2f}" if one else f"{'':12}"
                print(f"{name:18}{side:6}{count:9}{cells}{share}", flush=True)


def _runs(
    name: str, device: torch.device, side: int, count: int, shelf: AnnotatorShelf
) -> Mapping[str, Callable[[], None]]:
    told = IMAGE_PROCESSORS[name].defaults
    wanted = Wanted(name, told | {"interval": 1} if "interval" in told else told)
    chains = [ProcessorChain([wanted], shelf) for _ in range(count)]
    for chain in chains:
        chain.wait()
        if chain.faults:
            raise chain.faults[0]
    images = [torch.rand(1, 3, side, side, device=device) for _ in range(count)]

    def run(*, shared: bool) -> None:
        looks = [chain.look(image) for chain, image in zip(chains, images, strict=True)]
        for outcome in sharing.together(looks, shared=shared):
            if outcome.error is not None:
                raise outcome.error

    def always() -> None:
        with _without_limit():
            run(shared=True)

    return {"apart": lambda: run(shared=False), "as it runs": lambda: run(shared=True), "always together": always}


@contextmanager
def _without_limit() -> Iterator[None]:
    limits = sharing.MOST_PIXELS, sharing.MOST_HOST_PIXELS
    sharing.MOST_PIXELS = sharing.MOST_HOST_PIXELS = 1 << 40
    try:
        yield
    finally:
        sharing.MOST_PIXELS, sharing.MOST_HOST_PIXELS = limits


def _operations(run: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return float(counter.get_total_flops())


def _times(runs: Mapping[str, Callable[[], None]], device: torch.device, rounds: int) -> Mapping[str, float]:
    taken: dict[str, list[float]] = {way: [] for way in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for way, run in runs.items():
            started = _now(device)
            run()
            taken[way].append(_now(device) - started)
    return {way: statistics.median(each) for way, each in taken.items()}


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


__all__ = ["NAMES", "WAYS", "compare_processors"]
