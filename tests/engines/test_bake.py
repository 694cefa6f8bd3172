"""Real TensorRT-RTX engines, baked on this CPU: stored, verified, pushed, wiped, pulled, verified again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sdstream.engine_errors import EngineBackendUnavailable, EngineBroken, EngineMismatch
from sdstream.engines.cache import EngineCache
from sdstream.engines.keys import capabilities_of
from sdstream.engines.mirror import EngineMirror
from sdstream.engines.tensorrt import PLAN, TensorrtBackend, refuse_entry
from sdstream.engines.tensorrt_library import is_installed
from tests.engines.stored import Events
from tests.engines.tiny_parts import ALL, CAPABILITIES, TinyParts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_component_has_an_engine_for_three_generations(baked: EngineCache) -> None:
    entries = baked.entries()
    assert len(entries) == len(ALL)
    backend = TensorrtBackend("tensorrt-rtx")
    for entry in entries:
        assert capabilities_of(entry.key.target) == set(CAPABILITIES)
        assert baked.verify(entry)
        backend.look_at(entry)
        assert entry.file(PLAN).stat().st_size > 100_000


def test_pushed_wiped_pulled_and_verified_again(
    baked: EngineCache, mirror: Callable[..., EngineMirror], tmp_path: Path
) -> None:
    bucket = mirror()
    for entry in baked.entries():
        assert bucket.push(baked, entry)
    here = EngineCache(tmp_path / "engines")
    for remote in bucket.list():
        bucket.pull(remote, here)
    shutil.rmtree(here.directory)
    assert here.entries() == []
    pulled = [bucket.pull(remote, here) for remote in bucket.list()]
    assert sorted(entry.name for entry in pulled) == sorted(entry.name for entry in baked.entries())
    backend = TensorrtBackend("tensorrt-rtx")
    for entry in pulled:
        taken = here.take(entry.key.base, lambda key: 89 in capabilities_of(key.target))
        assert taken is not None
        backend.look_at(taken)


def test_a_plan_that_the_library_does_not_know_is_told_without_a_gpu(baked: EngineCache, tmp_path: Path) -> None:
    entry = baked.entries()[0]
    cache = EngineCache(tmp_path / "engines")
    with cache.draft() as draft:
        (draft / PLAN).write_bytes(b"not a plan at all" * 1000)
        fake = cache.store(draft, entry.key)
    with pytest.raises(EngineBroken, match="no plan of tensorrt-rtx"):
        TensorrtBackend("tensorrt-rtx").look_at(fake)


@pytest.mark.parametrize(
    ("version", "capability", "words"),
    [
        ("1.7.1.116", 89, None),
        ("1.8.0.1", 89, "is of tensorrt-rtx 1.7.1.116, and here is tensorrt-rtx 1.8.0.1"),
        ("1.7.1.116", 75, "is for SM 8.6, 8.9, 12.0, and this card is SM 7.5"),
    ],
)
def test_an_engine_for_another_card_or_version_is_refused_with_the_command_that_bakes_the_right_one(
    baked: EngineCache, version: str, capability: int, words: str | None
) -> None:
    entry = baked.entries()[0]
    if entry.key.backend_version != "1.7.1.116":
        pytest.skip("another version of TensorRT-RTX is installed")
    refusal = refuse_entry(entry, "tensorrt-rtx", version, capability)
    if words is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert words in refusal
        assert f"python -m builder bake --profile tiny --backend tensorrt-rtx --sm {capability}" in refusal


def test_what_the_library_does_not_build_for_is_refused_before_anything_is_made(
    tiny_parts: TinyParts, baked: EngineCache, tmp_path: Path
) -> None:
    backend, events = TensorrtBackend("tensorrt-rtx"), Events()
    with pytest.raises(EngineMismatch, match=r"no engines for SM 9\.0.*--backend tensorrt"):
        backend.build(tiny_parts.component("sd15:encoder"), "sm90", tmp_path, tmp_path, lambda *_: None)
    assert list(tmp_path.iterdir()) == []
    assert events.all == []


@pytest.mark.skipif(is_installed("tensorrt"), reason="TensorRT is installed here")
def test_the_plain_tensorrt_is_said_to_be_missing_where_it_is() -> None:
    with pytest.raises(EngineBackendUnavailable, match="TensorRT") as raised:
        TensorrtBackend("tensorrt")
    assert "pypi.nvidia.com" in raised.value.hint
