"""Where the time of a frame goes on this GPU: its kernels, its VAE, and what replays side by side take.

    python -m bench.profile [--models sd-turbo,sdxl-turbo] [--size 512] [--streams 1] [--compile]
                            [--tuned [--trial-seconds S] [--remember FOLDER]] [--eight-bit [linear|all]] [--json FILE]

Kernels are torch's profiler's, of captured frames. `memsets_ms` is a frame whose memset nodes stay as libraries
recorded them. `in_flight` is what a frame takes when so many are replayed on streams of their own, at the same time:
how idle one leaves the card. Medians; milliseconds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.launches import STEPS, kind_of
from bench.support import ways
from bench.support.contenders import Ours, Work
from bench.support.random_models import make_networks
from bench.support.targets import conditions
from sdstream.diffusion.capture import CudaCapture, Recording
from sdstream.diffusion.convolving.switch import Wanted, convolutions
from sdstream.diffusion.eight_bit.copies import eight_bit_layers
from sdstream.diffusion.eight_bit.layers import place_eight_bit
from sdstream.diffusion.eight_bit.switch import EightBit
from sdstream.diffusion.graph_editing.switch import recorded_memsets
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.state import clone
from sdstream.diffusion.trials.memory import keep_findings_in

FRAMES = 20
"""That are profiled, and timed."""
LONGEST = 40
"""Kernels that are told by name."""
Row = dict[str, Any]


def profile(
    model: str,
    size: int,
    steps: Sequence[int],
    streams: int,
    compiled: bool,
    tuned: Wanted | None = None,
    eight_bit: EightBit = "off",
) -> Row:
    """The figures of one frame."""
    device, dtype = torch.device("cuda"), torch.float16
    torch.backends.cudnn.benchmark = True
    made = make_networks(model, device, dtype)
    if eight_bit != "off":
        place_eight_bit(made.unet, device, convolutions=eight_bit == "all")
    work = Work(made, size, steps, streams, device, dtype)
    networks = EagerNetworks(made.unet, made.vae)
    ours = Ours(work, model, networks, compiled=compiled, tuned=tuned)

    def frame() -> None:
        ours.run(work.images[0])

    for _ in range(FRAMES):
        frame()
    with recorded_memsets():
        other = Ours(work, model, networks, tuned=tuned)
        other.run(work.images[0])
    latent = torch.randn(streams, 4, size // 8, size // 8, device=device, dtype=dtype)
    image = work.images[0].to(dtype)
    return {
        "model": model,
        "size": size,
        "steps": len(steps),
        "streams": streams,
        "compiled": compiled,
        "tuned": tuned is not None,
        "eight_bit_layers": eight_bit_layers(made.unet),
        "card": torch.cuda.get_device_name(device),
        "runs": ours.runner.in_force,
        "frame_ms": milliseconds(frame),
        "memsets_ms": None if compiled else milliseconds(lambda: other.run(work.images[0])),
        "encoder_ms": milliseconds(CudaCapture(device).record(lambda: networks.encode(image)).replay),
        "decoder_ms": milliseconds(CudaCapture(device).record(lambda: networks.decode(latent)).replay),
        "in_flight": {number: in_flight(ours, work.images[0], number) for number in (1, 2, 3)},
        **kernels_of(frame),
    }


def milliseconds(call: Callable[[], object]) -> float:
    """Of a call, until the card is done."""
    times: list[float] = []
    for _ in range(FRAMES):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times), 3)


def in_flight(ours: Ours, images: torch.Tensor, number: int) -> float:
    """Of a frame, when `number` of them, each with memory of its own, are replayed at the same time."""
    cuda: Any = torch.cuda
    replays: list[Callable[[], None]] = []
    for _ in range(number):
        given, memory, stream = ours.given(images).clone(), clone(ours.memory), cuda.Stream()
        # Captures that share a pool of memory must follow each other: each has a pool of its own here.
        recording = CudaCapture(images.device).record(partial(ours.step, given, memory))
        replays.append(partial(replay_on, stream, recording))
    rounds = FRAMES * number
    for replay in replays:
        replay()
    cuda.synchronize()
    began = time.perf_counter()
    for place in range(rounds):
        replays[place % number]()
    cuda.synchronize()
    return round(1000 * (time.perf_counter() - began) / rounds, 3)


def replay_on(stream: Any, recording: Recording[Any]) -> None:
    """Replay beside what other streams do."""
    cuda: Any = torch.cuda
    with cuda.stream(stream):
        recording.replay()


def kernels_of(frame: Callable[[], None]) -> Row:
    """The kernels of a frame: how many, and their milliseconds, by kind, and those that take the longest by name."""
    library: Any = torch.profiler
    with library.profile(activities=[library.ProfilerActivity.CUDA]) as watched:
        for _ in range(FRAMES):
            frame()
        torch.cuda.synchronize()
    # Without the host's calls, to which the times of what they launched are added.
    events = [event for event in watched.events() if event.device_type.name == "CUDA"]
    kinds = summed((kind_of(event.name), event.device_time) for event in events)
    names = summed((event.name, event.device_time) for event in events)
    longest = sorted(names, key=lambda name: -names[name]["ms"])[:LONGEST]
    return {
        "kernels": round(sum(row["number"] for row in kinds.values()), 1),
        "kinds": kinds,
        "longest": {name: names[name] for name in longest},
    }


def summed(events: Any) -> dict[str, dict[str, float]]:
    """Pairs of a name and microseconds: how many a frame, and their milliseconds, by name."""
    made: dict[str, dict[str, float]] = {}
    for name, microseconds in events:
        row = made.setdefault(name, {"number": 0.0, "ms": 0.0})
        row["number"] += 1 / FRAMES
        row["ms"] += microseconds / 1000 / FRAMES
    return {name: {key: round(value, 4) for key, value in row.items()} for name, row in made.items()}


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default="sd-turbo", help="of sd-turbo, sdxl-turbo, sd15")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1, choices=sorted(STEPS))
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="profile the compiled frame")
    ways.add_options(parser)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA GPU")
    figures: Row = {**conditions(), "torch": torch.__version__}
    rows: list[Row] = []
    keep_findings_in(options.remember)
    tuned = ways.tuned_of(options)
    for model in options.models.split(","):
        with convolutions(tuned or Wanted()):
            steps, streams = STEPS[options.steps], options.streams
            rows.append(profile(model, options.size, steps, streams, options.compile, tuned, options.eight_bit))
        print(json.dumps(rows[-1], indent=2), flush=True)
        if options.json:
            options.json.write_text(json.dumps({**figures, "profiled": rows}, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
