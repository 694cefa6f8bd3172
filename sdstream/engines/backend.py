"""What a back end is: it makes files of a component, and a runner of those files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from sdstream.engines.component import Component
from sdstream.engines.entry import Entry
from sdstream.engines.keys import BackendName

Progress = Callable[[str, float | None], None]
"""Told what is being done, and how much of it, 0 to 1, where that is known."""


class Runner(Protocol):
    """A loaded engine. Used by one thread, on torch's current stream."""

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One tensor for each input of the component in, one for each output out.

        What comes out may be overwritten by the next call. Raises `EngineMismatch` for shapes the engine does not take.
        """
        ...

    def close(self) -> None:
        """Let go of the engine, and keep what the driver made of it where the next start finds it."""
        ...


class Backend(Protocol):
    """One way to compile. Its methods raise `EngineBackendUnavailable` when what it needs is not on this machine."""

    @property
    def name(self) -> BackendName: ...

    @property
    def version(self) -> str:
        """The exact version that an engine is tied to."""
        ...

    @property
    def cuda(self) -> str:
        """CUDA's major version that engines need, `none` on a CPU."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """What engines are built with, as far as it shapes them."""
        ...

    def build(
        self, component: Component, target: str, folder: Path, work: Path, progress: Progress
    ) -> Mapping[str, Any]:
        """Write the engine's files into `folder`; returns facts for the manifest. `work` is for what is thrown away at
        the end; after a crash it is what it was, for whoever builds the same engine next.

        Raises `EngineBuildFailed` with the back end's own words.
        """
        ...

    def load(self, entry: Entry, device: torch.device) -> Runner:
        """Raises `EngineMismatch` or `EngineBroken` when the engine cannot run here."""
        ...


def silent(detail: str, fraction: float | None) -> None:
    """A `Progress` for callers that show none."""


__all__ = ["Backend", "Progress", "Runner", "silent"]
