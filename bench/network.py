"""Bad networks: how sdstream and a stock aiortc echo get over loss, jitter, reordering, repetition and an outage.

    python -m bench.network [--seconds 10] [--narrow] [--json FILE]

A relay at the socket spoils one leg, from the camera or to the viewer, both ways, with 20 ms of delay each way.
A picture's age is taken as in `bench.passthrough`. Frozen is the time beyond 200 ms for which the viewer had no new
picture; recovery is the time from the end of the outage to the next new picture. Reports; there is no goal but that
sdstream is never frozen for longer than the echo, by more than half a second.

`--narrow` takes lines to the viewer alone that carry less than the bitrate. There sdstream runs once more with a fixed
one, which has a goal: half as long frozen, at most, as that.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import httpx

from bench.support.clip import Clip, make_clip
from bench.support.line import BadLine, Line
from bench.support.peers import Camera, PictureViewer, clock, until
from bench.support.targets import Target, conditions, run_echo, run_sdstream, settle

Leg = Literal["in", "out"]
DELAY = 0.02
FREEZE = 0.2
OUTAGE_SECONDS = 5.0
SLACK = 0.5
TABLE = "{:<38} {:<12} {:>7} {:>8} {:>8} {:>6} {:>8} {:>9} {:>7}"
SHOWN = ("p50", "p95", "max", "pictures_per_second", "freezes", "frozen_seconds")


@dataclass(frozen=True)
class Case:
    """Which leg is bad, and how; `outage` loses everything for five seconds."""

    leg: Leg
    line: Line
    outage: bool = False

    @property
    def name(self) -> str:
        return f"{self.leg}: {'5 s outage' if self.outage else self.line.name}"


LINES = (
    Line(),
    Line(loss=0.02),
    Line(loss=0.05),
    Line(loss=0.02, burst=5),
    Line(jitter=0.15),
    Line(reorder=0.05, duplicate=0.05),
)
LEGS: tuple[Leg, ...] = ("in", "out")
NARROW = [Case("out", Line(rate=600_000, room=room)) for room in (0.2, 0.5, 2.0)]
"""Less than half of what 512x512 at 30 pictures a second is sent with."""
CASES = [Case(leg, line) for leg in LEGS for line in LINES] + [Case(leg, Line(), outage=True) for leg in LEGS]


async def run(target: Target, clip: Clip, case: Case, seconds: float) -> dict[str, Any]:
    """One case against one server; the line gets bad only once pictures flow."""
    line = Line(delay=DELAY)
    bad = BadLine(line)
    async with httpx.AsyncClient(timeout=20) as http:
        camera = Camera(clip, http, bad.route if case.leg == "in" else None)
        viewer = PictureViewer(camera, http, bad.route if case.leg == "out" else None)
        try:
            whip = await target.new_stream(http)
            headers = await camera.open(whip)
            await viewer.open(target.whep_url(whip, headers))
            await until(lambda: len(viewer.ages) > 60, 30, f"pictures through {target.name}")
            start = clock.monotonic()
            for name, value in vars(replace(case.line, delay=DELAY, down=case.outage)).items():
                setattr(line, name, value)
            if case.outage:
                await asyncio.sleep(OUTAGE_SECONDS)
                line.down = False
            up = clock.monotonic()
            await asyncio.sleep(seconds)
            end = clock.monotonic()
        finally:
            await viewer.close()
            await camera.close()
            bad.close()
    return measure(viewer.ages, start, up, end)


def measure(ages: list[tuple[float, float]], start: float, up: float, end: float) -> dict[str, Any]:
    """The figures of pictures seen from `start` to `end`; `up` is when an outage ended, `start` without one."""
    seen = [(moment, age) for moment, age in ages if start <= moment < end]
    moments = [start, *(moment for moment, _ in seen), end]
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    late = [1000 * age for _, age in seen] or [float("inf")]
    # Of what was seen: the other method goes beyond the largest of a few.
    cuts = statistics.quantiles(late, n=100, method="inclusive") if len(late) > 1 else late * 99
    # A picture that was sent before the line came back tells of no recovery.
    recovered = next((moment - up for moment, age in seen if moment - age >= up), end - up)
    return {
        "p50": round(cuts[49], 1),
        "p95": round(cuts[94], 1),
        "max": round(max(late), 1),
        "pictures_per_second": round(len(seen) / (end - start), 1),
        "freezes": sum(gap > FREEZE for gap in gaps),
        "frozen_seconds": round(sum(max(0.0, gap - FREEZE) for gap in gaps), 2),
        "recovery_seconds": round(recovered, 2) if up - start > 1 else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--narrow", action="store_true", help="lines that carry less than the bitrate, and no others")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    clip = make_clip()
    results: dict[str, dict[str, dict[str, Any]]] = {}
    print(TABLE.format("case", "server", "p50", "p95", "max", "per s", "freezes", "frozen s", "back s"))
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(run_sdstream())
        settle(ours.process)
        other: Target
        if options.narrow:
            other = fixed = stack.enter_context(run_sdstream(video_bitrate_follows="false"))
            fixed.name = "fixed"
            settle(fixed.process)
        else:
            other = stack.enter_context(run_echo())
        for case in NARROW if options.narrow else CASES:
            results[case.name] = {}
            for target in (ours, other):
                figures = asyncio.run(run(target, clip, case, options.seconds))
                results[case.name][target.name] = figures
                back = "" if figures["recovery_seconds"] is None else figures["recovery_seconds"]
                shown = [figures[name] for name in SHOWN]
                print(TABLE.format(case.name, target.name, *shown, back), flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**conditions(), "cases": results}, file, indent=2)
    share, slack = (0.5, 0.0) if options.narrow else (1.0, SLACK)
    worse = [
        name
        for name, figures in results.items()
        if figures[ours.name]["frozen_seconds"] > share * figures[other.name]["frozen_seconds"] + slack
    ]
    goal = f"frozen for longer than {'half of the fixed rate' if options.narrow else 'the echo'}"
    print(f"never {goal}" if not worse else f"{goal}: {'; '.join(worse)}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
