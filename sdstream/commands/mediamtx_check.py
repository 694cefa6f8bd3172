"""The check of `sdstream doctor` for the MediaMTX back end."""

import subprocess

from sdstream.commands.checks import Check, Verdict
from sdstream.errors import ConfigurationError
from sdstream.media.mediamtx.process import RELEASES, find_program, version_problem
from sdstream.settings import Settings

VERSION_SECONDS = 10.0
SUBJECT = "MediaMTX"
REMEDY = (
    f"Install MediaMTX 1.20.1 or a later 1.x, a single program from {RELEASES} that sdstream's image has in it, "
    "or name it in SDSTREAM_MEDIAMTX_PROGRAM."
)


def check_mediamtx(settings: Settings) -> Check:
    """Whether the program is here and of a version that is used."""
    try:
        program = find_program(settings)
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False
        )
    except ConfigurationError as error:
        return Check(SUBJECT, Verdict.BAD, error.message, REMEDY)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(SUBJECT, Verdict.BAD, f"it cannot be run: {error}", REMEDY)
    said = done.stdout.strip()
    problem = version_problem(said)
    if problem is not None:
        return Check(SUBJECT, Verdict.BAD, f"{program}: {problem}", REMEDY)
    return Check(SUBJECT, Verdict.GOOD, f"{program} is {said.split()[0]}")


__all__ = ["check_mediamtx"]
