"""The decisions of the MediaMTX back end, and its answers to what MediaMTX asks."""

import json
from pathlib import Path

import httpx
import pytest

from sdstream.errors import ConfigurationError
from sdstream.media.embedded.reports import Reception
from sdstream.media.mediamtx import choose_ports, uninvited
from sdstream.media.mediamtx.config import Ports, configuration
from sdstream.media.mediamtx.control import Party, PathState, RtpCounts, read_path
from sdstream.media.mediamtx.doors import DoorKeeper, Question, Rules
from sdstream.media.mediamtx.process import Program, child_environment, find_program, version_problem, without_secrets
from sdstream.media.mediamtx.reach import Reach, choose_reach
from sdstream.media.mediamtx.reader import track_statistics
from sdstream.reachability import Place, Role
from sdstream.settings import Settings
from tests.media.clients import make_settings

RULES = Rules("our secret", lambda key: key == "stk_a", lambda playback: playback == "pb_a")
PORTS = Ports(api=1001, whip=1002, rtsp=1003)


def values(ports: Ports) -> dict[str, object]:
    return json.loads(configuration(ports, "http://127.0.0.1:9/secret", ["192.0.2.1"]))


# Decisions


def test_nothing_is_open_beyond_this_machine_unless_its_port_is_set() -> None:
    made = values(PORTS)
    assert (made["rtmp"], made["srt"], made["hls"], made["moq"], made["metrics"]) == (False,) * 5
    for name in ("apiAddress", "rtspAddress", "webrtcAddress"):
        assert str(made[name]).startswith("127.0.0.1:")
    assert (made["webrtcLocalUDPAddress"], made["webrtcLocalTCPAddress"]) == ("", "")


def test_a_port_that_is_set_is_open() -> None:
    made = values(Ports(1001, 1002, 8554, rtsp_is_public=True, rtmp=1935, srt=8890, webrtc_udp=8189, webrtc_tcp=8189))
    assert (made["rtspAddress"], made["rtmpAddress"], made["srtAddress"]) == (":8554", ":1935", ":8890")
    assert (made["webrtcLocalUDPAddress"], made["webrtcLocalTCPAddress"]) == (":8189", ":8189")


def test_webrtc_that_nobody_could_reach_is_off() -> None:
    assert values(PORTS)["webrtc"] is False, "MediaMTX would refuse to start"
    assert values(Ports(1001, 1002, 1003, webrtc_tcp=8189))["webrtc"] is True


def test_variables_of_the_user_open_nothing_in_mediamtx() -> None:
    given = {"PATH": "/bin", "MTX_RTMP": "yes", "RTSP_RTMP": "yes", "SDSTREAM_API_KEYS": "secret"}
    assert child_environment(given) == {"PATH": "/bin", "MTX_SRTLA": "no"}


POD = Place(Role.POD, "abc", public_ip="203.0.113.7", tcp_ports={1935: 21935, 70000: 30001, 70001: 30002})
UDP_ONLY = Place(Role.POD, "abc", public_ip="203.0.113.7", tcp_ports={1935: 21935})
TURN = {"webrtc_ice_servers": ("turn:turn.example?transport=tcp",), "turn_username": "u", "turn_credential": "secret"}


def reach(place: Place | None, **settings: object) -> Reach:
    given = {"host": "0.0.0.0", "api_keys": ("key-of-a-test",), "media_backend": "mediamtx"} | settings
    return choose_reach(Settings.model_validate(given), place)


@pytest.mark.parametrize(
    ("place", "settings", "chosen"),
    [
        (None, {}, ("udp", None, 8189, ())),
        (None, {"mediamtx_webrtc_tcp_port": 8189}, ("udp", 8189, 8189, ())),
        (None, {"mediamtx_webrtc_tcp_port": 8189, "mediamtx_webrtc_udp_port": 0}, ("tcp", 8189, None, ())),
        (None, {"mediamtx_webrtc_udp_port": 0}, ("off", None, None, ())),
        (POD, {}, ("tcp", 30001, None, ("203.0.113.7",))),
        (POD, {"mediamtx_rtmp_port": 30001}, ("tcp", 30002, None, ("203.0.113.7",))),
        (POD, {"mediamtx_webrtc_tcp_port": 30002}, ("tcp", 30002, None, ("203.0.113.7",))),
        (POD, {"webrtc_addresses": ("203.0.113.9",)}, ("tcp", 30001, None, ("203.0.113.9",))),
        (POD, {"webrtc_mode": "udp"}, ("udp", None, 8189, ())),
        (POD, {"webrtc_mode": "off"}, ("off", None, None, ())),
        (POD, {"host": "127.0.0.1"}, ("udp", None, 8189, ())),
        (UDP_ONLY, {}, ("off", None, None, ())),
        (UDP_ONLY, TURN, ("turn-external", None, 8189, ())),
    ],
)
def test_how_webrtc_reaches_mediamtx(place: Place | None, settings: dict[str, object], chosen: tuple[object]) -> None:
    found = reach(place, **settings)
    assert (found.choice.mode, found.tcp, found.udp, found.hosts) == chosen
    assert (bool(found.choice.because), found.choice.problem) == (True, "")
    ports = choose_ports(make_settings(), found)
    assert (ports.webrtc_tcp, ports.webrtc_udp) == (found.tcp, found.udp)


