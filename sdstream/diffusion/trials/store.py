"""What trials on a card found, kept in one small file for each card and software: of attention, of convolutions, of
products in eight bits and of fused blocks.

A file says of itself what it is for, so one that was copied from elsewhere is not believed. Processes that share a
folder add to it, one at a time, and whoever reads meets it whole.
"""

import json
import os
import re
import secrets
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import filelock

from sdstream.engines.manifest import write_durably

FORMAT = 1
"""Of the file; another one is not read."""
MOST_ATTEMPTS = 2
"""Trials of one thing that may end with the process: a kernel that takes the card down must not at every start."""
LOCK_SECONDS = 10.0
"""How long another process that writes is waited for; what was found is of use to this one alone after that."""

Kind = Literal["attention", "convolutions", "eight_bit", "fused"]
Finding = Mapping[str, Any]
"""What was found of one thing, as JSON has it; its kind knows what is in it."""


class Subject(NamedTuple):
    """What a trial is of."""

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class Origin:
    """What findings hold for: a card of this name, and `versions` of all software that counts."""

    card: str
    versions: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Such as `nvidia-h100-80gb-hbm3-0123456789ab.json`."""
        words = re.sub(r"[^a-z0-9]+", "-", self.card.lower()).strip("-") or "card"
        digest = sha256("\n".join([str(FORMAT), *self.versions]).encode()).hexdigest()[:12]
        return f"{words}-{digest}.json"


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered: findings, and trials that began and of which nothing was heard again."""

    findings: Mapping[Subject, Finding] = field(default_factory=dict[Subject, Finding])
    attempts: Mapping[Subject, int] = field(default_factory=dict[Subject, int])


class TrialStore:
    """The memory of one card. From any thread; without a `file` it lasts as long as the process.

    What other processes found since is read with each write.
    """

    def __init__(self, file: Path | None, origin: Origin) -> None:
        self._file = file
        self._origin = origin
        self._lock = threading.Lock()
        self._known = Known() if file is None else read_known(file, origin)

    @property
    def known(self) -> Known:
        """All of it."""
        return self._known

    def finding(self, subject: Subject) -> Finding | None:
        """What was found, by this process or one before."""
        return self._known.findings.get(subject)

    def names(self, kind: Kind) -> frozenset[str]:
        """Of what there are findings."""
        return frozenset(subject.name for subject in self._known.findings if subject.kind == kind)

    def is_given_up(self, subject: Subject) -> bool:
        """Whether its trials ended with the process too often."""
        return self._known.attempts.get(subject, 0) >= MOST_ATTEMPTS

    def begin(self, subject: Subject) -> None:
        """A trial begins: should the process end with it, the next one knows."""

        def change(known: Known) -> Known:
            return Known(known.findings, {**known.attempts, subject: known.attempts.get(subject, 0) + 1})

        self._change(change)

    def settle(self, found: Mapping[Subject, Finding | None]) -> None:
        """Trials are over; with None nothing is to be remembered of one."""

        def change(known: Known) -> Known:
            told = {subject: finding for subject, finding in found.items() if finding is not None}
            attempts = {subject: number for subject, number in known.attempts.items() if subject not in found}
            return Known({**known.findings, **told}, attempts)

        self._change(change)

    def _change(self, change: Callable[[Known], Known]) -> None:
        with self._lock:
            file, mine = self._file, self._known
            if file is None:
                self._known = change(mine)
                return
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                lock: Any = filelock.FileLock(file.with_name(f".{file.name}.lock"), timeout=LOCK_SECONDS)
                with lock:
                    theirs = read_known(file, self._origin)
                    # Where it could not be written before, what this process knows goes along; its own are the newest.
                    self._known = change(Known({**theirs.findings, **mine.findings}, theirs.attempts))
                    _replace(file, text_of(self._known, self._origin))
            except (OSError, filelock.Timeout) as error:
                self._known = change(mine)
                if self._file is not None:
                    warnings.warn(f"what trials find is not kept in {file}: {error}", RuntimeWarning, stacklevel=3)
                    self._file = None  # a read-only volume, most likely: said once, and borne


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        write_durably(beside, text.encode())
        os.replace(beside, file)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def text_of(known: Known, origin: Origin) -> str:
    """A file, whole."""

    def by_kind(each: Mapping[Subject, Any]) -> dict[str, dict[str, Any]]:
        made: dict[str, dict[str, Any]] = {}
        for (kind, name), value in each.items():
            made.setdefault(kind, {})[name] = value
        return made

    told = {"format": FORMAT, "card": origin.card, "versions": list(origin.versions)}
    told |= {"findings": by_kind(known.findings), "attempts": by_kind(known.attempts)}
    return json.dumps(told, indent=1, sort_keys=True)


def read_known(file: Path, origin: Origin) -> Known:
    """What a file says; nothing, with a warning, where it is damaged or was not written for `origin`."""
    try:
        told: Any = json.loads(file.read_bytes())
        problem = _foreign(told, origin)
        if not problem:
            findings = {subject: dict(value) for subject, value in _of_kinds(told["findings"])}
            return Known(findings, {subject: int(value) for subject, value in _of_kinds(told["attempts"])})
    except FileNotFoundError:
        return Known()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"it cannot be read: {type(error).__name__}: {error}"
    warnings.warn(f"{file.name} says nothing of trials: {problem}", RuntimeWarning, stacklevel=2)
    return Known()


def _foreign(told: Any, origin: Origin) -> str:
    if told["format"] != FORMAT:
        return f"it is of format {told['format']!r}, not {FORMAT}"
    if told["card"] != origin.card or told["versions"] != list(origin.versions):
        return "it is of another card or other software"
    return ""


def _of_kinds(told: Any) -> Iterable[tuple[Subject, Any]]:
    for kind, each in told.items():
        for name, value in each.items():
            yield Subject(kind, str(name)), value


__all__ = [
    "FORMAT",
    "MOST_ATTEMPTS",
    "Finding",
    "Kind",
    "Known",
    "Origin",
    "Subject",
    "TrialStore",
    "read_known",
    "text_of",
]
