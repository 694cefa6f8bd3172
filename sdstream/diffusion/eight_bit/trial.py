"""Whether eight bits win on a device: each shape of a layer is tried there once, when a model with it is loaded first.

The choice is a pure function of what was seen (`choose`); the rest of this module looks.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sdstream.diffusion.eight_bit import products
from sdstream.diffusion.eight_bit.copies import plain_quantised
from sdstream.diffusion.eight_bit.products import ALIGNMENT, EightBitWeight, Terms, Way, apart, product
from sdstream.diffusion.trials.failures import FAILURES
from sdstream.diffusion.trials.memory import store_of
from sdstream.diffusion.trials.session import card_turn
from sdstream.diffusion.trials.stopwatch import CudaStopwatch, Stopwatch
from sdstream.diffusion.trials.store import Finding, Subject, TrialStore
from sdstream.errors import first_line

CAPABILITY = (8, 9)
"""The least that has units for e4m3: Ada, then Hopper and Blackwell."""
TRIED_TOKENS = (64, 256, 1024, 4096)
"""Of a picture: the layers of a 512 x 512 frame have these numbers, those of others lie near or between."""
MOST_ERROR = 0.06
"""Root of the mean square error of a product, relative. Rounding both sides to e4m3 alone makes 0.037 of normally
distributed numbers; more means that the product does something else."""
LEAST_GAIN = 1.05
"""How many times as fast a product has to be to be worth its errors."""
LEAST_SIDE = 128
"""Of a weight: smaller ones are launched in the time that they take."""
WAYS: tuple[Way, ...] = ("rows", "units")
"""In the order in which they are tried: the second writes and reads its answer once more."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of one way with so many tokens: milliseconds of both, and the error of eight bits.

    `problem` says why there are no figures; empty where there are.
    """

    tokens: int
    half: float = 0.0
    eight_bit: float = 0.0
    error: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a shape multiplies: in eight bits by `terms`; None for half precision, and `reason` says why."""

    terms: Terms | None
    reason: str = ""
    is_measured: bool = field(default=True, compare=False)
    """Whether the reason is one of figures, which are the same in the next process."""


def choose(way: Way, samples: Sequence[Sample]) -> Choice:
    """From how many tokens on this way wins at every number that was tried. `samples` are in the order of tokens."""
    for sample in samples:
        if sample.problem:
            return Choice(None, sample.problem)
        if not sample.error <= MOST_ERROR:  # which a NaN is not either
            return Choice(None, f"its answer is {sample.error:.2g} from that in half precision")
    least: int | None = None
    for sample in reversed(samples):
        if sample.half < LEAST_GAIN * sample.eight_bit:
            break
        least = sample.tokens
    if least is None:
        best = samples[-1]
        gain = best.half / best.eight_bit
        return Choice(None, f"it is {gain:.2f} times as fast with {best.tokens} tokens")
    return Choice(Terms(way, least))


def can_win(out: int, width: int) -> bool:
    """Whether a weight [out, width] is of a kind that torch multiplies in eight bits, and large enough to be tried."""
    return out % ALIGNMENT == 0 and width % ALIGNMENT == 0 and min(out, width) >= LEAST_SIDE


def lacking(device: torch.device) -> str:
    """What a device lacks for products in eight bits, in words; empty where it lacks nothing."""
    if device.type != "cuda":
        return f"{device} has no units for float8"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        name, has = torch.cuda.get_device_name(device), ".".join(map(str, capability))
        return f"{name} has compute capability {has}, and float8 needs {'.'.join(map(str, CAPABILITY))}"
    return ""


@cache
def choice_of(device: torch.device, dtype: torch.dtype, out: int, width: int) -> Choice:
    """How weights [out, width] of `dtype` multiply on `device`. Takes a second at most, and warns once of a shape that
    stays in half precision though it is large."""
    subject = Subject("eight_bit", f"{str(dtype).removeprefix('torch.')} {width} x {out}")
    choice = settled(
        store_of(device),
        subject,
        lambda: _tried(device, dtype, out, width),
        lambda terms: _works(device, dtype, out, width, terms),
    )
    if choice.terms is None:
        words = f"layers {width} x {out} stay in half precision on {device}: {choice.reason}"
        warnings.warn(words, RuntimeWarning, stacklevel=2)
    return choice


def settled(store: TrialStore, subject: Subject, tried: Callable[[], Choice], works: Callable[[Terms], bool]) -> Choice:
    """What is remembered, if it works here, too; else what a trial says, which is remembered then. A trial without
    memory, and one that ended the process too often, leave half precision."""
    finding = store.finding(subject)
    before = None if finding is None else choice_from(finding)
    try:
        if before is not None:
            return before if before.terms is None or works(before.terms) else Choice(None, "it does not work here")
        if store.is_given_up(subject):
            return Choice(None, "its trials ended the process")
        store.begin(subject)
        choice = tried()
    except torch.OutOfMemoryError:
        store.settle({subject: None})
        return Choice(None, "there was no memory to try it in")
    # What could not be done may be mended by a compiler or another driver, and is tried by the next process.
    store.settle({subject: finding_of(choice) if choice.is_measured else None})
    return choice


