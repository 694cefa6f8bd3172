"""Keys: hashed, private, replaced in one piece, read again when another process changes them."""

import json
import stat
import sys
from pathlib import Path

import pytest

from sdstream.api.keys import KeyRing, parse_bearer
from sdstream.clock import ManualClock
from sdstream.errors import ConfigurationError
from sdstream.settings import Settings

NO_KEYS = Settings.model_validate({})


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
