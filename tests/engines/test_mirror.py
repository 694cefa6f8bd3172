"""The mirror against a real S3 protocol server: whole engines or none, gone on with where it broke off."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdstream.engine_errors import EngineBroken, EngineMissing, EngineStoreUnavailable
from sdstream.engines.cache import EngineCache
from sdstream.engines.mirror import EngineMirror, MirrorAddress, RemoteEngine
from tests.engines.buckets import BUCKET, PART, Line
from tests.engines.stored import FILES, KEY, Events, key, store

Make = Callable[..., EngineMirror]
REMOTE = RemoteEngine(KEY.base, KEY.place)
LARGE = {"engine.plan": bytes(range(251)) * (2 * PART // 251 + 4000), "extra.json": b"{}"}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def line(s3_server: tuple[str, int]) -> Iterator[Line]:
    made = Line(s3_server)
    yield made
    made.close()


def objects(mirror: EngineMirror) -> dict[str, int]:
    client: Any = mirror._client
    answer = client.list_objects_v2(Bucket=BUCKET, Prefix=mirror.address.prefix)
    return {item["Key"].rpartition("/")[2]: item["Size"] for item in answer.get("Contents", ())}


def test_an_engine_is_pushed_wiped_pulled_and_the_same(cache: EngineCache, mirror: Make, tmp_path: Path) -> None:
    bucket = mirror()
    assert bucket.push(cache, store(cache))
    assert not bucket.push(cache, store(cache)), "it is there already"
    assert bucket.list() == [REMOTE]
    other = EngineCache(tmp_path / "other")
    pulled = bucket.pull(REMOTE, other)
    assert {name: pulled.file(name).read_bytes() for name in FILES} == FILES
    taken = other.take(KEY.base)
    assert taken is not None
    assert taken.key.digest == KEY.digest
    assert not list((other.directory / ".drafts").iterdir())


def test_engines_are_found_by_what_they_serve(cache: EngineCache, mirror: Make) -> None:
    bucket = mirror()
    bucket.push(cache, store(cache))
    bucket.push(cache, store(cache, key(target="sm120")))
    found = bucket.find(KEY.base, lambda other: other.target == "sm120")
    assert found is not None
    assert found.capabilities == {120}
    assert bucket.find(KEY.base, lambda other: other.takes_rows(1000)) is None
    assert len(bucket.list(KEY.base)) == 2
    assert bucket.list(key(weights="b" * 64).base) == []


def test_a_large_file_goes_in_parts_and_is_gone_on_with(cache: EngineCache, mirror: Make, line: Line) -> None:
    entry = store(cache, files=LARGE)
    line.budget_up = PART + PART // 2
    port = line.open()
    with pytest.raises(EngineStoreUnavailable, match="s3://"):
        mirror(port=port).push(cache, entry)
    assert line.cuts
    bucket = mirror()
    assert bucket.list() == [], "without its manifest it is not there"
    calls: list[int] = []
    client: Any = bucket._client
    client.meta.events.register("before-call.s3.UploadPart", lambda **_: calls.append(1))
    assert bucket.push(cache, entry)
    assert len(calls) == 2, "the first of three parts was there"
    assert objects(bucket)["engine.plan"] == len(LARGE["engine.plan"])
    assert not list((cache.directory / ".uploads").iterdir())


def test_a_pull_that_breaks_off_is_gone_on_with(cache: EngineCache, mirror: Make, line: Line, tmp_path: Path) -> None:
    mirror().push(cache, store(cache, files=LARGE))
    other = EngineCache(tmp_path / "other")
    line.budget_down = PART
    port = line.open()
    with pytest.raises(EngineStoreUnavailable):
        mirror(port=port).pull(REMOTE, other)
    assert other.take(KEY.base) is None
    seen: list[tuple[int, int]] = []
    entry = mirror().pull(REMOTE, other, lambda name, done, size: seen.append((done, size)))
    assert entry.file("engine.plan").read_bytes() == LARGE["engine.plan"]
    plan = [done for done, size in seen if size == len(LARGE["engine.plan"])]
    assert plan[0] > PART // 2, "the first megabytes were not fetched again"


def test_a_half_pulled_engine_that_was_replaced_meanwhile_is_pulled_anew(
    cache: EngineCache, mirror: Make, tmp_path: Path
) -> None:
    mirror().push(cache, store(cache))
    other = EngineCache(tmp_path / "other")
    draft = other.directory / ".drafts" / f"pull-{KEY.digest[:32]}"
    draft.mkdir(parents=True)
    (draft / "engine.plan").write_bytes(b"the beginning of another engine")
    assert mirror().pull(REMOTE, other).file("engine.plan").read_bytes() == FILES["engine.plan"]


@pytest.mark.parametrize("harm", ["flip", "cut", "longer", "gone", "manifest", "another"])
def test_a_broken_engine_in_the_bucket_never_becomes_one_here(
    cache: EngineCache, mirror: Make, tmp_path: Path, harm: str
) -> None:
    events = Events()
    bucket = mirror(report=events)
    bucket.push(cache, store(cache))
    client: Any = bucket._client
    place = f"{bucket.address.prefix}/{KEY.base}/{KEY.place}"
    plan = FILES["engine.plan"]
    if harm == "gone":
        client.delete_object(Bucket=BUCKET, Key=f"{place}/engine.plan")
    elif harm == "manifest":
        client.put_object(Bucket=BUCKET, Key=f"{place}/manifest.json", Body=b"{}")
    elif harm == "another":
        moved = store(cache, key(weights="b" * 64)).manifest.dump()
        client.put_object(Bucket=BUCKET, Key=f"{place}/manifest.json", Body=moved)
    else:
        changed = {"flip": bytes([plan[0] ^ 1]) + plan[1:], "cut": plan[:-1], "longer": plan + b"x"}[harm]
        client.put_object(Bucket=BUCKET, Key=f"{place}/engine.plan", Body=changed)
    other = EngineCache(tmp_path / "other")
    with pytest.raises((EngineBroken, EngineStoreUnavailable)):
        bucket.pull(REMOTE, other)
    assert other.entries() == []
    assert other.take(KEY.base) is None


def test_a_broken_engine_is_not_pushed(cache: EngineCache, mirror: Make) -> None:
    entry = store(cache)
    entry.file("engine.plan").write_bytes(b"x")
    with pytest.raises(EngineBroken):
        mirror().push(cache, entry)
    assert objects(mirror()) == {}


def test_an_engine_that_is_not_there_is_missing(mirror: Make, cache: EngineCache) -> None:
    with pytest.raises(EngineMissing):
        mirror().pull(REMOTE, cache)


def test_a_removed_engine_is_gone(cache: EngineCache, mirror: Make) -> None:
    bucket = mirror()
    bucket.push(cache, store(cache))
    bucket.remove(REMOTE)
    assert objects(bucket) == {}


def test_a_bucket_that_is_not_there_or_does_not_answer_is_told(s3_server: tuple[str, int], mirror: Make) -> None:
    events = Events()
    address = MirrorAddress.parse("s3://nowhere/x", f"http://127.0.0.1:{s3_server[1]}", "eu-cz-1")
    with pytest.raises(EngineStoreUnavailable, match="NoSuchBucket"):
        EngineMirror(address, attempts=1, report=events).list()
    with pytest.raises(EngineStoreUnavailable):
        mirror(port=1, attempts=1, report=events).list()
    assert events.kinds == ["store_unavailable", "store_unavailable"]


def test_nothing_that_runpod_does_not_take_is_sent(cache: EngineCache, mirror: Make) -> None:
    """No checksum headers or trailers, no virtual hosts, no DeleteObjects."""
    bucket = mirror()
    seen: list[Any] = []
    client: Any = bucket._client
    client.meta.events.register("before-send.s3", lambda request, **_: seen.append(request))
    bucket.push(cache, store(cache, files=LARGE))
    bucket.remove(REMOTE)
    assert len(seen) > 8
    for request in seen:
        names = {name.lower() for name in request.headers}
        assert not {
            name for name in names if name.startswith(("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer"))
        }
        assert f"/{BUCKET}" in request.url
        assert "?delete" not in request.url
