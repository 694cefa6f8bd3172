"""Delay from a publisher to a viewer: sdstream (through its worker, changing nothing) against a stock aiortc echo.

    python -m bench.passthrough [--rounds 3] [--seconds 12] [--json FILE]

Each round runs one after the other in turn, so that both meet the same machine. A picture's age is the time from the
moment its packets are handed to the camera's socket to the moment when the viewer has it decoded; it is known by a
number in its pixels. One viewer program serves both servers and completes a picture at the RTP marker bit.
Exits with 1 when the goals are missed: p50 at most 0.35 and p99 at most 0.5 of the echo's.
"""

import argparse
import asyncio
import json
import statistics
import sys
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from bench.support.clip import FRAME_RATE, Clip, make_clip
from bench.support.peers import Camera, PictureViewer, clock, until
from bench.support.targets import Target, machine, run_echo, run_sdstream, settle

WARM_UP = 3.0
BUSY_PERCENT = 15
GOALS = {"p50": 0.35, "p99": 0.5}
LEAST_SHARE = 0.99
"""Of the pictures sent, how many must arrive."""


@dataclass
class Series:
    """The ages of one server's pictures, in milliseconds, and what else was seen."""

    ages: list[float] = field(default_factory=list[float])
    rates: list[float] = field(default_factory=list[float])
    unreadable: int = 0
    late_at_camera: int = 0
    idle: list[float] = field(default_factory=list[float])

    def summary(self) -> dict[str, Any]:
        cuts = statistics.quantiles(self.ages, n=100, method="inclusive")
        return {
            "p50": round(cuts[49], 2),
            "p95": round(cuts[94], 2),
            "p99": round(cuts[98], 2),
            "max": round(max(self.ages), 2),
            "pictures": len(self.ages),
            "pictures_per_second": round(statistics.mean(self.rates), 2),
            "unreadable": self.unreadable,
            "late_at_camera": self.late_at_camera,
            "machine_idle_percent": round(statistics.mean(self.idle), 1),
        }


async def run_round(target: Target, clip: Clip, seconds: float, series: Series) -> None:
    """Publish and watch for `seconds` after the warm-up."""
    async with httpx.AsyncClient(timeout=20) as http:
        camera = Camera(clip, http)
        viewer = PictureViewer(camera, http)
        try:
            whip = await target.new_stream(http)
            headers = await camera.open(whip)
            await viewer.open(target.whep_url(whip, headers))
            await until(lambda: bool(viewer.ages), 20, f"a picture through {target.name}")
            await asyncio.sleep(WARM_UP)
            psutil.cpu_percent()
            start, late, unreadable = clock.monotonic(), camera.late, viewer.unreadable
            await asyncio.sleep(seconds)
            end = clock.monotonic()
        finally:
            await viewer.close()
            await camera.close()
    ages = [age for moment, age in viewer.ages if start <= moment < end]
    series.ages += [age * 1000 for age in ages]
    series.rates.append(len(ages) / (end - start))
    series.unreadable += viewer.unreadable - unreadable
    series.late_at_camera += camera.late - late
    series.idle.append(100 - psutil.cpu_percent())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    clip = make_clip()
    with run_sdstream() as ours, run_echo() as echo:
        settle(ours.process)
        all_series = {target.name: Series() for target in (ours, echo)}
        for number in range(options.rounds):
            for target in (ours, echo):
                print(f"round {number + 1} of {options.rounds}: {target.name}", file=sys.stderr, flush=True)
                asyncio.run(run_round(target, clip, options.seconds, all_series[target.name]))
    figures = {name: series.summary() for name, series in all_series.items()}
    ratios = {cut: round(figures[ours.name][cut] / figures[echo.name][cut], 3) for cut in ("p50", "p95", "p99")}
    result = {"machine": machine(), "milliseconds": figures, "ratios": ratios, "goals": GOALS}
    print("delay in ms        p50      p95      p99      max  pictures/s  idle %")
    for name, row in figures.items():
        print(
            f"{name:<14} {row['p50']:>7} {row['p95']:>8} {row['p99']:>8} {row['max']:>8} "
            f"{row['pictures_per_second']:>11} {row['machine_idle_percent']:>7}"
        )
    print(f"{'ratio':<14} {ratios['p50']:>7} {ratios['p95']:>8} {ratios['p99']:>8}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
    if min(row["machine_idle_percent"] for row in figures.values()) < BUSY_PERCENT:
        print(f"the machine was idle for less than {BUSY_PERCENT} %: other work is in these figures")
    missed = [f"{cut} {ratios[cut]} > {goal}" for cut, goal in GOALS.items() if ratios[cut] > goal]
    arrived = figures[ours.name]["pictures_per_second"]
    if arrived < LEAST_SHARE * FRAME_RATE:  # a server that drops what is late has fine percentiles
        missed.append(f"{arrived} pictures a second of {FRAME_RATE}")
    print("goals met" if not missed else f"goals missed: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
