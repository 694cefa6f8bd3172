"""The builder's command line, and what a bake does: makes what is missing, says what it costs, tells failures apart."""

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from builder import command
from builder.baking import BakeProgress, Bakery, BakeStatus
from builder.models import LoadedProfile
from builder.profiles import Profile
from builder.progress import ProgressLine
from sdstream.clock import ManualClock
from sdstream.engine_errors import EngineBackendUnavailable, EngineBuildFailed, EngineStoreUnavailable
from sdstream.engines.cache import EngineCache
from sdstream.engines.component import Component
from sdstream.engines.keys import TensorRange
from sdstream.engines.mirror import EngineMirror
from sdstream.engines.tensorrt_library import is_installed
from tests.engines.stored import Events
from tests.support.waiting import eventually_sync

CPU = torch.device("cpu")
TINY = """
family = "sd15"
model = "tiny"
tiny = 0
sizes = ["64x64"]
slots = [1]
components = ["encoder", "decoder"]
[targets]
tensorrt-rtx = [86, 89, 120]
"""


class FakeBackend:
    """Makes an engine of a few bytes, or fails as it is told."""

    name: Any = "tensorrt-rtx"
    version = "1.0"
    cuda = "13"
    options: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self.built: list[str] = []
        self.error: BaseException | None = None

    def build(self, component: Component, target: str, folder: Path, work: Path, progress: Any) -> Mapping[str, Any]:
        progress("building the engine", 0.5)
        (work / "half").write_bytes(b"of an export")
        if self.error is not None and component.name == "second":
            raise self.error
        self.built.append(component.name)
        (folder / "engine.plan").write_bytes(component.name.encode())
        return {}

    def load(self, entry: Any, device: torch.device) -> Any:
        raise NotImplementedError


class Oven:
    """A bakery for a made-up profile of three components."""

    def __init__(self, folder: Path) -> None:
        self.events = Events()
        self.backend = FakeBackend()
        self.cache = EngineCache(folder / "engines", report=self.events)
        entry = TensorRange("image", "float16", (1, 3), (1, 3), (4, 3))
        components = tuple(
            Component(name, torch.nn.Linear(3, 3), (entry,), ("latent",), {}, name.ljust(64, "0"), "float16")
            for name in ("first", "second", "third")
        )
        self.profile = Profile.model_validate(
            {"name": "made-up", "family": "sd15", "model": "x", "sizes": ["64x64"], "targets": {"tensorrt-rtx": [89]}}
        )
        self.bakery = Bakery(
            self.cache,
            CPU,
            report=self.events,
            load=lambda profile, name, device: LoadedProfile(profile, components),
            make=lambda name, device: self.backend,
        )


@pytest.fixture
def oven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Oven:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # half a second each, with torch around, and there is nothing here
    return Oven(tmp_path)


