"""What kind of model it is, told by its descriptions. No torch here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdstream.settings import Family


def family_of(unet_config: Mapping[str, Any]) -> Family:
    """The family that a UNet is of, by what sets the families apart in `unet/config.json`."""
    if unet_config.get("addition_embed_type") == "text_time":
        return "sdxl-turbo"
    return "sd-turbo" if unet_config.get("use_linear_projection") else "sd15"


def is_turbo(path: Path) -> bool:
    """Whether the model at `path` was trained for few steps: the turbo models' schedules end at the last timestep, and
    no other's do; of a single file only its name tells."""
    if "turbo" in path.name.lower():
        return True
    try:
        content: Any = json.loads((path / "scheduler/scheduler_config.json").read_text("utf-8"))
        return content.get("timestep_spacing") == "trailing"
    except (OSError, ValueError, AttributeError):
        return False


__all__ = ["family_of", "is_turbo"]
