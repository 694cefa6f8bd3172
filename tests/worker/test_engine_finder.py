"""Engines for running streams: begun on the plain twin, swapped between two frames, and back when one fails."""

import os
import threading
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch

from builder.models import load_profile
from builder.profiles import Profile, read_profile
from sdstream.diffusion.components import lora_identities
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fusing import fused, networks_of
from sdstream.diffusion.loading.models import Model, load_model
from sdstream.diffusion.lora import read_lora
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.runners import EagerRunner, Runner
from sdstream.diffusion.seeds import make_noise
from sdstream.diffusion.state import Knobs, make_knobs, make_memory
from sdstream.diffusion.swapping import SwappingRunner
from sdstream.diffusion.tiny import write_tiny_lora, write_tiny_model
from sdstream.engine_errors import EngineMismatch
from sdstream.engines.cache import EngineCache
from sdstream.engines.component import Component
from sdstream.engines.eager import EagerRunner as PlainEngine
from sdstream.engines.entry import Entry
from sdstream.engines.keys import target_of
from sdstream.engines.supply import EngineSupply
from sdstream.settings import Settings
from sdstream.worker.engines import setup
from sdstream.worker.engines.builds import EngineBuilds
from sdstream.worker.engines.finder import EngineFinder
from sdstream.worker.engines.requests import EngineRequest, profile_text, toml_value
from tests.engines.stored import Events
from tests.support.waiting import eventually_sync

CPU = torch.device("cpu")
SIZE = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.set_grad_enabled(False)
    directory = tmp_path_factory.mktemp("model") / "sd15"
    write_tiny_model(directory, "sd15", width=16)
    torch.set_num_threads(1)
    return load_model(directory, "sd15", CPU)


@pytest.fixture
def frame(model: Model) -> Frame:
    return Frame(EagerNetworks(model.unet, model.vae), slots=2, guidance="self", prediction=model.schedule.prediction)


@pytest.fixture
def knobs(model: Model) -> Knobs:
    prompt = model.prompts.encode("the cat").conditioning
    noise = make_noise(2, (2, *model.latent_shape(SIZE, SIZE)))
    return make_knobs(model.schedule.tables((32, 45), 50), noise, prompt, prompt)


class ModuleBackend:
    """A back end whose engines are the components themselves: everything of the way but the compiler."""

    name: Any = "tensorrt-rtx"
    version = "1.0"
    cuda = "13"
    options: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self.components: dict[str, Component] = {}
        self.fails = False
        self.calls = 0
        self.compiled: dict[str, list[int]] = {}
        """For which rows each engine had kernels compiled."""

    def build(self, component: Component, target: str, folder: Path, work: Path, progress: Any) -> Mapping[str, Any]:
        raise NotImplementedError

    def load(self, entry: Entry, device: torch.device) -> Any:
        return ModuleEngine(self, entry.key.component, device)


class ModuleEngine:
    """One of its engines."""

    def __init__(self, backend: ModuleBackend, component: str, device: torch.device) -> None:
        self._backend = backend
        self._component = component
        self._run = PlainEngine(backend.components[component], device)

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self._backend.calls += 1
        if self._backend.fails:
            raise EngineMismatch("the card fell off the bus")
        return self._run(*inputs)

    def compile_for(self, rows: Iterable[int]) -> None:
        self._backend.compiled[self._component] = sorted(rows)


def request_of(model: Model, frame: Frame, knobs: Knobs, runner: SwappingRunner) -> EngineRequest:
    return EngineRequest(
        frame=frame,
        networks=EagerNetworks(model.unet, model.vae),
        like=knobs,
        width=SIZE,
        height=SIZE,
        latent_scale=model.latent_scale,
        model="models/tiny",
        family=model.family,
        runner=ref(runner),
        base=None if model.base is None else model.base.unet,
        loras=lora_identities(model),
        origin=model.origin,
    )


class Stage:
    """A finder over a cache that is filled with engines of the module back end, and a running stream's runner."""

    def __init__(self, folder: Path, model: Model, frame: Frame, knobs: Knobs) -> None:
        self.events = Events()
        self.backend = ModuleBackend()
        self.cache = EngineCache(folder / "local", report=self.events)
        self.finder = EngineFinder(
            EngineSupply(self.cache, report=self.events),
            CPU,
            report=self.events,
            make=lambda name, device: self.backend,
            names=lambda device: ("tensorrt-rtx",),
            keep_seconds=0.02,
        )
        self.runner = SwappingRunner(EagerRunner(frame))
        self.request = request_of(model, frame, knobs, self.runner)
        self._frame = frame
        self._knobs = knobs

    def bake(self) -> None:
        """Store what the finder will look for; on a CPU its key's own target counts."""
        (components,) = self.finder._choices(self.request, "tensorrt-rtx")
        for name, component in components.items():
            self.backend.components[name] = component
            key = component.key("tensorrt-rtx", "1.0", "portable", "13", {})
            with self.cache.draft() as draft:
                (draft / "engine.plan").write_bytes(name.encode())
                self.cache.store(draft, key)

    def frames(self, count: int) -> list[torch.Tensor]:
        memory, made = make_memory(self._knobs), list[torch.Tensor]()
        generator = torch.Generator().manual_seed(1)
        for _ in range(count):
            image = torch.rand(1, 3, SIZE, SIZE, generator=generator)
            result = self.runner.run(image, self._knobs, memory)
            memory = result.memory
            made.append(result.image.clone())
        return made


