"""The doctor on RunPod: ways in, volumes, and the mode of WebRTC."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdstream.commands import ways_in
from sdstream.commands.checks import Check, Verdict
from sdstream.commands.machine import MachineFacts
from sdstream.commands.plan import plan_serve
from sdstream.commands.ways_in import check_container_disk, check_ingest, check_runpod, check_volume, check_webrtc
from sdstream.media.mediamtx.reach import choose_reach
from sdstream.media.turn.choice import choose_webrtc
from sdstream.reachability import Place, Role
from sdstream.settings import Settings

POD = Place(Role.POD, "abc", public_ip="203.0.113.7", tcp_ports={3478: 21478})
OPEN = {"host": "0.0.0.0", "api_keys": ("key-of-a-test",)}


def facts_for(settings: Settings, place: Place | None, *, coturn: bool = True) -> MachineFacts:
    choice = choose_webrtc(settings, place, coturn_found=coturn)
    if settings.media_backend == "mediamtx":
        reach = choose_reach(settings, place)
        return MachineFacts("Linux", "x86_64", (), "none", reach.hosts, "", reach.choice, place)
    return MachineFacts("Linux", "x86_64", (), "none", ("172.17.0.5",), "", choice, place)


async def webrtc(place: Place | None, *, coturn: bool = True, **values: Any) -> Check:
    settings = Settings.model_validate({**OPEN, **values})
    return await check_webrtc(settings, facts_for(settings, place, coturn=coturn))


async def test_each_mode_has_its_verdict() -> None:
    assert (await webrtc(None)).verdict is Verdict.GOOD
    off = await webrtc(replace(POD, tcp_ports={}))
    assert (off.verdict, "expose 3478/tcp" in off.finding) == (Verdict.NOTE, True)
    assert (await webrtc(POD, coturn=False, webrtc_mode="turn-local")).verdict is Verdict.BAD


async def test_coturns_port_must_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        place = replace(POD, tcp_ports={port: 21478})
        check = await webrtc(place, turn_port=port)
        assert (check.verdict, f"turn_port: {port}" in check.finding) == (Verdict.BAD, True)
        # A running server's coturn has it: the doctor is asked in the pod's own terminal.
        monkeypatch.setattr(ways_in, "answers_as_sdstream", lambda settings: True)
        assert (await webrtc(place, turn_port=port)).verdict is Verdict.NOTE
    good = await webrtc(place, turn_port=port)
    assert (good.verdict, "203.0.113.7:21478" in good.finding) == (Verdict.GOOD, True)


async def test_a_turn_server_that_gives_no_relay_is_bad() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server = f"turn:127.0.0.1:{port}?transport=tcp"
    check = await webrtc(POD, webrtc_ice_servers=(server,), turn_username="u", turn_credential="p")
    assert check.verdict is Verdict.BAD
    assert "gave no relay" in check.finding


def test_what_runpod_maps_is_shown() -> None:
    check = check_runpod(Settings.model_validate(OPEN), POD)
    assert check.verdict is Verdict.GOOD
    assert "https://abc-8080.proxy.runpod.net" in check.finding
    assert "TCP 3478 as 203.0.113.7:21478" in check.finding


@pytest.mark.parametrize(
    ("settings", "place", "verdict"),
    [
        ({}, POD, Verdict.BAD),
        (OPEN, replace(POD, tcp_ports={}), Verdict.NOTE),
        (OPEN, replace(POD, problems=("RUNPOD_PUBLIC_IP is no IP address",)), Verdict.NOTE),
        (OPEN, replace(POD, role=Role.QUEUE_WORKER), Verdict.NOTE),
    ],
)
def test_what_keeps_clients_out_is_told(settings: dict[str, Any], place: Place, verdict: Verdict) -> None:
    check = check_runpod(Settings.model_validate(settings), place)
    assert check.verdict is verdict
    assert check.remedy


def test_data_on_the_containers_disk_is_told() -> None:
    on_volume = Settings(data_dir=Path("/workspace/sdstream"))
    assert check_volume(on_volume, lambda path: True).verdict is Verdict.GOOD
    # the directory may be there without a volume: RunPod mounts cached models below /runpod-volume
    assert check_volume(on_volume, lambda path: False).verdict is Verdict.NOTE
    assert check_volume(Settings(data_dir=Path("/root/data")), lambda path: True).verdict is Verdict.NOTE


def test_a_full_container_disk_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(ways_in.shutil, "disk_usage", lambda _: usage._replace(total=100 * 2**30, free=5 * 2**30))
    assert check_container_disk().verdict is Verdict.NOTE
    monkeypatch.setattr(ways_in.shutil, "disk_usage", lambda _: usage._replace(total=100 * 2**30, free=50 * 2**30))
    assert check_container_disk().verdict is Verdict.GOOD


def test_the_plan_says_how_clients_get_in() -> None:
    settings = Settings.model_validate({**OPEN, "data_dir": Path("/data")})
    lines = {line.subject: line.text for line in plan_serve(settings, facts_for(settings, POD))}
    assert "turn-local at TCP 203.0.113.7:21478 (RunPod lets no UDP in" in lines["WebRTC"]
    assert "https://abc-8080.proxy.runpod.net (RunPod's variables say so for this pod)" in lines["URLs"]
    assert "172.17.0.5 (coturn relays there only)" in lines["addresses"]


MEDIAMTX = {"media_backend": "mediamtx", "mediamtx_rtmp_port": 1935, "mediamtx_rtsp_port": 8554}
MAPPED = Place(Role.POD, "abc", public_ip="203.0.113.7", tcp_ports={1935: 21935, 3478: 21478, 70000: 30001})


async def test_under_mediamtx_coturn_is_not_what_lets_clients_in() -> None:
    good = await webrtc(MAPPED, **MEDIAMTX)
    assert (good.verdict, good.finding.partition(":")[0]) == (Verdict.GOOD, "tcp")
    assert "203.0.113.7:30001" in good.finding
    off = await webrtc(POD, **MEDIAMTX)
    assert (off.verdict, "expose 70000/tcp" in off.finding) == (Verdict.NOTE, True)
    assert (await webrtc(MAPPED, **MEDIAMTX, mediamtx_webrtc_tcp_port=3478)).verdict is Verdict.BAD


def test_each_port_of_mediamtx_is_told_with_what_leads_to_it() -> None:
    settings = Settings.model_validate({**OPEN, **MEDIAMTX, "mediamtx_srt_port": 8890})
    checks = {check.subject: check for check in check_ingest(settings, MAPPED)}
    assert checks["RTMP"].verdict is Verdict.GOOD
    assert "203.0.113.7:21935" in checks["RTMP"].finding
    assert (checks["RTSP"].verdict, "8554/tcp" in checks["RTSP"].remedy) == (Verdict.NOTE, True)
    assert (checks["SRT"].verdict, "UDP" in checks["SRT"].finding) == (Verdict.NOTE, True)
    assert check_ingest(Settings.model_validate(OPEN), MAPPED) == []


def test_the_plan_tells_mediamtxs_ports_as_they_are_outside() -> None:
    settings = Settings.model_validate({**OPEN, **MEDIAMTX, "data_dir": Path("/data")})
    lines = {line.subject: line.text for line in plan_serve(settings, facts_for(settings, MAPPED))}
    assert "RTMP at 203.0.113.7:21935, RTSP cannot be reached from outside" in lines["ingest"]
    assert "203.0.113.7 on TCP 30001 (RunPod's variables say so)" in lines["addresses"]
    at_home = {line.subject: line.text for line in plan_serve(settings, facts_for(settings, None))}
    assert "RTMP port 1935, RTSP port 8554" in at_home["ingest"]
    assert "on UDP 8189" in at_home["addresses"]
