"""`sdstream engines`: what is here is listed, what the card needs is fetched and copied to the local disk."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sdstream.cli import EXIT_USAGE, run
from sdstream.engines.cache import EngineCache
from sdstream.engines.mirror import EngineMirror
from tests.engines.conftest import mirror, s3_server
from tests.engines.stored import KEY, key, store
from tests.project.commands import environment, sdstream

__all__ = ["mirror", "s3_server"]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory and a local disk of the test's own, and no bucket."""
    for name in ("SDSTREAM_ENGINE_MIRROR", "SDSTREAM_ENGINE_MIRROR_ENDPOINT", "SDSTREAM_ENGINE_MIRROR_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SDSTREAM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SDSTREAM_ENGINE_LOCAL_DIR", str(tmp_path / "local"))
    return tmp_path


@pytest.fixture
def bucket(data: Path, mirror: Callable[..., EngineMirror], monkeypatch: pytest.MonkeyPatch) -> EngineMirror:
    """A bucket with engines for two cards, and the settings that name it."""
    made, source = mirror(), EngineCache(data / "ci")
    for target in ("sm86+sm89", "sm120"):
        made.push(source, store(source, key(target=target)))
    monkeypatch.setenv("SDSTREAM_ENGINE_MIRROR", str(made.address))
    monkeypatch.setenv("SDSTREAM_ENGINE_MIRROR_ENDPOINT", str(made.address.endpoint))
    monkeypatch.setenv("SDSTREAM_ENGINE_MIRROR_REGION", str(made.address.region))
    return made


def test_engines_are_listed_by_where_they_are(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(EngineCache(data / "data" / "engines"))
    store(EngineCache(data / "local"), key(target="sm120"))
    assert run(["engines", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(line[0], line[2]) for line in lines] == [("volume", "sm86+sm89"), ("local", "sm120")]
    assert lines[0][3] == KEY.readable


def test_a_data_directory_may_be_under_the_home_directory(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(data))
    monkeypatch.setenv("SDSTREAM_DATA_DIR", "~/data")  # as a file of variables, which no shell reads, has it
    store(EngineCache(data / "data" / "engines"))
    assert run(["engines", "list"]) == 0
    assert KEY.readable in capsys.readouterr().out


def test_what_a_card_needs_is_pulled(bucket: EngineMirror, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["engines", "list", "--mirror"]) == 0
    assert capsys.readouterr().out.count("bucket") == 2
    assert run(["engines", "pull", "--sm", "8.9"]) == 0
    assert capsys.readouterr().out.splitlines() == [KEY.readable]
    (entry,) = EngineCache(data / "data" / "engines").entries()
    assert entry.key == KEY


def test_warming_brings_engines_from_the_bucket_to_the_local_disk(
    bucket: EngineMirror, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the second time everything is there
        assert run(["engines", "warm", "--sm", "89"]) == 0
        assert capsys.readouterr().out.splitlines() == [KEY.readable]
    assert EngineCache(data / "local").take(KEY.base) is not None


def test_a_broken_engine_in_the_bucket_does_not_keep_the_others_away(
    bucket: EngineMirror, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = bucket.find(KEY.base, lambda other: other.target == "sm120")
    assert engine is not None
    client = bucket._client
    place = f"{bucket.address.prefix}/{engine.base}/{engine.place}/engine.plan"
    client.put_object(Bucket=bucket.address.bucket, Key=place, Body=b"broken")
    assert run(["engines", "warm", "--sm", "89,120"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [KEY.readable]
    assert "broken" in said.err or "ended after" in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull"], "SDSTREAM_ENGINE_MIRROR"),
        (["list", "--mirror"], "SDSTREAM_ENGINE_MIRROR"),
        (["warm", "--sm", "ada"], "not a compute capability"),
        (["pull", "--engine-mirror", "https://bucket/x"], "must be written s3://BUCKET"),
    ],
)
def test_what_cannot_be_done_is_told(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert run(["engines", *arguments]) == EXIT_USAGE
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_list_needs_no_torch(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('torch is not for the command line')")
    done = sdstream("engines", "list", environment=environment(tmp_path / "data") | {"PYTHONPATH": str(blocked)})
    assert done.returncode == 0, done.stderr