@pytest.fixture
def stage(tmp_path: Path, model: Model, frame: Frame, knobs: Knobs) -> Iterator[Stage]:
    torch.set_grad_enabled(False)
    made = Stage(tmp_path, model, frame, knobs)
    yield made
    made.finder.close()


def test_a_stream_begins_on_the_plain_twin_and_goes_over_to_the_engine(stage: Stage) -> None:
    plain = stage.frames(3)
    assert stage.runner.in_force == "torch"
    stage.bake()
    stage.finder.look_for(stage.request)
    eventually_sync(lambda: stage.runner.in_force != "torch", what="the engine in force", seconds=60)
    assert stage.runner.in_force == "tensorrt-rtx"
    made = stage.frames(3)
    assert stage.backend.calls == 9, "encoder, UNet and decoder of three frames"
    assert stage.backend.compiled == {"unet": [2], "encoder": [1], "decoder": [1]}, "before a frame needed them"
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(made, plain, strict=True))
    assert "swapped" in stage.events.kinds


def test_a_miss_leaves_the_plain_twin_in_force_and_says_why(stage: Stage) -> None:
    stage.finder.look_for(stage.request)
    eventually_sync(lambda: stage.runner.notes, what="a reason", seconds=60)
    assert stage.runner.in_force == "torch"
    assert "no engine of tiny unet for tensorrt-rtx is here" in stage.runner.notes[0]
    assert "python -m builder bake" in stage.runner.notes[0]
    assert len(stage.frames(1)) == 1


def test_an_engine_that_fails_while_it_runs_stops_no_stream(stage: Stage) -> None:
    plain = stage.frames(4)
    stage.bake()
    stage.finder.look_for(stage.request)
    eventually_sync(lambda: stage.runner.in_force != "torch", what="the engine in force", seconds=60)
    stage.backend.fails = True
    made = stage.frames(4)
    assert stage.runner.in_force == "torch"
    assert "the card fell off the bus" in stage.runner.notes[-1]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(made, plain, strict=True))


def test_a_broken_engine_is_not_loaded(stage: Stage) -> None:
    stage.bake()
    for entry in stage.cache.entries():
        entry.file("engine.plan").write_bytes(b"another")
    stage.finder.look_for(stage.request)
    eventually_sync(lambda: stage.runner.notes, what="a reason", seconds=60)
    assert stage.runner.in_force == "torch"
    assert "broken" in stage.events.kinds


def test_an_engine_that_cannot_be_loaded_is_not_built_again_and_its_own_reason_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(entry: Entry, device: torch.device) -> Any:
        raise EngineMismatch("the library wants another driver")

    stage.bake()
    monkeypatch.setattr(stage.backend, "load", load)
    builds = EngineBuilds("always", tmp_path, CPU, stage.events)
    monkeypatch.setattr(builds, "build", lambda *_: pytest.fail("it is here already"))
    monkeypatch.setattr(stage.finder, "_builds", builds)
    stage.finder.look_for(stage.request)
    eventually_sync(lambda: stage.runner.notes, what="a reason", seconds=60)
    assert stage.runner.notes == ("the library wants another driver",)
    assert stage.runner.in_force == "torch"


def test_a_stream_that_ended_meanwhile_needs_no_engine(stage: Stage) -> None:
    stage.bake()
    stage.runner = None  # pyright: ignore[reportAttributeAccessIssue]
    stage.finder.look_for(stage.request)
    stage.finder.close()
    assert "swapped" not in stage.events.kinds


def test_engines_in_force_are_noted_as_used_for_as_long_as_their_streams_run(stage: Stage) -> None:
    stage.bake()
    stage.finder.look_for(stage.request)
    eventually_sync(lambda: stage.runner.in_force != "torch", what="the engine in force", seconds=60)
    used = [entry.folder / "last-used" for entry in stage.cache.entries()]
    assert len(used) == 3
    for file in used:
        os.utime(file, (1000, 1000))
    eventually_sync(lambda: all(file.stat().st_mtime > 1000 for file in used), what="a note of their use", seconds=60)
    stage.runner = None  # pyright: ignore[reportAttributeAccessIssue]
    eventually_sync(lambda: not stage.finder._use.count, what="the end of their use", seconds=60)


class Refusing:
    """A runner that another thread puts in while frames are made, and that always fails."""

    in_force = "broken"
    notes: tuple[str, ...] = ()

    def run(self, *_: Any) -> Any:
        raise RuntimeError("no")

    run_rows = run


