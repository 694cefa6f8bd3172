"""Engines for image processors that run: found, put in between two pictures, put aside when they are broken."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from builder.models import load_profile
from builder.profiles import Profile, read_profile
from sdstream.directories import ModelPlaces
from sdstream.engines.cache import EngineCache
from sdstream.engines.component import RowRange
from sdstream.engines.supply import EngineSupply, Need
from sdstream.settings import Settings
from sdstream.worker.annotators.components import PROCESSORS, network_components
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.annotators.tiny import make_tiny_network
from sdstream.worker.engines import setup
from sdstream.worker.engines.network_finder import NetworkFinder, profile_text
from sdstream.worker.pipelines import annotators
from sdstream.worker.ports import ProcessorState
from sdstream.worker.processors import LEARNED, ProcessorChain
from tests.engines.stored import Events
from tests.support.waiting import eventually_sync
from tests.worker.annotators import TINY_LOADERS
from tests.worker.test_chain import chain, scene, wanted
from tests.worker.test_engine_finder import ModuleBackend

CPU = torch.device("cpu")
SIDE = 96
"""Of `scene`."""


class Stage:
    """A shelf whose networks are looked for in a cache of engines of the module back end, and a running chain."""

    def __init__(self, folder: Path, name: str) -> None:
        self.events = Events()
        self.backend = ModuleBackend()
        self.cache = EngineCache(folder / "local", report=self.events)
        self.finder = NetworkFinder(
            EngineSupply(self.cache, report=self.events),
            CPU,
            report=self.events,
            make=lambda name, device: self.backend,
            names=lambda device: ("tensorrt-rtx",),
        )
        self.shelf = AnnotatorShelf(CPU, loaders=TINY_LOADERS, engines=lambda: self.finder.look_for)
        self.name = name
        self.chain = self.new(name)

    def new(self, name: str) -> ProcessorChain:
        return chain(wanted(name, 3, **({"interval": 1} if LEARNED[name].steady else {})), shelf=self.shelf)

    def bake(self) -> None:
        """Store what the finder will look for; on a CPU its key's own target counts."""
        name = PROCESSORS[self.name]
        for component in network_components(make_tiny_network(name), ((SIDE, SIDE),), RowRange(1, 1, 2), name):
            self.backend.components[component.name] = component
            key = component.key("tensorrt-rtx", "1.0", "portable", "13", {})
            with self.cache.draft() as draft:
                (draft / "engine.plan").write_bytes(component.name.encode())
                self.cache.store(draft, key)

    @property
    def state(self) -> ProcessorState:
        (state,) = self.chain.states
        return state

    def until(self, condition: Any, what: str) -> None:
        def holds() -> Any:
            self.chain.run(scene())
            return condition()

        eventually_sync(holds, what=what, seconds=60)


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[Any]:
    torch.set_grad_enabled(False)
    made: list[Stage] = []

    def make(name: str) -> Stage:
        made.append(Stage(tmp_path, name))
        return made[-1]

    yield make
    for stage in made:
        stage.finder.close()


@pytest.mark.parametrize("name", sorted(PROCESSORS))
def test_a_processor_begins_in_torch_and_goes_over_to_its_engines(stages: Any, name: str) -> None:
    stage = stages(name)
    plain = chain(wanted(name)).run(scene())
    stage.bake()
    assert torch.equal(stage.chain.run(scene()), plain)
    stage.until(lambda: stage.state.acceleration == "tensorrt-rtx" and not stage.state.note, what="engines in force")
    calls = stage.backend.calls
    assert torch.allclose(stage.chain.run(scene()), plain, atol=1e-5)
    assert stage.backend.calls > calls
    assert stage.state.phase == "working"
    assert "swapped" in stage.events.kinds


def test_a_miss_leaves_torch_in_force_and_the_state_says_why(stages: Any) -> None:
    stage = stages("depth_tensorrt")
    stage.until(lambda: stage.state.note, what="a reason")
    assert stage.state.acceleration == "torch"
    assert "no engine of depth depth for tensorrt-rtx is here; `python -m builder bake" in stage.state.note


