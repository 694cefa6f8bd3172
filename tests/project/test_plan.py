"""What `serve` says it will do, from settings and facts alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from sdstream.commands.machine import Gpu, MachineFacts
from sdstream.commands.plan import plan_serve
from sdstream.commands.torch_build import TorchBuild
from sdstream.settings import Settings

BARE = MachineFacts("Linux", "x86_64", (), "no NVIDIA driver answers", ("127.0.0.1",), "no such device")
CARD = Gpu(0, "NVIDIA L4", 23 * 2**30, "580.1")


def line(subject: str, settings: Settings, facts: MachineFacts = BARE) -> str:
    settings = settings.model_copy(update={"data_dir": Path("/data")})
    return next(entry.text.strip() for entry in plan_serve(settings, facts) if entry.subject == subject)


@pytest.mark.parametrize(
    ("facts", "choice"),
    [
        (BARE, "cpu (no NVIDIA driver answers)"),
        (MachineFacts("Darwin", "arm64", (), "none", (), ""), "mps"),
        (MachineFacts("Linux", "x86_64", (CARD,), "", (), ""), "cuda, NVIDIA L4 with 23 GiB (driver 580.1)"),
        (MachineFacts("Linux", "x86_64", (CARD, CARD), "", (), ""), "23 GiB, one of 2 cards (driver 580.1)"),
    ],
)
def test_the_device_follows_the_machine(facts: MachineFacts, choice: str) -> None:
    assert choice in line("device", Settings(), facts)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (TorchBuild("2.13.0", "13.0"), "torch here is for CUDA 13.0, and driver 550.54 knows 12.4"),
        (TorchBuild("2.13.0", ""), "torch here is built without CUDA"),
    ],
)
def test_a_card_that_torch_cannot_use_is_not_the_device(build: TorchBuild, reason: str) -> None:
    old = replace(CARD, driver="550.54", cuda=12040)
    said = line("device", Settings(), MachineFacts("Linux", "x86_64", (old,), "", (), "", torch=build))
    assert said.split(":", 1)[1].strip() == f"cpu (not NVIDIA L4: {reason}; `sdstream doctor` says what helps)"


def test_one_card_that_torch_can_use_is_enough() -> None:
    """Beside it there may be one that is too old for torch, which CUDA numbers behind it."""
    old, usable = replace(CARD, name="GTX 1060", cuda=13000, capability=61), replace(CARD, cuda=13000, capability=89)
    facts = MachineFacts("Linux", "x86_64", (old, usable), "", (), "", torch=TorchBuild("2.13.0", "13.0"))
    assert "cuda, NVIDIA L4" in line("device", Settings(), facts)


def test_the_device_of_the_settings_wins() -> None:
    assert "cpu (worker_device asks for it)" in line(
        "device", Settings(worker_device="cpu"), MachineFacts("Linux", "x86_64", (CARD,), "", (), "")
    )


def speed(settings: Settings, facts: MachineFacts) -> str:
    return "\n".join(entry.text for entry in plan_serve(settings, facts) if entry.subject == "speed")


def test_each_slow_way_that_is_in_use_is_told_at_the_start() -> None:
    with_card = MachineFacts("Linux", "x86_64", (CARD,), "", (), "")
    assert speed(Settings(), with_card) == ""
    slow = Settings(cuda_graphs=False, fused_blocks=False, batch_size=1, full_vae=True)
    told = speed(slow, with_card)
    assert len(told.splitlines()) == 4
    for name in ("CUDA_GRAPHS", "FUSED_BLOCKS", "BATCH_SIZE", "FULL_VAE"):
        assert f"SDSTREAM_{name}" in told


def test_a_cpu_is_called_slow_and_the_switches_of_a_gpu_are_no_matter_there() -> None:
    assert speed(Settings(cuda_graphs=False), BARE).strip() == (
        "speed:      slow with a model (networks are made for a CUDA GPU)"
    )
    with_card = MachineFacts("Linux", "x86_64", (CARD,), "", (), "")
    assert "slow with a model" in speed(Settings(worker_device="cpu"), with_card)


def test_the_encoder_is_nvenc_only_after_a_good_probe() -> None:
    failed = MachineFacts("Linux", "x86_64", (CARD,), "", (), "no such device")
    assert "x264 (the NVENC probe failed: no such device)" in line("encoder", Settings(), failed)
    assert "x264 (no GPU has NVENC here)" in line("encoder", Settings())
    assert "nvenc (a probe" in line("encoder", Settings(), MachineFacts("Linux", "x86_64", (CARD,), "", (), ""))
    assert "but the probe failed" in line("encoder", Settings(video_encoder="nvenc"))


def test_addresses_name_their_ports_and_their_source() -> None:
    assert "127.0.0.1 on any UDP port (this machine's interfaces)" in line("addresses", Settings())
    settings = Settings(webrtc_addresses=("203.0.113.7",), webrtc_ports=(40000, 40010))
    facts = MachineFacts("Linux", "x86_64", (), "", ("203.0.113.7",), "")
    assert "203.0.113.7 on UDP 40000-40010 (webrtc_addresses names them)" in line("addresses", settings, facts)


def test_access_says_how_far_the_server_can_be_reached() -> None:
    assert "this machine only" in line("access", Settings())
    assert "every network" in line("access", Settings(host="0.0.0.0"))
    assert "switched off" in line("access", Settings(authentication=False))
