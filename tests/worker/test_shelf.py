"""The shelf: one model for those who want the same, LoRAs from wherever they are, turned in place for one alone."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.diffusion.tiny import write_tiny_lora, write_tiny_model
from sdstream.directories import ModelPlaces
from sdstream.fetching import PublicFetcher
from sdstream.model_errors import LoraUnusable, ModelDownloadFailed, ModelUnavailable
from sdstream.params import ModelEntry, ModelTable, parse_create
from sdstream.worker.files import loras
from sdstream.worker.files.loras import LCM_LORAS, LoraFiles, shown
from sdstream.worker.loading.shelf import ModelShelf, ModelUse, WantedModel
from tests.support.hub import FakeHub

CPU = torch.device("cpu")
SD15, TURBO = "Lykon/dreamshaper-8", "stabilityai/sd-turbo"
LCM = (LCM_LORAS["sd15"], 1.0)


def quiet(detail: str, percent: float | None) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of two families, and the LoRAs `one` and `two` for the first; not to be changed."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    root = tmp_path_factory.mktemp("shelf")
    write_tiny_model(root / "sd15", "sd15", width=16)
    write_tiny_model(root / "turbo", "sd-turbo", width=16)
    model = ModelShelf().get(WantedModel(str(root / "sd15"), "sd15"), CPU, quiet)
    (root / "loras/mine").mkdir(parents=True)
    for seed, name in enumerate(("one", "two", "mine/three")):
        write_tiny_lora(root / f"loras/{name}.safetensors", model.unet, seed=seed, strength=0.2)
    return root


@pytest.fixture
def places(folder: Path) -> ModelPlaces:
    return ModelPlaces(folder / "models", folder / "loras", offline=True)


def wanted(folder: Path, places: ModelPlaces, model: str = SD15, **fields: Any) -> WantedModel:
    entries = [ModelEntry(SD15, "sd15", str(folder / "sd15")), ModelEntry(TURBO, "sd-turbo", str(folder / "turbo"))]
    table = ModelTable(entries, places=places)
    params = parse_create({"pipeline": "streamdiffusion", "params": {"model_id": model, **fields}}, table).params
    return WantedModel.of(params, table)


def test_streams_that_want_the_same_share_a_model_and_others_do_not(folder: Path, places: ModelPlaces) -> None:
    shelf = ModelShelf()
    plain = shelf.get(wanted(folder, places, use_lcm_lora=False), CPU, quiet)
    first = shelf.get(wanted(folder, places, lora_dict={"one": 0.5, "two": 1.0}, use_lcm_lora=False), CPU, quiet)
    same = shelf.get(wanted(folder, places, lora_dict={"two": 1.0, "one": 0.5}, use_lcm_lora=False), CPU, quiet)
    other = shelf.get(wanted(folder, places, lora_dict={"one": 0.6, "two": 1.0}, use_lcm_lora=False), CPU, quiet)
    none = shelf.get(wanted(folder, places, lora_dict={"one": 0.0}, use_lcm_lora=False), CPU, quiet)
    assert first is same
    assert none is plain
    assert len({id(model) for model in (plain, first, other)}) == 3
    assert first.loras == (("one", 0.5), ("two", 1.0))
    assert first.vae is plain.vae is other.vae, "loaded once"
    assert plain.loras == ()


def test_the_lcm_lora_is_fused_where_the_model_needs_it(folder: Path, places: ModelPlaces) -> None:
    shelf = ModelShelf()
    assert shelf.get(wanted(folder, places), CPU, quiet).loras == (LCM,)
    assert shelf.get(wanted(folder, places, lora_dict={"one": 0.5}), CPU, quiet).loras == (LCM, ("one", 0.5))
    assert shelf.get(wanted(folder, places, use_lcm_lora=False), CPU, quiet).loras == ()
    assert shelf.get(wanted(folder, places, TURBO), CPU, quiet).loras == (), "turbo models ignore it"


def test_a_missing_lcm_lora_is_named_with_the_way_out(folder: Path, places: ModelPlaces, tmp_path: Path) -> None:
    shutil.copytree(folder / "sd15", tmp_path / "sd15")
    shutil.rmtree(tmp_path / "sd15/lcm_lora")
    with pytest.raises(LoraUnusable, match=f"{LCM[0]} is not on this machine") as caught:
        ModelShelf().get(wanted(tmp_path, places), CPU, quiet)
    assert "use_lcm_lora" in caught.value.hint


def test_one_alone_is_turned_to_other_loras_in_place(folder: Path, places: ModelPlaces) -> None:
    shelf, use = ModelShelf(), ModelUse()
    model = shelf.get(wanted(folder, places, lora_dict={"one": 0.5}, use_lcm_lora=False), CPU, quiet, use)
    storages = [parameter.data_ptr() for parameter in model.unet.parameters()]
    asked = wanted(folder, places, lora_dict={"one": 0.2, "two": 0.7}, use_lcm_lora=False)
    before = model.unet.state_dict()["conv_in.weight"].clone(), model.loras
    refit = shelf.prepare_refit(model, asked, CPU, quiet, use)
    assert refit is not None
    assert (torch.equal(model.unet.state_dict()["conv_in.weight"], before[0]), model.loras) == (True, before[1])
    assert refit.claim()
    turned = refit.write()
    assert [parameter.data_ptr() for parameter in turned.unet.parameters()] == storages
    assert shelf.get(asked, CPU, quiet) is turned
    fresh = ModelShelf().get(asked, CPU, quiet)
    assert all(torch.equal(a, b) for a, b in zip(turned.unet.parameters(), fresh.unet.parameters(), strict=True))
    again = shelf.get(wanted(folder, places, lora_dict={"one": 0.5}, use_lcm_lora=False), CPU, quiet)
    assert again is not turned, "what was asked for before is made anew"


def test_what_cannot_be_turned_in_place_is_not(folder: Path, places: ModelPlaces) -> None:
    shelf, use = ModelShelf(), ModelUse()
    plain = shelf.get(wanted(folder, places, use_lcm_lora=False), CPU, quiet, use)
    one = wanted(folder, places, lora_dict={"one": 0.5}, use_lcm_lora=False)
    assert shelf.prepare_refit(plain, one, CPU, quiet, use) is None, "others may use the base"
    model = shelf.get(one, CPU, quiet, use)
    assert shelf.prepare_refit(model, one, CPU, quiet, use) is None, "it is that already"
    missing = wanted(folder, places, lora_dict={"nothing": 1.0}, use_lcm_lora=False)
    with pytest.raises(LoraUnusable, match="no LoRA nothing"):
        shelf.prepare_refit(model, missing, CPU, quiet, use)


def test_a_model_that_others_use_is_not_turned_under_them(folder: Path, places: ModelPlaces) -> None:
    shelf, use, other = ModelShelf(), ModelUse(), ModelUse()
    one = wanted(folder, places, lora_dict={"one": 0.5}, use_lcm_lora=False)
    two = wanted(folder, places, lora_dict={"two": 0.5}, use_lcm_lora=False)
    model = shelf.get(one, CPU, quiet, use)
    refit = shelf.prepare_refit(model, two, CPU, quiet, use)
    assert refit is not None
    assert shelf.get(one, CPU, quiet, other) is model
    assert not refit.claim(), "somebody came while it was prepared"
    assert shelf.prepare_refit(model, two, CPU, quiet, use) is None
    shelf.leave(other)
    assert refit.claim()
    assert shelf.get(one, CPU, quiet, other) is not model, "nobody is given what is about to change"


def test_a_failed_load_leaves_what_is_loaded(folder: Path, places: ModelPlaces) -> None:
    shelf = ModelShelf()
    model = shelf.get(wanted(folder, places), CPU, quiet)
    for name in ("nothing", "../sd15/lcm_lora/pytorch_lora_weights"):
        with pytest.raises(LoraUnusable):
            shelf.get(wanted(folder, places, lora_dict={name: 1.0}), CPU, quiet)
    with pytest.raises(ModelUnavailable):
        shelf.get(WantedModel("no/such", "sd15", places=places), CPU, quiet)
    assert shelf.get(wanted(folder, places), CPU, quiet) is model


def test_another_file_in_the_place_of_a_lora_is_another_lora(folder: Path, places: ModelPlaces, tmp_path: Path) -> None:
    loras = shutil.copytree(folder / "loras", tmp_path / "loras")
    own = ModelPlaces(places.models, loras, offline=True)
    shelf = ModelShelf()
    first = shelf.get(wanted(folder, own, lora_dict={"one": 1.0}), CPU, quiet)
    shutil.copy(loras / "two.safetensors", loras / "new.safetensors")
    (loras / "new.safetensors").replace(loras / "one.safetensors")
    assert shelf.get(wanted(folder, own, lora_dict={"one": 1.0}), CPU, quiet) is not first


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "taesd/diffusion_pytorch_model.safetensors"]
)
def test_other_weights_in_a_models_directory_are_another_model(
    folder: Path, places: ModelPlaces, tmp_path: Path, name: str
) -> None:
    model = shutil.copytree(folder / "turbo", tmp_path / "model")
    shelf, asked = ModelShelf(), WantedModel(str(model), "sd-turbo", places=places)
    first = shelf.get(asked, CPU, quiet)
    assert shelf.get(asked, CPU, quiet) is first
    shutil.copyfile(model / name, tmp_path / "other")
    (tmp_path / "other").replace(model / name)  # as rsync does it, which leaves files that are the same alone
    assert shelf.get(asked, CPU, quiet) is not first


def test_what_vanishes_is_named_and_leaves_who_has_it(folder: Path, places: ModelPlaces, tmp_path: Path) -> None:
    model = shutil.copytree(folder / "turbo", tmp_path / "model")
    shelf, asked = ModelShelf(), WantedModel(str(model), "sd-turbo", places=places)
    kept = shelf.get(asked, CPU, quiet)
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    weights.unlink()
    with pytest.raises(ModelUnavailable, match=f"{weights} is missing"):
        shelf.get(asked, CPU, quiet)
    shutil.rmtree(model)
    with pytest.raises(ModelUnavailable, match=f"{model} is not on this machine"):
        shelf.get(asked, CPU, quiet)
    assert kept.prompts.encode("a fox") is not None


def test_what_vanishes_while_a_stream_has_it_is_given_out_all_the_same(
    folder: Path, places: ModelPlaces, tmp_path: Path
) -> None:
    model = shutil.copytree(folder / "turbo", tmp_path / "model")
    shelf, asked, use = ModelShelf(), WantedModel(str(model), "sd-turbo", places=places), ModelUse()
    used = shelf.get(asked, CPU, quiet, use)
    shutil.rmtree(model)
    assert shelf.get(asked, CPU, quiet, ModelUse()) is used
    with pytest.raises(ModelUnavailable, match="not on this machine"):
        shelf.get(WantedModel(str(model), "sd-turbo", (("one", 0.5),), places=places), CPU, quiet, ModelUse())
    shelf.leave(use)


def test_a_loaded_model_is_given_out_while_another_one_is_fetched(folder: Path, places: ModelPlaces) -> None:
    shelf = ModelShelf()
    model = shelf.get(wanted(folder, places), CPU, quiet)
    fetching, go_on = threading.Event(), threading.Event()

    class Slow(LoraFiles):
        def get(self, name: str, places: ModelPlaces, progress: Any) -> Path:
            fetching.set()
            assert go_on.wait(30)
            return super().get(name, places, progress)

    slow = Slow()
    shelf._lora_files = slow
    made: list[Any] = []
    asked = wanted(folder, places, lora_dict={"one": 1.0})
    thread = threading.Thread(target=lambda: made.append(shelf.get(asked, CPU, quiet)))
    thread.start()
    assert fetching.wait(30)
    assert shelf.get(wanted(folder, places), CPU, quiet) is model
    go_on.set()
    thread.join(30)
    assert made[0].loras == (LCM, ("one", 1.0))


# -- where the file of a LoRA is


@pytest.mark.parametrize("name", ["one", "one.safetensors", "mine/three", "mine"])
def test_files_below_loras_are_found_by_name(places: ModelPlaces, name: str) -> None:
    assert places.loras is not None
    path = LoraFiles().get(name, places, quiet)
    assert path.is_file()
    assert path.is_relative_to(places.loras.resolve())


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../sd15/unet/diffusion_pytorch_model", "~/x", "a\0b", "x" * 3000, "."]
)
def test_names_reach_no_other_file(places: ModelPlaces, name: str) -> None:
    with pytest.raises(LoraUnusable):
        LoraFiles().get(name, places, quiet)


def test_a_link_out_of_loras_leads_nowhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras/out.safetensors").symlink_to(folder / "loras/one.safetensors")
    with pytest.raises(LoraUnusable):
        LoraFiles().get("out", ModelPlaces(tmp_path / "m", tmp_path / "loras", offline=True), quiet)


@pytest.mark.parametrize("name", ["some/lora", "some/lora/x.safetensors", "some/lora@main"])
def test_loras_come_from_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    upstream = tmp_path / "upstream"
    upstream.mkdir()
    shutil.copy(folder / "loras/one.safetensors", upstream / "x.safetensors")
    hub = FakeHub()
    hub.add("some/lora", upstream)
    own = ModelPlaces(tmp_path / "m", tmp_path / "loras")
    with hub.run():
        hub.be_the_hub(monkeypatch, tmp_path / "cache")
        path = LoraFiles().get(name, own, quiet)
        assert path.read_bytes() == (upstream / "x.safetensors").read_bytes()
        hub.requests.clear()
        assert LoraFiles().get(name, own, quiet) == path
        assert hub.requests == [], "what is here is not asked for"
        with pytest.raises(LoraUnusable, match=r"no file y\.safetensors; it has x\.safetensors"):
            LoraFiles().get("some/lora/y.safetensors", own, quiet)


@contextlib.contextmanager
def web(content: bytes) -> Iterator[str]:
    """A server on loopback that gives `content` to whatever is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/download/x.safetensors?token=secret"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def test_loras_come_from_urls_once_and_within_limits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    content = (folder / "loras/one.safetensors").read_bytes()
    own = ModelPlaces(tmp_path / "m", tmp_path / "loras")
    near = LoraFiles(lambda: PublicFetcher(lambda address: True, schemes=("http",)))
    told: list[float | None] = []
    with web(content) as url:
        path = near.get(url, own, lambda detail, percent: told.append(percent))
        assert path.read_bytes() == content
        assert told[-1] == 100
        monkeypatch.setattr(loras, "MAX_BYTES", 100)
        assert near.get(url, own, quiet) == path, "kept"
        with pytest.raises(ModelDownloadFailed, match="larger than 100 bytes"):
            near.get(f"{url}2", own, quiet)
        with pytest.raises(ModelDownloadFailed, match="not an https URL"):
            LoraFiles().get(f"{url}3", own, quiet)
        with pytest.raises(ModelDownloadFailed, match="no public address"):
            LoraFiles().get(f"{url}4".replace("http:", "https:"), own, quiet)
    assert [file for file in path.parent.iterdir() if file.is_file()] == [path], "nothing is left of what failed"
    assert "secret" not in shown(url)
    with pytest.raises(LoraUnusable, match="nothing is fetched here") as caught:
        near.get("https://example.org/x.safetensors?token=secret", ModelPlaces(loras=tmp_path, offline=True), quiet)
    assert "secret" not in caught.value.message


