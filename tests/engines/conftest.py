"""What the tests of engines share: torch on one core, an S3 server, and engines that are baked once."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.engines.backend import silent
from sdstream.engines.cache import EngineCache
from sdstream.engines.keys import target_of
from sdstream.engines.mirror import EngineMirror
from sdstream.engines.tensorrt import TensorrtBackend
from sdstream.engines.tensorrt_library import is_installed
from tests.engines.buckets import BUCKET, make_mirror, running_server
from tests.engines.tiny_parts import ALL, CAPABILITIES, TinyParts
from tests.support.shared import made_once

ROOT = Path(__file__).parents[2]
FRAME_PROFILE = """
family = "sd15"
model = "tiny"
tiny = 0
sizes = ["64x64"]
slots = [2]
components = ["frame"]
guidance = ["self"]
[targets]
compiled = []
"""


def make_driver(file: Path) -> None:
    """A library in the place of NVIDIA's driver, for linkers, with functions by which packages launch kernels. (Linkers
    leave out a library from which nothing is asked.)"""
    names = ("cuInit", "cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel")
    program = "\n".join(f'extern "C" int {name}() {{ return 100; }}' for name in names)
    command = ["g++", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-x", "c++", "-", "-o", str(file)]
    subprocess.run(command, input=program, text=True, check=True)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    """A real S3 protocol server with one bucket."""
    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    with running_server() as (host, port):
        client: Any = make_mirror(port, "none")._client
        # moto keeps one state for all servers of a process, and another folder's tests may have made one before
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-cz-1"})
        yield host, port
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def mirror(s3_server: tuple[str, int], request: pytest.FixtureRequest) -> Callable[..., EngineMirror]:
    """Makes mirrors under a prefix of the test's own: `mirror(part=...)`."""

    def make(**options: Any) -> EngineMirror:
        port = options.pop("port", s3_server[1])
        return make_mirror(port, request.node.name.replace("[", "-").replace("]", ""), **options)

    return make


@pytest.fixture(scope="session")
def tiny_parts(tmp_path_factory: pytest.TempPathFactory) -> TinyParts:
    """Components and ONNX graphs of tiny models, each made once."""
    return TinyParts(tmp_path_factory)


@pytest.fixture(scope="session")
def baked(tmp_path_factory: pytest.TempPathFactory, tiny_parts: TinyParts) -> EngineCache:
    """A cache with a TensorRT-RTX engine of every tiny component, for SM 8.6, 8.9 and 12.0. Do not change it."""
    if not is_installed("tensorrt-rtx"):
        pytest.skip("TensorRT-RTX is not installed here")
    cache = EngineCache(tmp_path_factory.mktemp("baked"))
    backend = TensorrtBackend("tensorrt-rtx")
    for name in ALL:
        component = tiny_parts.component(name)
        target = target_of(CAPABILITIES)
        key = component.key(backend.name, backend.version, target, backend.cuda, backend.options)
        with cache.draft() as draft:
            backend.build_from_onnx(tiny_parts.graph(name), component, target, draft, silent)
            cache.store(draft, key, {"profile": "tiny"})
    return cache


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    """A cache with the package of a tiny model's whole frame, made by the command line in a process of its own. Do not
    change it."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler here")

    def bake(folder: Path) -> None:
        (folder / "frame.toml").write_text(FRAME_PROFILE)
        command = [sys.executable, "-m", "builder", "bake", "--profile", str(folder / "frame.toml"), "--json"]
        command += ["--engines", str(folder / "engines")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert [engine["status"] for engine in json.loads(done.stdout)["engines"]] == ["built"]

    return EngineCache(made_once(tmp_path_factory, "compiled-frame", bake) / "engines")
