"""What eight bits cost in quality, emulated: pictures, layers, and rows with large numbers in them.

    python -m bench.eight_bit [--models tiny,mid] [--json FILE]

Networks of random weights, in float32 on a CPU, make the same pictures several times: as they are, in float16, with
the products that `sdstream.diffusion.eight_bit.layers` names in eight bits, and with its convolutions, too, by the
plain twins, whose arithmetic is that of a GPU but for the order of sums, and for the digits that its units add. PSNR is
of pictures of 0 to 1 against float32. Random weights neither have the outliers of trained ones nor their use for small
differences: published weights were not tried with this.
"""

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bench.support.contenders import Ours, Work
from bench.support.random_models import SMALL, Networks, make_networks
from bench.support.targets import conditions
from sdstream.diffusion.eight_bit.layers import make_eight_bit, make_eight_bit_convolutions
from sdstream.diffusion.eight_bit.products import EightBitWeight, Terms, apart, product, weight_of
from sdstream.diffusion.fused.blocks import fuse
from sdstream.diffusion.fused.joining import join
from sdstream.diffusion.networks import EagerNetworks

CPU = torch.device("cpu")
STEPS = {1: (32,), 4: (0, 16, 32, 45)}
OUTLIERS = (1.0, 10.0, 100.0, 1000.0, 10000.0)
"""How many times as large as the others' mean size one number of a row is."""
WIDTH = 1280
Row = dict[str, Any]


def decibels(made: torch.Tensor, wanted: torch.Tensor) -> float:
    """PSNR of pictures of 0 to 1."""
    return round(-10 * math.log10(max(float((made.float() - wanted.float()).square().mean()), 1e-12)), 1)


def in_eight_bits(networks: Networks, *, convolutions: bool) -> Networks | None:
    """None where there are no convolutions to be so."""
    unet: Any = copy.deepcopy(networks.unet)
    unet.to(memory_format=torch.channels_last)
    fuse(unet)
    join(unet)
    make_eight_bit(unet, lambda out, width: Terms("plain"))
    if convolutions and not make_eight_bit_convolutions(unet):
        return None
    return Networks(unet, networks.vae)


def in_half(networks: Networks) -> Networks:
    return Networks(copy.deepcopy(networks.unet).half(), copy.deepcopy(networks.vae).half())


def pictures_of(networks: Networks, size: int, steps: Sequence[int], count: int, dtype: torch.dtype) -> torch.Tensor:
    """The first `count` finished pictures of a stream."""
    work = Work(networks, size, steps, 1, CPU, dtype)
    ours = Ours(work, "", EagerNetworks(networks.unet, networks.vae))
    made = [ours.run(work.images[place % len(work.images)]).clone() for place in range(count + len(steps) - 1)]
    return torch.cat(made[len(steps) - 1 :])


@contextmanager
def watched(unet: nn.Module) -> Iterator[dict[str, list[float]]]:
    """The relative errors of all layers in eight bits, by kind, of the calls within."""
    errors: dict[str, list[float]] = {}
    hooks: list[Any] = []

    def watch(name: str, module: Any) -> None:
        kind = name.rpartition("transformer_blocks.")[2].partition(".")[2] or name.rpartition(".")[2]
        weight: EightBitWeight | None = weight_of(module)
        assert weight is not None
        bias = getattr(module, "bias", None)

        def look(module: nn.Module, given: tuple[Any, ...]) -> None:
            if given[0].dim() == 3:
                exact = functional.linear(given[0], weight.source, bias)
                errors.setdefault(kind, []).append(float(apart(product(given[0], weight, bias), exact)))

        hooks.append(module.register_forward_pre_hook(look))

    for name, module in unet.named_modules():
        if weight_of(module) is not None:
            watch(name, module)
    try:
        yield errors
    finally:
        for hook in hooks:
            hook.remove()


def measure(model: str, size: int, count: int, *, half: bool) -> list[Row]:
    """A row for each number of steps."""
    networks = make_networks(model, CPU, torch.float32)
    small, smallest = (in_eight_bits(networks, convolutions=each) for each in (False, True))
    assert small is not None
    rows: list[Row] = []
    for number, steps in STEPS.items():
        if model not in SMALL and number > 1:
            continue
        began = time.perf_counter()
        wanted = pictures_of(networks, size, steps, count, torch.float32)
        with watched(small.unet) as errors:
            made = pictures_of(small, size, steps, count, torch.float32)
        rows.append(
            {
                "model": model,
                "size": size,
                "steps": number,
                "pictures": count,
                "psnr_eight_bit": decibels(made, wanted),
                "psnr_eight_bit_convolutions": None
                if smallest is None
                else decibels(pictures_of(smallest, size, steps, count, torch.float32), wanted),
                "psnr_float16": None
                if not half
                else decibels(pictures_of(in_half(networks), size, steps, count, torch.float16), wanted),
                "spread_of_pictures": round(float(wanted.std()), 3),
                "layer_errors": {
                    kind: {"middle": round(statistics.median(seen), 4), "largest": round(max(seen), 4)}
                    for kind, seen in sorted(errors.items())
                },
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
    return rows


def outliers() -> list[Row]:
    """Errors of rows with one large number in them: of the whole answer, and of what the others make of it."""
    generator = torch.Generator().manual_seed(0)
    weight = EightBitWeight(torch.randn(WIDTH, WIDTH, generator=generator) * WIDTH**-0.5, Terms("plain"))
    rows: list[Row] = []
    for factor in OUTLIERS:
        x = torch.randn(1, 64, WIDTH, generator=generator)
        x[..., 7] = factor
        alone = torch.zeros_like(x)
        alone[..., 7] = factor
        made, exact = product(x, weight), functional.linear(x, weight.source)
        others = functional.linear(x - alone, weight.source)
        rows.append(
            {
                "largest": factor,
                "error": round(float(apart(made, exact)), 4),
                "error_beside_the_others": round(float(apart(made - product(alone, weight), others)), 4),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--models", default="tiny,mid", help="of tiny, mid, sd-turbo, sdxl-turbo, sd15; the last are slow"
    )
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    rows: list[Row] = []
    for model in options.models.split(","):
        size, count = {"tiny": (64, 8), "mid": (256, 4)}.get(model, (512, 1))
        made = measure(model, size, count, half=model == "tiny")
        show(made)
        rows += made
    found = outliers()
    for row in found:
        print(
            f"one number {row['largest']:g} times the others: error {row['error']:.4f}, "
            f"of what the others make {row['error_beside_the_others']:.4f}"
        )
    if options.json:
        result = {
            **conditions(),
            "pictures": rows,
            "outliers": found,
        }
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0


def show(rows: Sequence[Row]) -> None:
    """Print what was measured of pictures."""
    for row in rows:
        print(
            f"{row['model']} {row['size']}, {row['steps']} steps: PSNR {row['psnr_eight_bit']} dB with products in "
            f"eight bits, {row['psnr_eight_bit_convolutions']} with convolutions, too, {row['psnr_float16']} in "
            f"float16; {row['seconds']} s"
        )
        for kind, seen in row["layer_errors"].items():
            print(f"  {kind:<22} error {seen['middle']:.4f}, at most {seen['largest']:.4f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
