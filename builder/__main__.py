"""`python -m builder`."""

import sys

FAILED, INTERRUPTED = 1, 130


def main() -> int:
    """Run the command line; the exit code."""
    try:
        # Here, because torch takes seconds to import, and a Ctrl-C that comes meanwhile is one like any other.
        from builder.command import run
        from sdstream.errors import CommandFailed
        from sdstream.platform.output import guard_output

        guard_output()
    except KeyboardInterrupt:
        print("builder: interrupted; nothing was begun", file=sys.stderr)
        return INTERRUPTED
    try:
        code = run()
        print(end="", flush=True)  # now: at the interpreter's end nobody could be told that it fails
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        return FAILED
    except CommandFailed as error:
        print(f"builder: {error.message}", file=sys.stderr)
        return FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
