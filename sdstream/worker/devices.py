"""The device that torch works on: which, what it is called, how full its memory is."""

from dataclasses import dataclass

import torch

from sdstream import platform
from sdstream.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Device:
    """One device of torch. `processor` is the hardware's own name."""

    torch_device: torch.device
    processor: str

    @classmethod
    def choose(cls, wanted: str) -> "Device":
        """The device that the setting names; `auto` takes CUDA, then Apple's GPU, then the CPU.

        Raises `ConfigurationError` when it is not there.
        """
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        try:
            device = torch.device(wanted)
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            first_line = str(error).partition("\n")[0]
            raise ConfigurationError(f"worker_device {wanted} cannot be used: {first_line}") from error
        if device.type == "cuda":
            return cls(device, torch.cuda.get_device_name(device))
        return cls(device, platform.processor_name())

    @property
    def name(self) -> str:
        """As torch writes it, such as `cuda:1`."""
        return str(self.torch_device)

    @property
    def fatal_errors(self) -> tuple[type[Exception], ...]:
        """Errors after which the device is of no more use to this process. A lack of memory is not one of them."""
        return (torch.AcceleratorError,) if self.torch_device.type == "cuda" else ()

    def memory(self) -> tuple[int | None, int | None]:
        """Bytes of the device used and present; unknown on a CPU, whose memory is not the worker's alone."""
        if self.torch_device.type != "cuda":
            return None, None
        free, total = torch.cuda.mem_get_info(self.torch_device)
        return total - free, total


__all__ = ["Device"]
