"""The doctor's findings: each check in both verdicts, and the exit code."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from sdstream.cli import run
from sdstream.clock import SystemClock
from sdstream.commands import checks, mediamtx_check
from sdstream.commands.checks import (
    Check,
    Verdict,
    check_access,
    check_address,
    check_data_directory,
    check_eight_bit,
    check_encoder,
    check_gpu,
    check_models,
    check_port,
    check_torch,
)
from sdstream.commands.doctor import _check_table, printable
from sdstream.commands.machine import Gpu, MachineFacts
from sdstream.commands.mediamtx_check import check_mediamtx, check_mediamtx_ports
from sdstream.commands.torch_build import TorchBuild
from sdstream.settings import ModelSource, Settings
from sdstream.streams.database import FILE_NAME
from sdstream.streams.store import StreamStore
from tests.project.commands import environment, sdstream
from tests.support.hollow import write_hollow_model

BARE = MachineFacts("Linux", "x86_64", (), "no NVIDIA driver answers", ("127.0.0.1",), "no such device")
CARD = MachineFacts("Linux", "x86_64", (Gpu(0, "NVIDIA L4", 23 * 2**30, "580.1"),), "", ("127.0.0.1",), "")
OLD_CARD = replace(CARD, gpus=(replace(CARD.gpus[0], cuda=13000, capability=61),), torch=TorchBuild("2.13.0", "13.0"))
REMEDY = "Set SDSTREAM_DATA_DIR to a directory that can be written."
FAILS = "{'cuda_available': True, 'device': 'NVIDIA L4', 'problem': 'no kernel image is available'}"
OLD_DRIVER = replace(
    CARD, gpus=(replace(CARD.gpus[0], driver="550.54", cuda=12040),), torch=TorchBuild("2.13.0", "13.0")
)


@pytest.mark.slow
def test_a_good_machine_gets_exit_code_0_and_every_check(tmp_path: Path) -> None:
    given = environment(tmp_path / "data", port=0, webrtc_addresses="127.0.0.1", api_keys="top-secret")
    done = sdstream("doctor", "--json", environment=given, seconds=150)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"]
    assert {check["subject"] for check in found["checks"]} == {
        "port",
        "access",
        "WebRTC",
        "UDP 127.0.0.1",
        "GPU",
        "torch",
        "encoder",
        "data",
        "keys",
        "streams",
        "models",
    }
    assert found["settings"]["port"] == {"value": "0", "source": "SDSTREAM_PORT"}
    assert "top-secret" not in done.stdout
    assert not (tmp_path / "data").exists(), "doctor changes nothing"


def test_what_a_server_says_is_shown_and_not_obeyed_by_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=200).print(_check_table([Check("endpoint", Verdict.BAD, "answered 500: \x1b]0;title\x07")]))
    assert r"answered 500: \x1b]0;title\x07" in capsys.readouterr().out


def test_a_bad_setting_gets_exit_code_1_and_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "TORCH_PROGRAM", "raise SystemExit('not looked at here')")
    monkeypatch.setenv("COLUMNS", "200")
    for name, value in environment(tmp_path, webrtc_addresses="127.0.0.1").items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert run(["doctor", "--port", str(other.getsockname()[1])]) == 1
    said = capsys.readouterr().out
    assert "BAD" in said
    assert "in use by another program" in said
    assert "Choose another --port" in said
    assert "What `sdstream serve` will do:" in said


def test_a_data_directory_that_another_server_uses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(port=0, data_dir=tmp_path)
    asyncio.run(StreamStore(tmp_path / FILE_NAME, SystemClock()).close())
    assert check_data_directory(settings).verdict is not Verdict.BAD, "nobody has it open any more"
    program = (
        "import sys; from pathlib import Path; from sdstream.clock import SystemClock;"
        "from sdstream.streams.store import StreamStore; store = StreamStore(Path(sys.argv[1]), SystemClock());"
        "print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / FILE_NAME)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        before = sorted(path.name for path in tmp_path.iterdir())
        check = check_data_directory(settings)
        assert (check.verdict, "another sdstream server" in check.finding) == (Verdict.BAD, True)
        monkeypatch.setattr(checks, "answers_as_sdstream", lambda settings: True)
        assert check_data_directory(settings).verdict is Verdict.NOTE
        assert sorted(path.name for path in tmp_path.iterdir()) == before, "doctor changes nothing"
    finally:
        other.communicate()


@pytest.mark.parametrize("host", ["999.1.1.1", "a b", f"{'x' * 64}.example.org", "[::1]"])
def test_a_host_that_can_be_none_is_bad(host: str) -> None:
    found = check_port(Settings(host=host, port=1))
    assert (found.verdict, "is not an address of this machine" in found.finding) == (Verdict.BAD, True)


@pytest.mark.parametrize("health", [True, 5, None, "worker", ["worker"]])
def test_a_program_that_answers_with_any_json_is_another_program(
    health: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.httpx, "get", lambda *_, **__: httpx.Response(200, json=health))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert check_port(Settings(port=taken.getsockname()[1])).verdict is Verdict.BAD


def test_a_free_port_is_good() -> None:
    assert check_port(Settings(port=0)).verdict is Verdict.GOOD


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        (Settings(), Verdict.GOOD),
        (Settings(authentication=False), Verdict.NOTE),
        (Settings(host="0.0.0.0"), Verdict.NOTE),
        (Settings(host="0.0.0.0", public_url="https://video.example.org"), Verdict.GOOD),
    ],
)
def test_access(settings: Settings, verdict: Verdict) -> None:
    assert check_access(settings).verdict is verdict


@pytest.mark.parametrize(
    ("base", "verdict"), [("https://abc-8080.proxy.runpod.net", Verdict.GOOD), ("http://203.0.113.7:1", Verdict.NOTE)]
)
def test_access_by_runpods_proxy_is_encrypted_and_by_its_tcp_ports_is_not(base: str, verdict: Verdict) -> None:
    assert check_access(Settings(host="0.0.0.0"), base).verdict is verdict


async def test_an_address_of_this_machine_is_reached_by_udp() -> None:
    assert (await check_address("127.0.0.1", Settings())).verdict is Verdict.GOOD


async def test_an_address_that_nothing_answers_on_is_not_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ECHO_SECONDS", 0.2)
    # 127.0.0.2 is routed to this machine, but the socket below listens on 127.0.0.1 only
    original = checks.bind_udp
    monkeypatch.setattr(checks, "bind_udp", lambda _address, ports, make: original("127.0.0.1", ports, make))
    assert (await check_address("127.0.0.2", Settings())).verdict is Verdict.BAD
    named = await check_address("127.0.0.2", Settings(webrtc_addresses=("127.0.0.2",)))
    assert named.verdict is Verdict.NOTE, "a configured address may be a router's"


async def test_a_range_of_ports_that_is_taken_is_bad() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        check = await check_address("127.0.0.1", Settings(webrtc_ports=(port, port)))
    assert check.verdict is Verdict.BAD
    assert str(port) in check.finding


@pytest.mark.parametrize(("capability", "verdict"), [(None, Verdict.NOTE), (86, Verdict.NOTE), (89, Verdict.GOOD)])
def test_products_in_eight_bits_need_ada_or_later(capability: int | None, verdict: Verdict) -> None:
    check = check_eight_bit(capability)
    assert check.verdict is verdict
    assert ("8.9" in check.finding) == (verdict is Verdict.NOTE)


@pytest.mark.parametrize(("capability", "verdict"), [(86, Verdict.NOTE), (89, Verdict.NOTE), (90, Verdict.GOOD)])
def test_convolutions_in_eight_bits_need_hopper(capability: int, verdict: Verdict) -> None:
    assert check_eight_bit(capability, convolutions=True).verdict is verdict


def test_gpu() -> None:
    assert check_gpu(BARE) == Check("GPU", Verdict.NOTE, "no NVIDIA driver answers", check_gpu(BARE).remedy)
    assert check_gpu(CARD).finding == "NVIDIA L4 23 GiB; driver 580.1"
    two = check_gpu(replace(CARD, gpus=CARD.gpus * 2))
    assert (two.verdict, "CUDA_VISIBLE_DEVICES" in two.remedy) == (Verdict.NOTE, True)


@pytest.mark.parametrize(
    ("program", "settings", "facts", "verdict", "words"),
    [
        ("import sys; sys.exit('no torch here')", Settings(), BARE, Verdict.BAD, "no torch here"),
        ("{'cuda_available': False}", Settings(), BARE, Verdict.GOOD, "computes on the CPU"),
        ("{'cuda_available': False}", Settings(), CARD, Verdict.BAD, "does not see the GPU"),
        ("{'cuda_available': False}", Settings(), OLD_DRIVER, Verdict.BAD, "CUDA 13.0, and driver 550.54 knows 12.4"),
        (FAILS, Settings(), OLD_CARD, Verdict.BAD, "no programs for compute capability 6.1"),
        (FAILS, Settings(), CARD, Verdict.BAD, "cannot compute on NVIDIA L4: no kernel image"),
        (FAILS, Settings(worker_device="cpu"), OLD_CARD, Verdict.GOOD, "computes on the CPU"),
        ("{'cuda_available': False}", Settings(worker_device="cpu"), OLD_DRIVER, Verdict.GOOD, "computes on the CPU"),
        ("{'cuda_available': False}", Settings(worker_device="cuda:0"), BARE, Verdict.BAD, "sees no CUDA device"),
        ("{'cuda_available': True, 'device': 'NVIDIA L4'}", Settings(), CARD, Verdict.GOOD, "computes on NVIDIA L4"),
    ],
)
def test_torch(
    program: str,
    settings: Settings,
    facts: MachineFacts,
    verdict: Verdict,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if program.startswith("{"):
        base = "{'version': '2', 'seconds': 1.0, 'threads': 1, 'cuda': None, 'mps_available': False}"
        program = f"import json; print(json.dumps({base} | {program}))"
    monkeypatch.setattr(checks, "TORCH_PROGRAM", program)
    check = check_torch(settings, facts)
    assert check.verdict is verdict
    assert words in check.finding


def test_encoder() -> None:
    assert check_encoder(Settings(), BARE).verdict is Verdict.GOOD
    assert check_encoder(Settings(video_encoder="nvenc"), BARE).verdict is Verdict.BAD
    assert check_encoder(Settings(), CARD).finding == "NVENC made a picture"


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a script of a shell")
@pytest.mark.parametrize(
    ("says", "verdict", "words"),
    [
        ("echo v1.20.1", Verdict.GOOD, "is v1.20.1"),
        ("echo v1.9.0", Verdict.BAD, "1.20.1 to 1.x is needed"),
        ("exit 3", Verdict.BAD, "does not tell its version"),
    ],
)
def test_mediamtx_is_here_and_of_a_version_that_is_used(
    tmp_path: Path, says: str, verdict: Verdict, words: str
) -> None:
    program = tmp_path / "mediamtx"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    check = check_mediamtx(Settings(mediamtx_program=str(program)))
    assert check.verdict is verdict
    assert words in check.finding
    assert "the setting mediamtx_program names it" in check.finding


def test_mediamtx_that_is_not_here_is_told_with_a_remedy(tmp_path: Path) -> None:
    check = check_mediamtx(Settings(mediamtx_program=str(tmp_path / "none")))
    assert check.verdict is Verdict.BAD
    assert check.remedy is not None
    assert "`sdstream install-mediamtx` fetches" in check.remedy
    assert "github.com/bluenviron/mediamtx/releases" in check.remedy


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("mediamtx_rtmp_port", socket.SOCK_STREAM),
        ("mediamtx_webrtc_tcp_port", socket.SOCK_STREAM),
        ("mediamtx_srt_port", socket.SOCK_DGRAM),
    ],
)
def test_a_port_of_mediamtx_must_be_free(setting: str, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("0.0.0.0", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen(1)
        port = taken.getsockname()[1]
        settings = Settings.model_validate({"media_backend": "mediamtx", "mediamtx_webrtc_udp_port": 0, setting: port})
        check = check_mediamtx_ports(settings)
        assert (check.verdict, setting in check.finding) == (Verdict.BAD, True)
        # A running server's MediaMTX has it: the doctor is asked beside it.
        monkeypatch.setattr(mediamtx_check, "answers_as_sdstream", lambda settings: True)
        assert check_mediamtx_ports(settings).verdict is Verdict.NOTE
    good = check_mediamtx_ports(settings)
    assert (good.verdict, str(port) in good.finding) == (Verdict.GOOD, True)


def test_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_data_directory(Settings(data_dir=tmp_path)).verdict in (Verdict.GOOD, Verdict.NOTE)
    assert "will be made" in check_data_directory(Settings(data_dir=tmp_path / "a" / "b")).finding
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    assert check_data_directory(Settings(data_dir=tmp_path / "file")).verdict is Verdict.BAD
    unreachable = check_data_directory(Settings(data_dir=tmp_path / ("x" * 300)))
    assert (unreachable.verdict, unreachable.remedy) == (Verdict.BAD, REMEDY)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _path: usage._replace(free=1))
    assert check_data_directory(Settings(data_dir=tmp_path)).verdict is Verdict.BAD


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert check_models(Settings(data_dir=tmp_path)).verdict is Verdict.NOTE
    weights = tmp_path / "mine.safetensors"
    named = Settings(data_dir=tmp_path, models={"me/mine": ModelSource(source=str(weights), family="sd15")})
    assert check_models(named).verdict is Verdict.BAD
    weights.write_bytes(b"")
    assert "not a whole safetensors file" in check_models(named).finding
    folder = tmp_path / "mine"
    folder.mkdir()
    named = Settings(data_dir=tmp_path, models={"me/mine": ModelSource(source=str(folder), family="sd15")})
    assert "model_index.json" in check_models(named).finding
    write_hollow_model(folder)
    assert "present: me/mine" in check_models(named).finding, "no weights are read"
    assert check_models(Settings(default_model="no/such")).verdict is Verdict.BAD


def test_settings_are_printed_without_secrets() -> None:
    settings = Settings.model_validate({"api_keys": "a,b", "webrtc_ports": "1-2", "models": {"a": "b"}})
    assert printable(settings.api_keys) == "2 hidden"
    assert printable(settings.webrtc_ports) == "1, 2"
    assert printable(settings.models) == "a from b"
    assert printable(None) == "unset"
