"""Keys: hashed, private, replaced in one piece, read again when another process changes them."""

import asyncio
import json
import os
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from sdstream.api.keys import REREAD_SECONDS, UNKNOWN_REREAD_SECONDS, KeyEntry, KeyRing, parse_bearer
from sdstream.clock import ManualClock
from sdstream.errors import ConfigurationError
from sdstream.settings import Settings
from tests.support.waiting import eventually, eventually_sync

NO_KEYS = Settings.model_validate({})


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, its disk is not taken for one that hangs."""
    monkeypatch.setattr("sdstream.api.keys.SLOW_DISK_SECONDS", 60.0)


def test_a_fresh_ring_is_empty_and_writes_nothing(tmp_path: Path) -> None:
    ring = KeyRing.open(tmp_path, NO_KEYS)
    assert ring.is_empty()
    assert list(tmp_path.iterdir()) == []


def test_a_created_key_is_known_also_after_a_restart(tmp_path: Path) -> None:
    key = KeyRing.open(tmp_path, NO_KEYS).create("first")
    ring = KeyRing.open(tmp_path, NO_KEYS)
    entry = ring.find(key)
    assert entry is not None
    assert entry.name == "first"
    assert ring.check(key) == entry.author


def test_the_file_holds_no_key(tmp_path: Path) -> None:
    key = KeyRing.open(tmp_path, NO_KEYS).create("first")
    assert key not in (tmp_path / "keys.json").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_the_file_is_private(tmp_path: Path) -> None:
    KeyRing.open(tmp_path, NO_KEYS).create("first")
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root may give files away")
def test_a_key_that_root_makes_beside_a_server_of_another_user_can_be_read_by_it(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65533)
    ring = KeyRing.open(tmp_path, NO_KEYS)
    ring.create("first")
    for _ in ("made", "revoked"):
        status = (tmp_path / "keys.json").stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65533, 0o600)
        ring.revoke(ring.entries()[0].id if ring.entries() else "")


def test_no_temporary_file_stays(tmp_path: Path) -> None:
    ring = KeyRing.open(tmp_path, NO_KEYS)
    ring.create("a")
    ring.create("b")
    assert [file.name for file in tmp_path.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("key", ["", "wrong", "sds_", "x" * 5000, "\ud800", "ключ"])
def test_a_wrong_key_is_nobodys(tmp_path: Path, key: str) -> None:
    ring = KeyRing.open(tmp_path, NO_KEYS)
    ring.create("first")
    assert ring.check(key) is None


def test_the_first_key_is_the_operators_and_the_next_is_not(tmp_path: Path) -> None:
    ring = KeyRing.open(tmp_path, NO_KEYS)
    first, second = ring.find(ring.create("a")), ring.find(ring.create("b"))
    assert first is not None
    assert second is not None
    assert (first.operator, second.operator) == (True, False)
    assert first.author != second.author


def test_keys_of_the_settings_are_operators_with_a_stable_author(tmp_path: Path) -> None:
    settings = Settings.model_validate({"api_keys": ["abcdef"]})
    ring = KeyRing.open(tmp_path, settings)
    entry = ring.find("abcdef")
    assert entry is not None
    assert entry.operator
    assert KeyRing.open(tmp_path / "elsewhere", settings).check("abcdef") == entry.author
    assert not ring.is_empty()


def test_a_key_made_by_another_process_is_known_at_once(tmp_path: Path) -> None:
    ring = KeyRing.open(tmp_path, NO_KEYS)
    ring.create("mine")
    assert ring.check(KeyRing.open(tmp_path, NO_KEYS).create("theirs")) is not None


def test_a_key_that_another_process_makes_at_the_same_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, other = KeyRing.open(tmp_path, NO_KEYS), KeyRing.open(tmp_path, NO_KEYS)
    theirs: list[str] = []
    making = threading.Thread(target=lambda: theirs.append(other.create("theirs")))
    write = ring._write

    def write_late(entries: tuple[KeyEntry, ...]) -> None:
        making.start()
        making.join(0.3)  # it waits for us now; else it has written what we are about to overwrite
        write(entries)

    monkeypatch.setattr(ring, "_write", write_late)
    mine = ring.create("mine")
    making.join()
    assert all(KeyRing.open(tmp_path, NO_KEYS).check(key) for key in (mine, *theirs))


def test_a_revoked_key_is_forgotten(tmp_path: Path) -> None:
    ring = KeyRing.open(tmp_path, NO_KEYS)
    key = ring.create("a")
    entry = ring.find(key)
    assert entry is not None
    assert ring.revoke(entry.id)
    assert ring.check(key) is None
    assert not ring.revoke(entry.id)


def test_a_key_revoked_by_another_process_is_forgotten_within_a_second(tmp_path: Path) -> None:
    clock = ManualClock()
    ring = KeyRing.open(tmp_path, NO_KEYS, clock)
    key = ring.create("a")
    other = KeyRing.open(tmp_path, NO_KEYS)
    assert other.revoke(other.entries()[0].id)
    clock.advance(1.0)
    assert ring.check(key) is None


def test_a_spoilt_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text('{"keys": [{"digest": 1}]}')
    with pytest.raises(ConfigurationError, match=r"keys\.json"):
        KeyRing.open(tmp_path, NO_KEYS)


def test_a_file_spoilt_while_serving_locks_nobody_out(tmp_path: Path) -> None:
    clock = ManualClock()
    ring = KeyRing.open(tmp_path, NO_KEYS, clock)
    key = ring.create("a")
    (tmp_path / "keys.json").write_text("{")
    clock.advance(2.0)
    assert ring.check(key) is not None


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    ring = KeyRing.open(tmp_path / "missing", NO_KEYS)
    with pytest.raises(ConfigurationError, match="cannot write the keys"):
        ring.create("a")


def test_the_time_of_creation_is_the_clocks(tmp_path: Path) -> None:
    KeyRing.open(tmp_path, NO_KEYS, ManualClock()).create("a")
    content = json.loads((tmp_path / "keys.json").read_text())
    assert content["keys"][0]["created_at"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic abc", None),
        ("abc", None),
        ("Bearer abc", "abc"),
        ("bearer   abc ", "abc"),
        ("Bearer Bearer abc", "abc"),
        ("Bearer bearer Bearer abc", "abc"),
    ],
)
def test_parse_bearer(header: str | None, key: str | None) -> None:
    assert parse_bearer(header) == key


@pytest.mark.usefixtures("quick_disk")
async def test_on_an_event_loop_keys_of_other_processes_come_and_go(tmp_path: Path) -> None:
    clock = ManualClock()
    ring = KeyRing.open(tmp_path, NO_KEYS, clock)
    other = KeyRing.open(tmp_path, NO_KEYS)
    key = other.create("theirs")
    clock.advance(UNKNOWN_REREAD_SECONDS)
    assert await ring.find_soon(key) is not None
    assert other.revoke(other.entries()[0].id)
    clock.advance(REREAD_SECONDS)
    assert await ring.find_soon(key) is None
    assert await ring.find_soon("x" * 5000) is None


async def test_a_disk_that_hangs_holds_neither_the_loop_nor_known_keys_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    ring = KeyRing.open(tmp_path, NO_KEYS, clock)
    key = ring.create("mine")
    over, looks = threading.Event(), list[str]()

    def hang(_: KeyRing) -> None:
        looks.append(threading.current_thread().name)
        over.wait(120)

    monkeypatch.setattr(KeyRing, "_read_file", hang)
    monkeypatch.setattr("sdstream.api.keys.SLOW_DISK_SECONDS", 0.05)
    clock.advance(2.0)
    try:
        async with asyncio.timeout(30):
            found = [await ring.find_soon(each) for each in (key, "wrong", key)]
        assert [entry is not None for entry in found] == [True, False, True]
        assert len(looks) == 1
        assert looks != [threading.main_thread().name]
    finally:
        over.set()
        assert ring._next_reread is not None
        await ring._next_reread


@pytest.mark.usefixtures("quick_disk")
async def test_a_key_that_another_process_makes_right_after_a_look_at_the_file_is_not_refused(tmp_path: Path) -> None:
    ring, other = KeyRing.open(tmp_path, NO_KEYS), KeyRing.open(tmp_path, NO_KEYS)
    for name in ("first", "second", "third"):
        assert await ring.find_soon("wrong") is None
        entry = await ring.find_soon(other.create(name))
        assert entry is not None
        assert entry.name == name


@pytest.mark.usefixtures("quick_disk")
async def test_a_key_that_another_process_makes_during_a_look_at_the_file_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, other = KeyRing.open(tmp_path, NO_KEYS), KeyRing.open(tmp_path, NO_KEYS)
    has_looked, is_over = threading.Event(), threading.Event()
    read = KeyRing._read_file

    def dawdle(self: KeyRing) -> None:
        read(self)
        if self is ring:
            has_looked.set()
            is_over.wait(120)

    monkeypatch.setattr(KeyRing, "_read_file", dawdle)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        wrong = tasks.create_task(ring.find_soon("wrong"))
        await eventually(has_looked.is_set, what="the file to be looked at")
        right = tasks.create_task(ring.find_soon(other.create("theirs")))
        await asyncio.sleep(0)
        is_over.set()
    assert wrong.result() is None
    assert right.result() is not None


@pytest.mark.usefixtures("quick_disk")
async def test_wrong_keys_look_at_the_file_ten_times_a_second_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = KeyRing.open(tmp_path, NO_KEYS)
    looks = [ring._read_at]
    read = KeyRing._read_file

    def note(self: KeyRing) -> None:
        read(self)
        looks.append(self._read_at)

    monkeypatch.setattr(KeyRing, "_read_file", note)
    for _ in range(3):
        assert await asyncio.gather(*(ring.find_soon("wrong") for _ in range(50))) == [None] * 50
    assert len(looks) == 4
    assert min(after - before for before, after in pairwise(looks)) > UNKNOWN_REREAD_SECONDS - 0.01


def test_the_number_of_keys_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdstream.api.keys.MOST_KEYS", 2)
    ring = KeyRing.open(tmp_path, NO_KEYS)
    ring.create("a")
    ring.create("b")
    with pytest.raises(ConfigurationError, match="2 keys already"):
        ring.create("c")
    assert len(ring.entries()) == 2


def test_keys_made_at_once_share_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing.open(tmp_path, NO_KEYS)
    write, sizes = KeyRing._write, list[int]()

    def note(self: KeyRing, entries: tuple[KeyEntry, ...]) -> None:
        if not sizes:
            eventually_sync(lambda: len(ring._wishes) == 19, what="everybody else to wait")
        sizes.append(len(entries))
        write(self, entries)

    monkeypatch.setattr(KeyRing, "_write", note)
    with ThreadPoolExecutor(20) as pool:
        keys = list(pool.map(ring.create, map(str, range(20))))
    assert sizes == [1, 20]
    found = [ring.find(key) for key in keys]
    assert [entry and entry.name for entry in found] == [str(number) for number in range(20)]
    assert sum(entry is not None and entry.operator for entry in found) == 1


def test_a_write_that_fails_is_told_to_all_who_waited_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing.open(tmp_path, NO_KEYS)

    def fail(self: KeyRing, entries: tuple[KeyEntry, ...]) -> None:
        eventually_sync(lambda: len(entries) > 1 or len(ring._wishes) == 2, what="everybody else to wait")
        raise ConfigurationError("the disk is full")

    monkeypatch.setattr(KeyRing, "_write", fail)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(ring.create, name) for name in "abc"]
        errors = [future.exception() for future in futures]
    assert [str(error) for error in errors] == ["the disk is full"] * 3
