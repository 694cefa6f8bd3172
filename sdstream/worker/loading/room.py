"""Whether a model can fit a device at all, decided by its weights before any are read."""

from dataclasses import dataclass

from sdstream.errors import OutOfMemory


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """The memory of a device at one moment, in bytes."""

    total: int | None
    """None where the system does not tell."""
    free: int = 0
    held: int = 0
    """What torch holds of it for this process."""
    before: int = 0
    """What was in use before this process put anything there: by others, and by the driver for this process."""


def most_room(report: MemoryReport) -> int | None:
    """Bytes that a model can be given at most, with everything that this process holds let go; None where not known.

    Compiled engines hold memory of which torch does not know, so what is free and what torch holds are not all of it:
    what others did not have at the start counts, too. Where they have let go of some since, the former is more.
    """
    if report.total is None:
        return None
    return min(report.total, max(report.free + report.held, report.total - report.before))


def refuse_what_cannot_fit(model: str, need: int, room: int | None) -> None:
    """Raises `OutOfMemory` where the weights of `model`, `need` bytes at least, are more than the room. What is refused
    so would be without memory after all was read; what is not may be still."""
    if room is None or need <= room:
        return
    raise OutOfMemory(
        f"{model} cannot fit: its weights alone take {_mebibytes(need)} of memory ({need} bytes), and the device has "
        f"{_mebibytes(room)} ({room} bytes) when all else is let go; take a smaller model",
        hint="Take a smaller model, or a device with more memory.",
        details={"need_bytes": need, "free_bytes": room},
    )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


__all__ = ["MemoryReport", "most_room", "refuse_what_cannot_fit"]
