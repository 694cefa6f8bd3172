"""The compiled back end: a tiny frame from the cache, in a fresh process, the same pictures in less time."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch

from builder.checking import relative_error, side_by_side
from builder.models import load_profile
from builder.profiles import read_profile
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.runners import EagerRunner
from sdstream.diffusion.state import Knobs, Memory
from sdstream.diffusion.swapping import SwappingRunner
from sdstream.engine_errors import EngineBroken, EngineMismatch
from sdstream.engines.cache import EngineCache
from sdstream.engines.compiled import CompiledBackend, compiler_words
from sdstream.engines.component import Component
from sdstream.engines.eager import EagerRunner as PlainEngine
from sdstream.engines.entry import Entry
from sdstream.engines.supply import EngineSupply
from sdstream.worker.engines.finder import EngineFinder
from sdstream.worker.engines.requests import EngineRequest
from tests.engines.conftest import FRAME_PROFILE, ROOT
from tests.engines.stored import Events, key, store
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CPU = torch.device("cpu")
FRAMES = 3

PROGRAM = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
torch.set_grad_enabled(False)
folder, engines, base = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
began = time.monotonic()
from sdstream.engines.cache import EngineCache
from sdstream.engines.compiled import CompiledBackend
entry = EngineCache(engines).take(base)
runner = CompiledBackend(torch.device("cpu")).load(entry, torch.device("cpu"))
inputs = torch.load(folder / "inputs.pt")
made = []
for _ in range(int(sys.argv[4])):
    image, latent, *memory = runner(*inputs)
    if not made:
        seconds = time.monotonic() - began
    made.append((image.clone(), latent.clone(), *(tensor.clone() for tensor in memory)))
    inputs[-len(memory):] = memory
torch.save(made, folder / "made.pt")
print(seconds, "diffusers" in sys.modules, "torch._inductor" in sys.modules)
"""


EMPTY_KNOBS = {"frame_control": (1, 0, 0, 0, 0), "frame_bank": (1, 0, 2, 0, 0), "steering": (1, 2, 0)}
"""The shapes of what a frame without ControlNets and earlier pictures has no use for."""


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Component:
    """The same frame as it is, uncompiled."""
    file = tmp_path_factory.mktemp("profile") / "frame.toml"
    file.write_text(FRAME_PROFILE)
    (component,) = load_profile(read_profile(file), "compiled", CPU).components
    return component


@pytest.fixture
def entry(compiled: EngineCache) -> Entry:
    (found,) = compiled.entries()
    return found


def test_a_fresh_process_without_diffusers_makes_the_same_pictures(
    compiled: EngineCache, entry: Entry, frame: Component, tmp_path: Path
) -> None:
    inputs = list(frame.example())
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(compiled.directory), entry.key.base, str(FRAMES)]
    seconds = 4.0
    for _ in range(3):  # the best of them, as one core may be another's for a while
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        took, has_diffusers, has_inductor = done.stdout.split()
        assert (has_diffusers, has_inductor) == ("False", "False")
        if (seconds := float(took)) < 4.0:
            break
    assert seconds < 4.0
    plain = PlainEngine(frame, CPU)
    for made in torch.load(tmp_path / "made.pt"):
        wanted = plain(*inputs)
        assert relative_error(made, wanted) < 1e-4
        inputs[-len(wanted[2:]) :] = wanted[2:]


def test_it_is_half_again_as_fast_as_the_plain_frame(entry: Entry, frame: Component) -> None:
    runner = CompiledBackend(CPU).load(entry, CPU)
    best = 0.0
    for _ in range(4):  # in turns, so what else runs slows both; again, because one core may be another's for a while
        fast, slow = side_by_side(runner, PlainEngine(frame, CPU), frame.example(), CPU, runs=20)
        best = max(best, fast / slow)
        if best >= 1.5:
            break
    assert best >= 1.5


def test_the_key_of_the_package_is_that_of_the_frame(entry: Entry, frame: Component) -> None:
    backend = CompiledBackend(CPU)
    wanted = frame.key("compiled", backend.version, backend.target(), backend.cuda, backend.options)
    assert entry.key.digest == wanted.digest


