"""The build lock: one holder, and a dead one keeps nobody out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdstream.engine_errors import EngineStoreUnavailable
from sdstream.engines.locks import BuildLock
from tests.support.waiting import eventually_sync


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "engine.lock"


def test_one_holds_it_and_the_next_takes_it_when_it_is_free(file: Path) -> None:
    one, other = BuildLock(file), BuildLock(file)
    assert one.try_acquire()
    assert not other.try_acquire()
    one.release()
    assert other.try_acquire()
    assert not other.broke_one
    other.release()
    assert list(file.parent.iterdir()) == []


def test_the_lock_of_a_process_that_ended_is_broken_at_once(file: Path) -> None:
    program = "import sys; from pathlib import Path; from sdstream.engines.locks import BuildLock; import os\n"
    program += "assert BuildLock(Path(sys.argv[1])).try_acquire(); os._exit(9)"
    subprocess.run([sys.executable, "-c", program, str(file)], check=False, timeout=150)
    assert file.exists()
    lock = BuildLock(file)
    assert lock.try_acquire()
    assert lock.broke_one


def test_a_silent_holder_on_another_machine_is_taken_for_dead_after_a_while(file: Path) -> None:
    file.parent.mkdir()
    file.write_text(json.dumps({"host": "another-machine", "process_id": os.getpid(), "token": "x"}))
    assert not BuildLock(file).try_acquire(), "it was made just now"
    os.utime(file, (1, 1))
    lock = BuildLock(file)
    assert lock.try_acquire()
    assert lock.broke_one


def test_a_holder_gives_signs_of_life(file: Path) -> None:
    lock = BuildLock(file, beat=0.01, stale=60)
    with lock:
        os.utime(file, (1, 1))
        eventually_sync(lambda: file.stat().st_mtime > 1, what="a sign of life")
        assert not BuildLock(file).try_acquire()


def test_a_half_written_lock_is_held_until_it_is_old(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"host": "a')
    assert not BuildLock(file).try_acquire()
    os.utime(file, (1, 1))
    assert BuildLock(file).try_acquire()


def test_a_lock_that_somebody_took_over_is_not_released_by_its_former_holder(file: Path) -> None:
    one = BuildLock(file)
    assert one.try_acquire()
    os.utime(file, (1, 1))
    other = BuildLock(file)
    assert other.try_acquire()
    one.release()
    assert file.exists()
    assert not BuildLock(file).try_acquire()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(EngineStoreUnavailable):
        BuildLock(tmp_path / "file" / "engine.lock").try_acquire()


def test_a_held_lock_cannot_be_entered(file: Path) -> None:
    with BuildLock(file), pytest.raises(EngineStoreUnavailable, match="is held by"), BuildLock(file):
        pass
