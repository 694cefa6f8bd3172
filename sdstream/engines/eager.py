"""The plain twin of every engine: the component's own module, called as it is."""

import torch

from sdstream.engine_errors import EngineMismatch
from sdstream.engines.component import Component


class EagerRunner:
    """Runs a component without compiling it: what engines are compared with, and what runs where there is none."""

    def __init__(self, component: Component, device: torch.device) -> None:
        self._component = component
        self._module = component.module.to(device)

    @torch.no_grad()
    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(inputs) != len(self._component.inputs):
            raise EngineMismatch(f"{self._component.name} takes {len(self._component.inputs)} inputs")
        answer: object = self._module(*inputs)
        if isinstance(answer, torch.Tensor):
            return (answer,)
        assert isinstance(answer, tuple)
        return answer  # pyright: ignore[reportUnknownVariableType]

    def close(self) -> None:
        """Nothing to let go of."""


__all__ = ["EagerRunner"]