def test_swapping_while_frames_are_made_loses_none(stage: Stage, frame: Frame) -> None:
    plain = stage.frames(6)
    ended = threading.Event()
    good, bad = EagerRunner(frame), Refusing()

    def swap() -> None:
        runners: list[Runner] = [good, bad]  # pyright: ignore[reportAssignmentType]
        while not ended.is_set():
            for runner in runners:
                stage.runner.put(runner)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        made = stage.frames(6)
    finally:
        ended.set()
        thread.join()
    assert all(torch.equal(one, other) for one, other in zip(made, plain, strict=True))


@pytest.mark.parametrize("value", ['/data/🎨/a "b"\\c\n', "Müller", [0.25, -1e-07, 10], ["a", "b"]])
def test_whatever_a_file_is_called_the_builder_reads_its_name(value: Any) -> None:
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value


def test_the_profile_of_a_build_behind_is_one_that_the_builder_takes(
    stage: Stage, model: Model, tmp_path: Path
) -> None:
    assert model.origin is not None
    file = tmp_path / "wanted.toml"
    (parts,) = stage.finder._choices(stage.request, "tensorrt-rtx")
    file.write_text(profile_text(stage.request, "tensorrt-rtx", 89, parts, 8) or "")
    profile = read_profile(file)
    assert (profile.family, profile.model) == ("sd15", str(model.origin.path))
    assert (profile.sizes, profile.components) == ((f"{SIZE}x{SIZE}",), ("unet", "encoder", "decoder"))
    assert target_of(profile.targets["tensorrt-rtx"]) == "sm89"
    assert (profile.streams.best, profile.streams.most) == (1, 8)
    file.write_text(
        profile_text(stage.request, "compiled", None, stage.finder._choices(stage.request, "compiled")[0], 1) or ""
    )
    assert read_profile(file).components == ("frame",)
    assert profile_text(replace(stage.request, origin=None), "compiled", None, parts, 1) is None


def test_the_workers_engines_are_set_up_from_the_settings_when_they_are_first_asked_for(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine_local_dir=tmp_path / "local")
    made: list[int] = []
    said: list[str] = []

    def make() -> setup.WorkerEngines:
        made.append(1)
        return setup.WorkerEngines(settings, CPU, said.append)

    try:
        setup.install(make)
        assert setup.event_counts() == {}
        finder = setup.installed_finder()
        assert finder is setup.installed_finder()
        assert made == [1]
    finally:
        setup.install(None)
    assert setup.installed_finder() is None


@pytest.mark.parametrize("by_hand", [True, False], ids=["from a profile", "behind streams"])
@pytest.mark.parametrize("with_lora", [False, True])
def test_a_worker_looks_for_what_the_builder_bakes(tmp_path: Path, with_lora: bool, by_hand: bool) -> None:
    """Keys made by the builder, from a profile that somebody wrote or the worker, and by a worker, from a model that a
    stream runs, are of one base."""
    torch.set_grad_enabled(False)
    directory, lora = tmp_path / "model", tmp_path / "lora.safetensors"
    write_tiny_model(directory, "sd15", width=16, taesd=True)
    half = load_model(directory, "sd15", CPU, dtype=torch.float16)
    write_tiny_lora(lora, half.unet)
    model = fused(half, [(read_lora(lora, "mine", "sd15", networks_of(half)), 0.5)]) if with_lora else half
    shipped = Profile.model_validate(
        {
            "family": "sd15",
            "model": str(directory),
            "sizes": [f"{SIZE}x{SIZE}"],
            "slots": [1, 4],
            "streams": {"best": 1, "most": 2},
            "loras": [{"source": str(lora), "scale": 0.5}] if with_lora else [],
            "targets": {"tensorrt-rtx": [86, 89]},
        }
    )
    backend = ModuleBackend()
    prompt = model.prompts.encode("").conditioning
    noise = make_noise(2, (2, *model.latent_shape(SIZE, SIZE)))
    knobs = make_knobs(model.schedule.tables((32, 45), 50), noise, prompt, prompt)
    frame = Frame(EagerNetworks(model.unet, model.vae), slots=2)
    runner = SwappingRunner(EagerRunner(frame))
    finder = EngineFinder(EngineSupply(EngineCache(tmp_path / "local")), CPU, streams=2)
    request = request_of(model, frame, knobs, runner)
    (wanted,) = finder._choices(request, "tensorrt-rtx")
    text = tmp_path / "wanted.toml"
    text.write_text(profile_text(request, "tensorrt-rtx", 89, wanted, 2) or "")
    profile = shipped if by_hand else read_profile(text)
    baked = {
        component.name: component.key("tensorrt-rtx", "1.0", "sm86+sm89", "13", {})
        for component in load_profile(profile, "tensorrt-rtx").components
    }
    assert set(wanted) == set(baked) == {"unet", "encoder", "decoder"}
    for name, component in wanted.items():
        need = replace(finder._need(request, name, component, backend), capability=89)
        assert need.key.base == baked[name].base
        assert need.suits(baked[name]), "two streams in one call"
    assert (wanted["unet"].loras != ()) == with_lora
