"""Facts about this machine, found without torch: GPUs, addresses, the H.264 encoders of the installed PyAV."""

import contextlib
import os
import platform
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import av.error
import pynvml  # pyright: ignore[reportMissingTypeStubs]

from sdstream.commands.torch_build import Obstacle, TorchBuild, find_obstacle, read_torch_build
from sdstream.errors import ConfigurationError
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.mediamtx.reach import choose_reach
from sdstream.media.turn.choice import WebRtcChoice, choose_webrtc_here
from sdstream.reachability import Place, find_place
from sdstream.settings import Settings

nvml: Any = pynvml  # its functions have no types
NVENC_LEAST_SIDE = 256
"""NVENC refuses pictures much smaller than this on some cards, so the probe uses it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA card. `memory` is bytes, `cuda` the newest CUDA that its driver knows (13000), `capability` its
    compute capability (89 for 8.9); either is 0 where it is not known."""

    index: int
    name: str
    memory: int
    driver: str
    cuda: int = 0
    capability: int = 0


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What `plan_serve` decides from."""

    system: str
    processor: str
    gpus: tuple[Gpu, ...]
    gpu_problem: str
    """Why there is no list of GPUs; empty when there is one."""
    addresses: tuple[str, ...]
    nvenc_problem: str
    """Why NVENC cannot be used; empty when a probe succeeded."""
    webrtc: WebRtcChoice = field(default_factory=lambda: WebRtcChoice("udp", "nothing says that UDP is blocked"))
    place: Place | None = None
    """RunPod's variables; None elsewhere."""
    torch: TorchBuild | None = None

    @property
    def gpu(self) -> Gpu | None:
        """The first card that torch can use, as far as that can be told beforehand."""
        return next((gpu for gpu in self.gpus if self._obstacle_at(gpu) is None), None)

    @property
    def obstacle(self) -> Obstacle | None:
        """Why torch can use no card, by the first one; None where it can, and without a card."""
        return self._obstacle_at(self.gpus[0]) if self.gpus and self.gpu is None else None

    def _obstacle_at(self, gpu: Gpu) -> Obstacle | None:
        return find_obstacle(self.torch, gpu.driver, gpu.cuda, gpu.capability)


def read_machine(settings: Settings) -> MachineFacts:
    """Look at the machine; a few milliseconds without a GPU, a few hundred with one."""
    gpus, problem = find_gpus()
    place = find_place(os.environ)
    addressing = Addressing.from_settings(settings)
    if settings.media_backend == "mediamtx":
        reach = choose_reach(settings, place)
        webrtc, hosts = reach.choice, reach.hosts
    else:
        webrtc, hosts = choose_webrtc_here(settings), ()
    if webrtc.mode == "turn-local":
        with contextlib.suppress(ConfigurationError):
            addressing = addressing.inside()
    return MachineFacts(
        system=platform.system(),
        processor=platform.machine(),
        gpus=gpus,
        gpu_problem=problem,
        addresses=(hosts or tuple(addressing.candidates())) if webrtc.mode != "off" else (),
        nvenc_problem="" if settings.video_encoder == "x264" else probe_encoder("h264_nvenc"),
        webrtc=webrtc,
        place=place,
        torch=read_torch_build() if gpus else None,
    )


def find_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The NVIDIA cards that the driver shows, or none and the reason."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return (), f"no NVIDIA driver answers ({error})"
    try:
        driver, cuda = str(nvml.nvmlSystemGetDriverVersion()), _known_cuda()
        found: list[Gpu] = []
        for index in range(int(nvml.nvmlDeviceGetCount())):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
            name = str(nvml.nvmlDeviceGetName(handle))
            found.append(Gpu(index, name, memory, driver, cuda, _capability_of(handle)))
        return tuple(found), "" if found else "the NVIDIA driver shows no card"
    except nvml.NVMLError as error:
        return (), f"the NVIDIA driver does not answer ({error})"
    finally:
        nvml.nvmlShutdown()


def compute_capability(index: int = 0) -> int | None:
    """89 for a GPU of SM 8.9; None where there is none."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        return _capability_of(nvml.nvmlDeviceGetHandleByIndex(index)) or None
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _known_cuda() -> int:
    """13000 for 13.0; 0 where the driver does not tell, as in a container that has none of its libraries but NVML."""
    with contextlib.suppress(nvml.NVMLError):
        return int(nvml.nvmlSystemGetCudaDriverVersion_v2())
    return 0


def _capability_of(handle: Any) -> int:
    """89 for 8.9; 0 where the driver does not tell."""
    with contextlib.suppress(nvml.NVMLError):
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        return 10 * int(major) + int(minor)
    return 0


def probe_encoder(name: str) -> str:
    """Encode one grey picture with the FFmpeg encoder `name`; the reason why that fails, or an empty string."""
    try:
        encoder: Any = av.CodecContext.create(name, "w")
        encoder.width = encoder.height = NVENC_LEAST_SIDE
        encoder.pix_fmt = "yuv420p"
        encoder.time_base = Fraction(1, 30)
        frame = av.VideoFrame(NVENC_LEAST_SIDE, NVENC_LEAST_SIDE, "yuv420p")
        frame.pts = 0
        frame.time_base = encoder.time_base
        packets = [*encoder.encode(frame), *encoder.encode(None)]
    except (av.error.FFmpegError, ValueError) as error:
        return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
    return "" if packets else "the encoder gave no packet"


__all__ = ["Gpu", "MachineFacts", "compute_capability", "find_gpus", "probe_encoder", "read_machine"]
