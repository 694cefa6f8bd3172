"""How a bench that takes long to prepare lets another one be timed: it says that it is ready, and waits for a line.

`bench.card` starts several of them, which compile at the same time, and lets them time one after another.
"""

import argparse
import sys

READY = "ready, waiting for its turn"
"""The line that is printed."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """The command line's word for it: `wait_for_turn` of the parsed options."""
    parser.add_argument("--wait-for-turn", action="store_true", help="once prepared, wait for a line on standard input")


def wait() -> None:
    """Say that all is prepared, and wait until it is this program's turn. Raises `SystemExit` when whoever gives turns
    has gone: others may be timed by now."""
    print(READY, flush=True)
    if not sys.stdin.readline():
        raise SystemExit("nobody gives a turn any more")


__all__ = ["READY", "add_option", "wait"]
