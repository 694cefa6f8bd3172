"""Engines for the networks of image processors that run already: each takes the place of a part's plain twin between
two pictures."""

import json

from sdstream.engines.component import RowRange
from sdstream.engines.keys import BackendName
from sdstream.engines.registry import capability_of
from sdstream.worker.annotators.answers import PartRequest, PartSeat
from sdstream.worker.annotators.components import PROCESSORS, part_component
from sdstream.worker.engines.search import EngineSearch, Found, Parts


class NetworkFinder(EngineSearch[PartRequest]):
    """One part of a network at a time, for the pictures of all streams of a call."""

    def _choices(self, request: PartRequest, name: BackendName) -> list[Parts]:
        rows = RowRange(1, 1, self.streams)
        component = part_component(request.part, request.shapes, rows, request.network, self._digest)
        return [{request.part.name: component}]

    def _rows(self, request: PartRequest, part: str) -> int:
        return 1

    def _profile(self, request: PartRequest, name: BackendName, parts: Parts) -> str | None:
        return profile_text(request, name, capability_of(self._device), self.streams)

    def _swap(self, request: PartRequest, holder: PartSeat, found: Found) -> str:
        (entry,) = found.entries.values()
        runner = self._load(found.backend, entry, range(1, self.streams + 1))
        holder.put(runner, entry.key.most_rows, found.backend.name)
        return found.backend.name


def profile_text(request: PartRequest, name: BackendName, capability: int | None, streams: int) -> str:
    """A profile for the builder that makes the engine, and those of the network's other parts.

    The size of what goes into the part stands for that of pictures: those of this size are looked at as they are.
    """
    processor = next(processor for processor, network in PROCESSORS.items() if network == request.network)
    _, height, width = _picture(request)
    target = [] if name == "compiled" or capability is None else [capability]
    return (
        f"processors = {json.dumps([processor])}\n"
        f"sizes = {json.dumps([f'{width}x{height}'])}\n"
        f"streams = {{ best = 1, most = {streams} }}\n"
        f"\n[targets]\n{name} = {json.dumps(target)}\n"
    )


def _picture(request: PartRequest) -> tuple[int, ...]:
    """The shape of a picture that leads to a part being asked as in `request`; any, where all do."""
    (first, *_) = request.shapes
    return first if request.part.sized else (3, 512, 512)


__all__ = ["NetworkFinder", "profile_text"]
