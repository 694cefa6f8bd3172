"""Other LoRAs for a stream that runs: written into the storages that its frame reads, between two pictures."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sdstream.diffusion.fusing import networks_of
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.runners import EagerRunner, GraphRunner
from sdstream.diffusion.swapping import SwappingRunner
from sdstream.diffusion.tiny import write_tiny_lora
from sdstream.directories import ModelPlaces
from sdstream.model_errors import LoraUnusable
from sdstream.worker import diffusion_pipeline, groups
from sdstream.worker.diffusion_pipeline import DiffusionPipeline
from sdstream.worker.diffusion_plan import DiffusionPlan
from sdstream.worker.engines.requests import EngineRequest
from sdstream.worker.groups import GroupKey, frame_of, runner_of
from sdstream.worker.loading import shelf
from sdstream.worker.loading.shelf import ModelShelf
from tests.diffusion.captures import StandInCapture
from tests.diffusion.fleet import Fleet, FleetLane, difference, params_of, ran

Directory = Callable[..., Path]
ONE, TWO = {"one": 0.6}, {"one": 0.2, "two": -0.7}


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Model]) -> Path:
    """For the tiny SD-Turbo, UNet and text encoder, `one`, `two` and the too strong `huge`; `other` is for another."""
    folder = tmp_path_factory.mktemp("loras")
    networks = networks_of(tiny_model("sd-turbo"))
    for seed, name in enumerate(("one", "two")):
        write_lora(folder / f"{name}.safetensors", networks, seed)
    write_lora(folder / "huge.safetensors", networks, 3, strength=2e38)
    write_tiny_lora(folder / "other.safetensors", tiny_model("sdxl-turbo").unet)
    return folder


def write_lora(file: Path, networks: Mapping[str, nn.Module], seed: int, strength: float = 0.5) -> None:
    """A random LoRA for attention in all networks, in peft's layout."""
    tensors: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    for part, network in networks.items():
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear) and name.endswith(("to_q", "to_v", "ff.net.2", "q_proj", "fc1")):
                down = torch.randn(2, module.in_features, generator=generator)
                up = torch.randn(module.out_features, 2, generator=generator)
                up *= strength * float(module.weight.std())
                tensors |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
    save_file(tensors, file)


@pytest.fixture
def fleet(tiny_directory: Directory, loras: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Fleet]]:
    """Makes fleets whose frames are captured, as on a GPU, by the stand-in; models are in a shelf of the test's own."""
    monkeypatch.setattr(diffusion_pipeline, "shelf", ModelShelf())
    monkeypatch.setattr(diffusion_pipeline, "groups", groups.GroupBook(captured))
    opened: list[Fleet] = []

    def open_fleet() -> Fleet:
        places = ModelPlaces(loras.parent / "models", loras, offline=True)
        opened.append(Fleet(tiny_directory("sd-turbo"), places=places).__enter__())
        return opened[-1]

    yield open_fleet
    for each in opened:
        each.__exit__()


def captured(key: GroupKey, like: Any) -> GraphRunner:
    runner = runner_of(key, like)
    assert not isinstance(runner, SwappingRunner)
    return GraphRunner(runner, StandInCapture())


def pipeline_of(stream: FleetLane) -> DiffusionPipeline:
    pipeline = stream.work.pipeline
    assert isinstance(pipeline, DiffusionPipeline), stream.reports[-1]
    return pipeline


def model_of(stream: FleetLane) -> Model:
    return model_key(stream).model


def storages(stream: FleetLane) -> list[int]:
    return [tensor.data_ptr() for network in networks_of(model_of(stream)).values() for tensor in network.parameters()]


