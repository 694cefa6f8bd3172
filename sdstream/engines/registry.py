"""The back ends of this machine, by name."""

import torch

from sdstream.engines.architectures import has_programs
from sdstream.engines.backend import Backend
from sdstream.engines.compiled import CompiledBackend
from sdstream.engines.keys import BACKENDS, BackendName
from sdstream.engines.targets import choose_backends
from sdstream.engines.tensorrt import TensorrtBackend
from sdstream.engines.tensorrt_library import is_installed


def make_backend(name: BackendName, device: torch.device) -> Backend:
    """Raises `EngineBackendUnavailable` when what it needs is not on this machine."""
    return CompiledBackend(device) if name == "compiled" else TensorrtBackend(name)


def installed_backends() -> tuple[BackendName, ...]:
    """Those whose packages are here."""
    return tuple(name for name in BACKENDS if name == "compiled" or is_installed(name))


def capability_of(device: torch.device) -> int | None:
    """89 for SM 8.9; None for what is no NVIDIA GPU."""
    if device.type != "cuda" or torch.version.hip:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def has_usable_card() -> bool:
    """Whether there is a card that torch computes on. An NVIDIA card that is older than any program of torch's is
    counted as there by torch itself, and its first use fails."""
    if not torch.cuda.is_available():
        return False
    architectures = tuple(torch.cuda.get_arch_list())
    return torch.version.cuda is None or has_programs(torch.cuda.get_device_capability(), architectures)


def backends_for(device: torch.device) -> tuple[BackendName, ...]:
    """Those that serve a device, the best first."""
    return choose_backends(capability_of(device), installed_backends())


__all__ = ["backends_for", "capability_of", "has_usable_card", "installed_backends", "make_backend"]
