"""How long a process was kept from the machine's cores, which tells its own pauses from those that others caused."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NANOSECONDS = 1e-9


@dataclass(frozen=True)
class CoreWaits:
    """What each thread of a process, by its number, has waited for a core since it began, in seconds.

    Empty where the system does not count it (all but Linux): a process is then taken to have had every core it wanted.
    """

    seconds: Mapping[int, float] = field(default_factory=dict[int, float])

    @classmethod
    def of(cls, process_id: int) -> "CoreWaits":
        """Those of now; threads that end meanwhile are left out, and so are all of a process that is gone."""
        seconds: dict[int, float] = {}
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{process_id}/task").iterdir():
                with contextlib.suppress(OSError):
                    seconds[int(thread.name)] = int((thread / "schedstat").read_text().split()[1]) * NANOSECONDS
        return cls(seconds)

    def since(self, before: "CoreWaits") -> float:
        """Seconds that the thread which waited longest has waited since `before`.

        Of one thread, since several wait at once: their sum would excuse any pause. A thread that sleeps, waits for a
        lock or computes waits for no core.
        """
        waited = (now - before.seconds.get(thread, 0.0) for thread, now in self.seconds.items())
        return max(waited, default=0.0)


__all__ = ["CoreWaits"]
