"""Networks of image processors whose files stop coming: their places go to others, and whoever asks again is served."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdstream.diffusion.fetching import hub as hub_module
from sdstream.directories import ModelPlaces
from sdstream.model_errors import ModelDownloadFailed
from sdstream.pace import STALL_SECONDS
from sdstream.worker.annotators.shelf import FETCHES, AnnotatorShelf, Loader
from sdstream.worker.annotators.weights import locate
from sdstream.worker.files.published import WeightSource
from tests.support.hub import FakeHub, Repository

NAMES = [f"owner/stops-{number}" for number in range(FETCHES)]
CONTENT = bytes(1000)


class ClockOfEach(threading.local):
    """Each thread's own time, which runs on by half of what a stall takes whenever that thread asks."""

    at = 0.0

    def monotonic(self) -> float:
        self.at += STALL_SECONDS / 2
        return self.at


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    made = FakeHub({name: Repository({"stops.pth": CONTENT}) for name in NAMES})
    made.repositories["owner/comes"] = Repository({"comes.pth": CONTENT})
    made.hold, made.held = threading.Event(), "stops.pth"
    with made.run():
        made.be_the_hub(monkeypatch, tmp_path / "cache")
        monkeypatch.setattr(hub_module, "CLOCK", ClockOfEach())
        yield made


def loader(repository: str, file: str) -> Loader:
    def load(find: Any, dtype: torch.dtype) -> nn.Module:
        assert (locate(WeightSource(repository, (file,), "none"), find, "hed") / file).read_bytes() == CONTENT
        return nn.Identity()

    return load


def test_fetches_that_stall_give_their_places_up_and_are_tried_again_when_asked_for(
    hub: FakeHub, tmp_path: Path
) -> None:
    loaders = {name: loader(name, "stops.pth") for name in NAMES} | {"comes": loader("owner/comes", "comes.pth")}
    shelf = AnnotatorShelf(torch.device("cpu"), ModelPlaces(tmp_path / "models"), loaders=loaders)
    stopped = [shelf.request(name) for name in NAMES]
    assert isinstance(shelf.request("comes").result(30), nn.Module)
    for load in stopped:
        error = load.exception(30)
        assert isinstance(error, ModelDownloadFailed)
        assert "stalls" in error.message
    assert hub.hold is not None
    hub.hold.set()
    assert all(isinstance(shelf.request(name).result(30), nn.Module) for name in NAMES)
