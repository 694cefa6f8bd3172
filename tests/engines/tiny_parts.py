"""Components of tiny models, and their ONNX, each made once for all tests."""

import copy
import importlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from builder.models import load_profile
from builder.profiles import Profile
from sdstream.engines.component import Component
from sdstream.engines.export import ONNX_FILE, export_onnx
from sdstream.settings import Family
from tests.support.shared import made_once

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
    """Makes components and graphs in half precision by name, such as `sd15:encoder`, when first asked for."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._loaded = cache(self._load)

    def component(self, name: str) -> Component:
        family, _, part = name.partition(":")
        (found,) = [each for each in self._loaded(family) if each.name == part]
        return found

    def _load(self, family: Family) -> tuple[Component, ...]:
        return load_profile(profile_of(family), "tensorrt-rtx", torch.device("cpu")).components

    def graph(self, name: str) -> Path:
        """The component's ONNX file, which all processes of a run share."""
        pytest.importorskip("onnxscript", reason="the bake extra is not installed")

        def write(folder: Path) -> None:
            export_onnx(self.component(name), folder)

        return made_once(self._factory, f"graph-{name.replace(':', '-')}", write) / ONNX_FILE


def in_single_precision(component: Component, graph: Path, folder: Path) -> tuple[Component, Path]:
    """A component in half precision, and its graph, with the same numbers and each half made single; the file is
    written into `folder`. What both answer is then as near as single precision is."""
    onnx: Any = importlib.import_module("onnx")
    model = onnx.load(str(graph))
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT

    def widened(tensor: Any) -> Any:
        if tensor.data_type != half:
            return tensor
        return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype("float32"), tensor.name)

    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
    for tensor in model.graph.initializer:
        tensor.CopyFrom(widened(tensor))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == half:
                attribute.i = single
            elif attribute.HasField("t"):
                attribute.t.CopyFrom(widened(attribute.t))
            assert not attribute.HasField("g"), "a graph in a graph is not looked into"
    file = folder / ONNX_FILE
    onnx.save(model, str(file))
    inputs = tuple(replace(entry, dtype="float32") if entry.dtype == "float16" else entry for entry in component.inputs)
    return replace(component, module=copy.deepcopy(component.module).float(), inputs=inputs, dtype="float32"), file