def test_shapes_that_the_package_does_not_take_are_refused(entry: Entry, frame: Component) -> None:
    runner = CompiledBackend(CPU).load(entry, CPU)
    image, *rest = frame.example()
    with pytest.raises(EngineMismatch, match="does not take"):
        runner(image[:, :, :32], *rest)
    with pytest.raises(EngineMismatch, match="does not take"):
        runner(image)
    with pytest.raises(EngineMismatch, match="float16"):
        runner(image.half(), *rest)


def test_a_package_for_another_cpu_or_torch_is_refused_with_both_names(tmp_path: Path) -> None:
    backend = CompiledBackend(CPU)
    other = key(backend="compiled", backend_version="1.0.0", target="cpu-other-avx9-01234567", cuda="none")
    stored = store(EngineCache(tmp_path), other)
    with pytest.raises(EngineMismatch, match=r"torch 1\.0\.0 on cpu-other-avx9-01234567; here are torch"):
        backend.load(stored, CPU)


def test_what_is_no_package_is_broken_and_not_loaded(tmp_path: Path) -> None:
    backend = CompiledBackend(CPU)
    mine = key(backend="compiled", backend_version=backend.version, target=backend.target(), cuda="none")
    stored = store(EngineCache(tmp_path), mine, {"package.pt2": b"nothing of the kind"})
    with pytest.raises(EngineBroken, match="cannot be loaded"):
        backend.load(stored, CPU)


def test_a_running_stream_goes_over_to_the_package_that_the_volume_has(
    compiled: EngineCache, frame: Component, tmp_path: Path
) -> None:
    """The whole way of a worker: found on the volume, copied to the local disk, loaded, put in between two frames."""
    plain: Any = frame.module
    model_frame: Frame = plain.frame
    events = Events()
    supply = EngineSupply(EngineCache(tmp_path / "local", report=events), compiled, report=events)
    finder = EngineFinder(supply, CPU, report=events)
    runner = SwappingRunner(EagerRunner(model_frame))
    image, *rest = frame.example()
    blocks = iter(rest)
    knobs = Knobs(
        *(
            next(blocks)
            if any(entry.name == name for entry in frame.inputs)
            else torch.zeros(EMPTY_KNOBS.get(name, (1, 0)))
            for name in Knobs._fields
        )
    )
    empty = {"control": torch.zeros(1, 1, 0, 0, 0), "bank": torch.zeros(1, 2, 0, 0)}
    memory = Memory(*(empty[name] if name in empty else next(blocks) for name in Memory._fields))
    before = runner.run(image, knobs, memory)
    assert runner.in_force == "torch"
    networks: Any = model_frame.networks
    request = EngineRequest(
        frame=model_frame,
        networks=networks,
        like=knobs,
        width=64,
        height=64,
        latent_scale=64 // memory.residual.shape[-1],
        model="tiny",
        family="sd15",
        runner=ref(runner),
    )
    try:
        finder.look_for(request)
        eventually_sync(lambda: runner.in_force != "torch" or runner.notes, what="an engine", seconds=120)
        assert runner.in_force == "compiled", runner.notes
        after = runner.run(image, knobs, memory)
        assert relative_error([after.image, *after.memory], [before.image, *before.memory]) < 1e-4
        assert EngineCache(tmp_path / "local").entries()
        more = [torch.cat((tensor, tensor)) for tensor in (image, *knobs, *memory)]
        count = len(Memory._fields)
        two = runner.run(more[0], Knobs(*more[1:-count]), Memory(*more[-count:]))
        for made in two.image.split(1):
            assert torch.equal(made, after.image), "a package for one stream is called once for each"
        assert runner.in_force == "compiled"
    finally:
        finder.close()
    assert {"fetched", "hit", "swapped"} <= set(events.kinds)


def test_a_package_for_a_card_is_of_one_architecture_of_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100 and a GH200 are the same card to CUDA."""
    options: list[Any] = []
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        options.append(CompiledBackend(torch.device("cuda")).options)
    assert options == [{"host": "x86_64"}, {"host": "aarch64"}]


def test_of_a_compilers_words_only_its_errors_are_told() -> None:
    """torch puts the whole command before them."""
    said = "C++ compile error\n\nCommand:\ng++ -D A\n\nOutput:\nIn file from c:1:\n d.h:1:10: fatal error: no e.h\n"
    assert compiler_words(RuntimeError(said)) == "d.h:1:10: fatal error: no e.h"


def test_what_no_compiler_said_is_told_with_its_kind() -> None:
    assert compiler_words(ValueError("a graph\nwith a cycle")) == "ValueError: a graph with a cycle"
