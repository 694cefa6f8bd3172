"""Engines into the bucket while the others are still being made, so that who is ended loses the present one only."""

from dataclasses import dataclass, field

from builder.baking import BakedEngine
from sdstream.engine_errors import EngineError
from sdstream.engines.backend import Progress
from sdstream.engines.cache import EngineCache
from sdstream.engines.mirror import EngineMirror


@dataclass(slots=True)
class Pusher:
    """A `Keep`: pushes what it is given. A bucket that fails keeps nothing from being made; `failed` says why."""

    cache: EngineCache
    mirror: EngineMirror
    pushed: list[str] = field(default_factory=list[str])
    """The names of those that were not in the bucket yet."""
    failed: dict[str, EngineError] = field(default_factory=dict[str, EngineError])

    def __call__(self, engine: BakedEngine, progress: Progress) -> None:
        if engine.entry is None:
            return

        def tell(name: str, done: int, size: int) -> None:
            progress(f"pushing {name}", done / max(1, size))

        progress("pushing", None)
        try:
            if self.mirror.push(self.cache, engine.entry, tell):
                self.pushed.append(engine.name)
        except EngineError as error:
            self.failed[engine.name] = error


__all__ = ["Pusher"]
