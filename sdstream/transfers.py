"""A file that comes in several tries: what has come is kept, and the next try, or the next run, goes on from there."""

import asyncio
import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sdstream.fetching import FetchBrokenOff, FetchProblem, PublicFetcher, Transfer
from sdstream.pace import Progress

ATTEMPTS = 5
"""How often in a row a URL is asked without a byte coming."""
PAUSE_SECONDS = 1.0
"""Between two of those."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file that has not come whole yet, with what is known of it beside it."""

    path: Path

    @property
    def _notes(self) -> Path:
        return self.path.with_suffix(".part.json")

    def transfer(self) -> Transfer:
        """What is known of the bytes that are here, from an earlier time if need be."""
        try:
            known: Any = json.loads(self._notes.read_text("utf-8"))
            return Transfer(str(known["validator"]), str(known["sha256"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Transfer()

    def note(self, transfer: Transfer) -> None:
        """Keep it for a later time."""
        self._notes.write_text(json.dumps({"validator": transfer.validator, "sha256": transfer.sha256}), "utf-8")

    def drop(self) -> None:
        """Keep nothing."""
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)


async def bring_whole(
    fetcher: PublicFetcher,
    url: str,
    part: Part,
    name: str,
    progress: Progress,
    *,
    max_bytes: int,
    max_seconds: float,
) -> None:
    """Bring `part` to hold the whole of `url`, in as many tries as bring some of it, and close `fetcher`.

    `progress` hears of it as `name`, and may raise to give up. After `max_seconds` there is no further try. Raises
    `FetchBrokenOff`, with what came kept for another time, another `FetchProblem` with nothing kept, or `OSError`.
    """
    told = -1

    def tell(came: int, total: int | None) -> None:
        nonlocal told
        percent = 100 * came // total if total else 0
        if percent != told:  # each report may go all the way to those who watch a stream
            told = percent
            progress(f"downloading {name}", float(percent) if total else None)

    transfer = part.transfer()
    failures = spoilt = 0
    began = asyncio.get_running_loop().time()
    with _left_in_order(fetcher, part), part.path.open("ab") as file:
        while True:
            start = file.seek(0, 2)
            progress(f"asking for {name}", None)
            try:
                await fetcher.go_on(url, file, max_bytes, tell, transfer)
                if transfer.sha256 in ("", _sha256(part.path, file)):
                    return
                file.truncate(0)
                transfer.validator = ""
                spoilt += 1
                if spoilt == 2:
                    raise FetchProblem("came twice with bytes that are not those that its server promises")
            except FetchBrokenOff:
                failures = failures + 1 if file.seek(0, 2) <= start else 1
                if failures == ATTEMPTS or asyncio.get_running_loop().time() - began > max_seconds:
                    raise
                progress(f"downloading {name}", None)
                await asyncio.sleep(PAUSE_SECONDS)
            finally:
                file.flush()
                part.note(transfer)


@contextmanager
def _left_in_order(fetcher: PublicFetcher, part: Part) -> Generator[None]:
    try:
        yield
    except FetchBrokenOff:
        raise
    except FetchProblem:
        part.drop()
        raise
    finally:
        fetcher.close()


def _sha256(path: Path, written: BinaryIO) -> str:
    written.flush()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


__all__ = ["Part", "bring_whole"]
