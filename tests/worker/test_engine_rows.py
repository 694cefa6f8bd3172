"""Engines and how many streams ride in one call: the widest is preferred, and what takes fewer is said or divided."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.diffusion.engine_networks import LoadedEngine
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.loading.models import Model, load_model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.runners import EagerRunner
from sdstream.diffusion.seeds import make_noise
from sdstream.diffusion.state import make_knobs
from sdstream.diffusion.swapping import SwappingRunner
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.engines.cache import EngineCache
from sdstream.engines.entry import Entry
from sdstream.engines.supply import EngineSupply
from sdstream.settings import Settings
from sdstream.worker.engines import finder, search
from sdstream.worker.engines.finder import EngineFinder
from sdstream.worker.engines.requests import EngineRequest, choices, rows_of
from sdstream.worker.engines.search import Found
from sdstream.worker.engines.setup import WorkerEngines
from tests.engines.stored import Events
from tests.support.waiting import eventually_sync
from tests.worker.test_engine_finder import SIZE, ModuleBackend, request_of

STREAMS = 3
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.set_grad_enabled(False)
    directory = tmp_path_factory.mktemp("model") / "sd15"
    write_tiny_model(directory, "sd15", width=16)
    return load_model(directory, "sd15", CPU)


class Asking:
    """A finder for a machine whose calls have up to `STREAMS` streams, and a stream that asks it."""

    def __init__(self, model: Model, folder: Path, device: torch.device) -> None:
        prompt = model.prompts.encode("the cat").conditioning
        noise = make_noise(2, (2, *model.latent_shape(SIZE, SIZE)))
        knobs = make_knobs(model.schedule.tables((32, 45), 50), noise, prompt, prompt)
        frame = Frame(EagerNetworks(model.unet, model.vae), slots=2, guidance="initialize")
        self.backend: Any = ModuleBackend()
        load, self.loaded = self.backend.load, list[int]()

        def on_the_cpu(entry: Entry, device: torch.device) -> Any:
            self.loaded.append(entry.key.most_rows)
            return load(entry, CPU)

        self.backend.load = on_the_cpu
        self.cache = EngineCache(folder / "local")
        self.finder = EngineFinder(
            EngineSupply(self.cache, report=Events()),
            device,
            streams=STREAMS,
            graphs=False,
            make=lambda name, device: self.backend,
            names=lambda device: ("tensorrt-rtx",),
        )
        self.runner = SwappingRunner(EagerRunner(frame))
        self.request: EngineRequest = request_of(model, frame, knobs, self.runner)

    def store(self, streams: int) -> None:
        """Engines for as many streams in one call."""
        for part, component in choices(self.request, "tensorrt-rtx", streams, lambda module: "0" * 64)[0].items():
            key = component.key("tensorrt-rtx", "1.0", "sm89", "13", {})
            self.backend.components[part] = component
            with self.cache.draft() as draft:
                (draft / "engine.plan").write_bytes(key.digest.encode())
                self.cache.store(draft, key)

    def found(self) -> Found:
        """The engines that were stored."""
        parts = choices(self.request, "tensorrt-rtx", STREAMS, lambda module: "0" * 64)[0]
        found = self.finder._find(self.request, parts, self.backend)
        assert found is not None
        return found

    def find(self) -> tuple[str, ...]:
        """The notes of the stream once an engine is in force."""
        self.finder.look_for(self.request)
        eventually_sync(lambda: self.runner.in_force != "torch", what="the engine in force", seconds=60)
        return self.runner.notes


@pytest.fixture
def asking(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    """On a machine with an L4."""
    torch.set_grad_enabled(False)
    monkeypatch.setattr(search, "capability_of", lambda device: 89)
    monkeypatch.setattr(search, "digest_of_weights", lambda module: "0" * 64)
    made = Asking(model, tmp_path, GPU)
    yield made
    made.finder.close()


def test_the_rows_of_a_stream_are_those_of_its_guidance(asking: Asking) -> None:
    assert [rows_of(asking.request, part) for part in ("unet", "encoder")] == [2 + 1, 1]


@pytest.mark.parametrize("order", [(1, STREAMS, 2), (STREAMS, 2, 1)])
def test_the_engine_that_takes_all_streams_of_a_call_is_preferred(asking: Asking, order: tuple[int, ...]) -> None:
    for streams in order:
        asking.store(streams)
    assert asking.find() == ()
    assert asking.loaded == [2 * 2 * STREAMS, STREAMS, STREAMS]


@pytest.mark.parametrize(("graphs", "streams"), [(False, (1, 2, 3)), (True, (1, 2, 4))])
def test_kernels_are_compiled_for_all_calls_that_can_come_before_a_frame_needs_them(
    asking: Asking, graphs: bool, streams: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "make_runner", lambda frame, device, graphs: EagerRunner(frame))
    asking.finder._graphs = graphs
    asking.store(STREAMS)
    assert asking.finder._runner(asking.request, asking.found()).in_force == "tensorrt-rtx"
    assert asking.backend.compiled == {
        "unet": [3 * count for count in streams],
        "encoder": list(streams),
        "decoder": list(streams),
    }


def test_engines_for_fewer_streams_than_a_call_can_have_are_said_to_be(asking: Asking) -> None:
    asking.store(1)
    (note,) = asking.find()
    assert "fewer streams in one call than the 3 of SDSTREAM_BATCH_SIZE (unet 1, encoder 1, decoder 1)" in note


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_an_engine_that_divides_answers_for_any_number_of_rows(rows: int) -> None:
    """Though it answers in the same memory each time, as TensorRT does."""
    buffer, calls = torch.empty(2, 3), list[int]()

    def call(given: torch.Tensor, factor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(given.shape[0])
        made = buffer[: given.shape[0]]
        made.copy_(given * factor)
        return made, made.sum(1)

    given, factor = torch.arange(3.0 * rows).view(rows, 3), torch.arange(1.0, rows + 1).view(rows, 1)
    engine = LoadedEngine(call, 2, divides=True)
    assert engine.takes(given)
    assert LoadedEngine(call, 2).takes(given) == (rows <= 2)
    product, total = engine(given, factor)
    assert torch.equal(product, given * factor)
    assert torch.equal(total, (given * factor).sum(1))
    assert max(calls) <= 2


@pytest.mark.parametrize(("device", "streams"), [("cuda", 5), ("cpu", 1)])
def test_a_worker_on_a_gpu_wants_engines_for_as_many_streams_as_it_batches(
    tmp_path: Path, device: str, streams: int
) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine_local_dir=tmp_path / "local", batch_size=5)
    finder = WorkerEngines(settings, torch.device(device)).finder
    assert finder.streams == streams
