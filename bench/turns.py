"""What a picture costs two trees of the project in CPU, by turns in the same minutes.

    python -m bench.turns OTHER_TREE [--rounds 6] [--seconds 4] [--json FILE]

Where other programs run beside them, only figures that were taken at the same time can be compared. Both servers run
all the time, each with four streams of 512x512 at 30 through a worker that changes nothing, and the cameras of one of
them pause. The other tree has its dependencies in its `.venv`. Printed are, for this tree and the other, the CPU of all
processes a picture and its part beyond decoding and encoding, which are measured before and after.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from bench.cpu import Stream, codec_cost
from bench.support.clip import Clip, make_clip
from bench.support.peers import clock
from bench.support.targets import ROOT, Sdstream, conditions, processor_seconds, run_sdstream, settle

STREAMS = 4
SETTLE_SECONDS = 1.2
"""After the cameras of a server go on, before it is measured."""


async def take_turns(
    targets: Mapping[str, Sdstream], clip: Clip, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds of CPU a picture of each server, one figure a round."""
    costs: dict[str, list[float]] = {name: [] for name in targets}
    async with httpx.AsyncClient(timeout=30) as http:
        streams = {name: [Stream(target, clip, http) for _ in range(STREAMS)] for name, target in targets.items()}
        try:
            for each in streams.values():
                for stream in each:
                    await stream.open()
                    stream.camera.flows.clear()
            names = list(targets)
            for turn in range(rounds + 1):  # the first one warms up
                for name in names:
                    cost = await _measure(targets[name], streams[name], seconds)
                    if turn:
                        costs[name].append(cost)
                names.reverse()
        finally:
            await asyncio.gather(*(stream.close() for each in streams.values() for stream in each))
    return costs


async def _measure(target: Sdstream, streams: list[Stream], seconds: float) -> float:
    def shown() -> int:
        return sum(len(stream.viewers[0].arrivals) for stream in streams)

    for stream in streams:
        stream.camera.flows.set()
    await asyncio.sleep(SETTLE_SECONDS)
    before, count = processor_seconds(target.process), shown()
    end = clock.monotonic() + seconds
    await asyncio.sleep(end - clock.monotonic())
    cost = 1000 * (processor_seconds(target.process) - before) / (shown() - count)
    for stream in streams:
        stream.camera.flows.clear()
    return cost


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("other", type=Path, help="the other tree")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    clip = make_clip()
    codecs = [codec_cost(clip)]
    with contextlib.ExitStack() as stack:
        trees: dict[str, Path] = {"this": ROOT, "other": options.other.resolve()}
        targets = {
            name: stack.enter_context(run_sdstream(tree, max_streams="64", worker_threads="1"))
            for name, tree in trees.items()
        }
        for target in targets.values():
            settle(target.process)
        costs = asyncio.run(take_turns(targets, clip, options.rounds, options.seconds))
    codecs.append(codec_cost(clip))
    codec = statistics.mean(sum(each.values()) for each in codecs)
    result: dict[str, Any] = {**conditions(), "codec_ms": round(codec, 3)}
    for name, each in costs.items():
        middle = statistics.median(each)
        result[name] = {"picture_ms": [round(cost, 3) for cost in each], "overhead_ms": round(middle - codec, 3)}
        print(
            f"{name}: {middle:.2f} ms CPU a picture in the middle of {len(each)}, {middle - codec:.2f} beyond the codec"
        )
    ratio = result["this"]["overhead_ms"] / result["other"]["overhead_ms"]
    result["ratio"] = round(ratio, 3)
    print(f"decoding and encoding {codec:.2f} ms; this / other beyond them {ratio:.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
