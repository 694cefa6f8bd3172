"""The small decisions: output clock, viewer gate, reports, addresses, counters of loss."""

import itertools
import socket
import struct
from fractions import Fraction

import pytest
from aiortc.rtp import RtcpPacket, RtcpRrPacket, RtcpRtpfbPacket, RtcpSrPacket
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sdstream.errors import ConfigurationError
from sdstream.frames import VIDEO_CLOCK
from sdstream.media.embedded import ice as ice_module
from sdstream.media.embedded.addresses import Addressing, interface_addresses
from sdstream.media.embedded.ice import AddressedGatherer
from sdstream.media.embedded.reports import (
    ArrivalReport,
    Reception,
    keyframe_request,
    packet_request,
    read_rtcp,
    receiver_report,
    sender_report,
    source_description,
)
from sdstream.media.embedded.timeline import OutputTimeline
from sdstream.media.embedded.viewer import ViewerGate
from tests.media.clients import make_settings


def test_the_clock_follows_the_publishers_time_stamps() -> None:
    timeline = OutputTimeline()
    jittery = (0.0, 0.05, 0.06, 0.11)
    ticks = [timeline.map(1000 + index, Fraction(1, 30), now) for index, now in enumerate(jittery)]
    assert [later - earlier for earlier, later in itertools.pairwise(ticks)] == [3000] * 3


def test_the_clock_runs_on_when_the_publisher_changes() -> None:
    timeline = OutputTimeline()
    last = [timeline.map(9_000_000 + index * 3000, VIDEO_CLOCK, index / 30) for index in range(30)][-1]
    following = timeline.map(17, VIDEO_CLOCK, 5.0)
    assert following - last == pytest.approx((5.0 - 29 / 30) * 90_000, abs=2)
    assert timeline.map(17 + 3000, VIDEO_CLOCK, 5.02) - following == 3000


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.integers(-(2**40), 2**40)), st.floats(0, 20)), min_size=2, max_size=30)
)
def test_the_clock_never_stands_or_turns_back(pictures: list[tuple[int | None, float]]) -> None:
    timeline = OutputTimeline()
    now, ticks = 0.0, []
    for pts, wait in pictures:
        now += wait
        ticks.append(timeline.map(pts, VIDEO_CLOCK, now))
    assert all(earlier < later for earlier, later in itertools.pairwise(ticks))


def test_the_gate_opens_at_a_keyframe() -> None:
    gate = ViewerGate(1000)
    assert [gate.admit(keyframe=key, backlog=0) for key in (False, True, False)] == [False, True, True]
    assert gate.dropped == 0


def test_the_gate_drops_what_a_slow_viewer_cannot_take_and_resumes_at_a_keyframe() -> None:
    gate = ViewerGate(1000)
    gate.admit(keyframe=True, backlog=0)
    steps = [(False, 1001), (True, 900), (False, 100), (True, 100), (False, 100)]
    assert [gate.admit(keyframe=key, backlog=backlog) for key, backlog in steps] == [False, False, False, True, True]
    assert gate.dropped == 3


@given(st.lists(st.tuples(st.integers(0, 900), st.floats(0, 0.2)), min_size=1, max_size=60))
def test_arrival_reports_say_when_each_packet_came(packets: list[tuple[int, float]]) -> None:
    report = ArrivalReport()
    now, expected = 1000.0, {}
    for number, wait in packets:
        now += wait
        report.arrived((60_000 + number) & 0xFFFF, now)
        expected.setdefault((60_000 + number) & 0xFFFF, now)
    told: dict[int, float] = {}
    for message in report.take(1, 2):
        told |= read_arrivals(message)
    assert report.pending is False
    assert told.keys() == expected.keys()
    assert all(abs(told[number] - expected[number]) < 0.002 for number in told)


def read_arrivals(message: bytes) -> dict[int, float]:
    """The 16-bit numbers and seconds in a transport-wide feedback message (draft-holmer-rmcat-transport-wide-cc-01)."""
    head, kind, words, _, _, base, count, time_and_count = struct.unpack_from("!BBHIIHHI", message)
    assert (head, kind, (words + 1) * 4) == (0x80 | 15, 205, len(message))
    clock = (time_and_count >> 8) * 0.064
    position = 20
    symbols: list[int] = []
    while len(symbols) < count:
        (chunk,) = struct.unpack_from("!H", message, position)
        assert chunk >> 14 == 3, "only vectors of two-bit symbols are written"
        symbols += [(chunk >> shift) & 3 for shift in range(12, -1, -2)]
        position += 2
    arrivals: dict[int, float] = {}
    for index, symbol in enumerate(symbols[:count]):
        if symbol == 0:
            continue
        (delta,) = struct.unpack_from("!B" if symbol == 1 else "!h", message, position)
        position += symbol
        clock += delta / 4000
        arrivals[(base + index) & 0xFFFF] = clock
    return arrivals


def test_sender_reports_go_on_when_the_seconds_of_ntp_begin_anew() -> None:
    """In February 2036; what the seconds count from is for the reader to know."""
    at = (1 << 64) + (5 << 32) + 7
    told = read_rtcp(sender_report(5, "name", at, 9, 1, 2))[0]
    assert isinstance(told, RtcpSrPacket)
    assert told.sender_info.ntp_timestamp == (5 << 32) + 7


