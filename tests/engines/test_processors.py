"""Engines of image processors' networks, made for real of tiny ones: TensorRT-RTX plans on this CPU, and a compiled
package that a running processor goes over to."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from builder.baking import Bakery
from builder.checking import onnx_error, relative_error
from builder.models import load_profile
from builder.profiles import Profile
from sdstream.engines.backend import silent
from sdstream.engines.cache import EngineCache
from sdstream.engines.component import Component
from sdstream.engines.export import export_onnx
from sdstream.engines.keys import target_of
from sdstream.engines.supply import EngineSupply
from sdstream.engines.tensorrt import PLAN, TensorrtBackend
from sdstream.engines.tensorrt_library import is_installed
from sdstream.worker.annotators.answers import EngineAnswers
from sdstream.worker.annotators.tiny import make_tiny_network
from sdstream.worker.engines.network_finder import NetworkFinder
from tests.engines.conftest import ROOT
from tests.engines.stored import Events
from tests.engines.tiny_parts import CAPABILITIES
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CPU = torch.device("cpu")
PARTS = {"depth", "pose-detector", "pose-decoder", "pose-joints", "enlarger"}
PROFILE = Profile.model_validate(
    {
        "name": "tiny-processors",
        "tiny": 0,
        "sizes": ["64x64"],
        "streams": {"best": 1, "most": 2},
        "processors": ["depth_tensorrt", "pose_tensorrt", "realesrgan_trt"],
        "targets": {"tensorrt-rtx": CAPABILITIES},
    }
)


ROUNDING = 1e-2
"""Tiny networks of half precision are this far from each other at most: few channels level out little."""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Component, Path]]:
    """Each part in half precision, and its ONNX file."""
    pytest.importorskip("onnxscript", reason="the bake extra is not installed")
    made: dict[str, tuple[Component, Path]] = {}
    for component in load_profile(PROFILE, "tensorrt-rtx", CPU).components:
        made[component.name] = component, export_onnx(component, tmp_path_factory.mktemp(component.name))
    return made


def test_every_part_has_an_engine_for_three_generations(
    graphs: dict[str, tuple[Component, Path]], tmp_path: Path
) -> None:
    if not is_installed("tensorrt-rtx"):
        pytest.skip("TensorRT-RTX is not installed here")
    assert set(graphs) == PARTS
    backend, bakery = TensorrtBackend("tensorrt-rtx"), Bakery(EngineCache(tmp_path), CPU)
    target = target_of(CAPABILITIES)
    for component, graph in graphs.values():
        key = component.key(backend.name, backend.version, target, backend.cuda, backend.options)
        with bakery.cache.draft() as draft:
            backend.build_from_onnx(graph, component, target, draft, silent)
            entry = bakery.cache.store(draft, key)
        backend.look_at(entry)
        assert entry.file(PLAN).stat().st_size > 100_000
    (plan,) = bakery.plan(PROFILE)
    assert len(plan.wanted) == len(PARTS)
    assert plan.missing == ()


def test_the_graph_of_every_part_is_the_network(graphs: dict[str, tuple[Component, Path]]) -> None:
    pytest.importorskip("onnxruntime", reason="the bake extra is not installed")
    for name, (component, graph) in graphs.items():
        assert onnx_error(component, graph) < ROUNDING, name


def test_a_running_processor_goes_over_to_the_package_that_the_builder_made(tmp_path: Path) -> None:
    """Baked by the command line in a process of its own, found on the volume, copied to the local disk, loaded, put in
    between two pictures, and asked for more pictures at once than it takes."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler here")
    file, volume = tmp_path / "tiny.toml", tmp_path / "engines"
    file.write_text(
        'tiny = 0\nsizes = ["64x48"]\nstreams = { best = 1, most = 2 }\nprocessors = ["realesrgan_trt"]\n'
        "[targets]\ncompiled = []\n"
    )
    command = [sys.executable, "-m", "builder", "bake", "--profile", str(file), "--engines", str(volume), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [engine["status"] for engine in json.loads(done.stdout)["engines"]] == ["built"]
    events = Events()
    supply = EngineSupply(EngineCache(tmp_path / "local", report=events), EngineCache(volume), report=events)
    finder = NetworkFinder(supply, CPU, report=events)
    plain: Any = make_tiny_network("realesrgan")
    network: Any = plain.answered_by(EngineAnswers("realesrgan", finder.look_for))
    images = torch.rand(5, 3, 48, 64, generator=torch.Generator().manual_seed(3))
    try:
        with torch.inference_mode():  # as a worker runs processors
            assert torch.equal(network(images), plain(images))
            eventually_sync(
                lambda: network.in_force(64, 48).name != "torch" or network.in_force(64, 48).note,
                what="an engine",
                seconds=120,
            )
            assert network.in_force(64, 48).name == "compiled", network.in_force(64, 48).note
            assert relative_error([network(images)], [plain(images)]) < 1e-4
            assert network.in_force(64, 48).name == "compiled"
    finally:
        finder.close()
    assert {"fetched", "hit", "swapped"} <= set(events.kinds)
