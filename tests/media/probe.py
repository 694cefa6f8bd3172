"""What ffprobe says of a file, its own way of reading beside PyAV's."""

import itertools
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

_COMMAND = ("ffprobe", "-v", "error", "-allowed_extensions", "ALL", "-of", "json")


def streams_of(file: Path) -> list[dict[str, Any]]:
    """The members of each stream. Anything that ffprobe complains of is an error."""
    return _ask(file, "-show_streams")["streams"]


def rate_of(file: Path) -> float:
    """Pictures a second by the usual distance of two: where the latency fell, pictures are missing."""
    packets = _ask(file, "-select_streams", "v", "-show_entries", "packet=pts_time")["packets"]
    times = sorted(float(packet["pts_time"]) for packet in packets)
    return 1 / statistics.median(later - time for time, later in itertools.pairwise(times))


def _ask(file: Path, *arguments: str) -> dict[str, Any]:
    extensions = _COMMAND if file.suffix == ".m3u8" else (*_COMMAND[:3], *_COMMAND[5:])
    done = subprocess.run([*extensions, *arguments, str(file)], capture_output=True, text=True, check=True, timeout=60)
    assert not done.stderr, done.stderr
    return json.loads(done.stdout)


__all__ = ["rate_of", "streams_of"]