def test_the_longest_unused_of_urls_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loras, "KEPT_BYTES", 25)
    own = ModelPlaces(tmp_path / "m", tmp_path / "loras")
    near = LoraFiles(lambda: PublicFetcher(lambda address: True, schemes=("http",)))
    with web(b"0123456789") as url:
        paths = [near.get(f"{url}{number}", own, quiet) for number in range(3)]
    assert [path.exists() for path in paths] == [False, True, True]


def test_a_directory_that_is_no_model_is_refused_for_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"model_index\.json is missing"):
        ModelShelf().get(WantedModel(str(tmp_path), "sd-turbo"), CPU, quiet)


@pytest.mark.parametrize("content", [b"garbage", None])
def test_a_broken_lcm_lora_is_blamed_on_what_asks_for_it(
    folder: Path, places: ModelPlaces, tmp_path: Path, content: bytes | None
) -> None:
    own = shutil.copytree(folder / "sd15", tmp_path / "own")
    file = own / "lcm_lora/pytorch_lora_weights.safetensors"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LoraUnusable, match=r"use_lcm_lora asks for it$") as caught:
        ModelShelf().get(WantedModel(str(own), "sd15", lcm=True, places=places), CPU, quiet)
    assert (caught.value.part, caught.value.hint) == ("use_lcm_lora", "Set use_lcm_lora to false to go without it.")