def test_a_tcp_port_with_another_number_outside_is_told_not_to_work() -> None:
    # MediaMTX writes the number that it listens on into its candidates, and has no word for another one.
    assert "70000/tcp" in reach(UDP_ONLY, mediamtx_webrtc_tcp_port=1935).choice.problem


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (Question("publish", "in/stk_a", protocol="rtmp"), "yes"),
        (Question("publish", "in/stk_b", protocol="rtmp"), "no"),
        (Question("publish", "out/pb_a", protocol="rtsp"), "no"),
        (Question("publish", "in/stk_a", protocol="webrtc"), "no"),
        (Question("read", "out/pb_a", protocol="srt"), "yes"),
        (Question("read", "out/pb_b", protocol="srt"), "no"),
        (Question("read", "in/stk_a", protocol="rtsp"), "no"),
        (Question("read", "in/stk_a", user="sdstream", password="our secret", protocol="rtsp"), "yes"),
        (Question("publish", "out/pb_a", user="sdstream", password="another", protocol="rtsp"), "no"),
        (Question("api"), "who"),
        (Question("api", user="sdstream", password="our secret"), "yes"),
        (Question("api", user="somebody", password="our secret"), "no"),
    ],
)
def test_who_may_do_what(question: Question, answer: str) -> None:
    assert RULES.decide(question) == answer


def test_a_publisher_whose_stream_is_not_open_is_ended() -> None:
    def path(name: str) -> PathState:
        return PathState(name, online=True, publisher=Party("rtmpConn", name))

    paths = {name: path(name) for name in ("in/open", "in/opening", "in/gone", "out/pb")}
    assert uninvited(paths, {"in/open"}, {"in/opening"}) == (Party("rtmpConn", "in/gone"),)


def test_a_path_is_read_as_the_api_gives_it() -> None:
    item = {
        "name": "in/a",
        "online": True,
        "source": {"type": "srtConn", "id": "7"},
        "readers": [{"type": "rtspSession", "id": "8"}],
        "inboundBytes": 5,
        "outboundBytes": 6,
    }
    expected = PathState("in/a", True, Party("srtConn", "7"), (Party("rtspSession", "8"),), 5, 6)
    assert read_path(item) == expected


@pytest.mark.parametrize(
    ("carried", "video"),
    [
        (None, (40, 0)),  # a publisher by RTMP, RTSP or SRT: pictures stand for packets
        (RtpCounts(310, 7), (250, 7)),
        (RtpCounts(0, 0), (40, 0)),  # not counted yet, or before this publisher
    ],
)
def test_what_mediamtx_counted_of_both_tracks_is_told_of_the_video(
    carried: RtpCounts | None, video: tuple[int, int]
) -> None:
    receptions = (Reception(90_000, "video", "H264", packets=40), Reception(48_000, "audio", "OPUS", packets=60))
    tracks = track_statistics(receptions, carried)
    assert [(track.kind, track.codec) for track in tracks] == [("video", "H264"), ("audio", "OPUS")]
    assert [(track.packets_received, track.packets_lost) for track in tracks] == [video, (60, 0)]


@pytest.mark.parametrize(
    ("said", "good"), [("v1.20.1", True), ("v1.21.0", True), ("v1.19.9", False), ("v2.0.0", False), ("nothing", False)]
)
def test_which_versions_are_used(said: str, good: bool) -> None:
    assert (version_problem(said) is None) == good


def test_log_lines_lose_their_keys() -> None:
    line = "2026/01/01 00:00:00 INF [RTMP] is publishing to path 'in/stk_secret' srt://h?streamid=publish:in/stk_secret"
    assert "stk_secret" not in without_secrets(line)
    assert "pb_secret" not in without_secrets("INF [path vp8/pb_secret] stream is available and online")


def test_a_missing_program_is_told_with_what_to_do(tmp_path: Path) -> None:
    settings = make_settings(mediamtx_program=str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="is not here") as caught:
        find_program(settings, {})
    assert "SDSTREAM_MEDIAMTX_PROGRAM" in (caught.value.hint or "")
    assert "`sdstream install-mediamtx`" in caught.value.hint


def test_the_program_is_the_one_that_is_named_else_of_path_else_the_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(folder: str) -> Path:
        program = tmp_path / folder / "mediamtx"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        return program

    data = tmp_path / "data"
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    nothing_named = make_settings(data_dir=data)
    with pytest.raises(ConfigurationError, match=f"neither in PATH nor in {data / 'bin'}") as caught:
        find_program(nothing_named, {})
    assert "`sdstream install-mediamtx` fetches it" in caught.value.hint
    expected = Program(place("data/bin"), "installed by `sdstream install-mediamtx`")
    assert find_program(nothing_named, {}) == expected
    expected = Program(place("path"), "found in PATH")
    assert find_program(nothing_named, {}) == expected
    variable = {"MEDIAMTX_BIN": str(place("variable"))}
    expected = Program(tmp_path / "variable/mediamtx", "MEDIAMTX_BIN names it")
    assert find_program(nothing_named, variable) == expected
    expected = Program(place("setting"), "the setting mediamtx_program names it")
    assert find_program(make_settings(data_dir=data, mediamtx_program=str(expected.path)), variable) == expected


async def test_questions_are_answered_by_http_and_only_on_the_secret_path() -> None:
    admitted: list[str] = []
    keeper = DoorKeeper(RULES, admitted.append)
    await keeper.start()
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            body = {"action": "publish", "path": "in/stk_a", "protocol": "srt", "user": "", "id": None, "query": "x"}
            good = await http.post(keeper.url, json=body)
            bad = await http.post(keeper.url, json=body | {"path": "in/stk_b"})
            elsewhere = await http.post(f"{keeper.url}x", json=body)
            broken = await http.post(keeper.url, content=b"{")
    finally:
        await keeper.close()
    assert [answer.status_code for answer in (good, bad, elsewhere, broken)] == [200, 403, 404, 400]
    assert admitted == ["stk_a"]
