"""The ways in which this engine can run a frame on a GPU besides the plain one, as words of a command line."""

import argparse
from pathlib import Path
from typing import get_args

from sdstream.diffusion.convolving.switch import Wanted
from sdstream.diffusion.eight_bit.switch import EightBit

TRIAL_SECONDS = 240.0
"""Of trials of a model and a number of streams, made before anything is timed."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """`tuned`, `trial_seconds`, `remember` and `eight_bit` of the parsed options."""
    parser.add_argument("--tuned", action="store_true", help="with tuned convolutions")
    parser.add_argument("--trial-seconds", type=float, default=TRIAL_SECONDS, help="of trials for --tuned, a case")
    parser.add_argument("--remember", type=Path, help="what trials find is read from this folder, and written there")
    parser.add_argument(
        "--eight-bit",
        nargs="?",
        const="all",
        default="off",
        choices=get_args(EightBit),
        help="in eight bits: all, or linear layers alone",
    )


def tuned_of(options: argparse.Namespace) -> Wanted | None:
    """What `--tuned` asks for; None without it."""
    return Wanted(True, options.trial_seconds) if options.tuned else None


__all__ = ["add_options", "tuned_of"]
