"""How the operator wants the engine to run, beside what each stream asks for."""

from dataclasses import dataclass
from typing import Literal

from sdstream.params import StreamParams
from sdstream.settings import Settings


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of the same names; `docs/settings.md` says what they mean."""

    compile_networks: bool = False
    cuda_graphs: bool = True
    safety_check_interval: int = 1
    control_pictures: Literal["aligned", "newest"] = "aligned"
    share_processors: bool = True
    optical_flow: str | None = None
    """A network that finds motion, None where OpenCV does."""
    batch_size: int = 8
    planes: bool = True
    """Give frames the planes of pictures, and take theirs, where a stream asks for nothing else; no setting. The plain
    twin converts every picture outside the frame."""

    @classmethod
    def of(cls, settings: Settings) -> "EngineOptions":
        return cls(
            settings.compile_networks,
            settings.cuda_graphs,
            settings.safety_check_interval,
            control_pictures=settings.control_pictures,
            share_processors=settings.share_processors,
            optical_flow=None if settings.optical_flow == "dis" else settings.optical_flow,
            batch_size=settings.batch_size,
        )


def acceleration_notes(params: StreamParams, in_force: str) -> tuple[str, ...]:
    """What is different from what `acceleration` asks for, while `in_force` is what runs the networks."""
    if params.acceleration == "tensorrt" and in_force.startswith("torch"):
        return ("acceleration tensorrt: no engine is in force, so the networks run in torch",)
    if params.acceleration == "xformers":
        return ("acceleration xformers: torch's own attention is used, which does the same",)
    return ()


__all__ = ["EngineOptions", "acceleration_notes"]
