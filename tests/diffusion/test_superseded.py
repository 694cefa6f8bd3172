"""Newer params end what is fetched or loaded for those before: at once, without an error, and the newest win."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.diffusion.fetching import hub as hub_module
from sdstream.directories import ModelPlaces
from sdstream.model_errors import ModelDownloadFailed
from sdstream.params import ModelEntry, ModelTable
from sdstream.worker import work
from sdstream.worker.pipelines import Pipeline, make_pipeline
from tests.diffusion.fleet import MODEL, Fleet, FleetLane, params_of, ran
from tests.support.hub import FakeHub

Directory = Callable[..., Path]
OTHER, UNET = "somebody/far-turbo", "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, tiny_directory: Directory, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that stops in the middle of the UNet of a second tiny SD-Turbo."""
    made = FakeHub()
    made.add(OTHER, shutil.copytree(tiny_directory("sd-turbo"), tmp_path / "upstream"))
    made.hold, made.held = threading.Event(), UNET
    with made.run():
        made.be_the_hub(monkeypatch, tmp_path / "cache")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 10.0)
        monkeypatch.setattr(hub_module, "PAUSE_SECONDS", 0.0)
        monkeypatch.setattr(hub_module, "SPARE_BYTES", 0)
        monkeypatch.setattr(hub_module, "ATTEMPTS", 1000)
        yield made


@pytest.fixture
def fleet(hub: FakeHub, tiny_directory: Directory, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tiny_directory("sd-turbo")) as made:
        entries = [
            ModelEntry(MODEL, "sd-turbo", str(tiny_directory("sd-turbo"))),
            ModelEntry(OTHER, "sd-turbo", OTHER),
        ]
        made.models = ModelTable(entries, places=ModelPlaces(tmp_path / "models", tmp_path / "loras"))
        yield made


def far(**fields: Any) -> Any:
    return params_of(**fields).model_copy(update={"model_id": OTHER})


def download_begun(fleet: Fleet, stream: FleetLane) -> None:
    """Work until bytes of the far model have come and no more do."""
    while not any(UNET in report.detail and (report.percent or 0) > 0 for report in stream.reports):
        fleet.work()
        fleet.clock.monotonic()
        threading.Event().wait(0.01)


def test_a_download_is_given_up_for_newer_params_and_no_error_is_told(fleet: Fleet, hub: FakeHub) -> None:
    stream = fleet.open(params_of())
    stream.update(far())
    download_begun(fleet, stream)
    assert ran(fleet, stream, 1) == 1
    stream.update(params_of(prompt="a dog"))
    fleet.settle()
    assert ran(fleet, stream, 2) == 3
    assert [report.error_code for report in stream.reports if report.error_code] == []
    assert hub.hold is not None
    assert not hub.hold.is_set()
    # What has come is kept: the next one who wants it goes on from there.
    hub.hold.set()
    fleet.update(stream, far())
    assert ran(fleet, stream, 3) == 4
    assert any(request.range for request in hub.asked_for(UNET))


def test_a_stream_that_never_had_a_picture_gives_its_first_model_up(fleet: Fleet) -> None:
    stream = fleet.open(far(), settled=False)
    download_begun(fleet, stream)
    stream.update(params_of())
    fleet.settle()
    assert ran(fleet, stream, 1) == 2
    assert "failed" not in [report.phase for report in stream.reports]


def test_the_picture_comes_back_when_newer_params_end_a_load_that_had_its_room(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, loads = threading.Event(), iter(range(10))

    def make(params: Any, device: Any, progress: Any, *rest: Any) -> Pipeline:
        number = next(loads)
        if number == 1:
            raise torch.OutOfMemoryError("no memory for two")
        if number == 2:
            begun.set()
            while True:  # until newer params end it
                progress("loading", None)
        return make_pipeline(params, device, progress, *rest)

    monkeypatch.setattr(work, "make_pipeline", make)
    stream = fleet.open(params_of())
    stream.update(params_of(t_index_list=[30]))
    while not begun.is_set():
        fleet.work()
        begun.wait(0.01)
    stream.update(params_of(t_index_list=[10, 20, 30]))
    fleet.settle()
    assert ran(fleet, stream, 1) == 3
    assert [report.error_code for report in stream.reports if report.error_code] == []


def test_the_picture_comes_back_when_what_took_the_place_of_a_load_that_had_its_room_fails(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, loads = threading.Event(), iter(range(10))

    def make(params: Any, device: Any, progress: Any, *rest: Any) -> Pipeline:
        number = next(loads)
        if number == 1:
            raise torch.OutOfMemoryError("no memory for two")
        if number == 2:
            begun.set()
            while True:  # until newer params end it
                progress("loading", None)
        if number == 3:
            raise ModelDownloadFailed("the hub does not answer")
        return make_pipeline(params, device, progress, *rest)

    monkeypatch.setattr(work, "make_pipeline", make)
    stream = fleet.open(params_of())
    stream.update(params_of(t_index_list=[30]))
    while not begun.is_set():
        fleet.work()
        begun.wait(0.01)
    fleet.update(stream, params_of(t_index_list=[10, 20, 30]))
    assert (stream.reports[-1].phase, stream.reports[-1].revision) == ("ready", 1)
    assert (stream.reports[-1].error_code, stream.reports[-1].refused_revision) == (ModelDownloadFailed.code, 3)
    assert ran(fleet, stream, 1) == 1
