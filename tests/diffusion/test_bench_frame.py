"""The bench of the frame: its floor, its goals, and that all contenders do the same work."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import frame
from bench.frame import OURS, OURS_SMALL, OURS_UNPREPARED, contenders_of, eight_bit_facts, missed_goals
from bench.support import upstream
from bench.support.contenders import BareModules, ImageToImage, InstantNetworks, Ours, Upstream, Work
from bench.support.random_models import make_networks, operators_of
from bench.support.roofline import CARDS, card_of, least_seconds
from sdstream.diffusion.eight_bit.layers import make_eight_bit
from sdstream.diffusion.eight_bit.products import Terms
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.planes import rgb_from_packed
from sdstream.diffusion.question import Question, Subject
from tests.diffusion.runs import distance

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' scheduler


@pytest.fixture(autouse=True)
def _left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put in place for upstream, which wants a GPU, is taken away again."""
    cuda: Any = torch.cuda
    monkeypatch.setattr(cuda, "Event", cuda.Event)
    monkeypatch.setattr(cuda, "synchronize", cuda.synchronize)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize("where", ["__init__", "run"])
def test_a_contender_that_fails_is_left_out_by_name_and_the_others_are_timed(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: ImageToImage, given: Any) -> torch.Tensor:
        raise ValueError("this library and that one\ndo not agree")

    monkeypatch.setattr(ImageToImage, where, fails)
    # It forks, which a process of several threads must not.
    monkeypatch.setattr(frame, "working_memory", lambda contender, work: None)
    work = Work(make_networks("tiny", CPU, torch.float32), 64, (32,), 1, CPU, torch.float32)
    prepared = frame.prepare(frame.Case("tiny", 64, (32,)), work, compiled=False, eight_bit="off", tuned=None)
    assert prepared.absent[ImageToImage.name] == "ValueError: this library and that one"
    assert {OURS, BareModules.name} <= {each.name for each in prepared.contenders}
    assert ImageToImage.name not in {row["who"] for row in frame.measure(prepared, 0.0)}


