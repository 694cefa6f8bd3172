"""Networks of image processors in parts that engines can answer: tensors in, tensors out, each of one size."""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import nn

Shape = tuple[int, ...]
"""Of one tensor, without its first axis, which is for pictures or for what is in them."""
Shapes = tuple[Shape, ...]
"""Of what goes into a part, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkPart:
    """`module` is called with one tensor for each of `inputs`, in order, all of the type of its weights, and answers
    with one for each of `outputs`. What comes before, between and after the parts stays in torch: it is little, and
    what no engine can hold or nobody could compare, such as sorting.

    `config` is what its arithmetic depends on besides its weights, JSON-safe. `rows` is how many rows of it engines are
    made for, for each picture of a call: more for what is in pictures. `sized` says whether what goes into it is as
    large as the picture makes it.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    config: Mapping[str, Any]
    rows: int = 1
    sized: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""
        return next(self.module.parameters()).dtype


@dataclass(frozen=True, slots=True)
class InForce:
    """What runs a network: `torch`, or the back end of its engines. `note` says why it is nothing faster, or what of
    the network torch runs beside engines; empty when there is nothing to say."""

    name: str = "torch"
    note: str = ""


class PartAnswers(Protocol):
    """Answers for parts in place of their modules. Used by one thread."""

    def answer(self, part: NetworkPart, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """What the part's module would answer. The tensors are the caller's for good."""
        ...

    def in_force(self, shapes: Mapping[str, Shapes]) -> InForce:
        """What has answered for parts of these shapes last. From any thread."""
        ...


class PartedNetwork(nn.Module):
    """A network whose parts are asked by name. Without answers from elsewhere it is its own plain twin."""

    _answers: PartAnswers | None = None

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, NetworkPart]:
        """All parts, by their names."""
        ...

    @abstractmethod
    def shapes(self, width: int, height: int) -> Mapping[str, Shapes]:
        """By part the shapes of what goes into it for pictures of this size in pixels."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights, in which parts are asked."""
        return next(self.parameters()).dtype

    def ask(self, name: str, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The answer of a part, for good."""
        part = self.parts[name]
        return run_module(part, given) if self._answers is None else self._answers.answer(part, given)

    def answered_by(self, answers: PartAnswers) -> Self:
        """The same network, weights included, with its parts answered by `answers`."""
        twin = copy.copy(self)
        twin._answers = answers
        return twin

    def in_force(self, width: int, height: int) -> InForce:
        """What runs it for pictures of this size. From any thread."""
        return InForce() if self._answers is None else self._answers.in_force(self.shapes(width, height))


def shrunk_size(width: int, height: int, largest: int) -> tuple[int, int]:
    """Width and height of a picture whose longer side is brought down to `largest` pixels, where it is more."""
    factor = largest / max(width, height)
    return (width, height) if factor >= 1 else (max(1, round(width * factor)), max(1, round(height * factor)))


def run_module(part: NetworkPart, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The plain twin of an engine of a part."""
    answer: Any = part.module(*given)
    return (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)


__all__ = ["InForce", "NetworkPart", "PartAnswers", "PartedNetwork", "Shape", "Shapes", "run_module", "shrunk_size"]
