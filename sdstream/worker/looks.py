"""What a network is asked, apart from when and with whom: an image processor asks, whoever runs it answers.

A processor that looks with a network is a generator: it yields a `Look`, is sent the answer and returns its picture. So
the pictures of several streams can be put to a network in one call (`sharing.py`) while each stream's own part, what it
remembers included, stays as it is alone.
"""

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """`images`, [N, C, H, W] with N at least 1, to be looked at by `run`.

    `run` takes any number of pictures and answers each as it would alone: with a tensor, or a tuple of tensors, whose
    rows are the pictures'. Looks of an equal `key`, type and size of pictures may be answered in one call, by the `run`
    of any of them.
    """

    run: Callable[[torch.Tensor], Any]
    images: torch.Tensor
    key: Hashable


Looking = Generator[Look, Any, Result]
"""A part of a picture's way that may look: it is sent the answer to each of its looks, and an error of one ends it."""


def alone(looking: Looking[Result]) -> Result:
    """The plain twin: each look in a call of its own, at once."""
    try:
        look = next(looking)
        while True:
            look = looking.send(look.run(look.images))
    except StopIteration as end:
        return end.value


__all__ = ["Look", "Looking", "alone"]
