"""`python -m builder`."""

import sys

FAILED, INTERRUPTED = 1, 130


def main(arguments: list[str] | None = None, name: str = "builder") -> int:
    """Run the command line (default: the process's); the exit code. `name` is the program that a person has called."""
    try:
        # Here, because torch takes seconds to import, and a Ctrl-C that comes meanwhile is one like any other.
        from builder.command import run
        from sdstream.errors import CommandFailed
        from sdstream.platform.output import guard_output

        guard_output()
    except KeyboardInterrupt:
        print(f"{name}: interrupted; nothing was begun", file=sys.stderr)
        return INTERRUPTED
    try:
        code = run(arguments, name)
        print(end="", flush=True)  # now: at the interpreter's end nobody could be told that it fails
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        return FAILED
    except CommandFailed as error:
        print(f"{name}: {error.message}", file=sys.stderr)
        return FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
