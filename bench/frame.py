"""How fast a frame is: this project's engine, PyPI's StreamDiffusion 0.1.1 and diffusers' own image-to-image pipeline.

    python -m bench.frame [--device cuda] [--models sd-turbo,sdxl-turbo] [--streams 1,2,4,8] [--seconds 5] [--json FILE]

All have the same networks of random weights, the same pictures and the same number of steps, and take turns picture by
picture in one process. This engine takes part a second time without what is made once a change of knobs (`unprepared`).
`streams` pictures are made a call: this engine and diffusers in one batch, StreamDiffusion one after another, for it
has no other way. On a CPU the models are small; on a GPU they are those of SD-Turbo, SDXL-Turbo and SD 1.5 in full
size, and `floor` is what a roofline of the card allows, operator by operator (support/roofline.py). With `--eight-bit`
this engine takes part once more with products and convolutions in eight bits (`linear`: products alone), where the card
has them and they win; `eight_bit` says in how many layers, what their copies take, and how far its first picture is
from that in half precision.

`host_ms` is how long the host was busy: on a GPU until the call returned, on a CPU the processor's time, which other
programs beside this one disturb less, so it is what contenders are compared by there. `over_bare_ms` is what a call
takes more of it than the bare modules do in the same turn (median of the differences), and `own_ms` what this engine
takes with networks that answer at once, which is its own doing alone. What was not run is empty, `--alone` what needs
others. Ends with exit code 1 when a goal is missed, on a GPU by the fastest of this engine's ways to run.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.support import turn, upstream, ways
from bench.support.clock import Clock, own_milliseconds, take_turns
from bench.support.contenders import BareModules, Contender, ImageToImage, Ours, Upstream, Work
from bench.support.random_models import FULL, make_networks, operators_of
from bench.support.roofline import card_of, least_seconds
from bench.support.targets import conditions
from bench.support.working_memory import working_memory
from sdstream.diffusion.attention import share
from sdstream.diffusion.convolving.switch import Wanted
from sdstream.diffusion.eight_bit.copies import eight_bit_bytes, eight_bit_layers, note_of
from sdstream.diffusion.eight_bit.layers import place_eight_bit
from sdstream.diffusion.eight_bit.products import apart
from sdstream.diffusion.eight_bit.switch import EightBit
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.trials.memory import keep_findings_in
from sdstream.errors import first_line
from sdstream.worker.devices import Device
from sdstream.worker.server_end.child import KEEP_MEMORY

ONE, FOUR = (32,), (0, 16, 32, 45)
OURS, OURS_PLAIN, OURS_UNPREPARED = "sdstream", "sdstream, eager", "sdstream, unprepared"
OURS_SMALL = "sdstream, 8-bit"
COMPARED_WITH = (BareModules.name, OURS)
"""Without these the others' figures say nothing."""
NOISE_SHARE = 0.02
"""Two medians that differ by less than this share are taken as equal."""
CPU_GOALS = {"own_ms_a_stream": 0.6, "at_least_as_fast_as": Upstream.name}
GPU_GOALS = {("sd-turbo", 512, 1): 330, ("sd-turbo", 512, 8): 500} | {
    ("sdxl-turbo", 512, 1): 180,
    ("sdxl-turbo", 512, 8): 280,
    ("sdxl-turbo", 1024, 1): 65,
}
"""Pictures a second on an H200, by model, size and streams."""
UPSTREAM_FACTOR = 5.0
"""Of SD-Turbo at 512, one stream, on a GPU."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model at a size with its steps."""

    model: str
    size: int
    steps: tuple[int, ...]
    most_streams: int = 8


CASES = {
    "cpu": (Case("tiny", 64, ONE), Case("tiny", 64, FOUR), Case("mid", 256, ONE), Case("mid", 256, FOUR, 1)),
    "cuda": (
        *(Case("sd-turbo", size, ONE) for size in (512, 1024)),
        *(Case("sdxl-turbo", size, ONE) for size in (512, 1024)),
        *(Case("sd15", size, FOUR) for size in (512, 1024)),
    ),
}
Row = dict[str, Any]


