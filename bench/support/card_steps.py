"""What `bench.card` runs, in the order of worth."""

from dataclasses import dataclass
from pathlib import Path

FINDINGS = "FINDINGS"
"""In the place of a folder where trials write what they found, for the steps that follow."""


@dataclass(frozen=True, slots=True)
class Step:
    """A program that measures something."""

    name: str
    arguments: tuple[str, ...]
    """Of Python. `FINDINGS` among them is a folder that all steps of a run share."""
    seconds: float
    """What its turn takes, about."""
    prepares: bool = False
    """Whether it is started at once, and says when it is ready."""
    writes: bool = True
    """Whether it takes `--json FILE`."""
    times: bool = True
    """Whether it times anything, so that nothing may run beside it."""

    def command(self, results: Path) -> tuple[str, ...]:
        """What Python is given, with the figures to `results`."""
        findings = str(results / "findings")
        figures = ("--json", str(results / f"{self.name}.json")) if self.writes else ()
        return (*(findings if each == FINDINGS else each for each in self.arguments), *figures)


def frame(model: str, size: int, streams: str, seconds: float, *more: str) -> Step:
    """All contenders beside each other."""
    each = ("--models", model, "--sizes", str(size), "--streams", streams, "--compile", "--seconds", "3")
    name = f"frame-{model}-{size}-{streams.replace(',', '-')}" + "".join(more).removeprefix("-")
    return Step(name, ("-m", "bench.frame", *each, *more, "--wait-for-turn"), seconds, prepares=True)


def goal(model: str, size: int, streams: str, seconds: float) -> Step:
    """This engine in every way it can run, nothing else, against its goals. It is no part of what prepares beside
    others: which kernel is the fastest shows only where nothing else runs."""
    case = ("--models", model, "--sizes", str(size), "--streams", streams)
    ways = ("--alone", "--tuned", "--trial-seconds", "35", "--remember", FINDINGS, "--eight-bit", "--seconds", "1")
    return Step(f"goal-{model}-{size}-{streams.replace(',', '-')}", ("-m", "bench.frame", *case, *ways), seconds)


def profile(streams: int, *more: str) -> Step:
    """Where the time of tuned frames goes."""
    tuned = ("--tuned", "--trial-seconds", "35", "--remember", FINDINGS)
    name = "-".join(("profile", str(streams), *(each.removeprefix("--") for each in more)))
    return Step(name, ("-m", "bench.profile", "--streams", str(streams), *tuned, *more), 40)


TOLD = ("-v", "-rfE", "--tb=short", "-p", "no:cacheprovider", "-p", "no:randomly")
"""Each test by its name as it begins: where the step is ended, its log says what it was at. In the order of the files:
two logs can be laid side by side."""
LIMITS = ("--timeout=40", "-o", "faulthandler_timeout=30")
"""Seconds. Who waits for the device within a library's call hears of no limit, but is seen in the log all the same."""


def tests(name: str, seconds: float, marks: str, *which: str) -> Step:
    """They time nothing, and so run beside what prepares."""
    arguments = ("-m", "pytest", *TOLD, *LIMITS, "-m", marks, *which)
    return Step(name, arguments, seconds, writes=False, times=False)


TESTS = tests("tests", 80, "gpu and not slow", "tests/diffusion", "tests/engines", "-k", "not a_thousand_streams")
"""The folders that have such tests: others import what a card's machine need not have, and pytest runs nothing at all
where a file cannot be imported. The thousand streams look at the card's whole memory, and take minutes. Last: whatever
they meet, all that is to be measured was measured before."""
PROCESSORS = ("--processors", "--device", "cuda", "--sides", "512", "--streams", "1,4", "--rounds", "9")
ON_A_GPU = (
    tests("tests-eight-bit", 30, "gpu", "tests/diffusion/hopper", "-k", "eight"),
    goal("sd-turbo", 512, "1,8", 100),
    goal("sdxl-turbo", 512, "1,8", 110),
    goal("sdxl-turbo", 1024, "1", 80),
    profile(8, "--eight-bit"),
    profile(4, "--eight-bit"),
    Step("convolutions-eight-bit", ("-m", "bench.convolutions", "--eight-bit", "--tried", "0"), 60),
    Step("live", ("-m", "bench.live", "--streams", "1,4,8", "--seconds", "6"), 90),
    Step("render", ("-m", "bench.render"), 60),
    profile(8),
    profile(1),
    frame("sd-turbo", 512, "1,8", 20),
    Step(
        "engines",
        ("-m", "bench.engines", "--steps", "1", "--streams", "1,8", "--seconds", "4", "--wait-for-turn"),
        25,
        prepares=True,
    ),
    Step("attention", ("-m", "bench.attention"), 40),
    Step("convolutions", ("-m", "bench.convolutions"), 90),
    frame("sdxl-turbo", 512, "1,8", 20),
    frame("sd15", 512, "1", 12),
    frame("sdxl-turbo", 1024, "1", 12),
    frame("sd-turbo", 512, "2,4", 20),
    Step("processors", ("-m", "bench.conditioning", *PROCESSORS), 60, writes=False),
    frame("sd-turbo", 1024, "1", 12),
    frame("sd15", 1024, "1", 15),
    TESTS,
)
ON_A_CPU = (
    Step(
        "frame-tiny",
        ("-m", "bench.frame", "--models", "tiny", "--streams", "1,2", "--seconds", "2", "--wait-for-turn"),
        30,
        prepares=True,
    ),
    Step("engines", ("-m", "bench.engines", "--wait-for-turn"), 10, prepares=True),
    Step("live", ("-m", "bench.live"), 60),
    Step("conditioning", ("-m", "bench.conditioning"), 120, writes=False),
)

__all__ = ["LIMITS", "ON_A_CPU", "ON_A_GPU", "TESTS", "TOLD", "Step"]