def finding_of(choice: Choice) -> Finding:
    """A choice as it is remembered."""
    terms = choice.terms
    return {
        "way": "" if terms is None else terms.way,
        "least_tokens": 0 if terms is None else terms.least_tokens,
        "reason": choice.reason,
    }


def choice_from(finding: Finding) -> Choice | None:
    """The choice that is remembered; None where it is none."""
    try:
        way, least, reason = finding["way"], int(finding["least_tokens"]), str(finding["reason"])
    except (KeyError, TypeError, ValueError):
        return None
    if not way:
        return Choice(None, reason)
    return next((Choice(Terms(each, least)) for each in WAYS if each == way), None)


def _works(device: torch.device, dtype: torch.dtype, out: int, width: int, terms: Terms) -> bool:
    """Whether a way that is remembered gives right answers here; without times."""
    tokens = (max(TRIED_TOKENS[0], terms.least_tokens),)
    seen = look(device, dtype, out, width, terms.way, _NoWatch(), tokens)
    return all(not sample.problem and sample.error <= MOST_ERROR for sample in seen)


class _NoWatch:
    def time(self, calls: Sequence[Callable[[], torch.Tensor]]) -> list[tuple[float, ...]]:
        return [(0.0,) for _ in calls]


def _tried(device: torch.device, dtype: torch.dtype, out: int, width: int) -> Choice:
    measured = False
    reasons: list[str] = []
    for way in WAYS:
        with torch.cuda.stream(torch.cuda.Stream(device)):  # beside the frames of running streams, not between them
            seen = look(device, dtype, out, width, way, CudaStopwatch(device))
        choice = choose(way, seen)
        measured = measured or not any(sample.problem for sample in seen)
        if choice.terms is not None:
            return choice
        reasons.append(f"{way}: {choice.reason}")
    return Choice(None, "; ".join(reasons), is_measured=measured)


def look(
    device: torch.device,
    dtype: torch.dtype,
    out: int,
    width: int,
    way: Way,
    stopwatch: Stopwatch,
    tried: Sequence[int] = TRIED_TOKENS,
) -> list[Sample]:
    """Try one way with random numbers, one picture after another."""
    generator = torch.Generator(device).manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    weight, bias = noise(out, width) * width**-0.5, noise(out)
    samples: list[Sample] = []
    for tokens in tried:
        x = noise(1, tokens, width)
        try:
            with card_turn():
                copied = EightBitWeight(weight, Terms(way))
                # Without a bias, too: that goes other ways in torch.
                error = max(_apart(product(x, copied, one), functional.linear(x, weight, one)) for one in (bias, None))
            calls = (partial(functional.linear, x, weight, bias), partial(product, x, copied, bias))
            half, eight = (median(times) for times in stopwatch.time(calls))
        except (torch.AcceleratorError, torch.OutOfMemoryError):
            raise  # the device is lost, or full: no fault of this shape's
        except FAILURES as problem:
            return [Sample(tokens, problem=f"{type(problem).__name__}: {first_line(problem)}")]
        samples.append(Sample(tokens, half, eight, error))
    return samples


@cache
def kernel_problem(device: torch.device) -> str:
    """Why what is put into eight bits together with a norm or a gate cannot be on `device`; empty where it can."""
    generator = torch.Generator(device).manual_seed(0)
    x, other = (torch.randn(1, 64, 640, generator=generator, device=device, dtype=torch.float16) for _ in range(2))
    norm = nn.LayerNorm(320, device=device, dtype=torch.float16).requires_grad_(False)
    asks = EightBitWeight(x[0, :32, :320].contiguous(), Terms("plain"))
    half, more = x[..., :320].contiguous(), other[..., :320].contiguous()
    trials = (
        (lambda: products.gated_for(asks, x), products.plain_gated(x)),
        (lambda: products.normed_for(asks, norm, half), norm(half)),
        (lambda: products.summed_norm_for(asks, half, more, half[0, 0], norm)[1], norm(half + (more + half[0, 0]))),
    )
    try:
        for ask, wanted in trials:
            made: Any = ask()
            exact, scales = plain_quantised(wanted)
            error = _apart(made.values.float() * made.scales.view(scales.shape), exact.float() * scales)
            if not error <= MOST_ERROR:
                return f"numbers in eight bits are {error:.2g} from what they should be"
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except FAILURES as problem:
        return f"{type(problem).__name__}: {first_line(problem)}"
    return ""


def _apart(made: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(apart(made, wanted))


__all__ = [
    "CAPABILITY",
    "LEAST_GAIN",
    "MOST_ERROR",
    "TRIED_TOKENS",
    "Choice",
    "Sample",
    "can_win",
    "choice_of",
    "choose",
    "kernel_problem",
    "lacking",
    "look",
]
