"""A runner that begins with the plain twin, goes over to a faster one between two frames, and back if that fails."""

from collections.abc import Callable, Sequence

import torch

from sdstream.diffusion.frame import Result
from sdstream.diffusion.runners import Runner
from sdstream.diffusion.state import Knobs, Memory


class SwappingRunner:
    """Runs `plain` until another thread puts in something faster. A frame is run by one of both from end to end.

    Both do the same arithmetic on the same blocks, so what streams remember goes on. When the faster one raises, the
    frame is made by `plain`, and so are all after it; `notes` say why.
    """

    def __init__(self, plain: Runner, on_fault: Callable[[str], None] = lambda words: None) -> None:
        self.plain = plain
        self._fast: Runner | None = None
        self._on_fault = on_fault
        self._notes: tuple[str, ...] = ()

    @property
    def in_force(self) -> str:
        return (self._fast or self.plain).in_force

    @property
    def notes(self) -> tuple[str, ...]:
        return (*(self._fast or self.plain).notes, *self._notes)

    def put(self, fast: Runner, *notes: str) -> None:
        """Have the next frame run by `fast`, of which `notes` say what it lacks. May be called on any thread."""
        self._notes = notes
        self._fast = fast

    def explain(self, words: str) -> None:
        """Say why nothing faster is in force. May be called on any thread."""
        self._notes = (words,)

    @property
    def runners(self) -> tuple[Runner, ...]:
        """Those that frames may be run by."""
        return (self.plain,) if self._fast is None else (self.plain, self._fast)

    def complete(self, knobs: Knobs) -> Knobs:
        """For `plain`: engines are given what people turn."""
        return self.plain.complete(knobs)

    def run(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> Result:
        fast = self._fast
        if fast is not None:
            try:
                return fast.run(image, knobs, memory)
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise  # the device's fault, which the plain twin would meet, too
            except Exception as error:  # noqa: BLE001 - supervises what was made elsewhere: no stream stops for it
                self._give_up(error)
        return self.plain.run(image, knobs, memory)

    def run_rows(self, image: torch.Tensor, knobs: Knobs, memory: Memory, rows: Sequence[int]) -> Result:
        fast = self._fast
        if fast is not None:
            try:
                return fast.run_rows(image, knobs, memory, rows)
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except Exception as error:  # noqa: BLE001 - as above
                self._give_up(error)
        return self.plain.run_rows(image, knobs, memory, rows)

    def _give_up(self, error: Exception) -> None:
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self._fast = None
        self._notes = (f"the engine failed, so frames run without it: {words}",)
        self._on_fault(words)


__all__ = ["SwappingRunner"]
