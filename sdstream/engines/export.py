"""From a component to what back ends take: an exported program, and an ONNX file with its weights beside it."""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sdstream.engine_errors import EngineBackendUnavailable, EngineBuildFailed
from sdstream.engines.component import Component

OPSET = 20
ONNX_FILE = "model.onnx"


def export_program(component: Component) -> Any:
    """The component as a `torch.export.ExportedProgram`; its first axis keeps the whole range. Nothing is computed.

    Raises `EngineBuildFailed`, with torch's own words, for what cannot be exported.
    """
    least, _, most = component.rows
    examples = component.example(None if least == most else max(2, component.rows[1]) if most > 1 else None)
    weight = next(component.module.parameters(), None)
    if weight is not None:
        examples = tuple(example.to(weight.device) for example in examples)
    shapes: Any = None
    if least != most:
        rows = torch.export.Dim("rows", min=least, max=most)
        shapes = (tuple({0: rows} for _ in component.inputs),)
    module = _Flat(component.module)
    with quiet(), torch.no_grad(), component.plainly():
        try:
            return torch.export.export(module, examples, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise EngineBuildFailed(f"{component.name} cannot be exported: {first_lines(error)}") from error


def export_onnx(component: Component, folder: Path, program: Any = None) -> Path:
    """Write the component as ONNX into `folder`, its weights in a file beside it; returns the file of the graph.

    The types of the graph are the module's own: a float16 module gives a float16 graph, which a strongly typed engine
    keeps. Raises `EngineBackendUnavailable` without the onnx packages, else as `export_program`.
    """
    try:
        import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise EngineBackendUnavailable(
            "ONNX cannot be written here", hint="pip install -c constraints.txt -e '.[bake]' in sdstream's directory"
        ) from None
    program = export_program(component) if program is None else program
    leave_out_checks(program)
    write_out_casts(program)
    file = folder / ONNX_FILE
    export: Any = getattr(torch.onnx, "export")  # noqa: B009 - its type is known in parts only
    with quiet(), torch.no_grad():
        try:
            written = export(
                program,
                (),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                optimize=True,
                input_names=[entry.name for entry in component.inputs],
                output_names=list(component.outputs),
            )
        except Exception as error:
            raise EngineBuildFailed(f"{component.name} cannot be written as ONNX: {first_lines(error)}") from error
        written.save(str(file), external_data=True)
    return file


def write_out_casts(program: Any) -> None:
    """Put a cast before each tensor that torch would convert by itself to concatenate it with one of another type.

    torch's ONNX exporter leaves that out, and the graph is refused then: SDXL's time ids are float32 beside float16.
    """
    graph = program.graph_module.graph
    aten: Any = torch.ops.aten
    joins, convert = (aten.cat.default, aten.concat.default, aten.concatenate.default), aten._to_copy.default
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in joins:
            continue
        wanted: torch.dtype = node.meta["val"].dtype
        parts = list(node.args[0])
        if all(part.meta["val"].dtype == wanted for part in parts):
            continue
        with graph.inserting_before(node):
            for index, part in enumerate(parts):
                if part.meta["val"].dtype != wanted:
                    parts[index] = graph.call_function(convert, (part,), {"dtype": wanted})
                    parts[index].meta["val"] = part.meta["val"].to(wanted)
        node.args = (parts, *node.args[1:])
    program.graph_module.recompile()


def leave_out_checks(program: Any) -> None:
    """Take out what only looks whether values are as they should be, and what was computed for that alone.

    torch's ONNX exporter cannot write it: RT-DETR looks at the sizes of its scales.
    """
    graph = program.graph_module.graph
    aten: Any = torch.ops.aten
    checks = (aten._assert_async.default, aten._assert_async.msg, aten._assert_scalar.default)
    going = [node for node in graph.nodes if node.op == "call_function" and node.target in checks]
    while going:
        node = going.pop()
        before = node.all_input_nodes
        graph.erase_node(node)
        going += [each for each in before if each.op == "call_function" and not each.users and each not in going]
    program.graph_module.recompile()


class _Flat(torch.nn.Module):
    """Takes its inputs as one list, so that all components are exported alike, and always answers with a tuple."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answer: Any = self.module(*tensors)
        return (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)


@contextmanager
def quiet() -> Generator[None]:
    """Exporters warn of their own future and log what they skip; neither is of use to who bakes."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def first_lines(error: BaseException, most: int = 400) -> str:
    """An exception's kind and the beginning of what it says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"


__all__ = [
    "ONNX_FILE",
    "OPSET",
    "export_onnx",
    "export_program",
    "first_lines",
    "leave_out_checks",
    "quiet",
    "write_out_casts",
]