def test_reception_counts_loss_and_jitter() -> None:
    reception = Reception(90_000, "video", "H264")
    for index in range(100):
        if index % 10 != 3:
            reception.packet((65_500 + index) & 0xFFFF, index * 3000, index / 30 + (0.004 if index % 2 else 0))
    assert (reception.packets, reception.lost, reception.expected) == (90, 10, 100)
    assert 0.003 < reception.jitter < 0.005
    block = reception.report(7, 5.0)
    assert block.fraction_lost == 256 * 10 // 100
    assert reception.report(7, 6.0).fraction_lost == 0


def test_receiver_reports_answer_sender_reports() -> None:
    reception = Reception(90_000, "video", "H264")
    reception.packet(1, 0, 1.0)
    reception.sender_report(0x1122334455667788, 2.0)
    (report,) = RtcpPacket.parse(receiver_report(5, {9: reception}, 2.5))
    assert isinstance(report, RtcpRrPacket)
    assert (report.reports[0].lsr, report.reports[0].dlsr) == (0x33445566, 32768)


def test_requests_are_what_senders_understand() -> None:
    (nack,) = RtcpPacket.parse(packet_request(1, 2, [7, 5, 300]))
    assert isinstance(nack, RtcpRtpfbPacket)
    assert sorted(nack.lost) == [5, 7, 300]
    (picture_loss,) = RtcpPacket.parse(keyframe_request(1, 2))
    assert getattr(picture_loss, "fmt", None) == 1
    report = RtcpPacket.parse(sender_report(1, "name", 1 << 63, 2**32 + 5, 10, 20))[0]
    assert isinstance(report, RtcpSrPacket)
    assert report.sender_info.rtp_timestamp == 5


@pytest.mark.parametrize("length", range(12))
def test_a_source_description_ends_with_one_zero_to_four(length: int) -> None:
    name = "n" * length
    packet = source_description(0x01020304, name)
    assert packet[:2] == bytes((0x81, 202))
    assert int.from_bytes(packet[2:4], "big") * 4 + 4 == len(packet)
    begun, zeros = packet[4:].split(name.encode(), 1) if name else (packet[4:10], packet[10:])
    assert begun == bytes((1, 2, 3, 4, 1, length))
    assert zeros in (b"\0", b"\0\0", b"\0\0\0", b"\0\0\0\0")


@given(st.binary(max_size=120))
def test_no_rtcp_breaks_the_reader(packet: bytes) -> None:
    assert isinstance(read_rtcp(packet), list)


def test_given_addresses_are_the_only_ones() -> None:
    addressing = Addressing.from_settings(make_settings(webrtc_addresses=("203.0.113.9",), host="127.0.0.1"))
    assert addressing.candidates() == ["203.0.113.9"]


def test_loopback_is_advertised_when_http_listens_there() -> None:
    assert (
        Addressing.from_settings(make_settings(host="127.0.0.1", webrtc_addresses=())).candidates()[-1] == "127.0.0.1"
    )
    abroad = Addressing.from_settings(make_settings(host="0.0.0.0", webrtc_addresses=())).candidates()
    assert abroad == interface_addresses() or abroad == ["127.0.0.1"]


@pytest.mark.parametrize(
    "url", ["http://example.org", "stun:", "turn", "x", "stun:a b", "stun:[::1", "stun:host:x", "stun:host:70000"]
)
def test_ice_servers_that_cannot_be_used_stop_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="webrtc_ice_servers"):
        Addressing.from_settings(make_settings(webrtc_ice_servers=(url,)))


def test_this_end_asks_stun_servers_only() -> None:
    servers = ("turn:turn.example.org?transport=tcp", "stun:stun.example.org")
    assert Addressing.from_settings(make_settings(webrtc_ice_servers=servers)).servers == servers[1:]


def test_behind_a_relay_on_this_machine_one_address_of_its_own_is_enough() -> None:
    own = interface_addresses()
    addressing = Addressing.from_settings(make_settings(webrtc_addresses=(), webrtc_ice_servers=("stun:s.example",)))
    if own:
        inside = addressing.inside()
        assert inside.candidates() == list(inside.addresses)
        assert len(inside.addresses) == 1
        assert set(inside.addresses) <= set(own)
        assert inside.servers == ()
    with pytest.raises(ConfigurationError, match="turn-local"):
        Addressing.from_settings(make_settings(webrtc_addresses=("203.0.113.9",))).inside()


async def test_a_stun_server_that_does_not_answer_is_told_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice_module, "STUN_SECONDS", 0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = f"stun:127.0.0.1:{silent.getsockname()[1]}"
        gatherer = AddressedGatherer(Addressing(addresses=("127.0.0.1",), servers=(server,)))
        with capture_logs() as lines:
            await gatherer.gather()
    assert [line["server"] for line in lines] == [server.removeprefix("stun:")]
    assert [candidate.type for candidate in gatherer.connection.local_candidates] == ["host"]
    await gatherer.connection.close()
