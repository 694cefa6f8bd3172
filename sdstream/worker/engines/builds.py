"""Engines that are built behind running streams, by the builder's own program in a process of its own."""

from pathlib import Path
from typing import Literal

import torch

from sdstream.engines.events import EngineEvent, Report
from sdstream.engines.keys import BackendName
from sdstream.worker.engines.builder_process import BuilderProcess

BuildPolicy = Literal["auto", "never", "always"]


class EngineBuilds:
    """Builds one engine at a time, for whoever waits for it on a thread of its own. `close` ends a build under way."""

    def __init__(
        self,
        policy: BuildPolicy,
        directory: Path | None,
        device: torch.device,
        report: Report,
        builder: BuilderProcess | None = None,
    ) -> None:
        """`directory` is where engines go to; without one nothing is built."""
        self._policy = policy
        self._directory = directory
        self._device = device
        self._report = report
        self._builder = builder or BuilderProcess()

    @property
    def are_wanted(self) -> bool:
        if self._directory is None or self._policy == "never":
            return False
        # On a CPU a build takes the cores that make the pictures, so only who asks for it gets it.
        return self._policy == "always" or self._device.type == "cuda"

    def close(self) -> None:
        """Build nothing more, and end what is being built."""
        self._builder.close()

    def build(self, subject: str, name: BackendName, profile: str) -> str | None:
        """Bake what the text of a profile says. Waits until it is done. None then, else why not, empty when there is
        nothing to say. `subject` is what the engines are of, for people."""
        if self._builder.is_closed or self._directory is None:
            return ""
        failure = self._builder.bake(profile, self._directory)
        if not failure:
            self._report(EngineEvent("built", subject, name))
            return None
        if not self._builder.is_closed:  # else it was ended, which is no failure
            self._report(EngineEvent("build_failed", subject, failure))
        return f"an engine for {name} could not be built: {failure}"


__all__ = ["BuildPolicy", "EngineBuilds"]
