"""Making room on a volume that several workers share: nothing goes that somebody uses, and nobody is disturbed."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sdstream.engine_errors import EngineStoreUnavailable
from sdstream.engines.cache import EngineCache
from sdstream.engines.entry import Entry
from sdstream.engines.events import EngineEvent
from sdstream.engines.locks import BuildLock
from sdstream.engines.supply import EngineSupply, Need
from sdstream.engines.tidying import evict
from sdstream.settings import Settings
from sdstream.worker.engines.setup import GRACE, WorkerEngines
from tests.engines.stored import FILES, KEY, Events, key, store

SIZE = sum(map(len, FILES.values()))
TARGETS = ("sm80", "sm86", "sm89", "sm120")


def age(entry: Entry, seconds: float) -> None:
    """Have the last use of an engine be as long ago, by the volume's own time."""
    file = entry.folder / "last-used"
    file.touch()
    moment = file.stat().st_mtime - seconds
    os.utime(file, (moment, moment))


def filled(folder: Path, events: Events, ages: dict[str, float], *, limit: int, grace: float = 600) -> EngineCache:
    volume = EngineCache(folder)
    for target, seconds in ages.items():
        age(store(volume, key(target=target)), seconds)
    return EngineCache(folder, limit=limit, grace=grace, report=events)


def left(cache: EngineCache) -> set[str]:
    return {entry.key.target for entry in cache.entries()}


def test_what_was_used_a_moment_ago_stays_though_the_volume_is_over_its_limit(tmp_path: Path) -> None:
    events = Events()
    volume = filled(tmp_path, events, {"sm80": 3000, "sm86": 2000, "sm89": 500, "sm120": 0}, limit=SIZE)
    assert [entry.key.target for entry in evict(volume)] == ["sm80", "sm86"]
    assert left(volume) == {"sm89", "sm120"}
    assert events.kinds == ["evicted", "evicted"]


def test_no_more_goes_than_must(tmp_path: Path) -> None:
    volume = filled(tmp_path, Events(), {"sm80": 3000, "sm86": 2000, "sm89": 4000}, limit=2 * SIZE)
    evict(volume)
    assert left(volume) == {"sm80", "sm86"}


def test_an_engine_that_is_used_while_others_are_removed_stays(tmp_path: Path) -> None:
    events = Events()
    volume = filled(tmp_path, events, {"sm80": 3000, "sm86": 2000, "sm89": 1000}, limit=0)

    def use(event: EngineEvent) -> None:
        volume.touch(key(target="sm86"))

    volume.report = use
    evict(volume)
    assert left(volume) == {"sm86"}


def test_while_another_process_makes_room_nothing_is_removed(tmp_path: Path) -> None:
    volume = filled(tmp_path, Events(), {"sm80": 3000, "sm86": 2000}, limit=0)
    other = BuildLock(tmp_path / ".locks/evict.lock")
    assert other.try_acquire()
    assert evict(volume) == []
    other.release()
    assert len(evict(volume)) == 2


def test_a_worker_that_died_while_it_made_room_is_no_hindrance(tmp_path: Path) -> None:
    volume = filled(tmp_path, Events(), {"sm80": 3000}, limit=0)
    dead = tmp_path / ".locks/evict.lock"
    dead.parent.mkdir(exist_ok=True)
    dead.write_text("{}")
    os.utime(dead, (1000, 1000))
    assert len(evict(volume)) == 1


def test_engines_that_go_while_they_are_copied_are_whole_or_not_there(tmp_path: Path) -> None:
    """Stored, removed and copied by three workers at once, with no grace to keep them apart."""
    events = Events()
    volume = EngineCache(tmp_path / "volume", limit=SIZE, report=events)

    def keep_storing() -> None:
        for number in range(60):
            store(volume, key(target=TARGETS[number % 4]))

    with ThreadPoolExecutor(1) as storing:
        stored = storing.submit(keep_storing)
        found = 0
        while not stored.done():
            local = EngineCache(tmp_path / f"local-{found}")
            entry = EngineSupply(local, EngineCache(volume.directory, report=events)).find(Need(KEY, 89, 1))
            if entry is not None:
                assert {name: entry.file(name).read_bytes() for name in FILES} == FILES
                found += 1
        stored.result()
    assert "evicted" in events.kinds
    assert "broken" not in events.kinds, "one that goes is not one that is damaged"


def test_a_volume_that_cannot_be_written_is_told_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Events()
    volume = filled(tmp_path / "volume", events, {"sm80": 3000}, limit=0)

    def refuse(lock: BuildLock) -> bool:
        raise EngineStoreUnavailable("the volume is read-only")

    monkeypatch.setattr(BuildLock, "try_acquire", refuse)
    EngineSupply(EngineCache(tmp_path / "local"), volume, report=events).tidy()
    assert events.kinds == ["store_unavailable"]
    assert left(volume) == {"sm80"}


@pytest.mark.parametrize(("setting", "limit"), [(None, None), (1.5, 1_500_000_000)])
def test_the_limit_of_the_volume_is_the_settings(tmp_path: Path, setting: float | None, limit: int | None) -> None:
    settings = Settings(
        data_dir=tmp_path / "data", engine_local_dir=tmp_path / "local", engine_volume_limit_gigabytes=setting
    )
    local, volume = WorkerEngines(settings, torch.device("cpu")).supply.caches
    assert (volume.limit, volume.grace) == (limit, GRACE)
    assert (local.limit, local.grace) == (50_000_000_000, 0)