def test_other_loras_are_written_where_the_captured_frame_reads_them(fleet: Callable[[], Fleet]) -> None:
    run = fleet()
    stream, plain, twin = run.open(params_of(lora_dict=ONE)), run.open(params_of()), run.open(params_of())
    places, group, model = storages(stream), pipeline_of(stream).group, model_of(stream)
    for number in range(3):
        assert [ran(run, each, number) for each in (stream, plain, twin)] == [1, 1, 1]
    before = stream.newest
    stream.update(params_of(lora_dict=TWO))
    run.settle()
    assert (storages(stream), pipeline_of(stream).group) == (places, group)
    assert model_of(stream) is not model
    assert stream.reports[-1].loras == [("one", 0.2), ("two", -0.7)]
    for number in range(3, 7):
        assert [ran(run, each, number) for each in (stream, plain)] == [2, 1]
        assert ran(run, twin, number) == 1
        assert difference(plain.newest, twin.newest) == 0
    assert [sequence for sequence, _, _ in stream.made] == list(range(7)), "none left out, none made twice"
    assert stream.reports[-1].effective_sequence == 3
    assert difference(stream.newest, before) > 3


def test_pictures_are_those_of_a_stream_that_is_moved_to_a_model_made_anew(
    fleet: Callable[[], Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[Any]] = []
    for in_place in (True, False):
        if not in_place:
            monkeypatch.setattr(ModelShelf, "prepare_refit", lambda *_: None)
        run = fleet()
        stream = run.open(params_of(lora_dict=ONE, prompt="the cat"))
        model = model_of(stream)
        for number in range(3):
            ran(run, stream, number)
        run.update(stream, params_of(lora_dict=TWO, prompt="the cat in an hat", guidance_scale=1.4))
        assert (model_of(stream).unet is model.unet) == in_place
        for number in range(3, 6):
            assert ran(run, stream, number) == 2
        made.append([frame for _, _, frame in stream.made])
    assert all(difference(one, other) <= 1 for one, other in zip(*made, strict=True))


def test_while_another_stream_uses_the_model_it_keeps_it(fleet: Callable[[], Fleet]) -> None:
    run = fleet()
    changed, left, twin = (run.open(params_of(lora_dict=ONE)) for _ in range(3))
    model = model_of(left)
    run.close(twin)
    run.update(changed, params_of(lora_dict=TWO))
    assert model_of(left) is model
    assert model_of(changed) is not model
    assert [ran(run, changed, 1), ran(run, left, 1)] == [2, 1]
    assert left.work.pipeline is not None
    assert left.work.pipeline.loras == (("one", 0.6),)
    # Now the one that is left is alone with it.
    places = storages(left)
    run.update(left, params_of(lora_dict={"two": 0.9}))
    assert (storages(left), model_of(left).unet is model.unet) == (places, True)
    assert model_of(changed).loras == (("one", 0.2), ("two", -0.7))


@pytest.mark.parametrize(("wrong", "words"), [({"other": 1.0}, "not for this sd-turbo"), ({"huge": 10.0}, "overflow")])
def test_a_lora_that_cannot_be_had_changes_nothing(
    fleet: Callable[[], Fleet], wrong: dict[str, float], words: str
) -> None:
    run = fleet()
    stream, twin = run.open(params_of(lora_dict=ONE)), run.open(params_of(lora_dict=ONE, seed=4))
    run.close(twin)
    ran(run, stream, 1)
    before = [tensor.clone() for tensor in model_of(stream).unet.parameters()]
    run.update(stream, params_of(lora_dict=wrong, prompt="a dog"))
    report = stream.reports[-1]
    assert (report.phase, report.revision, report.refused_revision) == ("ready", 1, 2)
    assert report.error_code == LoraUnusable.code
    assert words in (report.error_message or "")
    assert all(torch.equal(a, b) for a, b in zip(model_of(stream).unet.parameters(), before, strict=True))
    assert ran(run, stream, 2) == 1
    run.update(stream, params_of(lora_dict=TWO))
    assert ran(run, stream, 3) == 3, "it can still be changed"


def test_an_engine_made_of_the_weights_before_is_let_go_and_another_one_looked_for(
    fleet: Callable[[], Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        def __init__(self) -> None:
            self.requests: list[EngineRequest] = []

        def look_for(self, request: EngineRequest) -> None:
            self.requests.append(request)

    finder = Finder()
    monkeypatch.setattr(groups, "installed_finder", lambda: finder)
    monkeypatch.setattr(diffusion_pipeline, "groups", groups.GroupBook(runner_of))
    run = fleet()
    stream = run.open(params_of(lora_dict=ONE))
    engine = finder.requests[0].runner()
    assert engine is not None
    late = finder.requests[0].runner
    engine.put(Fast(frame_of(model_key(stream))))
    ran(run, stream, 1)
    assert pipeline_of(stream).acceleration == "engine"
    del engine
    run.update(stream, params_of(lora_dict=TWO))
    ran(run, stream, 2)
    assert pipeline_of(stream).acceleration == "torch"
    assert late() is None, "what was looked for has nowhere to go"
    assert [len(request.loras) for request in finder.requests] == [1, 2]


class Fast(EagerRunner):
    @property
    def in_force(self) -> str:
        return "engine"


def model_key(stream: FleetLane) -> GroupKey:
    group = pipeline_of(stream).group
    assert group is not None
    return group.key


def test_no_memory_while_it_is_written_never_shows_half_a_lora(
    fleet: Callable[[], Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fleet()
    stream = run.open(params_of(lora_dict=ONE))
    ran(run, stream, 1)

    def half(model: Model, *_: object) -> Model:
        own_weight(model).add_(1.0)
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(shelf, "refit", half)
    run.update(stream, params_of(lora_dict=TWO))
    assert "making room" in [report.detail for report in stream.reports]
    assert (stream.reports[-1].phase, stream.reports[-1].refused_revision) == ("ready", None)
    assert ran(run, stream, 2) == 2
    base = model_of(stream).base
    assert base is not None
    assert (own_weight(model_of(stream)) - own_weight(base)).abs().max() < 0.9


def own_weight(model: Model) -> torch.Tensor:
    """One that the LoRAs change."""
    return model.unet.get_parameter("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight")


def test_many_changes_hold_no_more_memory_than_one(fleet: Callable[[], Fleet]) -> None:
    run = fleet()
    stream = run.open(params_of(lora_dict=ONE))
    places, kept = storages(stream), diffusion_pipeline.shelf
    for number in range(12):
        run.update(stream, params_of(lora_dict={"one": 0.1 + number / 20}))
        ran(run, stream, number)
    assert storages(stream) == places
    assert kept.count == 2, "the base and the one with LoRAs"


def test_a_model_that_is_not_written_into_after_all_is_there_for_others_again(
    fleet: Callable[[], Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed, go_on, make = threading.Event(), threading.Event(), DiffusionPipeline.plan_slowly

    def late(*what: Any) -> DiffusionPlan | None:
        made = make(*what)
        claimed.set()
        assert go_on.wait(120.0)
        return made

    monkeypatch.setattr(DiffusionPipeline, "plan_slowly", late)
    run = fleet()
    stream = run.open(params_of(lora_dict=ONE))
    model = model_of(stream)
    stream.update(params_of(lora_dict=TWO))
    while not claimed.is_set():
        run.work()
        claimed.wait(0.01)
    stream.update(params_of(lora_dict=ONE, prompt="a dog"))
    until = time.monotonic() + 30.0
    while stream.reports[-1].revision != 3:
        assert time.monotonic() < until
        run.work()
        go_on.wait(0.01)
    assert diffusion_pipeline.shelf.count == 1, "only the base: the other is claimed"
    go_on.set()
    until = time.monotonic() + 30.0
    while diffusion_pipeline.shelf.count == 1:
        assert time.monotonic() < until
        time.sleep(0.01)
    other = run.open(params_of(lora_dict=ONE))
    assert model_of(other) is model_of(stream) is model
    assert [ran(run, stream, 1), ran(run, other, 1)] == [3, 1]
    assert stream.work.pipeline is not None
    assert stream.work.pipeline.loras == (("one", 0.6),)
