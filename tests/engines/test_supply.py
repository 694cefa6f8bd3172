"""Where engines come from: the local disk, the volume, the bucket; whatever is wrong with one, nothing is raised."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sdstream.engine_errors import EngineStoreUnavailable
from sdstream.engines.cache import EngineCache
from sdstream.engines.kernels import file_for, read_kernels, write_kernels
from sdstream.engines.mirror import EngineMirror
from sdstream.engines.supply import EngineSupply, Need, difference
from sdstream.errors import ConfigurationError
from tests.engines.stored import KEY, Events, key, store

NEED = Need(KEY, 89, 4)


class Places:
    """A local disk, a volume and a supply over both."""

    def __init__(self, folder: Path, mirror: Callable[[], EngineMirror] | None = None) -> None:
        self.events = Events()
        self.local = EngineCache(folder / "local", report=self.events)
        self.volume = EngineCache(folder / "volume", report=self.events)
        self.supply = EngineSupply(self.local, self.volume, mirror, self.events)


def test_an_engine_of_the_volume_is_used_from_the_local_disk(tmp_path: Path) -> None:
    places = Places(tmp_path)
    store(places.volume)
    found = places.supply.find(NEED)
    assert found is not None
    assert found.folder.is_relative_to(places.local.directory)
    assert places.events.kinds[-1] == "hit"


@pytest.mark.parametrize(
    ("need", "serves"),
    [
        (Need(KEY, 89, 8), True),
        (Need(KEY, 86, 1), True),
        (Need(KEY, 90, 1), False),
        (Need(KEY, 89, 9), False),
        (Need(key(target="sm120"), None, 1), False),
        (Need(KEY, None, 1), True),
        (Need(key(backend_version="1.8"), 89, 1), False),
    ],
)
def test_what_serves_is_for_this_card_and_takes_the_rows(tmp_path: Path, need: Need, serves: bool) -> None:
    places = Places(tmp_path)
    store(places.volume)
    assert (places.supply.find(need) is not None) == serves


def test_what_a_card_compiled_is_shared_by_the_volume(tmp_path: Path) -> None:
    one, other = Places(tmp_path / "one"), Places(tmp_path / "other")
    kept = store(one.volume)
    other.supply = EngineSupply(other.local, one.volume)
    first = one.supply.find(NEED)
    assert first is not None
    write_kernels(file_for(first.runtime_folder, "NVIDIA L4"), b"kernels")
    one.supply.share_kernels(first)
    second = other.supply.find(NEED)
    assert second is not None
    assert read_kernels(file_for(second.runtime_folder, "NVIDIA L4")) == b"kernels"
    assert one.volume.verify(kept), "they are no part of the engine"


def test_what_a_card_compiled_here_is_not_replaced_by_the_volumes(tmp_path: Path) -> None:
    places = Places(tmp_path)
    kept = store(places.volume)
    found = places.supply.find(NEED)
    assert found is not None
    write_kernels(file_for(found.runtime_folder, "L4"), b"newer")
    write_kernels(file_for(kept.runtime_folder, "L4"), b"older")
    file_for(kept.runtime_folder, "T4").write_bytes(b"half of something")
    places.supply.find(NEED)
    assert read_kernels(file_for(found.runtime_folder, "L4")) == b"newer"
    assert not file_for(found.runtime_folder, "T4").exists(), "it is not whole"
    places.supply.share_kernels(found)
    assert read_kernels(file_for(kept.runtime_folder, "L4")) == b"newer"


def test_a_broken_engine_of_the_volume_is_none(tmp_path: Path) -> None:
    places = Places(tmp_path)
    store(places.volume).file("engine.plan").write_bytes(b"x")
    assert places.supply.find(NEED) is None
    assert "broken" in places.events.kinds
    assert places.events.kinds[-1] == "miss"


def test_a_local_disk_without_room_does_not_keep_the_volumes_engine_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(tmp_path)
    store(places.volume)
    monkeypatch.setattr(places.local, "free_bytes", lambda: 0)
    found = places.supply.find(NEED)
    assert found is not None
    assert found.folder.is_relative_to(places.volume.directory)


def test_a_bucket_fills_the_volume_for_others_and_the_local_disk_for_this_worker(
    tmp_path: Path, mirror: Callable[..., EngineMirror]
) -> None:
    other = EngineCache(tmp_path / "ci")
    mirror().push(other, store(other))
    places = Places(tmp_path, mirror)
    assert places.supply.find(NEED) is None
    found = places.supply.fetch(NEED)
    assert found is not None
    assert found.folder.is_relative_to(places.local.directory)
    assert places.volume.take(KEY.base) is not None
    assert places.supply.fetch(Need(KEY, 90, 1)) is None


def no_boto3() -> EngineMirror:
    raise ConfigurationError("a mirror of engines needs boto3")


def no_network() -> EngineMirror:
    raise EngineStoreUnavailable("s3://bucket: no route to host")


@pytest.mark.parametrize("make", [no_boto3, no_network])
def test_a_bucket_that_cannot_be_used_has_nothing(tmp_path: Path, make: Callable[[], EngineMirror]) -> None:
    places = Places(tmp_path, make)
    assert places.supply.fetch(NEED) is None
    assert places.events.kinds == ["store_unavailable"]


@pytest.mark.parametrize(
    ("there", "need", "words"),
    [
        ({}, Need(KEY, 120, 1), "is for sm86+sm89, and this card is SM 12.0"),
        ({"backend_version": "1.6.0"}, NEED, "is of tensorrt-rtx 1.6.0, and here is 1.7.1.116"),
        ({}, Need(KEY, 89, 100), "takes up to 8 rows, and 100 are needed"),
    ],
)
def test_a_mismatch_is_told_with_both_names_and_the_command_that_bakes_the_right_one(
    tmp_path: Path, there: dict[str, str], need: Need, words: str
) -> None:
    places = Places(tmp_path)
    entry = store(places.volume, key(**there))
    told = places.supply.explain(need, "sd-turbo-512")
    assert told.startswith(f"{entry.name} {words}")
    assert f"python -m builder bake --profile sd-turbo-512 --backend tensorrt-rtx --sm {need.capability}" in told
    assert "mismatch" in places.events.kinds


def test_an_engine_of_another_network_is_no_mismatch(tmp_path: Path) -> None:
    places = Places(tmp_path)
    store(places.volume, key(weights="b" * 64))
    assert "no engine of tiny unet" in places.supply.explain(NEED)
    assert difference(KEY, NEED) == ""
