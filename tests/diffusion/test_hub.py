"""Fetching from a hub: only what is needed, resumed, checked, and every way it can fail has a name."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.diffusion.fetching import hub as hub_module
from sdstream.diffusion.fetching.pins import MANIFEST, find_differences, pinned_hash, read_pins, write_pins
from sdstream.diffusion.fetching.repositories import PARTIAL, HubId, commit_of
from sdstream.diffusion.fetching.selection import RemoteFile, choose_lora_file, choose_model_files
from sdstream.diffusion.fetching.sources import (
    fetch_chosen,
    fetch_model,
    find_model,
    find_tokenizer,
    get_model,
    may_fetch,
)
from sdstream.diffusion.loading.models import load_model
from sdstream.directories import ModelPlaces
from sdstream.errors import OutOfMemory
from sdstream.model_errors import (
    LoraUnusable,
    ModelAccessDenied,
    ModelDiskFull,
    ModelDownloadFailed,
    ModelNotAsPinned,
    ModelUnavailable,
)
from sdstream.pace import STALL_SECONDS
from sdstream.worker.loading.room import MemoryReport
from sdstream.worker.loading.shelf import ModelShelf, WantedModel
from tests.support.hub import FakeHub, Repository

CPU = torch.device("cpu")
ID = "stabilityai/sd-turbo"
UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


def quiet(detail: str, percent: float | None) -> None:
    pass


@pytest.fixture
def hub(tmp_path: Path, tiny_directory: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with a tiny sd-turbo, its VAE's weights and half precision included, and a TAESD."""
    folder = shutil.copytree(tiny_directory("sd-turbo"), tmp_path / "upstream")
    shutil.move(folder / "taesd", tmp_path / "taesd")
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes((folder / UNET).read_bytes())
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("about")
    made = FakeHub()
    made.add(ID, folder)
    made.add("madebyollin/taesd", tmp_path / "taesd")
    with made.run():
        made.be_the_hub(monkeypatch, tmp_path / "cache")
        monkeypatch.setattr(hub_module, "PAUSE_SECONDS", 0.0)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield made


@pytest.fixture
def places(tmp_path: Path) -> ModelPlaces:
    return ModelPlaces(tmp_path / "data/models", tmp_path / "data/loras")


def get(places: ModelPlaces, source: str = ID, *, half: bool = False, progress: Any = quiet) -> Path:
    return get_model(source, "sd-turbo", places, half=half, progress=progress).path


def test_a_model_that_is_not_here_is_fetched_and_loads(hub: FakeHub, places: ModelPlaces) -> None:
    told: list[tuple[str, float | None]] = []
    files = get_model(ID, "sd-turbo", places, half=False, progress=lambda *said: told.append(said))
    assert files.path == places.models / ID if places.models else False
    assert load_model(files.path, "sd-turbo", CPU, taesd_elsewhere=files.taesd).has_taesd
    assert commit_of(files.path) == "a" * 40
    percents = [percent for detail, percent in told if percent is not None and ID in detail]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert any(f"downloading {ID}: {UNET}" in detail for detail, _ in told)


