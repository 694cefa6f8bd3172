"""The `sdstream` program, also as `python -m sdstream`."""

import sys

INTERRUPTED = 130


def main() -> int:
    """Run the command line; the exit code."""
    try:
        # Here, because that takes a moment, and a Ctrl-C that comes meanwhile is one like any other.
        from sdstream.cli import run
        from sdstream.platform.output import guard_output

        guard_output()
    except KeyboardInterrupt:
        return INTERRUPTED
    return run()


if __name__ == "__main__":  # a spawned worker imports this module under another name
    sys.exit(main())