def test_the_same_network_without_an_engine_in_its_name_stays_in_torch(stages: Any) -> None:
    stage = stages("depth_tensorrt")
    stage.bake()
    stage.until(lambda: stage.state.acceleration == "tensorrt-rtx", what="the engine in force")
    calls = stage.backend.calls
    plain = stage.new("depth")
    plain.run(scene())
    (state,) = plain.states
    assert (state.acceleration, state.note, stage.backend.calls) == ("torch", "", calls)


def test_an_engine_that_fails_while_it_runs_stops_no_stream(stages: Any) -> None:
    stage = stages("depth_tensorrt")
    plain = chain(wanted("depth_tensorrt")).run(scene())
    stage.bake()
    stage.until(lambda: stage.state.acceleration == "tensorrt-rtx", what="the engine in force")
    stage.backend.fails = True
    assert torch.equal(stage.chain.run(scene()), plain)
    assert stage.state.acceleration == "torch"
    assert "the card fell off the bus" in stage.state.note


def test_a_broken_engine_is_put_aside_and_not_loaded(stages: Any) -> None:
    stage = stages("realesrgan_trt")
    stage.bake()
    for entry in stage.cache.entries():
        entry.file("engine.plan").write_bytes(b"another")
    stage.until(lambda: stage.state.note, what="a reason")
    assert stage.state.acceleration == "torch"
    assert "broken" in stage.events.kinds
    assert stage.cache.entries() == []


def test_a_network_that_nobody_asks_any_more_needs_no_engine(stages: Any) -> None:
    stage = stages("realesrgan_trt")
    stage.bake()
    request: Any = None

    def keep(given: Any) -> None:
        nonlocal request
        request = given

    shelf = AnnotatorShelf(CPU, loaders=TINY_LOADERS, engines=lambda: keep)
    chain(wanted("realesrgan_trt"), shelf=shelf).run(scene())
    shelf._loads.clear()
    assert request.seat() is None
    stage.finder.look_for(request)
    stage.finder.close()
    assert "swapped" not in stage.events.kinds


@pytest.mark.parametrize("name", sorted(PROCESSORS))
def test_the_profile_of_a_build_behind_makes_the_engines_that_are_looked_for(
    stages: Any, name: str, tmp_path: Path
) -> None:
    stage = stages(name)
    requests: list[Any] = []
    shelf = AnnotatorShelf(CPU, loaders=TINY_LOADERS, engines=lambda: requests.append)
    made = chain(wanted(name), shelf=shelf)
    made.run(scene())
    for request in requests:
        file = tmp_path / "wanted.toml"
        file.write_text(profile_text(request, "compiled", None, 3))
        profile = read_profile(file)
        assert (profile.components, profile.processors) == ((), (name,))
        tiny = Profile.model_validate(profile.model_dump() | {"tiny": 0})
        baked = {
            component.name: component.key("tensorrt-rtx", "1.0", "sm89", "13", {})
            for component in load_profile(tiny, "compiled").components
        }
        ((part, component),) = stage.finder._choices(request, "tensorrt-rtx")[0].items()
        need = stage.finder._need(request, part, component, stage.backend)
        assert need.key.base == baked[request.part.name].base
        assert Need(need.key, 89, 3).accepts(baked[request.part.name])
    assert {request.part.name for request in requests} <= set(make_tiny_network(PROCESSORS[name]).parts)


def test_a_workers_networks_ask_its_own_finder(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine_local_dir=tmp_path / "local", engine_builds="never")
    try:
        assert setup.who_looks_for_networks() is None
        setup.install(lambda: setup.WorkerEngines(settings, CPU, print))
        finder = setup.who_looks_for_networks()
        shelf: Any = annotators(CPU, ModelPlaces())
        assert shelf._engines() == finder
        assert finder is not None
    finally:
        setup.install(None)
