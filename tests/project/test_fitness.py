"""What RunPod's SDK asks of a worker before its first job."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdstream import fitness
from sdstream.commands.machine import Gpu, MachineFacts
from sdstream.errors import ConfigurationError
from sdstream.fitness import check_architecture, check_card, check_data, check_encoder, register_fitness_checks
from sdstream.settings import Settings

CARD = Gpu(0, "NVIDIA L4", 23 * 2**30, "580.1")
BUILT = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
NEWER_CARD = {"available": True, "cuda": "12.8", "capability": [12, 0], "architectures": ["sm_90"]}
FACTS = MachineFacts("Linux", "x86_64", (CARD,), "", ("10.0.0.1",), "")


@pytest.mark.parametrize(
    ("capability", "built_for"),
    [
        ((8, 6), BUILT),
        ((8, 9), BUILT),
        ((12, 0), BUILT),
        ((12, 0), ("sm_90", "compute_90")),
        ((9, 0), ("sm_90a", "sm_90")),
    ],
)
def test_a_card_that_torch_has_programs_for_is_fit(capability: tuple[int, ...], built_for: tuple[str, ...]) -> None:
    check_architecture(CARD, capability, built_for)


@pytest.mark.parametrize(
    ("capability", "built_for", "words"),
    [
        ((7, 0), ("sm_70",), "too old"),
        ((12, 0), ("sm_80", "sm_90"), "no programs"),
        ((8, 0), ("sm_86",), "no programs"),
        ((10, 0), ("sm_90a", "sm_100a"), "no programs"),
        ((8, 6), (), "only none"),
    ],
)
def test_one_that_it_has_none_for_is_not(capability: tuple[int, ...], built_for: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_architecture(CARD, capability, built_for)


def test_a_worker_without_a_card_is_fit_only_when_it_is_told_to_do_without() -> None:
    bare = MachineFacts("Linux", "x86_64", (), "no NVIDIA driver answers", (), "")
    with pytest.raises(ConfigurationError, match="no NVIDIA driver answers"):
        check_card(Settings(), bare)
    check_card(Settings(worker_device="cpu"), bare)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("raise SystemExit('no torch here')", "no torch here"),
        (f"print({json.dumps({'available': False, 'cuda': '13.0'})!r})", "torch for CUDA 13.0 cannot use NVIDIA L4"),
        (f"print({json.dumps(NEWER_CARD)!r})", "no programs"),
    ],
)
def test_a_torch_that_cannot_use_the_card_is_told(program: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitness, "TORCH_PROGRAM", program)
    with pytest.raises(ConfigurationError, match=words):
        check_card(Settings(), FACTS)


def test_a_data_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    check_data(Settings(data_dir=tmp_path / "good"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        check_data(Settings(data_dir=tmp_path / "file"))


def test_an_encoder_that_is_asked_for_and_absent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    check_encoder(Settings())
    monkeypatch.setattr(fitness, "probe_encoder", lambda name: "" if name == "libx264" else "no such device")
    check_encoder(Settings())
    with pytest.raises(ConfigurationError, match="h264_nvenc does not work: no such device"):
        check_encoder(Settings(video_encoder="nvenc"))


def test_all_are_given_to_the_sdk() -> None:
    class Sdk:
        class serverless:  # noqa: N801 - the SDK's own name
            given: list[Any] = []  # noqa: RUF012

            @classmethod
            def register_fitness_check(cls, check: Any) -> None:
                cls.given.append(check)

    register_fitness_checks(Sdk, Settings())
    assert [check.__name__ for check in Sdk.serverless.given] == ["sdstream_data", "sdstream_encoder", "sdstream_card"]
