"""What becomes of a lane's params and pictures in the worker, as values."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sdstream.errors import InternalError, OutOfMemory, SdstreamError
from sdstream.frames import PictureSize
from sdstream.params import StreamParams
from sdstream.worker.colour import Download
from sdstream.worker.pipelines import Pipeline
from sdstream.worker.scheduling.turns import WantedParams


class Refusal(NamedTuple):
    """Params that could not be brought into force, and why; `part` as in `params.attainable`, empty if not known."""

    revision: int
    code: str
    message: str
    part: str = ""


class LoadGivenUp(Exception):
    """What something was loaded for is no longer wanted: the lane is gone, or was given newer params. What was fetched
    so far stays for whoever asks next."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of params: a plan for a pipeline, another pipeline, or the reason why there is neither. A plan beside
    another pipeline is for that: it was loaded for older params."""

    wanted: WantedParams
    params: StreamParams | None = None
    plan: Any = None
    planned_for: Pipeline | None = None
    pipeline: Pipeline | None = None
    error: Exception | None = None
    beside: bool = False
    """It was loaded while the present pipeline was in memory, if there is one."""

    def give_back(self) -> None:
        """It does not come into force after all: let go what was made for it. From any thread."""
        if self.error is not None:
            let_go_of_frames(self.error)
        if self.pipeline is not None:
            self.pipeline.end()
        elif self.planned_for is not None:
            self.planned_for.drop(self.plan)


class Result(NamedTuple):
    """A picture that is made, or about to be: where it will lie, and what is left to do for that."""

    ring: int
    slot: int
    size: PictureSize
    download: Download | None
    skipped: bool = False
    """It is the result before it again."""


def part_of(error: Exception) -> str:
    """The part of a stream's params that an error comes from, empty where that is not known."""
    return error.part if isinstance(error, SdstreamError) else ""


def code_and_words(error: Exception) -> tuple[str, str]:
    """An error as the server is told of it: a code of `sdstream.errors`, and a sentence."""
    if isinstance(error, SdstreamError):
        return error.code, error.message
    if isinstance(error, torch.OutOfMemoryError):
        first = str(error).strip().partition("\n")[0]
        return OutOfMemory.code, f"the device has too little memory: {first}"
    return InternalError.code, f"{type(error).__name__}: {error}"


def let_go_of_frames(error: BaseException) -> None:
    """Of an error that was told: its frames, and those of what it came from, hold the lane and what it has in memory.

    Some of them hold the error, too, and such a circle waits for the collector, which looks at everything that torch
    imported so rarely that memory of lanes that failed would add up.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            waiting += [one.__cause__, one.__context__]


__all__ = ["LoadGivenUp", "Prepared", "Refusal", "Result", "code_and_words", "let_go_of_frames", "part_of"]
