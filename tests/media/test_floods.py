"""Publishers and viewers who send what costs the event loop much more than it costs them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pylibsrtp
import pytest
from aioice import stun
from aiortc.rtp import RTCP_RTPFB_NACK, RtcpRtpfbPacket

from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.assembly import CAPACITY, FEW_GAPS, GAPS_A_SECOND, Packet, PictureAssembler
from sdstream.media.embedded.ice import MOST_PAIRS, AddressedConnection
from sdstream.media.embedded.lines import REPAIRS_ANYWAY, RepairBudget
from sdstream.media.embedded.reports import MOST_MESSAGES, ArrivalReport
from sdstream.media.embedded.rtp import write_packet
from sdstream.media.embedded.srtp import MOST_SOURCES, ShortSession
from sdstream.media.embedded.viewer import ViewerSession
from tests.media.test_peer import session
from tests.media.test_viewer import FakePeer, picture, scene

__all__ = ["scene"]


def test_numbers_that_leap_with_each_packet_are_not_waited_for() -> None:
    """Each such packet of 60 bytes cost a millisecond, for all that it left out."""
    assembler = PictureAssembler()
    looked_at = 0
    for index in range(1000):
        assembler.push(Packet((index * (CAPACITY - 1)) & 0xFFFF, 3000 * index, True, b"x"), index / 1000)
        looked_at += len(assembler._gaps)
    assert assembler.lost > 0
    assert looked_at < 100 * (CAPACITY + GAPS_A_SECOND)


def test_after_an_outage_all_that_is_missing_is_asked_for_and_a_second_one_is_soon_waited_for_too() -> None:
    assembler = PictureAssembler()
    assembler.push(Packet(0, 0, True, b"x"), 0.0)
    assembler.push(Packet(CAPACITY - 1, 0, True, b"x"), 0.1)
    assert len(assembler._gaps) == CAPACITY - 2
    assert not assembler.misses_few
    assembler.tick(5.0)
    assert assembler.misses_few
    assembler.push(Packet(CAPACITY + FEW_GAPS, 0, True, b"x"), 5.1)
    assert len(assembler._gaps) == FEW_GAPS
    assert assembler.misses_few


def test_transport_numbers_that_leap_make_few_reports() -> None:
    arrivals = ArrivalReport()
    for number in range(1000):
        arrivals.arrived((30_000 * number) & 0xFFFF, number / 10_000)
    assert len(arrivals.take(1, 2)) == MOST_MESSAGES
    assert not arrivals.pending


@pytest.mark.parametrize("burst", [False, True])
def test_made_up_sources_past_a_limit_are_not_decrypted(burst: bool) -> None:
    """libsrtp looks through the states of all sources for each packet."""
    kinds = pylibsrtp.Policy
    writer, reader = session(kinds.SSRC_ANY_OUTBOUND), ShortSession(session(kinds.SSRC_ANY_INBOUND))
    packets = [writer.protect(write_packet(96, False, 1, 0, source, b"x")) for source in range(1, MOST_SOURCES + 10)]
    if burst:
        size = len(packets[0])
        assert len(reader.unprotect_burst(memoryview(b"".join(packets)), size)) == MOST_SOURCES
    else:
        for packet in packets[:MOST_SOURCES]:
            reader.unprotect(packet)
    for packet in packets[MOST_SOURCES:]:
        with pytest.raises(pylibsrtp.Error):
            reader.unprotect(packet)
    known = writer.protect(write_packet(96, False, 2, 0, 1, b"more"))
    assert reader.unprotect(known)[12:] == b"more"


def test_a_forged_packet_takes_no_place_of_a_source() -> None:
    reader = ShortSession(session(pylibsrtp.Policy.SSRC_ANY_INBOUND))
    for source in range(2 * MOST_SOURCES):
        with contextlib.suppress(pylibsrtp.Error):
            reader.unprotect(write_packet(96, False, 1, 0, source, b"x" * 40))
    writer = session(pylibsrtp.Policy.SSRC_ANY_OUTBOUND)
    assert reader.unprotect(writer.protect(write_packet(96, False, 1, 0, 5, b"good")))[12:] == b"good"


@contextlib.asynccontextmanager
async def agent() -> AsyncIterator[AddressedConnection]:
    """An ICE agent that looks for its client."""
    connection = AddressedConnection(Addressing(addresses=("127.0.0.1",)))
    await connection.gather_candidates()
    connection.remote_username, connection.remote_password = "them", "x" * 24
    connecting = asyncio.ensure_future(connection.connect())
    await asyncio.sleep(0)
    try:
        yield connection
    finally:
        connecting.cancel()
        await connection.close()
        await asyncio.gather(connecting, return_exceptions=True)


def check(connection: AddressedConnection, *, priority: bool = True) -> bytes:
    """A check of the client, who knows the password."""
    message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    message.attributes["USERNAME"] = f"{connection.local_username}:them"
    message.attributes["ICE-CONTROLLING"] = 1
    if priority:
        message.attributes["PRIORITY"] = 1
    message.add_message_integrity(connection.local_password.encode())
    return bytes(message)


async def test_checks_from_ever_more_addresses_are_learnt_up_to_a_limit() -> None:
    async with agent() as connection:
        sent = check(connection)
        for port in range(2000, 2000 + 2 * MOST_PAIRS):
            connection._protocols[0].datagram_received(sent, ("127.0.0.1", port))
        assert len(connection._check_list) == MOST_PAIRS
        assert len(connection.remote_candidates) == MOST_PAIRS


async def test_a_check_without_a_priority_is_passed_over() -> None:
    async with agent() as connection:
        connection._protocols[0].datagram_received(check(connection, priority=False), ("127.0.0.1", 2000))
        assert connection.remote_candidates == []


async def test_a_viewer_that_asks_for_the_same_again_and_again_is_sent_no_more_than_as_much_again(
    scene: tuple[ViewerSession, FakePeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report of 1,500 bytes asked for 6,000 packets."""
    viewer, peer = scene
    monkeypatch.setattr(viewer, "_repairs_anyway", RepairBudget(REPAIRS_ANYWAY, 4))
    for number in range(10):
        viewer.deliver_here(picture(number))
    sent = sum(len(payload) for _, payload in peer.sent)
    report = bytes(RtcpRtpfbPacket(RTCP_RTPFB_NACK, ssrc=1, media_ssrc=1, lost=sorted(peer.sequences)))
    for _ in range(100):
        viewer.on_rtcp(report)
    assert 0 < len(peer.sound) <= sent + 4  # a payload here is one byte
