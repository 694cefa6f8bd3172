"""Engines for the frames of streams that run already, put in between two frames. A group of streams starts on the plain
twin."""

from collections.abc import Mapping
from typing import Any

import torch

from sdstream.diffusion.engine_networks import EngineControls, EngineFrame, EngineNetworks, LoadedEngine
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.runners import Runner, bucket, make_runner
from sdstream.diffusion.swapping import SwappingRunner
from sdstream.engines.keys import BackendName
from sdstream.engines.registry import capability_of
from sdstream.engines.supply import EngineSupply
from sdstream.worker.engines.requests import CONTROLNET, FRAME, EngineRequest, choices, profile_text, rows_of
from sdstream.worker.engines.search import EngineSearch, Found, Parts


class EngineFinder(EngineSearch[EngineRequest]):
    """Whole frames, or their networks one by one."""

    def __init__(self, supply: EngineSupply, device: torch.device, *, graphs: bool = True, **options: Any) -> None:
        """`graphs` says whether frames may be captured; `options` are those of `EngineSearch`."""
        super().__init__(supply, device, **options)
        self._graphs = graphs

    def _choices(self, request: EngineRequest, name: BackendName) -> list[Parts]:
        return choices(request, name, self.streams, self._digest)

    def _rows(self, request: EngineRequest, part: str) -> int:
        return rows_of(request, part)

    def _profile(self, request: EngineRequest, name: BackendName, parts: Parts) -> str | None:
        return profile_text(request, name, capability_of(self._device), parts, self.streams)

    def _swap(self, request: EngineRequest, holder: SwappingRunner, found: Found) -> str:
        fast = self._runner(request, found)
        holder.put(fast, *self._notes_of(request, found))
        return fast.in_force

    def _notes_of(self, request: EngineRequest, found: Found) -> list[str]:
        """What engines that were found do not do."""
        notes: list[str] = []
        lacking = ", ".join(part for part in found.parts if part not in found.entries)
        if lacking:
            notes.append(f"no engine of {lacking} is here, so torch runs it")
        if not self._divides:
            streams = {part: entry.key.most_rows // rows_of(request, part) for part, entry in found.entries.items()}
            few = [f"{part} {count}" for part, count in streams.items() if count < self.streams]
            if few:
                notes.append(
                    f"engines take fewer streams in one call than the {self.streams} of SDSTREAM_BATCH_SIZE "
                    f"({', '.join(few)}); torch runs fuller calls"
                )
        return notes

    @property
    def _divides(self) -> bool:
        """Whether engines are called several times for more rows than they take."""
        return self._device.type == "cpu"

    def _runner(self, request: EngineRequest, found: Found) -> Runner:
        engines = {
            part: LoadedEngine(
                self._load(found.backend, entry, [rows_of(request, part) * streams for streams in self._call_sizes]),
                entry.key.most_rows,
                self._divides,
            )
            for part, entry in found.entries.items()
        }
        plain = request.frame
        if FRAME in engines:
            whole: Any = EngineFrame(plain, engines[FRAME], found.backend.name)
            return make_runner(whole, self._device, graphs=self._graphs)
        frame = Frame(
            EngineNetworks(plain.networks, engines, found.backend.name),
            slots=plain.slots,
            guidance=plain.guidance,
            prediction=plain.prediction,
            batched=plain.batched,
            compat=plain.compat,
            controls=None if plain.controls is None else EngineControls(plain.controls, _of_nets(engines)),
            aligned=plain.aligned,
            whole=plain.whole,
        )
        return make_runner(frame, self._device, graphs=self._graphs)

    @property
    def _call_sizes(self) -> set[int]:
        """How many streams frames are made for at once: captured ones for one of a few numbers."""
        counts = range(1, self.streams + 1)
        return {bucket(count) for count in counts} if self._graphs else set(counts)


def _of_nets(engines: Mapping[str, LoadedEngine]) -> dict[int, LoadedEngine]:
    """Those of ControlNets, by the place of the net."""
    return {
        int(part.removeprefix(CONTROLNET)): engine for part, engine in engines.items() if part.startswith(CONTROLNET)
    }


__all__ = ["EngineFinder"]
