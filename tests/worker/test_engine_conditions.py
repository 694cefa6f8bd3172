"""Engines for streams with ControlNets and a style image: found without a build, and the same pictures."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builder.baking import Bakery
from builder.models import load_profile
from builder.profiles import Profile, read_profile
from sdstream.diffusion.adapters import layer_strengths
from sdstream.diffusion.attention import bank_length, self_layers
from sdstream.diffusion.conditions import load_adapter, load_controlnet
from sdstream.diffusion.loading.models import Model, load_model
from sdstream.diffusion.runners import Runner
from sdstream.diffusion.seeds import make_noise
from sdstream.diffusion.state import Knobs, Recall, Steering, Style, make_knobs, make_memory
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.diffusion.tiny_conditions import write_tiny_adapter, write_tiny_controlnet
from sdstream.engines.cache import EngineCache
from sdstream.engines.component import Component
from sdstream.engines.eager import EagerRunner as PlainEngine
from sdstream.engines.entry import Entry
from sdstream.engines.supply import EngineSupply
from sdstream.worker import groups
from sdstream.worker.conditions import Conditions, WantedConditions, WantedNet
from sdstream.worker.engines.builds import EngineBuilds
from sdstream.worker.engines.finder import EngineFinder
from sdstream.worker.engines.requests import profile_text
from sdstream.worker.groups import GroupKey, runner_of
from tests.engines.stored import Events
from tests.support.waiting import eventually_sync

CPU = torch.device("cpu")
SIZE, SLOTS, FRAMES = 64, 2, 3
NETS = ("first", "second")
ADAPTER = "adapter.safetensors"
RECALLED = 2
CHOICES = [((), False), (NETS[:1], False), (NETS, False), ((), True), (NETS[:1], True)]
"""ControlNets, and whether there is a style image."""
UNETS = tuple(
    f"unet{control}{tokens}{recall}"
    for control in ("", "-control")
    for tokens in ("", "-tokens")
    for recall in ("", "-recall")
)
COMPONENTS = (*UNETS, "encoder", "decoder", "controlnet")


@dataclass(frozen=True)
class World:
    """A tiny model with two ControlNets and an IP-Adapter, as files and loaded."""

    folder: Path
    model: Model

    def profile(self, **changes: Any) -> dict[str, Any]:
        return {
            "family": "sd15",
            "model": str(self.folder / "model"),
            "sizes": [f"{SIZE}x{SIZE}"],
            "slots": [SLOTS],
            "streams": {"best": 1, "most": 2},
            "components": COMPONENTS,
            "controlnets": [str(self.folder / name) for name in NETS],
            "adapter": str(self.folder / ADAPTER),
            "recalled": RECALLED,
            "targets": {"tensorrt-rtx": [89]},
        } | changes

    def conditions(self, nets: tuple[str, ...], styled: bool, recalled: int = 0) -> Conditions:
        unet = self.model.unet
        loaded = tuple(load_controlnet(self.folder / name, unet, self.model.dtype, CPU) for name in nets)
        adapter = load_adapter(self.folder / ADAPTER, unet) if styled else None
        wanted = WantedConditions(tuple(map(WantedNet, nets)), "regular" if styled else "", recalled)
        return Conditions(wanted, loaded, adapter)

    def knobs(self, conditions: Conditions) -> Knobs:
        model, nets, adapter = self.model, len(conditions.controlnets), conditions.adapter
        prompt = model.prompts.encode("the cat").conditioning
        style = None
        if adapter is not None:
            tokens = adapter.tokens(torch.linspace(-1, 1, adapter.embedding))
            style = Style(*tokens, layer_strengths(adapter.layer_names, "linear", 0.8, "sd15"))
        return make_knobs(
            model.schedule.tables((32, 45), 50),
            make_noise(2, (SLOTS, *model.latent_shape(SIZE, SIZE))),
            prompt,
            prompt,
            steering=Steering(torch.full((SLOTS, nets), 0.7), 3 * nets, SIZE, SIZE) if nets else None,
            style=style,
            recall=self.recall(conditions.wanted.recalled),
        )

    def recall(self, pictures: int) -> Recall | None:
        _, height, width = self.model.latent_shape(SIZE, SIZE)
        return Recall(pictures, bank_length(self_layers(self.model.unet, height, width)), 1) if pictures else None

    def key(self, conditions: Conditions, *, engines: bool = True) -> GroupKey:
        return GroupKey(
            self.model, SIZE, SIZE, SLOTS, "self", True, source="tiny", engines=engines, conditions=conditions
        )


def make_world(folder: Path, levels: int = 2) -> World:
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    write_tiny_model(folder / "model", "sd15", width=16, taesd=True, levels=levels)
    model = load_model(folder / "model", "sd15", CPU)
    for seed, name in enumerate(NETS):
        write_tiny_controlnet(folder / name, model.unet, seed=seed)
    write_tiny_adapter(folder, ADAPTER, model.unet)
    return World(folder, model)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


class ModuleBackend:
    """A back end whose engines are the components that the builder made of a profile, uncompiled."""

    name: Any = "tensorrt-rtx"
    version, cuda = "1.0", "13"

    def __init__(self, components: tuple[Component, ...]) -> None:
        self.options: dict[str, Any] = {}
        keys = [component.key(self.name, "1.0", "portable", "13", {}) for component in components]
        self.keys = {key.digest: key for key in keys}
        self.calls: list[str] = []
        self._components = {key.digest: component for key, component in zip(keys, components, strict=True)}

    def load(self, entry: Entry, device: torch.device) -> Any:
        component = self._components[entry.key.digest]
        run = PlainEngine(component, device)

        def call(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            shapes = [tuple(given.shape[1:]) for given in inputs]
            assert shapes == [entry.best[1:] for entry in component.inputs]
            self.calls.append(component.name)
            return run(*inputs)

        return call


@pytest.fixture(scope="module")
def baked(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineCache, ModuleBackend]:
    """Everything that one profile bakes, in a cache."""
    profile = Profile.model_validate(world.profile())
    backend = ModuleBackend(load_profile(profile, "compiled").components)  # in single precision, as a CPU's worker is
    cache = EngineCache(tmp_path_factory.mktemp("baked"))
    for key in backend.keys.values():
        with cache.draft() as draft:
            (draft / "engine.plan").write_text(key.digest)
            cache.store(draft, key)
    return cache, backend


Find = Callable[[EngineCache, Any], EngineFinder]


@pytest.fixture
def finder_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Find]:
    """Installs a finder that may build, over one cache and back end, and fails the test when it does."""
    made: list[EngineFinder] = []

    def no_build(*_: Any, **__: Any) -> None:
        raise AssertionError("an engine was built")

    def make(cache: EngineCache, backend: Any) -> EngineFinder:
        finder = EngineFinder(
            EngineSupply(cache, report=Events()),
            CPU,
            builds=EngineBuilds("always", cache.directory, CPU, Events()),
            make=lambda name, device: backend,
            names=lambda device: (backend.name,),
        )
        made.append(finder)
        monkeypatch.setattr(groups, "installed_finder", lambda: finder)
        return finder

    torch.set_grad_enabled(False)
    monkeypatch.setattr(subprocess, "Popen", no_build)
    yield make
    for finder in made:
        finder.close()


def frames(runner: Runner, knobs: Knobs) -> list[torch.Tensor]:
    memory, made = make_memory(knobs), list[torch.Tensor]()
    generator = torch.Generator().manual_seed(1)
    for _ in range(FRAMES):
        image = torch.rand(1, 3 + knobs.frame_control.shape[2], SIZE, SIZE, generator=generator)
        result = runner.run(image, knobs, memory)
        memory = result.memory
        assert result.planes is not None, "groups of streams take nothing else"
        assert result.finite is not None
        made.append(result.image.clone())
    return made


def in_force(runner: Runner) -> str:
    eventually_sync(lambda: runner.in_force != "torch" or runner.notes, what="an engine", seconds=60)
    return runner.in_force


@pytest.mark.parametrize("recalled", [0, RECALLED])
def test_switching_nets_and_style_finds_other_engines_and_builds_none(
    world: World, baked: tuple[EngineCache, ModuleBackend], finder_of: Find, recalled: int
) -> None:
    cache, backend = baked
    finder_of(cache, backend)
    for nets, styled in CHOICES:
        conditions = world.conditions(nets, styled, recalled)
        knobs = world.knobs(conditions)
        runner = runner_of(world.key(conditions), knobs)
        assert in_force(runner) == "tensorrt-rtx", runner.notes
        assert runner.notes == ()
        backend.calls.clear()
        made = frames(runner, knobs)
        unet = "unet" + ("-control" if nets else "") + ("-tokens" if styled else "")
        unet += "-recall" if recalled else ""
        assert backend.calls == ["encoder", *("controlnet" for _ in nets), unet, "decoder"] * FRAMES
        plain = frames(runner_of(world.key(conditions, engines=False), knobs), knobs)
        assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(made, plain, strict=True))


def test_what_has_no_engine_runs_in_torch_and_is_named(
    world: World, baked: tuple[EngineCache, ModuleBackend], finder_of: Find, tmp_path: Path
) -> None:
    cache, backend = baked
    some = EngineCache(tmp_path / "some")
    for entry in cache.entries():
        if entry.key.component in ("unet-control", "encoder"):
            some.copy_from(cache, entry)
    finder_of(some, backend)
    conditions = world.conditions(NETS[:1], False)
    knobs = world.knobs(conditions)
    runner = runner_of(world.key(conditions), knobs)
    assert in_force(runner) == "tensorrt-rtx"
    assert runner.notes == ("no engine of decoder, controlnet-0 is here, so torch runs it",)
    plain = frames(runner_of(world.key(conditions, engines=False), knobs), knobs)
    made = frames(runner, knobs)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(made, plain, strict=True))


@pytest.mark.parametrize("batched", [True, False])
def test_earlier_pictures_are_kept_when_engines_answer_in_the_same_memory(
    world: World, baked: tuple[EngineCache, ModuleBackend], finder_of: Find, batched: bool
) -> None:
    """In one pass or step by step, though an engine gives every answer in the same memory, as TensorRT does."""
    cache, backend = baked
    load = backend.load

    def reused(entry: Entry, device: torch.device) -> Any:
        call, buffers = load(entry, device), dict[tuple[torch.Size, ...], tuple[torch.Tensor, ...]]()

        def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            made = call(*inputs)
            kept = buffers.setdefault(tuple(tensor.shape for tensor in made), tuple(map(torch.clone, made)))
            for buffer, tensor in zip(kept, made, strict=True):
                buffer.copy_(tensor)
            return kept

        return run

    conditions = world.conditions((), False, RECALLED)
    knobs = world.knobs(conditions)
    key = replace(world.key(conditions, engines=False), batched=batched)
    plain = frames(runner_of(key, knobs), knobs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "load", reused)
        finder_of(cache, backend)
        runner = runner_of(replace(key, engines=True), knobs)
        assert in_force(runner) == "tensorrt-rtx", runner.notes
    made = frames(runner, knobs)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(made, plain, strict=True))


def test_a_build_behind_a_stream_with_a_net_and_a_style_image_makes_what_it_looks_for(
    world: World, finder_of: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Any = ModuleBackend(())
    finder, asked = finder_of(EngineCache(tmp_path), backend), list[Any]()
    monkeypatch.setattr(finder, "look_for", asked.append)
    conditions = world.conditions(NETS, True, RECALLED)
    runner = runner_of(world.key(conditions), world.knobs(conditions))
    (request,) = asked
    (parts,) = finder._choices(request, "tensorrt-rtx")
    text = profile_text(request, "tensorrt-rtx", 89, parts, 2)
    assert text is not None
    file = tmp_path / "wanted.toml"
    file.write_text(text)
    made = load_profile(read_profile(file), "compiled").components
    bases = {component.key(backend.name, "1.0", "sm89", "13", {}).base for component in made}
    assert {finder._need(request, part, component, backend).key.base for part, component in parts.items()} == bases
    assert runner.in_force == "torch"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_unet_that_is_steered_and_styled_and_recalls_makes_the_plain_pictures(
    finder_of: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler here")
    # The UNet alone: each package takes half a minute of a core, and the other parts have nothing of their own to show.
    # Of one resolution: what a second one adds is compiled for the whole frame of tests/engines/test_compiled.py, and
    # neither ControlNets, style images nor earlier pictures are anything there that they are not in the first.
    world = make_world(tmp_path, levels=1)
    changes = {"components": ["unet-control-tokens-recall"], "targets": {"compiled": ()}}
    profile = Profile.model_validate(world.profile(**changes))
    monkeypatch.undo()
    cache = EngineCache(tmp_path / "engines")
    Bakery(cache, CPU).bake(profile)
    finder = EngineFinder(EngineSupply(cache), CPU)
    monkeypatch.setattr(groups, "installed_finder", lambda: finder)
    try:
        conditions = world.conditions(NETS[:1], True, RECALLED)
        knobs = world.knobs(conditions)
        runner = runner_of(world.key(conditions), knobs)
        assert in_force(runner) == "compiled", runner.notes
        plain = frames(runner_of(world.key(conditions, engines=False), knobs), knobs)
        made = frames(runner, knobs)
        assert runner.in_force == "compiled", runner.notes
        for one, other in zip(made, plain, strict=True):
            assert float((one - other).abs().max() / other.abs().max()) < 1e-4
        assert runner.notes == ("no engine of encoder, decoder, controlnet-0 is here, so torch runs it",)
    finally:
        finder.close()
