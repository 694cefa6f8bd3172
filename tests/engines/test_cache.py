"""The cache: what it gives out is what was put in, to the byte; whatever else lies there is put aside and told."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdstream.clock import ManualClock
from sdstream.engine_errors import EngineStoreUnavailable
from sdstream.engines import cache as cache_module
from sdstream.engines.cache import EngineCache
from sdstream.engines.tidying import collect
from tests.engines.stored import FILES, KEY, Events, key, leftovers, store


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def cache(tmp_path: Path, events: Events) -> EngineCache:
    return EngineCache(tmp_path / "engines", report=events)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    done = shutil.which("mount") and not os.system(f"mount -t tmpfs -o size=1m tmpfs {place} 2>/dev/null")
    if not done:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    os.system(f"umount {place}")


def test_what_was_stored_is_taken(cache: EngineCache, events: Events) -> None:
    store(cache)
    entry = cache.take(KEY.base)
    assert entry is not None
    assert {name: entry.file(name).read_bytes() for name in entry.manifest.files} == FILES
    assert entry.key == KEY
    assert events.kinds == ["stored"]
    assert leftovers(cache.directory) == []


def test_only_what_is_accepted_is_taken(cache: EngineCache) -> None:
    store(cache)
    store(cache, key(target="sm120"))
    taken = cache.take(KEY.base, lambda other: other.target == "sm120")
    assert taken is not None
    assert taken.key.target == "sm120"
    assert cache.take(KEY.base, lambda other: other.takes_rows(99)) is None
    assert cache.take(key(weights="b" * 64).base) is None
    assert len(cache.entries()) == 2


def test_an_engine_that_is_there_stays(cache: EngineCache) -> None:
    first = store(cache)
    inode = first.file("engine.plan").stat().st_ino
    second = store(cache, files={"engine.plan": b"made again, and different by a hair"})
    assert second.file("engine.plan").stat().st_ino == inode
    assert second.file("engine.plan").read_bytes() == FILES["engine.plan"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_whatever_happens_to_a_file_no_wrong_engine_is_taken(tmp_path: Path, data: st.DataObject) -> None:
    """A bit flips, bytes are cut off or added, a file is gone or swapped with another; manifests are files, too."""
    events = Events()
    directory = tmp_path / "engines"
    shutil.rmtree(directory, ignore_errors=True)
    cache = EngineCache(directory, report=events)
    entry = store(cache)
    file = entry.file(data.draw(st.sampled_from([*FILES, "manifest.json"])))
    content = bytearray(file.read_bytes())
    how = data.draw(st.sampled_from(["flip", "cut", "add", "remove", "empty", "swap"]))
    if how == "flip":
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    elif how == "add":
        content += b"\0"
    elif how == "empty":
        content.clear()
    if how == "remove":
        file.unlink()
    elif how == "swap":
        other = entry.file("extra.json" if file.name == "engine.plan" else "engine.plan")
        mine, theirs = file.read_bytes(), other.read_bytes()
        file.write_bytes(theirs)
        other.write_bytes(mine)
    else:
        file.write_bytes(content)
    taken = EngineCache(directory, report=events).take(KEY.base)
    if taken is None:
        assert "broken" in events.kinds
        assert EngineCache(directory).entries() == []
        assert list((directory / ".quarantine").iterdir())
    else:  # a bit of a manifest that says nothing of the engine, such as when it was made
        assert file.name == "manifest.json"
        assert {name: taken.file(name).read_bytes() for name in FILES} == FILES
        assert taken.key.digest == KEY.digest
    assert store(EngineCache(directory)).key == KEY, "and it can be made anew"


def test_a_broken_engine_is_put_aside_with_the_reason_and_made_anew(cache: EngineCache, events: Events) -> None:
    entry = store(cache)
    entry.file("engine.plan").write_bytes(b"x")
    assert cache.take(KEY.base) is None
    (aside,) = (cache.directory / ".quarantine").iterdir()
    assert "has 1 bytes and not" in (aside / "reason.txt").read_text()
    assert KEY.readable in events.all[-1].name
    store(cache)
    assert cache.take(KEY.base) is not None


def test_an_engine_in_the_place_of_another_is_not_taken(cache: EngineCache, events: Events) -> None:
    entry = store(cache)
    other = key(weights="b" * 64)
    place = cache.directory / other.base / other.place
    place.parent.mkdir(parents=True)
    shutil.copytree(entry.folder, place)
    assert cache.take(other.base) is None
    assert "another's place" in events.all[-1].detail


def test_a_symbolic_link_in_an_engine_is_compared_like_a_file(cache: EngineCache, tmp_path: Path) -> None:
    entry = store(cache)
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    entry.file("extra.json").unlink()
    entry.file("extra.json").symlink_to(outside)
    assert cache.take(KEY.base) is None


def test_files_beside_the_engine_are_none_of_its_own(cache: EngineCache) -> None:
    entry = store(cache)
    entry.runtime_folder.mkdir()
    (entry.runtime_folder / "card.cache").write_bytes(b"compiled kernels")
    assert cache.take(KEY.base) is not None


def test_the_engines_used_longest_ago_go_first(tmp_path: Path, events: Events) -> None:
    size = sum(map(len, FILES.values()))
    cache = EngineCache(tmp_path / "engines", limit=2 * size, report=events)
    old, used = store(cache, key(target="sm80")), store(cache, key(target="sm86"))
    for entry, moment in ((old, 2000), (used, 1000)):
        os.utime(entry.folder / "last-used", (moment, moment))
    os.utime(used.folder / "last-used", (3000, 3000))
    store(cache, key(target="sm89"))
    assert [entry.key.target for entry in cache.entries()] == ["sm86", "sm89"]
    assert events.kinds.count("evicted") == 1
    assert not (cache.directory / ".trash").exists() or not list((cache.directory / ".trash").iterdir())


def test_what_was_just_stored_stays_even_when_it_is_over_the_limit_alone(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines", limit=1)
    store(cache, key(target="sm80"))
    store(cache, key(target="sm86"))
    assert [entry.key.target for entry in cache.entries()] == ["sm86"]


def test_a_copy_on_a_local_disk_is_what_was_on_the_volume(cache: EngineCache, tmp_path: Path) -> None:
    local = EngineCache(tmp_path / "local")
    copied = local.copy_from(cache, store(cache))
    assert copied is not None
    assert copied.folder.is_relative_to(local.directory)
    assert local.take(KEY.base) is not None


def test_a_volume_that_changes_while_it_is_copied_gives_nothing(
    cache: EngineCache, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = store(cache)
    real = shutil.copyfile

    def copy(source: Any, target: Any) -> Any:
        Path(source).write_bytes(b"overwritten at this very moment")
        return real(source, target)

    monkeypatch.setattr(shutil, "copyfile", copy)
    assert EngineCache(tmp_path / "local").copy_from(cache, entry) is None
    assert events.kinds[-1] == "broken"
    assert cache.take(KEY.base) is None


def test_a_full_disk_leaves_the_cache_as_it_was(small_disk: Path) -> None:
    events = Events()
    cache = EngineCache(small_disk, report=events)
    store(cache)
    (small_disk / "ballast").write_bytes(bytes(900 * 1024))
    other = key(target="sm120")
    with cache.draft() as draft:
        (draft / "engine.plan").write_bytes(b"made before the disk was full")
        fill(small_disk)
        with pytest.raises(EngineStoreUnavailable, match="full"):
            cache.store(draft, other)
    assert cache.take(KEY.base, lambda found: found.target == KEY.target) is not None
    assert cache.take(KEY.base, lambda found: found.target == "sm120") is None
    assert "store_unavailable" in events.kinds
    with pytest.raises(EngineStoreUnavailable, match="needed"):
        cache.require_room(1)


def fill(disk: Path) -> None:
    """Take every byte that is left."""
    with (disk / "rest").open("ab", buffering=0) as file:
        size = 4096
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


def test_a_read_only_volume_is_read_and_its_broken_engines_are_left_out(small_disk: Path, tmp_path: Path) -> None:
    events = Events()
    writable = EngineCache(small_disk)
    store(writable)
    store(writable, key(target="sm120")).file("engine.plan").write_bytes(b"broken")
    if os.system(f"mount -o remount,ro {small_disk} 2>/dev/null"):
        pytest.skip("a disk cannot be made read-only here")
    cache = EngineCache(small_disk, report=events)
    good = cache.take(KEY.base, lambda found: found.target == KEY.target)
    assert good is not None
    assert EngineCache(tmp_path / "local").copy_from(cache, good) is not None
    for _ in range(2):
        assert cache.take(KEY.base, lambda found: found.target == "sm120") is None
    assert events.kinds == ["broken"], "told once"
    with pytest.raises(EngineStoreUnavailable, match="read-only"), cache.draft():
        pass
    with pytest.raises(EngineStoreUnavailable, match="Read-only"):
        cache.lock(KEY).try_acquire()


@pytest.mark.parametrize("step", ["manifest", "rename", "directory"])
def test_a_failure_at_any_step_of_storing_leaves_no_half_engine(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    module, name = {
        "manifest": (cache_module, "write_durably"),
        "rename": (os, "rename"),
        "directory": (cache_module, "flush_directory"),
    }[step]
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(EngineStoreUnavailable, match="full"):
        store(cache)
    monkeypatch.undo()
    assert EngineCache(cache.directory).entries() == []
    assert leftovers(cache.directory) == []
    store(cache)


def test_what_dead_builders_left_is_collected_when_it_is_old(tmp_path: Path) -> None:
    clock = ManualClock()
    cache = EngineCache(tmp_path / "engines", clock=clock)
    left = cache.directory / ".drafts" / "1234-dead"
    left.mkdir(parents=True)
    for old in (False, True):
        moment = clock.now().timestamp() - (90000 if old else 100)
        os.utime(left, (moment, moment))
        assert collect(cache) == ([left] if old else [])


def test_facts_are_added_to_a_manifest_and_the_engine_stays_good(cache: EngineCache) -> None:
    cache.annotate(store(cache), {"fps": 99.0})
    entry = cache.take(KEY.base)
    assert entry is not None
    assert entry.manifest.facts["fps"] == 99.0
    assert json.loads((entry.folder / "manifest.json").read_text())["readable"] == KEY.readable


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "never" / "made")
    assert cache.entries() == []
    assert cache.take(KEY.base) is None
    assert cache.free_bytes() is not None