def test_making_room_without_a_number_keeps_the_limit_of_the_settings(
    oven: Oven, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    oven.bakery.bake(oven.profile)
    arguments = ["gc", "--engines", str(oven.cache.directory)]
    assert command.run(arguments) == 0
    assert len(oven.cache.entries()) == 3, "no limit"
    monkeypatch.setenv("SDSTREAM_ENGINE_VOLUME_LIMIT_GIGABYTES", str(12e-9))
    assert command.run(arguments) == 0
    assert len(oven.cache.entries()) == 2, "of five and six bytes"
    assert capsys.readouterr().out.count("removed") == 1


def test_what_is_missing_is_made_and_what_is_there_stays(oven: Oven) -> None:
    first = oven.bakery.bake(oven.profile)
    assert [engine.status for engine in first.engines] == [BakeStatus.BUILT] * 3
    second = oven.bakery.bake(oven.profile)
    assert [engine.status for engine in second.engines] == [BakeStatus.PRESENT] * 3
    assert oven.backend.built == ["first", "second", "third"]
    assert second.is_complete
    assert json.loads(json.dumps(second.as_json()))["complete"] is True


def test_a_bake_goes_on_with_what_a_crash_left(oven: Oven) -> None:
    oven.backend.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        oven.bakery.bake(oven.profile)
    assert "half" in {file.name for file in oven.cache.directory.glob(".drafts/*/*")}, "for who goes on"
    oven.backend.error = None
    outcome = oven.bakery.bake(oven.profile)
    assert "half" not in {file.name for file in oven.cache.directory.glob(".drafts/*/*")}
    assert [engine.status for engine in outcome.engines] == [BakeStatus.PRESENT, BakeStatus.BUILT, BakeStatus.BUILT]
    assert oven.backend.built == ["first", "second", "third"]


def test_one_engine_that_fails_does_not_keep_the_others_from_being_made(oven: Oven) -> None:
    oven.backend.error = EngineBuildFailed("the layer Foo is not known")
    outcome = oven.bakery.bake(oven.profile)
    assert [engine.status for engine in outcome.engines] == [BakeStatus.BUILT, BakeStatus.FAILED, BakeStatus.BUILT]
    assert "Foo" in str(outcome.failures[0].error)
    assert "build_failed" in oven.events.kinds


def test_a_full_disk_ends_the_bake_and_leaves_what_was_made(oven: Oven) -> None:
    oven.backend.error = OSError(28, "No space left on device")
    outcome = oven.bakery.bake(oven.profile)
    assert [engine.status for engine in outcome.engines] == [BakeStatus.BUILT, BakeStatus.FAILED]
    assert isinstance(outcome.failures[0].error, EngineStoreUnavailable)
    assert len(oven.cache.entries()) == 1


def test_progress_is_told_and_only_goes_forward(oven: Oven) -> None:
    told: list[BakeProgress] = []
    oven.bakery.bake(oven.profile, tell=told.append)
    assert [progress.index for progress in told] == sorted(progress.index for progress in told)
    assert {progress.count for progress in told} == {3}
    assert "building the engine" in {progress.detail for progress in told}


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_too_little_memory_or_disk_is_said_before_anything_is_made(
    oven: Oven, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "memory":
        monkeypatch.setattr("builder.estimates.free_memory", lambda: 1000)
    else:
        monkeypatch.setattr(oven.cache, "free_bytes", lambda: 1000)
    (plan,) = oven.bakery.plan(oven.profile)
    assert [problem for problem in plan.estimate.problems if f"of {what} are needed" in problem]
    with pytest.raises(EngineStoreUnavailable, match=f"of {what} are needed"):
        oven.bakery.bake(oven.profile)
    assert oven.backend.built == []
    assert oven.cache.entries() == []


def test_a_builder_waits_for_another_and_takes_what_that_one_made(oven: Oven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.baking.LOOK_AGAIN", 0.01)
    (plan,) = oven.bakery.plan(oven.profile)
    key = plan.wanted[0].key
    other = oven.cache.lock(key)
    assert other.try_acquire()
    told: list[str] = []

    def tell(progress: BakeProgress) -> None:
        told.append(progress.detail)
        if "makes it" in progress.detail and other.is_held:
            with oven.cache.draft() as draft:
                (draft / "engine.plan").write_bytes(b"made by the other")
                oven.cache.store(draft, key)
            other.release()

    outcome = oven.bakery.bake(oven.profile, tell=tell)
    assert outcome.engines[0].status is BakeStatus.PRESENT
    assert oven.backend.built == ["second", "third"]
    assert any("makes it" in detail for detail in told)


@pytest.fixture
def pushing(
    oven: Oven, mirror: Callable[..., EngineMirror], monkeypatch: pytest.MonkeyPatch, data: Path
) -> Callable[..., int]:
    """`bake --push` of the made-up profile, by the command line, into a real bucket."""
    monkeypatch.setattr(command, "_bakery", lambda engines: oven.bakery)
    monkeypatch.setattr(command, "_profile", lambda *chosen: oven.profile)

    def run(*arguments: str, **options: Any) -> int:
        monkeypatch.setattr(command, "_mirror", lambda: mirror(**options))
        return command.run(["bake", "--profile", "made-up", "--push", *arguments])

    return run


def in_bucket(bucket: EngineMirror) -> list[str]:
    return sorted(bucket.manifest(engine).key.component for engine in bucket.list())


def test_an_engine_that_fails_keeps_no_other_out_of_the_bucket(
    oven: Oven,
    pushing: Callable[..., int],
    mirror: Callable[..., EngineMirror],
    capsys: pytest.CaptureFixture[str],
) -> None:
    oven.backend.error = EngineBuildFailed("the layer Foo is not known")
    assert pushing() == command.EXIT_FAILED
    assert in_bucket(mirror()) == ["first", "third"]
    said = capsys.readouterr()
    assert said.out.count("built") == said.out.count("pushed") == 2
    (line,) = (line for line in said.err.splitlines() if line.startswith("builder:"))
    assert line.startswith("builder: second--")
    assert line.endswith("could not be made: the layer Foo is not known")
    assert pushing("--json") == command.EXIT_FAILED
    assert json.loads(capsys.readouterr().out)["pushed"] == [], "both are there"


def test_what_mends_a_failure_is_told_once(
    oven: Oven, pushing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    oven.backend.error = EngineBackendUnavailable("a header is not here", hint="pip install the headers")
    assert pushing() == command.EXIT_FAILED
    assert capsys.readouterr().err.splitlines().count("  pip install the headers") == 1


def test_a_bake_that_is_ended_has_pushed_what_it_had_made(
    oven: Oven, pushing: Callable[..., int], mirror: Callable[..., EngineMirror]
) -> None:
    oven.backend.error = KeyboardInterrupt()
    assert pushing() == command.EXIT_INTERRUPTED
    assert in_bucket(mirror()) == ["first"]


def test_a_bucket_that_fails_keeps_no_engine_from_being_made(
    oven: Oven, pushing: Callable[..., int], mirror: Callable[..., EngineMirror], capsys: pytest.CaptureFixture[str]
) -> None:
    assert pushing("--json", port=1, attempts=1) == command.EXIT_MIRROR
    said = capsys.readouterr()
    outcome = json.loads(said.out)
    assert outcome["complete"] is True
    assert outcome["pushed"] == []
    assert all(text.startswith("ENGINES/STORE_UNAVAILABLE: s3://") for text in outcome["unpushed"].values())
    assert said.err.count("is made and could not be pushed") == len(outcome["unpushed"]) == 3
    assert pushing() == 0, "and a second bake pushes what was made before"
    assert in_bucket(mirror()) == ["first", "second", "third"]


def test_one_broken_engine_of_the_bucket_keeps_no_other_from_being_pulled(
    oven: Oven,
    pushing: Callable[..., int],
    mirror: Callable[..., EngineMirror],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert pushing() == 0
    bucket = mirror()
    first, second, _ = bucket.list()
    for engine, file in ((first, "engine.plan"), (second, "manifest.json")):
        key = bucket._object(engine, file)
        bucket._client.put_object(Bucket=bucket.address.bucket, Key=key, Body=b"broken")
    capsys.readouterr()
    there = str(tmp_path / "pulled")
    assert command.run(["pull", "--engines", there]) == command.EXIT_WRONG
    said = capsys.readouterr()
    assert said.out.count("pulled") == 1
    assert f"1 engines of {bucket.address} are in {there}" in said.err
    assert len(EngineCache(Path(there)).entries()) == 1
    assert command.run(["list", "--mirror"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2, "that without a manifest is not there"


def test_one_broken_engine_keeps_no_other_from_being_pushed(
    oven: Oven, pushing: Callable[..., int], mirror: Callable[..., EngineMirror]
) -> None:
    oven.bakery.bake(oven.profile)
    pushing("--help")  # has the bucket be this test's
    oven.cache.entries()[0].file("engine.plan").write_bytes(b"broken")
    assert command.run(["push", "--engines", str(oven.cache.directory)]) == command.EXIT_WRONG
    assert len(in_bucket(mirror())) == 2


class Terminal:
    """A stream that remembers what is written to it."""

    def __init__(self, terminal: bool) -> None:
        self.text = ""
        self._terminal = terminal

    def fileno(self) -> int:
        raise OSError("no terminal")

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_progress_is_one_line_on_a_terminal_and_a_line_a_step_elsewhere(oven: Oven) -> None:
    for terminal in (True, False):
        stream: Any = Terminal(terminal)
        line = ProgressLine(stream)
        for fraction in (0.1, 0.5):
            line(BakeProgress("tiny--unet--1x4--float16", 0, 2, "building the engine", fraction, 3.2))
        line.end()
        assert stream.text.count("\n") == (0 if terminal else 1)
        assert "[1/2] tiny--unet--1x4: building the engine, 10 %, 3 s" in stream.text


@pytest.mark.parametrize("terminal", [True, False])
def test_seconds_run_on_while_an_engine_takes_long(terminal: bool) -> None:
    stream: Any = Terminal(terminal)
    clock = ManualClock()
    line = ProgressLine(stream, clock, every=0.001)
    line(BakeProgress("tiny--unet--1x4--float16", 0, 2, "exporting", None, 3.0))
    clock.advance(100)
    eventually_sync(lambda: "exporting, 103 s" in stream.text, what="the line again", seconds=30)
    line.end()


def test_a_line_is_no_longer_than_the_terminal_so_that_it_can_be_written_over() -> None:
    stream: Any = Terminal(True)
    line = ProgressLine(stream)
    line(BakeProgress("tiny--" + "long" * 40, 0, 2, "exporting", None, 3.0))
    line.end()
    assert max(len(part.removeprefix("\x1b[K")) for part in stream.text.split("\r")) == 79


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory and a profile of a tiny model, and no other setting."""
    monkeypatch.setenv("SDSTREAM_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "tiny.toml").write_text(TINY)
    yield tmp_path
    torch.set_grad_enabled(False)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="TensorRT-RTX is not installed")
def test_from_the_plan_to_the_bucket_and_back(
    data: Path, capsys: pytest.CaptureFixture[str], mirror: Callable[..., EngineMirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="the bake extra is not installed")
    address = mirror().address
    monkeypatch.setenv("SDSTREAM_ENGINE_MIRROR", str(address))
    monkeypatch.setenv("SDSTREAM_ENGINE_MIRROR_ENDPOINT", str(address.endpoint))
    monkeypatch.setenv("SDSTREAM_ENGINE_MIRROR_REGION", str(address.region))
    profile = str(data / "tiny.toml")
    assert command.run(["plan", "--profile", profile, "--json"]) == 0
    (planned,) = json.loads(capsys.readouterr().out)
    assert [engine["present"] for engine in planned["engines"]] == [False, False]
    assert planned["seconds"] > 0
    assert planned["memory"] > 0
    assert command.run(["bake", "--profile", profile, "--push", "--json"]) == 0
    said = capsys.readouterr()
    outcome = json.loads(said.out)
    assert outcome["complete"] is True
    assert [engine["status"] for engine in outcome["engines"]] == ["built", "built"]
    assert sorted(outcome["pushed"]) == sorted(engine["name"] for engine in outcome["engines"])
    assert command.run(["push"]) == 0
    pushed = capsys.readouterr()
    assert pushed.out == "", "everything is there"
    assert "0 of 2 engines pushed, 2 were there" in pushed.err
    assert "[2/2] tiny-sd15--decoder" in said.err
    assert command.run(["verify", "--profile", profile]) == 0
    said = capsys.readouterr()
    assert said.out.count("good") == 2
    assert said.out.count("not run: tensorrt-rtx engines run on NVIDIA GPUs") == 2
    cache = EngineCache(data / "data" / "engines")
    assert all(entry.manifest.facts["verified"]["onnx_error"] < 5e-3 for entry in cache.entries())
    for entry in cache.entries():
        cache.remove(entry)
    assert command.run(["list"]) == 0
    assert capsys.readouterr().out == ""
    assert command.run(["list", "--mirror"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert command.run(["pull", "--sm", "89"]) == 0
    assert capsys.readouterr().out.count("pulled") == 2
    cache.entries()[0].file("engine.plan").write_bytes(b"broken")
    assert command.run(["verify", "--profile", profile, "--no-onnx"]) == command.EXIT_WRONG
    assert "WRONG" in capsys.readouterr().out
    assert command.run(["verify", "--profile", profile, "--no-onnx", "--sm", "75"]) == command.EXIT_WRONG
    (first, _) = capsys.readouterr().out.splitlines()
    assert "sm75" in first.partition(":")[0]
    assert command.run(["plan", "--profile", profile, "--sm", "89"]) == 0
    assert "that for sm86+sm89+sm120 is there and serves these cards, too" in capsys.readouterr().out
    assert "what is here is for others" in first
    assert "`python -m builder bake` with the same options" in first
    assert command.run(["gc", "--hours", "0", "--limit", "0"]) == 0
    assert cache.entries() == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["bake", "--profile", "sd-turbo-521"], command.EXIT_USAGE, "did you mean sd-turbo-512?"),
        (["bake", "--profile", "sd-turbo-512", "--sm", "ada"], command.EXIT_USAGE, "not a compute capability"),
        (["bake", "--profile", "sd-turbo-512", "--sm", "90"], command.EXIT_USAGE, "no engines for SM 9.0"),
        (["bake", "--profile", "sd-turbo-512", "--backend", "tensorrt-rxt"], command.EXIT_USAGE, "tensorrt-rxt"),
        (["bake"], command.EXIT_USAGE, "profile"),
        (["push"], command.EXIT_USAGE, "SDSTREAM_ENGINE_MIRROR"),
        (["bake", "--profile", "sd-turbo-512", "--push"], command.EXIT_USAGE, "SDSTREAM_ENGINE_MIRROR"),
        (
            ["bake", "--profile", "sd-turbo-512", "--backend", "compiled", "--sm", "89"],
            command.EXIT_USAGE,
            "--sm is for",
        ),
        (["pull", "--profile", "sd-turbo-521"], command.EXIT_USAGE, "SDSTREAM_ENGINE_MIRROR"),
        (["fetch", "--profile", "sd-turbo-521"], command.EXIT_USAGE, "did you mean sd-turbo-512?"),
        (["gc", "--limit", "-1"], command.EXIT_USAGE, "--limit"),
        (["gc", "--limit", "inf"], command.EXIT_USAGE, "--limit"),
        (["gc", "--hours", "-1"], command.EXIT_USAGE, "--hours"),
        (["bake", "--profile", "sd-turbo-512", "--model", "nobody/nothing"], command.EXIT_NOT_HERE, "nobody/nothing"),
    ],
)
def test_what_cannot_be_done_is_told_by_words_and_exit_code(
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(data / "hub"))
    if code == command.EXIT_NOT_HERE and not is_installed("tensorrt-rtx"):
        pytest.skip("TensorRT-RTX is not installed")
    assert command.run(arguments) == code
    assert words in capsys.readouterr().err
    assert not (data / "data").exists()


@pytest.mark.skipif(is_installed("tensorrt"), reason="TensorRT is installed here")
def test_a_back_end_that_is_not_here_has_an_exit_code_of_its_own(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bake", "--profile", str(data / "tiny.toml"), "--backend", "tensorrt", "--sm", "90"]
    assert command.run(arguments) == command.EXIT_NOT_HERE
    assert "TensorRT is not installed" in capsys.readouterr().err
