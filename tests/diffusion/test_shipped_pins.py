"""What sdstream itself pins: facts of the right form, fetching held to them, and the operator's ways around them."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdstream.diffusion.fetching import pins
from sdstream.diffusion.fetching.pins import Pin, find_differences, find_pin, shipped_hash, shipped_pins, write_pins
from sdstream.diffusion.fetching.repositories import commit_of
from sdstream.diffusion.fetching.sources import SAFETY_CHECKER, TAESD, TOKENIZER, fetch_chosen, get_taesd
from sdstream.directories import ModelPlaces
from sdstream.model_errors import ModelNotAsPinned, ModelUnavailable
from sdstream.params import PUBLIC_MODELS
from sdstream.params.controlnets import CONTROLNETS
from sdstream.settings import Settings
from sdstream.worker.annotators.weights import finder, locate
from sdstream.worker.files.loras import LCM_LORAS
from sdstream.worker.files.published import ADAPTERS, ADDRESSES, NETWORKS, WeightSource
from tests.support.hub import FakeHub, Repository

NET = "me/net"
WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = ("config.json", WEIGHTS)
OLD, NEW = "a" * 40, "b" * 40
GOOD, OTHER = b"weights", b"WEIGHTS"
PAGE = Path(__file__).parents[2] / "docs/models.md"

Ship = Callable[[Pin], None]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    made = FakeHub({NET: Repository({"config.json": b"{}", WEIGHTS: GOOD}, commit=OLD)})
    with made.run():
        made.be_the_hub(monkeypatch, tmp_path / "cache")
        yield made


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch) -> Ship:
    """Ship one pin, of NET."""

    def put(pin: Pin) -> None:
        monkeypatch.setattr(pins, "shipped_pins", lambda: {NET: pin})

    return put


def fetch(root: Path, *, shipped: bool = True, told: list[str] | None = None) -> Path:
    heard: list[str] = [] if told is None else told
    return fetch_chosen(
        NET, FILES, ModelPlaces(root, shipped_pins=shipped), lambda detail, percent: heard.append(detail)
    )


def pin_of(commit: str = OLD, weights: bytes | None = None) -> Pin:
    return Pin(commit, {} if weights is None else {WEIGHTS: digest(weights)}, shipped=True)


def repositories() -> set[str]:
    """All that this version fetches by itself."""
    known = {*PUBLIC_MODELS, *TAESD.values(), *LCM_LORAS.values(), *CONTROLNETS, TOKENIZER, SAFETY_CHECKER}
    known |= {source.repository for sources in NETWORKS.values() for source in sources}
    return known | {repository for files in ADAPTERS.values() for repository, _ in files.sources}


def test_the_shipped_pins_are_of_repositories_that_this_version_fetches_and_well_formed() -> None:
    assert set(shipped_pins()) <= repositories()
    for name, pin in shipped_pins().items():
        assert re.fullmatch("[0-9a-f]{40}", pin.commit) or pin.files, name
        assert all(re.fullmatch("[0-9a-f]{64}", value) for value in pin.files.values()), name
        assert pin.shipped
    for source in (source for sources in NETWORKS.values() for source in sources):
        weights = {file for file in source.files if file != "config.json"} - source.beginnings.keys()
        pinned = shipped_pins().get(source.repository, Pin("", {})).files
        assert weights <= pinned.keys(), "processors' weights are all known, be it by the beginning of their hash"
    assert set(ADDRESSES["google/mediapipe"]) == set(shipped_pins()["google/mediapipe"].files)


def test_the_page_of_models_says_of_each_what_is_pinned() -> None:
    rows = [line.split("|") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    told = {row[1].strip().strip("`"): (row[2].strip().strip("`"), row[3]) for row in rows}
    assert set(told) == repositories(), "every repository that sdstream fetches by itself has its row, and no other"
    for name, (commit, hashes) in told.items():
        pin = shipped_pins().get(name, Pin("", {}))
        assert commit == (pin.commit[:10] or "none"), name
        assert hashes.strip().partition(" ")[0] == str(len(pin.files) or "none"), name


def test_settings_have_them_on() -> None:
    assert ModelPlaces.from_settings(Settings(data_dir=Path("x"))).shipped_pins
    assert not ModelPlaces.from_settings(Settings(data_dir=Path("x"), shipped_pins=False)).shipped_pins


def test_the_pinned_commit_is_fetched_and_not_the_newest(hub: FakeHub, tmp_path: Path, ship: Ship) -> None:
    ship(pin_of(weights=GOOD))
    assert commit_of(fetch(tmp_path)) == OLD
    assert any(request.path.endswith(f"/{NET}/revision/{OLD}") for request in hub.requests)
    assert find_differences(tmp_path, shipped=True) == []
    assert find_differences(tmp_path) == [f"{NET} is not pinned"]
    (tmp_path / NET / WEIGHTS).write_bytes(OTHER)
    assert find_differences(tmp_path, shipped=True) == [f"{NET}/{WEIGHTS} is not what was pinned"]


def test_other_bytes_than_pinned_are_refused_before_any_comes_and_the_message_says_who_pins_and_the_way_out(
    hub: FakeHub, tmp_path: Path, ship: Ship
) -> None:
    ship(pin_of(weights=OTHER))
    with pytest.raises(
        ModelNotAsPinned, match=f"{NET}: the hub offers {WEIGHTS} with the hash {digest(GOOD)[:12]}"
    ) as caught:
        fetch(tmp_path)
    assert f"this version of sdstream pins {digest(OTHER)[:12]}" in caught.value.message
    assert "; SDSTREAM_SHIPPED_PINS=false goes without" in caught.value.message
    assert "pins.json" in caught.value.hint
    assert caught.value.code == "MODELS/NOT_AS_PINNED"
    assert hub.asked_for("") == []
    assert not (tmp_path / NET).exists()
    assert commit_of(fetch(tmp_path, shipped=False)) == OLD, "the operator goes without"


def test_a_pinned_commit_that_is_gone_is_no_loss_where_the_newest_has_the_pinned_weights(
    hub: FakeHub, tmp_path: Path, ship: Ship
) -> None:
    hub.repositories[NET].commit = NEW
    ship(pin_of(weights=GOOD))
    told: list[str] = []
    assert commit_of(fetch(tmp_path, told=told)) == NEW
    assert f"{NET} no longer has the pinned commit {OLD[:10]}; {NEW[:10]} has the very weights" in "\n".join(told)


@pytest.mark.parametrize("pin", [pin_of(), pin_of(weights=OTHER)], ids=["no hashes", "other hashes"])
def test_a_pinned_commit_that_is_gone_is_told_where_nothing_says_that_the_newest_is_the_same(
    hub: FakeHub, tmp_path: Path, ship: Ship, pin: Pin
) -> None:
    hub.repositories[NET].commit = NEW
    ship(pin)
    with pytest.raises(ModelNotAsPinned, match=f"no longer has the commit {OLD[:10]}, which this version") as caught:
        fetch(tmp_path)
    assert "SDSTREAM_SHIPPED_PINS=false" in caught.value.hint
    assert hub.asked_for("") == []
    assert commit_of(fetch(tmp_path, shipped=False)) == NEW


def test_what_the_operator_pins_counts_more(hub: FakeHub, tmp_path: Path, ship: Ship) -> None:
    fetch(tmp_path, shipped=False)
    write_pins(tmp_path)
    ship(pin_of(NEW, weights=OTHER))
    shutil.rmtree(tmp_path / NET)
    assert commit_of(fetch(tmp_path)) == OLD
    found = find_pin(NET, tmp_path, shipped=True)
    assert found is not None
    assert not found.shipped
    assert find_differences(tmp_path, shipped=True) == []


def test_a_revision_of_its_own_is_not_held_to_the_pin_of_the_repository(
    hub: FakeHub, tmp_path: Path, ship: Ship
) -> None:
    ship(pin_of(NEW, weights=OTHER))
    places = ModelPlaces(tmp_path, shipped_pins=True)
    folder = fetch_chosen(f"{NET}@main", FILES, places, lambda detail, percent: None)
    assert commit_of(folder) == OLD


def test_the_small_vae_that_is_not_as_pinned_is_not_taken(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories[TAESD["sd15"]] = Repository({"config.json": b"{}", WEIGHTS: GOOD}, commit=OLD)
    with pytest.raises(ModelNotAsPinned, match="madebyollin/taesd no longer has the commit 614f76814b"):
        get_taesd("sd15", ModelPlaces(tmp_path, shipped_pins=True), lambda detail, percent: None)


def test_weights_of_processors_are_compared_when_they_are_loaded(hub: FakeHub, tmp_path: Path, ship: Ship) -> None:
    source, places = WeightSource(NET, FILES, "none"), ModelPlaces(tmp_path, shipped_pins=True)
    ship(pin_of(weights=GOOD))
    folder = locate(source, finder(places), "hed")
    assert shipped_hash(folder, WEIGHTS) == digest(GOOD)
    (folder / WEIGHTS).write_bytes(OTHER)
    with pytest.raises(ModelUnavailable, match="is not what was published"):
        locate(source, finder(places), "hed")
    assert locate(source, finder(ModelPlaces(tmp_path)), "hed") == folder, "switched off"
    # What was fetched at another commit, or put there by a person, may be what it likes.
    ship(pin_of(NEW, weights=GOOD))
    assert locate(source, finder(places), "hed") == folder
    ship(pin_of(weights=GOOD))
    (folder / pins.MANIFEST).unlink()
    assert locate(source, finder(places), "hed") == folder


def test_the_shipped_file_holds_facts_and_nothing_else() -> None:
    content = json.loads(pins.SHIPPED.read_text("utf-8"))
    assert {frozenset(entry) for entry in content.values()} == {frozenset({"commit", "files"})}
