"""Components of tiny models, and their ONNX, each made once for all tests."""

from functools import cache
from pathlib import Path

import pytest
import torch

from builder.models import load_profile
from builder.profiles import Profile
from sdstream.engines.component import Component
from sdstream.engines.export import export_onnx
from sdstream.engines.keys import BackendName
from sdstream.settings import Family

NAMES: dict[Family, tuple[str, ...]] = {
    "sd15": ("unet", "unet-control", "unet-control-tokens-recall", "encoder", "decoder", "controlnet"),
    "sdxl-turbo": ("unet",),
}
ALL = [f"{family}:{name}" for family, names in NAMES.items() for name in names]
CAPABILITIES = (86, 89, 120)


def profile_of(family: Family, **changes: object) -> Profile:
    """A profile of a tiny model at the smallest size."""
    names = NAMES[family]
    content = {
        "name": f"tiny-{family}",
        "family": family,
        "model": "tiny",
        "tiny": 0,
        "sizes": ["64x64"],
        "slots": [2],
        "streams": {"best": 1, "most": 2},
        "components": names,
        "controlnets": ["tiny"] if "controlnet" in names else [],
        "adapter": "tiny" if family == "sd15" else None,
        "recalled": 2 if family == "sd15" else 0,
        "targets": {"tensorrt-rtx": CAPABILITIES},
    }
    return Profile.model_validate(content | changes)


class TinyParts:
    """Makes components and graphs by name, such as `sd15:unet`, when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded = cache(self._load)
        self._written = cache(self._write)

    def component(self, name: str, dtype: str = "float16") -> Component:
        family, _, part = name.partition(":")
        (found,) = [each for each in self._loaded(family, dtype) if each.name == part]
        return found

    def _load(self, family: Family, dtype: str) -> tuple[Component, ...]:
        backend: BackendName = "compiled" if dtype == "float32" else "tensorrt-rtx"
        return load_profile(profile_of(family), backend, torch.device("cpu")).components

    def graph(self, name: str, dtype: str = "float16") -> Path:
        """The component's ONNX file."""
        return self._written(name, dtype)

    def _write(self, name: str, dtype: str) -> Path:
        pytest.importorskip("onnxscript", reason="the bake extra is not installed")
        folder = self._folder / f"{name.replace(':', '-')}-{dtype}"
        folder.mkdir()
        return export_onnx(self.component(name, dtype), folder)
