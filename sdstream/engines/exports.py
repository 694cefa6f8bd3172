"""Exported graphs that outlive a builder that dies: whoever bakes the same engine next goes on from the graph."""

import json
import os
import secrets
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sdstream.engines.component import Component
from sdstream.engines.export import ONNX_FILE, OPSET, export_onnx
from sdstream.engines.manifest import FileRecord, record_of, write_durably

GRAPH = "graph"
RECORD = "export.json"


def exported(component: Component, work: Path) -> tuple[Path, bool]:
    """The component's ONNX file in `work`, and whether it was there already.

    `work` belongs to one engine: what is in it is of the same weights, shapes and types, since all of them name the
    engine. It is taken only when another builder of the same torch ended it, every byte compared. Raises what
    `export_onnx` raises, and `OSError`.
    """
    folder = work / GRAPH
    if _is_whole(folder):
        return folder / ONNX_FILE, True
    shutil.rmtree(folder, ignore_errors=True)
    draft = work / f"{GRAPH}-{secrets.token_hex(8)}"
    draft.mkdir()
    try:
        export_onnx(component, draft)
        files = {file.name: asdict(record_of(file)) for file in draft.iterdir()}
        write_durably(draft / RECORD, json.dumps({"made_by": _maker(), "files": files}).encode("utf-8"))
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder / ONNX_FILE, False


def _is_whole(folder: Path) -> bool:
    try:
        content: Any = json.loads((folder / RECORD).read_bytes())
        files = {str(name): FileRecord(**record) for name, record in content["files"].items()}
        return (
            content["made_by"] == _maker()
            and ONNX_FILE in files
            and all(record_of(folder / name) == record for name, record in files.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _maker() -> dict[str, Any]:
    return {"torch": torch.__version__, "opset": OPSET}


__all__ = ["exported"]