def test_only_what_is_needed_is_fetched(hub: FakeHub, places: ModelPlaces) -> None:
    path = get(places)
    names = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert {UNET, TEXT, "vae/config.json", "model_index.json", "tokenizer/tokenizer.json"} <= names
    unwanted = ("README.md", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors")
    assert not names & {*unwanted, "vae/diffusion_pytorch_model.safetensors"}


def test_a_model_that_cannot_fit_is_not_fetched(hub: FakeHub, places: ModelPlaces) -> None:
    shelf = ModelShelf(memory=lambda device: MemoryReport(1000))
    with pytest.raises(OutOfMemory, match="1000 bytes"):
        shelf.get(WantedModel(ID, "sd-turbo", places=places), CPU, quiet)
    assert places.models is not None
    assert (places.models / "madebyollin/taesd/config.json").is_file(), "it came first"
    assert not [file for file in places.models.rglob("*") if "unet" in file.parts]


def test_half_precision_is_preferred_where_it_is_wanted(hub: FakeHub, places: ModelPlaces) -> None:
    path = get(places, half=True)
    assert [file.name for file in (path / "unet").glob("*.safetensors")] == ["diffusion_pytorch_model.fp16.safetensors"]


def test_the_own_vae_is_fetched_when_it_is_wanted_or_there_is_no_small_one(hub: FakeHub, places: ModelPlaces) -> None:
    assert places.models is not None
    full = ModelPlaces(places.models, places.loras, full_vae=True)
    path = get(places)
    assert not (path / "vae/diffusion_pytorch_model.safetensors").exists()
    assert get(full) == path
    assert (path / "vae/diffusion_pytorch_model.safetensors").is_file(), "what is lacking comes into the same place"
    shutil.rmtree(places.models)
    del hub.repositories["madebyollin/taesd"]
    told: list[str] = []
    path = get(places, progress=lambda detail, percent: told.append(detail))
    assert not load_model(path, "sd-turbo", CPU).has_taesd
    assert any("the small VAE cannot be had" in line for line in told)


def test_what_is_here_is_not_asked_for_again(hub: FakeHub, places: ModelPlaces) -> None:
    path = get(places)
    hub.requests.clear()
    assert get(places) == path
    assert hub.requests == []


def test_a_connection_that_breaks_off_goes_on_from_there(hub: FakeHub, places: ModelPlaces) -> None:
    size = len(hub.repositories[ID].files[UNET])
    hub.cuts[UNET] = [size // 3, 1000]
    path = get(places)
    assert (path / UNET).read_bytes() == hub.repositories[ID].files[UNET]
    ranges = [request.range for request in hub.asked_for(UNET)]
    assert ranges == [None, f"bytes={size // 3}-", f"bytes={size // 3 + 1000}-"]


def test_a_fetch_that_was_given_up_goes_on_next_time(hub: FakeHub, places: ModelPlaces) -> None:
    class GivenUp(Exception):
        pass

    def give_up(detail: str, percent: float | None) -> None:
        if UNET in detail and hub.asked_for(UNET):
            raise GivenUp

    size = len(hub.repositories[ID].files[UNET])
    hub.cuts[UNET] = [size // 2]
    with pytest.raises(GivenUp):
        get(places, progress=give_up)
    with pytest.raises(ModelUnavailable):
        find_model(ID, places)  # half a model is none
    hub.requests.clear()
    assert (get(places) / UNET).read_bytes() == hub.repositories[ID].files[UNET]
    assert hub.asked_for(TEXT) == [], "what came whole is kept"


def test_bytes_that_were_spoilt_on_the_way_are_noticed(hub: FakeHub, places: ModelPlaces) -> None:
    hub.spoilt[UNET] = 1
    hub.spoilt["model_index.json"] = 1
    path = get(places)
    for name in (UNET, "model_index.json"):
        assert (path / name).read_bytes() == hub.repositories[ID].files[name]
        assert len(hub.asked_for(name)) == 2


def test_bytes_that_stay_wrong_are_refused_by_name(hub: FakeHub, places: ModelPlaces) -> None:
    hub.spoilt[UNET] = 9
    with pytest.raises(ModelDownloadFailed, match=f"{UNET} came twice with bytes that are not"):
        get(places)
    with pytest.raises(ModelUnavailable):
        find_model(ID, places)


def test_a_server_that_always_breaks_off_is_given_up(hub: FakeHub, places: ModelPlaces) -> None:
    hub.cuts[UNET] = [10] + [0] * 99
    with pytest.raises(ModelDownloadFailed, match=f"{UNET} cannot be fetched whole"):
        get(places)


class Jumping:
    """A clock that is asked once for each piece that comes, and is so many seconds on each time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = 0.0

    def monotonic(self) -> float:
        self.at += self.seconds
        return self.at


def test_tries_that_bring_a_few_bytes_each_end_when_they_take_too_long_together(
    hub: FakeHub, places: ModelPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "CLOCK", Jumping(STALL_SECONDS / 10))
    hub.cuts[UNET] = [10] * 99
    with pytest.raises(ModelDownloadFailed, match=rf"{UNET} stalls; \d+ of \d+ bytes are here") as caught:
        fetch_chosen(ID, [UNET], places, quiet)
    assert "goes on from there" in caught.value.hint
    came = 10 * len(hub.asked_for(UNET))
    hub.cuts.clear()
    hub.requests.clear()
    monkeypatch.setattr(hub_module, "CLOCK", Jumping(0.0))
    assert (fetch_chosen(ID, [UNET], places, quiet) / UNET).read_bytes() == hub.repositories[ID].files[UNET]
    assert [request.range for request in hub.asked_for(UNET)] == [f"bytes={came}-"]


def test_a_file_that_hangs_after_a_little_ends_within_its_connection(
    hub: FakeHub, places: ModelPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdstream.pace.LEAST_BYTES", len(hub.repositories[ID].files[UNET]))
    monkeypatch.setattr(hub_module, "CLOCK", Jumping(STALL_SECONDS / 2))
    hub.hold, hub.held = threading.Event(), UNET
    with pytest.raises(ModelDownloadFailed, match=f"{UNET} stalls"):
        fetch_chosen(ID, [UNET], places, quiet)
    assert len(hub.asked_for(UNET)) == 1


def test_a_gated_model_names_the_way_and_opens_with_a_token(
    hub: FakeHub, places: ModelPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[ID].gated = True
    for token in (None, "hf_of_somebody_else"):
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(ModelAccessDenied, match="gated") as caught:
            get(places)
        assert "HF_TOKEN" in caught.value.hint
        assert "Accept the licence" in caught.value.hint
        assert "hf_of" not in f"{caught.value} {caught.value.hint}"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert (get(places) / UNET).is_file()


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: FakeHub, places: ModelPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    path = get(places)
    with_token = {request.host.partition(":")[0] for request in hub.requests if request.authorization}
    assert with_token == {"127.0.0.1"}
    assert any(request.host.startswith("localhost") for request in hub.requests), "large files come from another host"
    assert not any(hub.token in file.read_text("utf-8") for file in path.rglob("*.json"))


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        ("nobody/nothing", ModelAccessDenied, "no repository nobody/nothing, or it is private"),
        (f"{ID}@v9", ModelUnavailable, f"{ID} has no revision v9"),
        ("not a hub id", ModelUnavailable, "no directory and no .safetensors file has this name"),
    ],
)
def test_what_the_hub_does_not_have_is_said(
    hub: FakeHub, places: ModelPlaces, source: str, kind: type[ModelUnavailable], said: str
) -> None:
    with pytest.raises(kind, match=said):
        get(places, source)


def test_a_hub_that_fails_or_is_not_there_is_said(
    hub: FakeHub, places: ModelPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.broken = 500
    with pytest.raises(ModelDownloadFailed, match="the hub answered 500"):
        get(places)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelDownloadFailed, match="cannot be reached") as caught:
        get(places)
    assert caught.value.retryable


@pytest.mark.parametrize("how", ["setting", "variable"])
def test_offline_nothing_is_asked_for(
    hub: FakeHub, places: ModelPlaces, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    offline = ModelPlaces(places.models, places.loras, offline=how == "setting")
    if how == "variable":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not may_fetch(ID, offline)
    with pytest.raises(ModelUnavailable, match=r"not on this machine, and .*OFFLINE forbids"):
        get(offline)
    assert hub.requests == []


def test_a_disk_without_room_is_found_before_anything_comes(
    hub: FakeHub, places: ModelPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = hub_module.SPARE_BYTES + 1000
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    with pytest.raises(ModelDiskFull, match=r"madebyollin/taesd needs|sd-turbo needs"):
        fetch_model(HubId(ID), places, half=False, vae=False, progress=quiet)
    assert hub.asked_for(UNET) == []


def test_a_revision_has_a_place_of_its_own(hub: FakeHub, places: ModelPlaces) -> None:
    hub.repositories[ID].revisions = ("main", "v1")
    assert places.models is not None
    assert get(places, f"{ID}@v1") == places.models / f"{ID}@v1"
    assert find_model(f"{ID}@v1", places) == places.models / f"{ID}@v1"
    with pytest.raises(ModelUnavailable):
        find_model(ID, places)


def test_a_newer_commit_replaces_the_old_one_whole(hub: FakeHub, places: ModelPlaces) -> None:
    path = get(places)
    hub.repositories[ID].commit = "b" * 40
    hub.repositories[ID].files["scheduler/scheduler_config.json"] += b" "
    assert fetch_model(HubId(ID), places, half=False, vae=False, progress=quiet) == path
    assert commit_of(path) == "b" * 40
    assert (path / "scheduler/scheduler_config.json").read_bytes().endswith(b" ")
    assert places.models is not None
    assert [entry.name for entry in (places.models / PARTIAL).iterdir() if entry.suffix != ".lock"] == []


def test_a_directory_that_a_person_made_is_left_alone(hub: FakeHub, places: ModelPlaces) -> None:
    assert places.models is not None
    own = places.models / ID
    own.mkdir(parents=True)
    (own / "mine").write_text("mine")
    with pytest.raises(ModelUnavailable, match="left as it is"):
        fetch_model(HubId(ID), places, half=False, vae=False, progress=quiet)
    assert [entry.name for entry in own.iterdir()] == ["mine"]


def test_a_directory_below_models_is_found(places: ModelPlaces, tiny_directory: Callable[..., Path]) -> None:
    assert places.models is not None
    for name in (ID, "mine"):
        shutil.copytree(tiny_directory("sd-turbo"), places.models / name)
        assert find_model(name, places) == places.models / name
    assert find_tokenizer(places) == places.models / ID / "tokenizer"
    with pytest.raises(ModelUnavailable):
        find_model("../models/mine", places)


def test_two_at_once_fetch_once(hub: FakeHub, places: ModelPlaces) -> None:
    assert places.models is not None
    waits: list[str] = []
    lock = places.models / PARTIAL / "stabilityai--sd-turbo.lock"
    other = hub_module.only_one(lock, ID, quiet)

    def progress(detail: str, percent: float | None) -> None:
        if "waiting" in detail:
            waits.append(detail)
            other.__exit__(None, None, None)

    other.__enter__()
    assert (get(places, progress=progress) / MANIFEST).is_file()
    assert waits == [f"waiting for another process that fetches {ID}"]


# -- which files, decided without a hub


def files(*names: str) -> list[RemoteFile]:
    return [RemoteFile(name, 1) for name in names]


SMALLEST = ("model_index.json", "unet/config.json", TEXT, UNET)


def test_shards_are_taken_with_their_index() -> None:
    shards = [f"unet/diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    half = "unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors"
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    chosen = choose_model_files("a/b", files(*SMALLEST[:3], index, half, *shards), half=False, vae=False)
    assert {file.name for file in chosen} == {*SMALLEST[:3], index, *shards}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model.safetensors"], "no diffusers model: it has no model_index.json"),
        ([*SMALLEST[:3]], f"a/b has no {UNET}"),
        ([*SMALLEST[:3], "unet/diffusion_pytorch_model.bin"], "only unet/diffusion_pytorch_model.bin, a pickle"),
    ],
)
def test_what_a_repository_lacks_is_named(names: list[str], said: str) -> None:
    with pytest.raises(ModelUnavailable, match=said):
        choose_model_files("a/b", files(*names), half=False, vae=False)


def test_the_file_of_a_lora_is_chosen() -> None:
    assert choose_lora_file("a/b", files("x.safetensors", "README.md")).name == "x.safetensors"
    both = files("x.safetensors", "pytorch_lora_weights.safetensors")
    assert choose_lora_file("a/b", both).name == "pytorch_lora_weights.safetensors"
    assert choose_lora_file("a/b", both, "x.safetensors").name == "x.safetensors"
    for names, wanted, said in (
        (["x.safetensors", "y.safetensors"], None, "2 safetensors files: x.safetensors, y.safetensors"),
        (["x.bin"], None, "no safetensors file"),
        (["x.safetensors"], "z.safetensors", "no file z.safetensors; it has x.safetensors"),
    ):
        with pytest.raises(LoraUnusable, match=said):
            choose_lora_file("a/b", files(*names), wanted)


@pytest.mark.parametrize("source", ["a/b", "a/b@main", "a/b@refs/pr/1", "A-b.c/d_e"])
def test_hub_ids_are_known(source: str) -> None:
    hub_id = HubId.parse(source)
    assert hub_id is not None
    assert hub_id.folder.count("/") == 1


@pytest.mark.parametrize("source", ["", "a", "/a/b", "a/b/c", "a/../b", "a/b@", "a b/c", "a/b@../c", "a/b\n"])
def test_other_names_are_no_hub_ids(source: str) -> None:
    assert HubId.parse(source) is None


NET = "me/net"
FILES = ("config.json", "net.safetensors")


def fetch_net(hub: FakeHub, tmp_path: Path) -> Path:
    return fetch_chosen(NET, FILES, ModelPlaces(tmp_path / "models"), quiet)


def offer_net(hub: FakeHub, content: bytes = b"weights") -> None:
    hub.repositories[NET] = Repository({"config.json": b"{}", "net.safetensors": content})


def test_what_is_pinned_is_fetched_at_its_commit_and_byte_for_byte_or_not_at_all(hub: FakeHub, tmp_path: Path) -> None:
    offer_net(hub)
    folder, root = fetch_net(hub, tmp_path), tmp_path / "models"
    pins = write_pins(root)
    assert pins[NET].commit == "a" * 40
    assert set(pins[NET].files) == set(FILES)
    assert read_pins(root) == pins
    assert pinned_hash(folder, "net.safetensors") == hashlib.sha256(b"weights").hexdigest()
    shutil.rmtree(folder)
    fetch_net(hub, tmp_path)
    assert any(request.path.endswith(f"/{NET}/revision/{'a' * 40}") for request in hub.requests)
    assert find_differences(root) == []
    # The same commit with other bytes, as a hub or mirror that cannot be trusted has it: its own hash would fit.
    shutil.rmtree(folder)
    offer_net(hub, b"WEIGHTS")
    with pytest.raises(
        ModelNotAsPinned, match=r"offers net\.safetensors with the hash .* and pins\.json pins"
    ) as caught:
        fetch_net(hub, tmp_path)
    assert "models/pins.json" in caught.value.hint
    assert not folder.exists()
    assert not hub.asked_for("net.safetensors")[2:], "nothing is fetched that is known to be wrong"
    # Nor does a newest commit with other bytes take the place of one that is no longer there.
    hub.repositories[NET].commit = "b" * 40
    with pytest.raises(ModelNotAsPinned, match=f"{NET} no longer has the commit aaaaaaaaaa, which pins.json pins"):
        fetch_net(hub, tmp_path)


def test_pins_are_compared_with_what_is_here(hub: FakeHub, tmp_path: Path) -> None:
    offer_net(hub)
    folder, root = fetch_net(hub, tmp_path), tmp_path / "models"
    assert find_differences(root) == [f"{NET} is not pinned"]
    write_pins(root)
    (folder / "net.safetensors").write_bytes(b"changed")
    (folder / "more.txt").write_text("more")
    (folder / "config.json").unlink()
    assert find_differences(root) == [
        f"{NET}/config.json is pinned and not here",
        f"{NET}/more.txt is not pinned",
        f"{NET}/net.safetensors is not what was pinned",
    ]
    (root / "pins.json").write_text("[1]")
    with pytest.raises(ModelUnavailable, match="holds no pins"):
        fetch_net(hub, tmp_path)


@pytest.mark.parametrize("answer", [b"<html>Sign in</html>", b"null", b"{}", b'{"id": "a/b", "siblings": 5}', b"\xff"])
def test_what_answers_in_the_hubs_place_is_told(answer: bytes, tmp_path: Path, hub: FakeHub) -> None:
    hub.repositories[ID].answer = answer
    with pytest.raises(ModelDownloadFailed, match="is no hub"):
        fetch_model(HubId(ID), ModelPlaces(tmp_path / "models"), half=False, vae=False, progress=quiet)
