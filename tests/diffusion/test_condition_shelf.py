"""The shelf of ControlNets: what one stream fetches is fetched once, and holds up nobody who wants something else."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.diffusion.conditions import load_adapter
from sdstream.diffusion.loading.models import Model, load_model
from sdstream.diffusion.tiny_conditions import make_tiny_adapter, write_tiny_controlnet
from sdstream.directories import ModelPlaces
from sdstream.model_errors import ModelDownloadFailed, ModelUnavailable
from sdstream.worker import conditions
from sdstream.worker.conditions import Conditions, ConditionShelf, WantedConditions, WantedNet
from sdstream.worker.outcomes import LoadGivenUp
from tests.diffusion.conftest import CPU

SECONDS = 30.0
"""How long a test waits for what must happen; what hangs does so for longer."""
PLACES = ModelPlaces()


class Fetcher:
    """In the place of `get_files`: a fetch of `far` lasts until `let_go`, and `fails` if that is set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def get_files(self, name: str, *rest: Any) -> Path:
        self.asked.append(name)
        if name == "far":
            self.begun.set()
            assert self.let_go.wait(4 * SECONDS)
            if self.error is not None:
                error, self.error = self.error, None
                raise error
        return self.folder


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("sd-turbo")


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("net")
    write_tiny_controlnet(made, model.unet)
    return made


@pytest.fixture
def fetcher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetcher]:
    made = Fetcher(folder)
    monkeypatch.setattr(conditions, "get_files", made.get_files)
    yield made
    made.let_go.set()


@pytest.fixture
def threads(fetcher: Fetcher) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made
        fetcher.let_go.set()


class Waiter:
    """The progress of a stream: `waits` is set once it waits for another's, and `gives_up` ends that."""

    def __init__(self) -> None:
        self.waits, self.gives_up = threading.Event(), False

    def __call__(self, detail: str, percent: float | None) -> None:
        if "waiting for another stream" in detail:
            self.waits.set()
        if self.gives_up:
            raise LoadGivenUp


def got(shelf: ConditionShelf, name: str, model: Model, progress: Any) -> Conditions:
    return shelf.get(WantedConditions((WantedNet(name),)), model, PLACES, progress)


def test_a_fetch_that_hangs_holds_up_no_other_controlnet(
    model: Model, fetcher: Fetcher, threads: ThreadPoolExecutor
) -> None:
    shelf = ConditionShelf()
    hangs = threads.submit(got, shelf, "far", model, Waiter())
    assert fetcher.begun.wait(SECONDS)
    assert threads.submit(got, shelf, "near", model, Waiter()).result(SECONDS).controlnets
    assert not hangs.done()
    fetcher.let_go.set()
    assert hangs.result(SECONDS).controlnets


def test_two_streams_that_want_the_same_fetch_it_once(
    model: Model, fetcher: Fetcher, threads: ThreadPoolExecutor
) -> None:
    shelf, waiter = ConditionShelf(), Waiter()
    first = threads.submit(got, shelf, "far", model, Waiter())
    assert fetcher.begun.wait(SECONDS)
    second = threads.submit(got, shelf, "far", model, waiter)
    assert waiter.waits.wait(SECONDS)
    fetcher.let_go.set()
    assert first.result(SECONDS).controlnets[0] is second.result(SECONDS).controlnets[0]
    assert fetcher.asked == ["far"]


def test_who_waits_for_a_fetch_that_fails_fetches_anew_and_is_not_told_of_it(
    model: Model, fetcher: Fetcher, threads: ThreadPoolExecutor
) -> None:
    shelf, waiter = ConditionShelf(), Waiter()
    fetcher.error = ModelDownloadFailed("the hub does not answer")
    first = threads.submit(got, shelf, "far", model, Waiter())
    assert fetcher.begun.wait(SECONDS)
    second = threads.submit(got, shelf, "far", model, waiter)
    assert waiter.waits.wait(SECONDS)
    fetcher.let_go.set()
    assert second.result(SECONDS).controlnets
    assert isinstance(first.exception(SECONDS), ModelDownloadFailed)


def test_who_waits_for_anothers_fetch_can_give_up(model: Model, fetcher: Fetcher, threads: ThreadPoolExecutor) -> None:
    shelf, waiter = ConditionShelf(), Waiter()
    threads.submit(got, shelf, "far", model, Waiter())
    assert fetcher.begun.wait(SECONDS)
    second = threads.submit(got, shelf, "far", model, waiter)
    assert waiter.waits.wait(SECONDS)
    waiter.gives_up = True
    assert isinstance(second.exception(SECONDS), LoadGivenUp)
    assert not fetcher.let_go.is_set()


def test_an_adapter_that_stays_keeps_no_model_that_nobody_uses(
    tiny_directory: Callable[..., Path], places: ModelPlaces
) -> None:
    shelf = ConditionShelf()
    model = load_model(tiny_directory("sd15"), "sd15", CPU)
    loaded = shelf.get(WantedConditions(adapter="regular"), model, places, lambda detail, percent: None)
    again = shelf.get(WantedConditions(adapter="regular"), model, places, lambda detail, percent: None)
    assert again.adapter is loaded.adapter
    held = weakref.ref(model)
    del model, loaded, again
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(
    "spoilt", ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight", "ip_adapter.0.to_q_lora.up.weight"]
)
def test_an_adapter_with_numbers_that_are_not_finite_is_refused_by_name(
    tiny_model: Callable[..., Model], tmp_path: Path, spoilt: str
) -> None:
    face = "lora" in spoilt
    unet = tiny_model("sdxl-turbo" if face else "sd15").unet
    state = make_tiny_adapter(unet, face=face, changes=face)
    group, _, key = spoilt.partition(".")
    state[group][key] = torch.full_like(state[group][key], float("nan"))
    torch.save(state, tmp_path / "adapter.bin")
    with pytest.raises(ModelUnavailable, match=r"adapter\.bin holds weights that are not finite"):
        load_adapter(tmp_path / "adapter.bin", unet)
