"""How the operator wants the engine to run, beside what each stream asks for."""

from dataclasses import dataclass
from typing import Literal

from sdstream.settings import Settings


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of the same names; `docs/settings.md` says what they mean."""

    compile_networks: bool = False
    cuda_graphs: bool = True
    safety_check_interval: int = 1
    control_pictures: Literal["aligned", "newest"] = "aligned"

    @classmethod
    def of(cls, settings: Settings) -> "EngineOptions":
        return cls(
            settings.compile_networks,
            settings.cuda_graphs,
            settings.safety_check_interval,
            settings.control_pictures,
        )


__all__ = ["EngineOptions"]
