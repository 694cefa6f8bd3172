"""Delay from a publisher to a viewer: sdstream (through its worker, changing nothing) against a stock aiortc echo.

    python -m bench.passthrough [--rounds 3] [--seconds 12] [--cases all] [--json FILE]

Each round runs one after the other in turn, so that both meet the same machine. A picture's age is the time from the
moment its packets are handed to the camera's socket to the moment when the viewer has it decoded; it is known by a
number in its pixels. One viewer program serves both servers and completes a picture at the RTP marker bit.
`--cases all` adds 768x448, 1024x576, 60 pictures a second, four viewers and VP8, each against the echo.
Exits with 1 when the goals for 512x512 at 30 are missed: p50 at most 0.35 and p99 at most 0.5 of the echo's.
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

from bench.support.clip import FRAME_RATE, SIZE, Clip, make_clip
from bench.support.peers import Camera, PictureViewer, clock, until
from bench.support.targets import Sdstream, Target, conditions, run_echo, run_sdstream, settle
from sdstream.frames import PictureSize
from sdstream.media.embedded.negotiation import VideoCodec

WARM_UP = 3.0
BUSY_PERCENT = 15
GOALS = {"p50": 0.35, "p99": 0.5}
LEAST_SHARE = 0.99
"""Of the pictures sent, how many must arrive."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, and to how many viewers."""

    size: PictureSize = SIZE
    rate: int = FRAME_RATE
    codec: VideoCodec = "H264"
    viewers: int = 1

    def clip(self) -> Clip:
        pixels = self.size.width * self.size.height / (SIZE.width * SIZE.height)
        return make_clip(round(1_500_000 * pixels), self.size, self.rate, self.codec)


PLAIN = "512x512 at 30"
CASES = {
    PLAIN: Case(),
    "768x448": Case(PictureSize(768, 448)),
    "1024x576": Case(PictureSize(1024, 576)),
    "60 a second": Case(rate=60),
    "4 viewers": Case(viewers=4),
    "VP8": Case(codec="VP8"),
}


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


async def run_round(target: Target, clip: Clip, seconds: float, series: Series, count: int = 1) -> None:
    """Publish, and watch with `count` viewers for `seconds` after the warm-up."""
    async with httpx.AsyncClient(timeout=20) as http:
        camera = Camera(clip, http)
        viewers = [PictureViewer(camera, http) for _ in range(count)]
        try:
            whip = await target.new_stream(http, clip.size)
            headers = await camera.open(whip)
            for viewer in viewers:
                await viewer.open(target.whep_url(whip, headers))
            await until(lambda: all(viewer.ages for viewer in viewers), 20, f"a picture through {target.name}")
            await asyncio.sleep(WARM_UP)
            psutil.cpu_percent()
            start, late = clock.monotonic(), camera.late
            unreadable = sum(viewer.unreadable for viewer in viewers)
            await asyncio.sleep(seconds)
            end = clock.monotonic()
        finally:
            for viewer in viewers:
                await viewer.close()
            await camera.close()
    ages = [age for viewer in viewers for moment, age in viewer.ages if start <= moment < end]
    series.ages += [age * 1000 for age in ages]
    series.rates.append(len(ages) / (end - start) / count)
    series.unreadable += sum(viewer.unreadable for viewer in viewers) - unreadable
    series.late_at_camera += camera.late - late
    series.idle.append(100 - psutil.cpu_percent())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--cases", choices=["plain", "all"], default="plain")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    cases = CASES if options.cases == "all" else {PLAIN: CASES[PLAIN]}
    results: dict[str, dict[str, Any]] = {}
    with run_sdstream() as ours, run_echo() as echo:
        settle(ours.process)
        for name, case in cases.items():
            results[name] = measure(name, case, (ours, echo), options.rounds, options.seconds)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**conditions(), "goals": GOALS, "cases": results}, file, indent=2)
    missed = judge(results[PLAIN])
    print("goals met" if not missed else f"goals missed: {', '.join(missed)}")
    return 1 if missed else 0


def measure(
    name: str, case: Case, targets: tuple[Target, Target], rounds: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Run one case against both servers in turn and print its table; the figures."""
    clip = case.clip()
    all_series = {target.name: Series() for target in targets}
    for number in range(rounds):
        for target in targets:
            print(f"{name}, round {number + 1} of {rounds}: {target.name}", file=sys.stderr, flush=True)
            asyncio.run(run_round(target, clip, seconds, all_series[target.name], case.viewers))
    figures = {target: series.summary() for target, series in all_series.items()}
    ours, echo = (figures[target.name] for target in targets)
    ratios = {cut: round(ours[cut] / echo[cut], 3) for cut in ("p50", "p95", "p99")}
    print(f"{name}\ndelay in ms        p50      p95      p99      max  pictures/s  idle %")
    for target, row in figures.items():
        print(
            f"{target:<14} {row['p50']:>7} {row['p95']:>8} {row['p99']:>8} {row['max']:>8} "
            f"{row['pictures_per_second']:>11} {row['machine_idle_percent']:>7}"
        )
    print(f"{'ratio':<14} {ratios['p50']:>7} {ratios['p95']:>8} {ratios['p99']:>8}")
    if min(row["machine_idle_percent"] for row in figures.values()) < BUSY_PERCENT:
        print(f"the machine was idle for less than {BUSY_PERCENT} %: other work is in these figures")
    return {"milliseconds": figures, "ratios": ratios}


def judge(result: dict[str, dict[str, Any]]) -> list[str]:
    """Which goals the plain case has missed."""
    ratios = result["ratios"]
    missed = [f"{cut} {ratios[cut]} > {goal}" for cut, goal in GOALS.items() if ratios[cut] > goal]
    arrived = result["milliseconds"][Sdstream.name]["pictures_per_second"]
    if arrived < LEAST_SHARE * FRAME_RATE:  # a server that drops what is late has fine percentiles
        missed.append(f"{arrived} pictures a second of {FRAME_RATE}")
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
