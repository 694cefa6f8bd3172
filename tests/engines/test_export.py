"""ONNX of each component answers as torch does, for every number of rows, in single and in half precision."""

from pathlib import Path

import pytest
import torch

from builder.checking import ONNX_LIMITS, onnx_error
from sdstream.engine_errors import EngineBuildFailed
from sdstream.engines.component import Component, RowRange
from sdstream.engines.export import export_program
from sdstream.engines.exports import exported
from sdstream.engines.keys import TensorRange
from tests.engines.tiny_parts import ALL, TinyParts, in_single_precision

pytestmark = pytest.mark.timeout(600)

WITHIN = ("sd15:unet", "sd15:unet-control")
"""Not looked at in single precision, for others are: their attention is that of `sdxl-turbo:unet`, and all else of
theirs is in `sd15:unet-control-tokens-recall`."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_onnx_answers_as_torch(tiny_parts: TinyParts, name: str) -> None:
    pytest.importorskip("onnxruntime", reason="the bake extra is not installed")
    component = tiny_parts.component(name)
    assert component.rows[2] > component.rows[1], "or the batch is not dynamic"
    assert onnx_error(component, tiny_parts.graph(name)) < ONNX_LIMITS["float16"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in WITHIN])
def test_the_same_graph_in_single_precision_answers_as_torch_does_there(
    tiny_parts: TinyParts, name: str, tmp_path: Path
) -> None:
    """What the rounding of half precision would hide. No back end is given graphs that are written so."""
    pytest.importorskip("onnxruntime", reason="the bake extra is not installed")
    component, file = in_single_precision(tiny_parts.component(name), tiny_parts.graph(name), tmp_path)
    assert onnx_error(component, file) < ONNX_LIMITS["float32"]


@pytest.mark.slow
def test_a_half_precision_graph_is_typed_in_half_precision(tiny_parts: TinyParts) -> None:
    onnx = pytest.importorskip("onnx", reason="the bake extra is not installed")
    file = tiny_parts.graph("sd15:unet")
    kinds = [entry.data_type for entry in onnx.load(str(file), load_external_data=False).graph.initializer]
    floats = [kind for kind in kinds if kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)]
    assert floats.count(onnx.TensorProto.FLOAT16) > 0.9 * len(floats)
    assert file.with_name(f"{file.name}.data").stat().st_size > 100_000, "weights lie beside the graph"


class LooksAtValues(torch.nn.Module):
    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor * 2 if tensor.sum() > 0 else tensor


def test_a_module_that_looks_at_values_is_refused_with_torchs_words() -> None:
    entry = TensorRange("tensor", "float32", (1, 2), (1, 2), (1, 2))
    component = Component("picky", LooksAtValues(), (entry,), ("answer",), {}, "a" * 64, "float32")
    with pytest.raises(EngineBuildFailed, match="picky cannot be exported"):
        export_program(component)


def test_the_residuals_of_a_controlnet_fit_the_unet_that_takes_them(tiny_parts: TinyParts) -> None:
    controlnet, unet = tiny_parts.component("sd15:controlnet"), tiny_parts.component("sd15:unet-control")
    given = controlnet.module(*controlnet.example(2))
    wanted = {entry.name: entry.best[1:] for entry in unet.inputs if entry.name.startswith("control")}
    assert dict(zip(controlnet.outputs, (tuple(tensor.shape[1:]) for tensor in given), strict=True)) == wanted


def test_rows_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        RowRange(1, 9, 8)


def test_a_graph_that_a_dead_builder_left_is_taken_when_every_byte_is_right(
    tiny_parts: TinyParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="the bake extra is not installed")
    component, made = tiny_parts.component("sd15:encoder"), list[Path]()

    def export(component: Component, folder: Path) -> Path:
        made.append(folder)
        file = folder / "model.onnx"
        file.write_bytes(b"graph")
        (folder / "model.onnx.data").write_bytes(b"weights")
        return file

    monkeypatch.setattr("sdstream.engines.exports.export_onnx", export)
    (tmp_path / "graph-of-one-that-died").mkdir()
    file, was_there = exported(component, tmp_path)
    assert (file.read_bytes(), was_there) == (b"graph", False)
    assert exported(component, tmp_path) == (file, True)
    for name, content in (("model.onnx.data", b"weighty"), ("model.onnx", b"gra"), ("export.json", b"{}")):
        (file.parent / name).write_bytes(content)
        assert exported(component, tmp_path) == (file, False)
        assert (file.parent / "model.onnx.data").read_bytes() == b"weights"
    monkeypatch.setattr(torch, "__version__", "0.1")
    assert exported(component, tmp_path) == (file, False)
    assert len(made) == 5