def contenders_of(
    work: Work, compiled: bool, eight_bit: EightBit = "off", tuned: Wanted | None = None, *, alone: bool = False
) -> tuple[list[Contender], dict[str, str]]:
    """Who takes part, and who does not, with the reason; `alone` is this engine as it is meant to run."""
    networks = EagerNetworks(work.networks.unet, work.networks.vae)
    makers: dict[str, Callable[[], Contender]] = {}
    if not alone:  # first, so that what libraries take for good is no other's working memory
        makers[BareModules.name] = lambda: BareModules(work)
    makers[OURS] = lambda: Ours(work, OURS, networks)
    if not alone:
        makers[OURS_UNPREPARED] = lambda: Ours(work, OURS_UNPREPARED, networks, prepared=False)
    if not alone and work.device.type == "cuda":
        makers[OURS_PLAIN] = lambda: Ours(work, OURS_PLAIN, networks, graphs=False)
    if compiled:
        makers[f"{OURS}, compiled"] = lambda: Ours(work, f"{OURS}, compiled", networks, compiled=True)
    if tuned:
        makers[f"{OURS}, tuned"] = lambda: Ours(work, f"{OURS}, tuned", networks, tuned=tuned)
    if tuned and compiled:
        both = f"{OURS}, compiled and tuned"
        makers[both] = lambda: Ours(work, both, networks, tuned=tuned, compiled=True)
    if eight_bit != "off":
        forms: dict[str, dict[str, Any]] = {OURS_SMALL: {}}
        forms |= {f"{OURS_SMALL}, compiled": {"compiled": True}} if compiled else {}
        forms |= {f"{OURS_SMALL}, tuned": {"tuned": tuned}} if tuned else {}
        for name, how in forms.items():
            makers[name] = partial(in_eight_bits, work, eight_bit, name, **how)
    if not alone:
        makers[Upstream.name] = lambda: Upstream(work, upstream.load(upstream.installed()))
        makers[ImageToImage.name] = lambda: ImageToImage(work)
    present: list[Contender] = []
    absent: dict[str, str] = {}
    for name, make in makers.items():
        try:
            present.append(make())
        except upstream.Absent as reason:
            absent[name] = str(reason)
        except torch.AcceleratorError:
            raise  # the device is lost to all
        except Exception as error:  # supervises the contenders: trials, and eight bits, are what fails first
            if name in COMPARED_WITH:
                raise
            absent[name] = f"{type(error).__name__}: {first_line(error)}"
    return present, absent


def in_eight_bits(work: Work, eight_bit: EightBit, name: str, **how: Any) -> Ours:
    """This engine with the same weights, and 8-bit copies of those that win. Raises `Absent` where none does."""
    unet: Any = share(work.networks.unet)
    place_eight_bit(unet, work.device, convolutions=eight_bit == "all")
    if not eight_bit_layers(unet):
        raise upstream.Absent(note_of(unet))
    return Ours(work, name, EagerNetworks(unet, work.networks.vae), **how)


def eight_bit_facts(contender: Contender, work: Work, others: Sequence[Contender]) -> Row | None:
    """What there is to say of a contender in eight bits; None of the others."""
    if not isinstance(contender, Ours) or not eight_bit_layers(contender.unet):
        return None
    plain = next(each for each in others if each.name == OURS)
    wanted = plain.run(work.images[0]).clone()
    return {
        "layers": eight_bit_layers(contender.unet),
        "mb": round(eight_bit_bytes(contender.unet) / 1e6, 1),
        "picture_is_off_by": round(float(apart(contender.run(work.images[0]), wanted)), 4),
    }


@dataclass(frozen=True, slots=True)
class Prepared:
    """Contenders that have made pictures: compiled and captured, where they are that."""

    case: Case
    work: Work
    contenders: Sequence[Contender]
    absent: Mapping[str, str]
    memory: Mapping[str, float | None]


def prepare(
    case: Case, work: Work, compiled: bool, eight_bit: EightBit, tuned: Wanted | None, *, alone: bool = False
) -> Prepared:
    """All that takes time before anything is timed."""
    contenders, absent = contenders_of(work, compiled, eight_bit, tuned, alone=alone)
    memory: dict[str, float | None] = {}
    present: list[Contender] = []
    for contender in contenders:
        try:
            memory[contender.name] = working_memory(contender, work)
            for _ in range(2):
                contender.run(work.images[0])
        except torch.AcceleratorError:
            raise  # the device is lost to all
        except Exception as error:  # supervises the contenders: what one lacks is no reason to time none
            if contender.name in COMPARED_WITH:
                raise
            absent[contender.name] = f"{type(error).__name__}: {first_line(error)}"
        else:
            present.append(contender)
    return Prepared(case, work, present, absent, memory)


