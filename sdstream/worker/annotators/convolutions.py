"""What OpenPose's networks are made of: convolutions by the names of the published weights, a trunk, and stages."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional

POOL = "pool"
"""Stands for a halving of both sides among the layers of a trunk."""


class NamedConvolutions(nn.Module):
    """Convolutions that keep the size of what they are given."""

    def add(self, name: str, inside: int, outside: int, size: int) -> None:
        """A convolution of `size` by `size`."""
        self.add_module(name, nn.Conv2d(inside, outside, size, padding=size // 2))

    def add_stage(self, ending: str, inside: int, width: int, maps: int) -> None:
        """The seven layers that make maps better, from `inside` channels; their names end with `ending`."""
        for number in range(1, 6):
            self.add(f"Mconv{number}_{ending}", inside if number == 1 else width, width, 7)
        self.add(f"Mconv6_{ending}", width, width, 1)
        self.add(f"Mconv7_{ending}", width, maps, 1)

    def look(self, image: torch.Tensor, trunk: Iterable[str]) -> torch.Tensor:
        """`image` float [N, 3, H, W], 0 to 1, through these layers, with ReLU after each."""
        values = image.flip(1) * (255.0 / 256.0) - 0.5  # the weights were trained on blue, green, red
        for name in trunk:
            if name == POOL:
                values = functional.max_pool2d(values, 2)
            else:
                values = functional.relu(self.get_submodule(name)(values))
        return values

    def run(self, values: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """Through these layers, with ReLU between them."""
        for name in names[:-1]:
            values = functional.relu(self.get_submodule(name)(values))
        made: torch.Tensor = self.get_submodule(names[-1])(values)
        return made

    def run_stage(self, values: torch.Tensor, ending: str) -> torch.Tensor:
        """Through a stage of `add_stage`."""
        return self.run(values, [f"Mconv{number}_{ending}" for number in range(1, 8)])


__all__ = ["POOL", "NamedConvolutions"]
