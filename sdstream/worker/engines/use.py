"""Engines that streams run on, noted as used again and again, so that nobody who makes room takes them."""

from collections.abc import Callable, Iterable

from sdstream.engines.keys import EngineKey
from sdstream.engines.supply import EngineSupply

KEEP_SECONDS = 300.0
"""Seconds between two notes."""


class EnginesInUse:
    """For one thread, that of who finds engines."""

    def __init__(self, supply: EngineSupply) -> None:
        self._supply = supply
        self._held: list[tuple[Callable[[], object | None], list[EngineKey]]] = []

    @property
    def count(self) -> int:
        """How many groups of engines somebody held when they were noted last."""
        return len(self._held)

    def add(self, holder: Callable[[], object | None], keys: Iterable[EngineKey]) -> None:
        """`holder`, such as a weak reference, gives None when what runs on the engines is gone."""
        self._held.append((holder, list(keys)))

    def note(self) -> None:
        """Note the use of all that somebody holds, and forget the rest."""
        self._held = [(holder, keys) for holder, keys in self._held if holder() is not None]
        for _, keys in self._held:
            self._supply.keep(keys)


__all__ = ["KEEP_SECONDS", "EnginesInUse"]