def measure(prepared: Prepared, seconds: float) -> list[Row]:
    """A row for each contender."""
    work = prepared.work
    clock = Clock(work.device)
    turns = list(take_turns(prepared.contenders, work, clock, seconds))
    own = own_milliseconds(work, clock)
    bare = [turn[BareModules.name][1] for turn in turns if BareModules.name in turn]
    rows: list[Row] = []
    for contender in prepared.contenders:
        times, host = zip(*(turn[contender.name] for turn in turns), strict=True)
        middle = statistics.median(times)
        ours = contender.name == OURS
        rows.append(
            {
                "who": contender.name,
                "ms": round(middle, 3),
                "p99_ms": round(sorted(times)[-1 - len(times) // 100], 3),
                "fps": round(1000 * work.streams / middle, 1),
                "host_ms": round(statistics.median(host), 3),
                "over_bare_ms": over_bare(host, bare),
                "own_ms": round(own, 3) if ours else None,
                "working_memory_mb": prepared.memory[contender.name],
                "eight_bit": eight_bit_facts(contender, work, prepared.contenders),
                "runs": contender.runner.in_force if isinstance(contender, Ours) else None,
                "calls": len(times),
            }
        )
    return rows


def over_bare(host: Sequence[float], bare: Sequence[float]) -> float | None:
    """The middle of what calls take more of the host than the bare modules do in the same turns, in milliseconds."""
    return round(statistics.median(a - b for a, b in zip(host, bare, strict=True)), 3) if bare else None


def prepare_all(
    cases: Sequence[Case],
    streams: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    *,
    compiled: bool,
    eight_bit: EightBit,
    tuned: Wanted | None,
    alone: bool,
) -> Iterable[Prepared]:
    """Each case with each number of streams, one after the other."""
    for case in cases:
        networks = make_networks(case.model, device, dtype)
        for number in streams:
            if number <= case.most_streams:
                work = Work(networks, case.size, case.steps, number, device, dtype)
                yield prepare(case, work, compiled, eight_bit, tuned, alone=alone)


def add_floor(rows: list[Row], case: Case, streams: int, device_name: str) -> None:
    """Write beside each row of a full-size model how near it is to what the card allows."""
    card = card_of(device_name)
    for row in rows:
        row["floor_ms"] = row["share_of_floor"] = None
    if card is None or case.model not in FULL:
        return
    parts = operators_of(case.model, case.size, len(case.steps))
    floor = 1000 * sum(least_seconds(operators, card, streams * rows) for operators, rows in parts)
    for row in rows:
        row["floor_ms"] = round(floor, 3)
        row["share_of_floor"] = round(floor / row["ms"], 3)


def missed_goals(results: Sequence[Row], device_name: str) -> list[str]:
    """What was measured and is not as fast as it should be, in words."""
    missed: list[str] = []
    for result in results:
        rows = {row["who"]: row for row in result["rows"]}
        ours, theirs = rows[OURS], rows.get(Upstream.name)
        if device_name != "cpu":  # by the ways to run it that this card has
            ours = max((row for who, row in rows.items() if who.startswith(OURS)), key=lambda row: row["fps"])
        what = f"{result['model']} {result['size']}, {len(result['steps'])} steps, {result['streams']} streams"
        by = "host_ms" if device_name == "cpu" else "ms"
        ratio = None if theirs is None else theirs[by] / ours[by]
        if device_name == "cpu":
            own = ours["own_ms"] / result["streams"]
            if own > CPU_GOALS["own_ms_a_stream"]:
                missed.append(f"{what}: {own:.2f} ms of its own a stream")
            if ratio is not None and ratio < 1 - NOISE_SHARE:
                missed.append(f"{what}: {ratio:.2f} times as fast as {Upstream.name}")
            continue
        key = (result["model"], result["size"], result["streams"])
        if "H200" in device_name and key in GPU_GOALS and ours["fps"] < GPU_GOALS[key]:
            missed.append(f"{what}: {ours['fps']} fps of {GPU_GOALS[key]}")
        if key == ("sd-turbo", 512, 1) and ratio is not None and ratio < UPSTREAM_FACTOR:
            missed.append(f"{what}: {ratio:.2f} times as fast as {Upstream.name}, not {UPSTREAM_FACTOR:g}")
    return missed


def show(result: Row) -> None:
    """Print the rows of one case."""
    print(
        f"{result['model']} {result['size']}x{result['size']}, {len(result['steps'])} steps, "
        f"{result['streams']} streams a call"
    )
    for row in result["rows"]:
        own = "" if row["own_ms"] is None else f", {row['own_ms']:.3f} of its own"
        over = "" if row["over_bare_ms"] is None else f", {row['over_bare_ms']:+.3f} over bare"
        floor = "" if row["share_of_floor"] is None else f", {100 * row['share_of_floor']:.0f} % of the floor"
        print(
            f"  {row['who']:<22} {row['ms']:9.3f} ms (p99 {row['p99_ms']:.3f}), {row['fps']:.1f} fps, "
            f"host {row['host_ms']:.3f}{over}{own}{floor}",
            flush=True,
        )
    for name, reason in result["not_run"].items():
        print(f"  {name:<22} not run: {reason}")


def use_the_workers_allocator() -> None:
    """Begin anew with the variables that the worker is started with, which count from the start only."""
    if os.name == "posix" and not KEEP_MEMORY.keys() <= os.environ.keys():
        environment = KEEP_MEMORY | dict(os.environ)
        os.execve(sys.executable, [sys.executable, "-m", "bench.frame", *sys.argv[1:]], environment)


def main() -> int:
    use_the_workers_allocator()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", help="only these, separated by commas")
    parser.add_argument("--sizes", help="only pictures of these sizes")
    parser.add_argument("--streams", default="1,2,4,8")
    parser.add_argument("--seconds", type=float, default=5.0, help="of turns for each case and number of streams")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--compile", action="store_true", help="measure the compiled frame too")
    ways.add_options(parser)
    parser.add_argument(
        "--alone", action="store_true", help="measure this engine alone, as it is meant to run: quickly"
    )
    parser.add_argument("--json", help="write the figures to this file")
    turn.add_option(parser)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(options.threads)
    device = Device.choose(options.device).torch_device
    on_gpu = device.type == "cuda"
    dtype = torch.float16 if on_gpu else torch.float32
    device_name = torch.cuda.get_device_name(device) if on_gpu else "cpu"
    wanted = options.models.split(",") if options.models else None
    sizes = [int(part) for part in options.sizes.split(",")] if options.sizes else None
    cases = [
        case
        for case in CASES[device.type]
        if (not wanted or case.model in wanted) and (not sizes or case.size in sizes)
    ]
    streams = [int(part) for part in options.streams.split(",")]
    keep_findings_in(options.remember)
    tuned = ways.tuned_of(options)
    prepared: Iterable[Prepared] = prepare_all(
        cases,
        streams,
        device,
        dtype,
        compiled=options.compile,
        eight_bit=options.eight_bit,
        tuned=tuned,
        alone=options.alone,
    )
    if options.wait_for_turn:
        prepared = list(prepared)
        turn.wait()
    how: Row = {**conditions(), "device": device_name, "dtype": str(dtype), "threads": options.threads}
    how |= {"load_average": os.getloadavg() if hasattr(os, "getloadavg") else None}
    other = "cpu" if on_gpu else "cuda"
    how["not_run"] = {other: [f"{case.model} {case.size}" for case in CASES[other]]}
    results: list[Row] = []
    for each in prepared:
        case, work = each.case, each.work
        rows = measure(each, options.seconds)
        add_floor(rows, case, work.streams, device_name)
        result: Row = {"model": case.model, "size": case.size, "steps": case.steps, "streams": work.streams}
        results.append(result | {"rows": rows, "not_run": each.absent})
        show(results[-1])
        if options.json:  # each time: the next case may be too much for the time, or for the card
            said = {**how, "missed": missed_goals(results, device_name), "cases": results}
            Path(options.json).write_text(json.dumps(said, indent=2), "utf-8")
    missed = missed_goals(results, device_name)
    print("goals met" if not missed else "goals missed: " + "; ".join(missed), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
