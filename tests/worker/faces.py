"""ONNX files in place of InsightFace's two networks, laid out as theirs are: what is bright and round is a face."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image

from sdstream.worker.annotators.faces import CROP, STRIDES

NAMES = ("det_10g.onnx", "w600k_r50.onnx")
BOX = (6.0, 6.5, 6.2, 7.0)
POINTS = (-1.6, -1.4, 1.5, -1.7, 0.1, 0.2, -1.2, 1.6, 1.3, 1.4)
"""Where a face's box and its eyes, nose and mouth are from where it was found, in strides."""


def write_tiny_faces(folder: Path, embedding: int) -> tuple[Path, Path]:
    """A detector, and a network whose embeddings have `embedding` numbers; their files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / name for name in NAMES)
    import onnx

    for file, model in zip(files, (_detector(), _recogniser(embedding)), strict=True):
        onnx.save(model, file)
    return files[0], files[1]


def portrait(*faces: tuple[int, int, int], height: int = 300, width: int = 400) -> torch.Tensor:
    """A picture with a bright disc for each face, x, y and radius: float [1, 3, H, W] of whole steps of eight bits.

    Halves of each disc have different colours, so that how it is turned can be told.
    """
    rows, columns = numpy.mgrid[0:height, 0:width]
    pixels = numpy.empty((height, width, 3), numpy.uint8)
    pixels[..., 0] = 20 + columns % 60
    pixels[..., 1] = 30 + rows % 50
    pixels[..., 2] = 40 + (rows + columns) % 40
    for x, y, radius in faces:
        inside = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        pixels[inside] = 250
        pixels[inside & (columns < x), 0] = 235
        pixels[inside & (rows < y), 2] = 228
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def image_of(*faces: tuple[int, int, int]) -> str:
    """The portrait of these as a data URI."""
    pixels: Any = (portrait(*faces)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    content = io.BytesIO()
    Image.fromarray(numpy.ascontiguousarray(pixels)).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _detector() -> Any:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {"half": 0.9, "steep": 6.0, "threshold": -3.2, "nothing": 0.0}
    weights = [numpy_helper.from_array(numpy.array(value, numpy.float32), name) for name, value in constants.items()]
    weights.append(numpy_helper.from_array(numpy.array([-1, 1], numpy.int64), "column"))
    weights.append(numpy_helper.from_array(numpy.array([BOX], numpy.float32), "box"))
    weights.append(numpy_helper.from_array(numpy.array([POINTS], numpy.float32), "points"))
    nodes: list[Any] = []
    outputs: dict[str, list[Any]] = {"score": [], "box": [], "points": []}

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    for stride in STRIDES:
        pool = {"kernel_shape": [160 + stride] * 2, "strides": [stride] * 2, "pads": [80] * 4, "count_include_pad": 1}
        mean = node("AveragePool", ["image"], f"mean{stride}", **pool)
        grey = node("ReduceMean", [mean], f"grey{stride}", axes=[1])
        raised = node("Mul", [grey, "steep"], f"raised{stride}")
        over = node("Add", [raised, "threshold"], f"over{stride}")
        first = node("Reshape", [node("Sigmoid", [over], f"sure{stride}"), "column"], f"first{stride}")
        second = node("Mul", [first, "half"], f"second{stride}")
        both = node("Concat", [first, second], f"both{stride}", axis=1)
        score = node("Reshape", [both, "column"], f"score_{stride}")
        zeros = node("Mul", [score, "nothing"], f"zeros{stride}")
        outputs["score"].append((score, 1))
        outputs["box"].append((node("Add", [zeros, "box"], f"bbox_{stride}"), 4))
        outputs["points"].append((node("Add", [zeros, "points"], f"kps_{stride}"), 10))
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
            for group in outputs.values()
            for name, width in group
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _recogniser(embedding: int) -> Any:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    matrix = numpy.random.default_rng(5).standard_normal((48, embedding)).astype(numpy.float32)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["image"], ["mean"], kernel_shape=[28, 28], strides=[28, 28]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
        ],
        "recogniser",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, 3, CROP, CROP])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [None, embedding])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


__all__ = ["NAMES", "image_of", "portrait", "write_tiny_faces"]
