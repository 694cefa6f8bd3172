"""What the worker says, as anybody may read it: files are named, the directories that they are in are not.

The status of a stream is answered without a key and placards are seen by viewers, so what the worker says loses its
directories as it comes in, once for all who are told of it. The log has every sentence as it was said.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from sdstream.directories import choose_data_directory, home_expanded
from sdstream.settings import Settings
from sdstream.worker.messages import Ending, LaneReport
from sdstream.worker.ports import ProcessorState

REMEMBERED = 256
"""Sentences that are logged once only: a lane says the same with each report."""

_BEFORE = r"(?<![\w.:/\\<\])])"
"""What a path does not follow: that would be a URL, a relative path, a fraction, the end of a tag."""
_START = _BEFORE + r"(?:file:(?=//)|~|[A-Za-z]:)?[\\/]+"
_NAME = r"[^\s\\/'\"`<>|:;,()\[\]{}]+"
_QUOTED = re.compile(rf"(?P<quote>['\"`]){_START}(?P<rest>[^'\"`\n]+)(?P=quote)")
_BARE = re.compile(rf"{_START}(?:{_NAME}[\\/]+)*(?P<name>{_NAME})[\\/]*")

logger = structlog.get_logger(__name__)


def without_directories(text: str, roots: Iterable[Path] = ()) -> str:
    """`text` with its absolute paths shortened: what lies below one of `roots` is written from there, and of any other
    path only the last name stays. URLs and relative paths are left as they are.

    Outside of quotes a path ends at a space; `roots` may have some.
    """
    for root in sorted({str(root) for root in roots}, key=len, reverse=True):
        for written in {root, root.replace("\\", "\\\\")}:  # as in the `repr` of a Windows path
            text = re.sub(rf"{_BEFORE}{re.escape(written)}[\\/]+(?=[^\s\\/])", "", text)
            name = re.split(r"[\\/]", root)[-1]
            text = re.sub(rf"{_BEFORE}{re.escape(written)}(?![\w.\\/-])", lambda _, name=name: name, text)
    text = _QUOTED.sub(lambda found: f"{found['quote']}{_last_name(found['rest'])}{found['quote']}", text)
    return _BARE.sub(lambda found: found["name"], text)


def roots_of(settings: Settings) -> tuple[Path, ...]:
    """What a person knows the places below: the data directory, and the parents of the models that settings name."""
    sources = [each.source for each in (*settings.models.values(), *settings.controlnets.values())]
    local = [path.parent for path in (home_expanded(source) for source in sources) if path.is_absolute()]
    named = [choose_data_directory(settings).absolute_path, *local]
    # The root of the disk is no place of ours: whatever is below it would be told whole.
    return tuple(path for path in {*named, *(each.resolve() for each in named)} if path != Path(path.anchor))


class Wording:
    """Makes what one worker process says fit to be told, and logs what it said where that is more."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self._roots = tuple(roots)
        self._logged: OrderedDict[str, None] = OrderedDict()

    def of_message(self, message: Any) -> Any:
        """A message of the worker with its sentences shortened; for one thread."""
        match message:
            case LaneReport():
                error = None if message.error_message is None else self._of(message.error_message)
                states = [self._of_processor(state) for state in message.processors]
                return msgspec.structs.replace(
                    message, detail=self._of(message.detail), error_message=error, processors=states
                )
            case Ending():
                return msgspec.structs.replace(message, message=self._of(message.message))
            case _:
                return message

    def of_lines(self, lines: Iterable[str]) -> tuple[str, ...]:
        """Lines that the worker printed, which are in the log already."""
        return tuple(without_directories(line, self._roots) for line in lines)

    def _of_processor(self, state: ProcessorState) -> ProcessorState:
        return state._replace(problem=self._of(state.problem), note=self._of(state.note))

    def _of(self, sentence: str) -> str:
        told = without_directories(sentence, self._roots)
        if told != sentence and sentence not in self._logged:
            self._logged[sentence] = None
            if len(self._logged) > REMEMBERED:
                self._logged.popitem(last=False)
            logger.info("worker_told", sentence=sentence)
        return told


def _last_name(path: str) -> str:
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1]


__all__ = ["Wording", "roots_of", "without_directories"]
