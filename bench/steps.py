"""Steps of this project's beside torch's own on a GPU: doubled pictures, and biases by themselves.

    python -m bench.steps [--json FILE]

The sizes are those of a frame of SD-Turbo of 512x512. What is timed is a recorded call from a cache that holds nothing
of it, by turns; microseconds, medians.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench.support.targets import conditions
from sdstream.diffusion.fused.pointwise import add_bias_in_one, doubled_in_one, plain_add_bias, plain_doubled
from sdstream.diffusion.fused.steps_trial import try_steps
from sdstream.diffusion.trials.stopwatch import CudaStopwatch, Stopwatch

DOUBLED = ((256, 64), (128, 64), (64, 64), (32, 640), (16, 1280), (8, 1280))
"""Sides of the pictures that are doubled, and their channels."""
BIASED = ((512, 64), (512, 3), (64, 640), (64, 320), (64, 4), (32, 1280))
Row = dict[str, Any]


def measure(device: torch.device, dtype: torch.dtype, stopwatch: Stopwatch) -> Iterator[Row]:
    """What each step takes at each size."""
    for side, channels in DOUBLED:
        picture = picture_of(side, channels, device, dtype)

        def doubled(one: Callable[..., torch.Tensor], given: torch.Tensor = picture) -> Callable[[], torch.Tensor]:
            return lambda: one(given)

        yield row_of("doubled", side, channels, stopwatch, doubled(plain_doubled), doubled(doubled_in_one))
    for side, channels in BIASED:
        picture = picture_of(side, channels, device, dtype)
        bias = torch.zeros(channels, device=device, dtype=dtype)  # it is added again and again

        def biased(
            one: Callable[..., torch.Tensor], given: torch.Tensor = picture, more: torch.Tensor = bias
        ) -> Callable[[], torch.Tensor]:
            return lambda: one(given, more)

        yield row_of("bias", side, channels, stopwatch, biased(plain_add_bias), biased(add_bias_in_one))


def row_of(
    name: str,
    side: int,
    channels: int,
    stopwatch: Stopwatch,
    plain: Callable[[], torch.Tensor],
    own: Callable[[], torch.Tensor],
) -> Row:
    """The figures of a step at a size."""
    torchs, ours = (1000 * statistics.median(times) for times in stopwatch.time([plain, own]))
    return {"step": name, "side": side, "channels": channels, "torch_us": round(torchs, 2), "own_us": round(ours, 2)}


def picture_of(side: int, channels: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Channels last."""
    made = torch.randn(1, channels, side, side, device=device, dtype=dtype)
    return made.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA GPU")
    device = torch.device("cuda")
    figures: Row = {
        **conditions(),
        "card": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "works": try_steps(device),
    }
    rows: list[Row] = []
    for row in measure(device, torch.float16, CudaStopwatch(device)):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({**figures, "rows": rows}, indent=2) + "\n", "utf-8")
    return 0 if figures["works"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
