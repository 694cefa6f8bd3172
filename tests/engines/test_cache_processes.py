"""Several processes on one cache: races and sudden deaths end with whole engines."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from sdstream.engines.cache import EngineCache
from sdstream.engines.tidying import collect
from tests.engines.builder_process import content
from tests.engines.stored import key

SIZE = 512 * 1024


def builder(directory: Path, rounds: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.engines.builder_process", str(directory), str(rounds), str(SIZE)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def assert_whole(directory: Path, rounds: int) -> int:
    """Every engine that is there is the right one; returns how many there are."""
    cache, found = EngineCache(directory), 0
    for number in range(rounds):
        entry = cache.take(key(weights=f"{number:064x}").base)
        if entry is not None:
            assert entry.file("engine.plan").read_bytes() == content(number, SIZE)
            found += 1
    return found


@pytest.mark.slow
def test_two_builders_race_and_each_engine_is_built_once(tmp_path: Path) -> None:
    rounds = 30
    racers = [builder(tmp_path, rounds) for _ in range(2)]
    said = [racer.communicate(timeout=250)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert assert_whole(tmp_path, rounds) == rounds
    built = [line.split()[1] for text in said for line in text.splitlines() if "built" in line]
    assert sorted(map(int, built)) == list(range(rounds))
    assert not (tmp_path / ".quarantine").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_builders_killed_at_random_points_leave_whole_engines_or_none(tmp_path: Path, seed: int) -> None:
    """Killed after a random number of bytes of what they say, so at a random step; the next goes on at once."""
    chance = random.Random(seed)
    rounds = 40
    for _ in range(4):
        victim = builder(tmp_path, rounds)
        assert victim.stdout is not None
        victim.stdout.read(chance.randrange(1, 120))
        victim.kill()
        victim.wait()
        victim.stdout.close()
        assert_whole(tmp_path, rounds)
    last = builder(tmp_path, rounds)
    said = last.communicate(timeout=250)[0]
    assert last.returncode == 0
    assert f"done {rounds - 1} found" in said
    assert assert_whole(tmp_path, rounds) == rounds
    assert not (tmp_path / ".quarantine").exists(), "no half engine ever had the name of a whole one"
    assert collect(EngineCache(tmp_path), older_than=0) is not None
    assert not any((tmp_path / ".drafts").iterdir())
