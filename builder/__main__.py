"""`python -m builder`."""

import os
import sys

FAILED, INTERRUPTED = 1, 130


def main() -> int:
    """Run the command line; the exit code."""
    try:
        # Here, because torch takes seconds to import, and a Ctrl-C that comes meanwhile is one like any other.
        from builder.command import run
    except KeyboardInterrupt:
        print("builder: interrupted; nothing was begun", file=sys.stderr)
        return INTERRUPTED
    try:
        code = run()
        print(end="", flush=True)  # now: the interpreter's end would complain of a reader that has left
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
