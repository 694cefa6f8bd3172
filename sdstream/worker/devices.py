"""The device that torch works on: which, what it is called, how full its memory is."""

import gc
from dataclasses import dataclass

import torch

from sdstream.engines.registry import has_usable_card
from sdstream.errors import ConfigurationError
from sdstream.platform.cores import processor_name
from sdstream.platform.memory import memory_limit, process_memory
from sdstream.worker.loading.room import MemoryReport

_used_before: dict[str, int] = {}
"""By the name of a device that was chosen: bytes in use there at that moment."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point in the work of a device; on a CPU it is passed as soon as it is made."""

    event: "torch.cuda.Event | None"

    @property
    def is_passed(self) -> bool:
        return self.event is None or self.event.query()

    def wait(self) -> None:
        """Wait until the device has passed it."""
        if self.event is not None:
            self.event.synchronize()

    def seconds_since(self, earlier: "Mark") -> float | None:
        """The device's time between two marks that are passed; None where only the host's clock tells."""
        if self.event is None or earlier.event is None:
            return None
        return earlier.event.elapsed_time(self.event) / 1000


@dataclass(frozen=True, slots=True)
class Device:
    """One device of torch. `processor` is the hardware's own name, `asked` the setting's for it where that is another
    than this process has."""

    torch_device: torch.device
    processor: str
    asked: str = ""

    @classmethod
    def choose(cls, wanted: str, here: str | None = None) -> "Device":
        """The device that the setting names; `auto` takes CUDA if torch has programs for the card, then Apple's GPU,
        then the CPU.

        `here` is what torch calls it in a process that sees this card alone (`server_end.card`). Raises
        `ConfigurationError` when it is not there.
        """
        if wanted == "auto":
            wanted = "cuda" if has_usable_card() else "mps" if torch.backends.mps.is_available() else "cpu"
            here = None
        asked = wanted if here not in (None, wanted) else ""
        try:
            device = torch.device(here or wanted)
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            if asked:
                reason += "; the process was to see this card alone"
            raise ConfigurationError(f"worker_device {wanted} cannot be used: {reason}") from error
        if device.type == "cuda":
            # Each shape of convolution is tried in several ways when it is first met, which is before a capture.
            torch.backends.cudnn.benchmark = True
            free, total = torch.cuda.mem_get_info(device)
            _used_before.setdefault(str(device), total - free)
            return cls(device, torch.cuda.get_device_name(device), asked)
        return cls(device, processor_name())

    @property
    def name(self) -> str:
        """As the setting has it, or else torch, such as `cuda:1`."""
        return self.asked or str(self.torch_device)

    @property
    def fatal_errors(self) -> tuple[type[Exception], ...]:
        """Errors after which the device is of no more use to this process. A lack of memory is not one of them."""
        return (torch.AcceleratorError,) if self.torch_device.type == "cuda" else ()

    @property
    def is_asynchronous(self) -> bool:
        """Whether a call returns before the device has done the work."""
        return self.torch_device.type == "cuda"

    def mark(self) -> "Mark":
        """A point behind all the work that this thread has given the device so far."""
        if not self.is_asynchronous:
            return Mark(None)
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # a wait that spins would take a core from codecs
        event.record()
        return Mark(event)

    def working_bytes(self) -> int:
        """How much more memory than now was in use at one time since this was asked last, where that is counted."""
        if self.torch_device.type != "cuda":
            return 0
        most = torch.cuda.max_memory_allocated(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
        torch.cuda.reset_peak_memory_stats(self.torch_device)
        return max(0, most)

    def give_back(self) -> None:
        """Return memory that torch keeps for later to the device, after something large was let go."""
        gc.collect()
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()

    def memory(self) -> tuple[int | None, int | None]:
        """Bytes of the device used and present; on a CPU what this process holds of what it may hold, where the
        system tells."""
        if self.torch_device.type != "cuda":
            return process_memory(), memory_limit()
        free, total = torch.cuda.mem_get_info(self.torch_device)
        return total - free, total


def memory_report(device: torch.device) -> MemoryReport:
    """What is known of a device's memory now; on a CPU what the machine or the container may hold in all."""
    if device.type != "cuda":
        return MemoryReport(memory_limit())
    free, total = torch.cuda.mem_get_info(device)
    return MemoryReport(total, free, torch.cuda.memory_reserved(device), _used_before.get(str(device), 0))


__all__ = ["Device", "Mark", "memory_report"]