@pytest.mark.parametrize("failure", [subprocess.TimeoutExpired("pip", 100), None])
def test_upstream_that_cannot_be_fetched_is_absent_and_no_fault(
    failure: Exception | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(*told: Any, **named: Any) -> subprocess.CompletedProcess[str]:
        if failure is not None:
            raise failure
        return subprocess.CompletedProcess([], 1, "", "no network\n")

    monkeypatch.setattr(upstream, "find_spec", lambda name: None)
    monkeypatch.setattr(upstream, "FOLDER", tmp_path / "folder")
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(upstream.Absent):
        upstream.installed()


@pytest.mark.slow
def test_the_floor_is_that_of_the_notes_it_was_designed_with() -> None:
    parts = operators_of("sd-turbo", 512, 1)
    assert sum(each.operations for operators, _ in parts for each in operators) == pytest.approx(1.064e12, rel=1e-3)

    def milliseconds(streams: int, rows: int = 1) -> float:
        networks = (parts[0], (parts[1][0], rows), parts[2])
        return 1000 * sum(least_seconds(operators, CARDS["H200"], streams * each) for operators, each in networks)

    assert milliseconds(1) == pytest.approx(1.75, abs=0.01)
    assert 8000 / milliseconds(8) == pytest.approx(709, abs=1)
    assert milliseconds(1, rows=4) > 2.5 * milliseconds(1)
    assert card_of("NVIDIA H200") is CARDS["H200"]
    assert card_of("Some other processor") is None


def test_every_contender_makes_pictures_of_every_stream() -> None:
    networks = make_networks("tiny", CPU, torch.float32)
    work = Work(networks, 64, (0, 16, 32, 45), 2, CPU, torch.float32)
    contenders, absent = contenders_of(work, compiled=False)
    for images in work.images[:3]:  # the first pictures leave when the steps are filled
        for each in contenders:
            each.run(images)
    made = {each.name: each.run(work.images[3]) for each in contenders}
    assert set(made) | set(absent) == {BareModules.name, OURS, OURS_UNPREPARED, Upstream.name, ImageToImage.name}
    assert {tuple(images.shape) for images in made.values()} == {(2, 3, 64, 64)}
    for name in made.keys() - {BareModules.name}:
        assert distance(made[name][0], made[name][1]) > 1e-3, "streams have pictures of their own"


def test_eight_bits_take_part_beside_the_same_weights_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(make_networks("tiny", CPU, torch.float32), 64, (32,), 1, CPU, torch.float32)
    with pytest.warns(RuntimeWarning, match="eight bits were asked for"):
        _, absent = contenders_of(work, compiled=False, eight_bit="all")
    assert "cpu has no units for float8" in absent[OURS_SMALL]

    def place(unet: torch.nn.Module, device: torch.device, *, convolutions: bool) -> None:
        make_eight_bit(unet, lambda out, width: Terms("plain"))

    monkeypatch.setattr(frame, "place_eight_bit", place)
    contenders, _ = contenders_of(work, compiled=False, eight_bit="linear")
    facts = {each.name: eight_bit_facts(each, work, contenders) for each in contenders}
    small = facts.pop(OURS_SMALL)
    assert set(facts.values()) == {None}
    assert small is not None
    assert small["layers"] > 0
    assert 0.0 < small["picture_is_off_by"] < 0.1


def test_alone_this_engine_is_timed_as_it_is_meant_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    work = Work(make_networks("tiny", CPU, torch.float32), 64, (32,), 1, CPU, torch.float32)
    prepared = frame.prepare(frame.CASES["cpu"][0], work, False, "off", None, alone=True)
    rows = frame.measure(prepared, 0.0)
    frame.add_floor(rows, prepared.case, 1, "cpu")
    frame.show({"model": "tiny", "size": 64, "steps": (32,), "streams": 1, "rows": rows, "not_run": prepared.absent})
    assert [row["who"] for row in rows] == [OURS]
    assert rows[0]["over_bare_ms"] is None
    assert "over bare" not in capsys.readouterr().out


def test_goals_of_a_gpu_are_met_by_the_fastest_way_to_run() -> None:
    slow = result("sd-turbo", 8, fps=400.0)
    tuned = {**slow["rows"][0], "who": f"{OURS}, tuned", "fps": 510.0}
    assert missed_goals([slow | {"rows": [*slow["rows"], tuned]}], "NVIDIA H200") == []


def test_this_engine_and_upstream_make_the_same_pictures_there() -> None:
    work = Work(make_networks("tiny", CPU, torch.float32), 64, (32,), 2, CPU, torch.float32)
    contenders, absent = contenders_of(work, compiled=False)
    if absent:
        pytest.skip(str(absent))
    made = {each.name: each.run(work.images[0]) for each in contenders}
    assert distance(made[OURS] * 2 - 1, made[Upstream.name]) < 1e-4


def test_networks_that_answer_at_once_are_asked_for_the_same() -> None:
    work = Work(make_networks("tiny", CPU, torch.float32), 64, (0, 16), 3, CPU, torch.float32)
    made = Ours(work, "own", InstantNetworks(work)).run(work.images[0])
    assert torch.allclose(made, work.images[0], atol=1e-6), "the picture that lies ready"


def test_networks_that_answer_at_once_do_so_for_one_stream_of_several() -> None:
    """As frames are run to see what they ask a card for."""
    work = Work(make_networks("tiny", CPU, torch.float32), 64, (0, 16), 3, CPU, torch.float32)
    networks = InstantNetworks(work)
    latent = networks.encode(work.images[0][:1])
    assert latent.shape == (1, 4, 8, 8)
    assert networks.decode(latent).shape == (1, 3, 64, 64)
    rows = torch.zeros(2, 77, 32)
    question = Question(latent.expand(2, -1, -1, -1), Subject(torch.zeros(2), rows, None, None))
    assert networks.predict(question).shape == (2, 4, 8, 8)


def test_the_frame_as_it_is_served_makes_the_picture_of_the_same_colours() -> None:
    work = Work(make_networks("tiny", CPU, torch.float32), 64, (32,), 2, CPU, torch.float32)
    networks = EagerNetworks(work.networks.unet, work.networks.vae)
    images = work.images[1]
    made = Ours(work, "own", networks, served=True).run(images)
    wanted = Ours(work, "own", networks, served=False).run(rgb_from_packed(work.planes_of(images)))
    assert distance(made, wanted) < 1e-5


def result(model: str, streams: int, size: int = 512, **ours: float) -> dict[str, Any]:
    rows = [{"who": OURS, "ms": 2.0, "host_ms": 2.0, "own_ms": 0.1, "fps": 400.0, **ours}]
    rows.append({"who": Upstream.name, "ms": 12.0, "host_ms": 2.2, "fps": 80.0})
    return {"model": model, "size": size, "steps": (32,), "streams": streams, "rows": rows}


@pytest.mark.parametrize(
    ("device", "measured", "missed"),
    [
        ("cpu", result("tiny", 1), 0),
        ("cpu", result("tiny", 1, own_ms=0.7), 1),
        ("cpu", result("tiny", 2, own_ms=0.7), 0),
        ("cpu", result("mid", 2, host_ms=2.3), 1),
        ("NVIDIA H200", result("sd-turbo", 1), 0),
        ("NVIDIA H200", result("sd-turbo", 1, ms=4.0, fps=250.0), 2),
        ("NVIDIA H200", result("sd-turbo", 8, fps=400.0), 1),
        ("NVIDIA H200", result("sdxl-turbo", 1, size=1024, fps=60.0), 1),
        ("NVIDIA L4", result("sd-turbo", 8, fps=40.0), 0),
    ],
)
def test_goals_that_are_missed_are_named(device: str, measured: dict[str, Any], missed: int) -> None:
    assert len(missed_goals([measured], device)) == missed
