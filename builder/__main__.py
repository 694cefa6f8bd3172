"""`python -m builder`."""

import sys

INTERRUPTED = 130


def main() -> int:
    """Run the command line; the exit code."""
    try:
        # Here, because torch takes seconds to import, and a Ctrl-C that comes meanwhile is one like any other.
        from builder.command import run
    except KeyboardInterrupt:
        print("builder: interrupted; nothing was begun", file=sys.stderr)
        return INTERRUPTED
    return run()


if __name__ == "__main__":
    sys.exit(main())
