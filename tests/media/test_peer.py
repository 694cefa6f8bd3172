"""The seam to aiortc: the fast way does what the plain way does, and other versions are noticed."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pylibsrtp
import pytest
from aiortc.rtcdtlstransport import generate_certificate
from cryptography.hazmat.primitives.asymmetric import rsa
from pylibsrtp import Policy, Session

from sdstream.errors import ConfigurationError, InvalidSdp
from sdstream.media.embedded import peer as peer_module
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.dtls import MOST_EARLY, Certificate, DtlsTransport
from sdstream.media.embedded.ice import MOST_QUEUED, BurstDatagrams
from sdstream.media.embedded.peer import MOST_CANDIDATES, Peer, fast_path_known
from sdstream.media.embedded.rtp import write_packet
from sdstream.media.embedded.sdp import MediaSection, Setup, Transport
from sdstream.media.embedded.srtp import LARGEST, ShortSession
from sdstream.platform.datagrams import can_join_datagrams, can_send_segments
from tests.support.waiting import eventually

KEY = bytes(range(30))


@dataclass
class Recorder:
    rtp: list[bytes] = field(default_factory=list[bytes])
    rtcp: list[bytes] = field(default_factory=list[bytes])
    connected: int = 0
    reasons: list[str] = field(default_factory=list[str])

    def on_connected(self) -> None:
        self.connected += 1

    def on_closed(self, reason: str) -> None:
        self.reasons.append(reason)

    def on_rtp(self, packet: bytes) -> None:
        self.rtp.append(packet)

    def on_rtcp(self, packet: bytes) -> None:
        self.rtcp.append(packet)


def section(transport: Transport, *, candidates: tuple[str, ...] | None = None) -> MediaSection:
    """What the other side reads of a transport."""
    return MediaSection(
        "video",
        9,
        "UDP/TLS/RTP/SAVPF",
        ("96",),
        "0",
        "sendonly",
        (),
        transport.ice_username,
        transport.ice_password,
        transport.fingerprints,
        transport.setup,
        transport.candidates if candidates is None else candidates,
        {},
    )


def session(kind: int) -> Session:
    policy = Policy(key=KEY, ssrc_type=kind, srtp_profile=Policy.SRTP_PROFILE_AES128_CM_SHA1_80)
    policy.allow_repeat_tx = True
    return Session(policy)


async def connected(
    here: Recorder, there: Recorder, fast: tuple[bool, bool] = (True, True), *, named: bool = True
) -> tuple[Peer, Peer]:
    """Two peers that have connected; the second is told the first one's candidates if `named`."""
    addressing = Addressing(addresses=("127.0.0.1",))
    one, two = Peer(addressing, here, fast=fast[0]), Peer(addressing, there, fast=fast[1])
    offer, answer = await one.gather("actpass"), await two.gather("active")
    two.connect(section(offer) if named else section(offer, candidates=()))
    one.connect(section(answer))
    await eventually(lambda: here.connected and there.connected)
    return one, two


@pytest.mark.parametrize("fast", [(True, True), (True, False), (False, True)], ids=str)
async def test_packets_arrive_the_same_by_either_way(fast: tuple[bool, bool]) -> None:
    here, there = Recorder(), Recorder()
    one, two = await connected(here, there, fast, named=False)
    packets = [write_packet(96, index % 3 == 0, index, index * 3000, 7, bytes(index * 7)) for index in range(150)]
    report = bytes.fromhex("80c90001") + (5).to_bytes(4, "big")
    for packet in packets:
        one.send_rtp(packet)
        two.send_rtp(packet)
    one.send_rtcp(report)
    await eventually(lambda: len(there.rtp) == len(here.rtp) == 150 and there.rtcp)
    assert there.rtp == here.rtp == packets
    assert there.rtcp == [report]
    await one.close()
    await eventually(lambda: there.reasons == ["the client went away"])
    assert here.reasons == []
    one.send_rtp(packets[0])
    await two.close()


@pytest.mark.skipif(not can_join_datagrams(), reason="this system joins no datagrams")
async def test_a_burst_of_packets_reports_and_rubbish_is_told_apart() -> None:
    here, there = Recorder(), Recorder()
    one, two = await connected(here, there)
    packets = [write_packet(96, False, number, 0, 7, bytes(4)) for number in range(6)]
    report = bytes.fromhex("80c90001") + (5).to_bytes(4, "big")
    sender = one._sender
    media = sender.protect_burst(packets)
    size = len(media[0])
    control = sender.protect_rtcp(report + bytes(size - len(sender.protect_rtcp(report))))
    protocol = two._connection._protocols[0]
    assert isinstance(protocol, BurstDatagrams)
    for burst in (
        [*media[:2], control, b"\x80"],
        [media[2], media[2], bytes((128,)) * size, media[3], b"\x80\x60"],
        [media[4], bytes(size), media[5], b"\x80"],
    ):
        address = one._connection.local_candidates[0].host, one._connection.local_candidates[0].port
        protocol.burst_received(memoryview(b"".join(burst)), size, address)
    assert there.rtp == packets
    assert len(there.rtcp) == 1
    await asyncio.gather(one.close(), two.close())


def numbered(first: int, count: int) -> list[bytes]:
    return [write_packet(96, False, number, 0, 7, bytes(1000)) for number in range(first, first + count)]


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Peer, Recorder]]:
    """A connected sender that has sent one packet, and what its other side has received after that."""
    here, there = Recorder(), Recorder()
    one, two = await connected(here, there)
    assert not one.sends_here, "no way is known yet"
    one.send_rtp(numbered(0, 1)[0])
    await eventually(lambda: there.rtp)
    there.rtp.clear()
    yield one, there
    await asyncio.gather(one.close(), two.close())


@pytest.mark.skipif(not can_send_segments(), reason="this system sends no segments")
async def test_bursts_of_another_thread_arrive_whole_beside_what_the_loop_sends(pair: tuple[Peer, Recorder]) -> None:
    one, there = pair
    bursts = [numbered(1 + 10 * index, 10) for index in range(40)]

    def send() -> None:
        for burst in bursts:
            assert one.sends_here
            one.send_rtp_burst_here(burst)

    sending = asyncio.ensure_future(asyncio.to_thread(send))
    beside = [write_packet(111, False, number, 0, 8, bytes(80)) for number in range(200)]
    for packet in beside:
        one.send_rtp(packet)
        await asyncio.sleep(0)
    await sending
    await eventually(lambda: len(there.rtp) == 600)
    sources = {source: [packet for packet in there.rtp if packet[11] == source] for source in (7, 8)}
    assert sources == {7: [packet for burst in bursts for packet in burst], 8: beside}


@pytest.mark.skipif(not can_send_segments(), reason="this system sends no segments")
async def test_what_a_full_socket_refuses_another_thread_is_sent_by_the_loop(
    pair: tuple[Peer, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, there = pair

    def refuse(*_: object) -> None:
        raise BlockingIOError

    with monkeypatch.context() as full:
        full.setattr("sdstream.media.embedded.bursts.send_segments", refuse)
        one.send_rtp_burst_here(numbered(1, 5))
    assert not one.sends_here, "a later burst would overtake"
    asyncio.get_running_loop().call_soon(one.send_rtp_burst, numbered(6, 5))
    await eventually(lambda: len(there.rtp) == 10)
    assert there.rtp == numbered(1, 10)
    assert one.sends_here


async def test_a_wrong_fingerprint_is_no_connection() -> None:
    here, there = Recorder(), Recorder()
    addressing = Addressing(addresses=("127.0.0.1",))
    one, two = Peer(addressing, here), Peer(addressing, there)
    offer, answer = await one.gather("actpass"), await two.gather("active")
    forged = Transport(offer.ice_username, offer.ice_password, (("sha-256", ":".join(["AA"] * 32)),), "actpass", ())
    two.connect(section(forged))
    one.connect(section(answer))
    await eventually(lambda: there.reasons)
    assert "the certificate is not the one that the SDP names" in there.reasons[0]
    assert there.connected == 0
    await asyncio.gather(one.close(), two.close())


@pytest.mark.parametrize("setup", ["active", "passive"])
async def test_a_peer_with_an_rsa_certificate_connects(setup: Setup) -> None:
    """GStreamer has one, and takes either part of the handshake."""
    here, there = Recorder(), Recorder()
    addressing = Addressing(addresses=("127.0.0.1",))
    one, two = Peer(addressing, here), Peer(addressing, there)
    key = rsa.generate_private_key(65537, 2048)
    one._certificate = Certificate(key, generate_certificate(key))  # pyright: ignore[reportArgumentType]
    one._dtls = DtlsTransport(one._ice, one._certificate, here)
    one._dtls.on("statechange", one._on_dtls_state)
    offer, answer = await one.gather("actpass"), await two.gather(setup)
    two.connect(section(offer))
    one.connect(section(answer))
    await eventually(lambda: here.connected and there.connected)
    one.send_rtp(numbered(0, 1)[0])
    await eventually(lambda: there.rtp == numbered(0, 1))
    await asyncio.gather(one.close(), two.close())


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
async def test_packets_that_come_before_our_end_of_the_handshake_are_not_lost(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Recorder(), Recorder()
    addressing = Addressing(addresses=("127.0.0.1",))
    one, two = Peer(addressing, here), Peer(addressing, there, fast=fast)
    may_go_on = asyncio.Event()
    read = two._ice._recv

    async def dawdle() -> bytes:
        data = await read()
        if here.connected:
            await may_go_on.wait()
        return data

    monkeypatch.setattr(two._ice, "_recv", dawdle)
    offer, answer = await one.gather("actpass"), await two.gather("active")
    two.connect(section(offer))
    one.connect(section(answer))
    await eventually(lambda: here.connected)
    early = numbered(0, MOST_EARLY + 10)
    for packet in early:
        one.send_rtp(packet)
    await eventually(lambda: len(two._early._kept) == MOST_EARLY)
    assert not there.connected
    may_go_on.set()
    await eventually(lambda: there.rtp)
    one.send_rtp(numbered(MOST_EARLY + 10, 1)[0])
    await eventually(lambda: len(there.rtp) > MOST_EARLY)
    assert there.rtp[:MOST_EARLY] == early[:MOST_EARLY]
    assert there.rtp[-1] == numbered(MOST_EARLY + 10, 1)[0]
    await asyncio.gather(one.close(), two.close())


async def test_what_is_no_packet_of_the_peer_is_passed_over() -> None:
    here, there = Recorder(), Recorder()
    one, two = await connected(here, there)
    port = two._connection.local_candidates[0].port
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port)
    )
    for noise in (b"", b"\x80", b"\x80\x60" + bytes(40), b"\x80\xc9" + bytes(40), b"\x80" + bytes(3000), bytes(50)):
        transport.sendto(noise)
    packet = write_packet(96, True, 1, 2, 3, b"good")
    one.send_rtp(packet)
    await eventually(lambda: there.rtp == [packet])
    transport.close()
    await asyncio.gather(one.close(), two.close())


async def test_nobody_comes_and_the_place_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "CONNECT_SECONDS", 0.05)
    handler = Recorder()
    peer = Peer(Addressing(addresses=("127.0.0.1",)), handler)
    transport = await peer.gather("active")
    peer.connect(section(transport, candidates=()))
    await eventually(lambda: handler.reasons == ["the client did not connect in time"])
    await peer.close()


@pytest.mark.parametrize("line", ["", "x", "1 1 udp 5 127.0.0.1", "1 1 udp 5 127.0.0.1 port typ host"])
async def test_a_candidate_that_is_none_is_refused(line: str) -> None:
    peer = Peer(Addressing(addresses=("127.0.0.1",)), Recorder())
    with pytest.raises(InvalidSdp):
        await peer.add_candidate(line)
    await peer.close()


async def test_candidates_past_the_limit_are_not_dialled_however_they_come() -> None:
    handler = Recorder()
    peer = Peer(Addressing(addresses=("127.0.0.1",)), handler)
    transport = await peer.gather("active")
    lines = tuple(f"{index} 1 udp {index} 127.0.0.1 {20_000 + index} typ host" for index in range(1, 200))
    peer.connect(section(transport, candidates=lines[:20]))
    await eventually(lambda: len(peer._connection.remote_candidates) == 20)
    for line in lines[20:]:
        await peer.add_candidate(line)
    assert len(peer._connection.remote_candidates) == MOST_CANDIDATES
    await peer.close()


async def test_candidates_that_cannot_be_dialled_take_no_place() -> None:
    peer = Peer(Addressing(addresses=("127.0.0.1",)), Recorder())
    await peer.gather("active")
    for index in range(MOST_CANDIDATES):
        await peer.add_candidate(f"1 1 tcp {index} 127.0.0.1 9 typ host tcptype active")
        await peer.add_candidate(f"1 1 udp {index} 0b0f-4d2e.local {index + 1} typ host")
    await peer.add_candidate("1 1 udp 1 127.0.0.1 20000 typ host")
    assert [candidate.port for candidate in peer._connection.remote_candidates] == [20_000]
    await peer.close()


@pytest.mark.parametrize("fast", [True, False])
async def test_an_empty_datagram_of_a_stranger_ends_nothing(fast: bool) -> None:
    here, there = Recorder(), Recorder()
    one, two = await connected(here, there, (fast, fast))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"", ("127.0.0.1", two._connection.local_candidates[0].port))
    two._connection._protocols[0].datagram_received(b"", ("127.0.0.1", 9))  # as where no bursts are read
    for number in range(3):
        one.send_rtp(write_packet(96, True, number, 2, 3, b"good"))
    await eventually(lambda: len(there.rtp) == 3)
    assert there.reasons == []
    await asyncio.gather(one.close(), two.close())


@pytest.mark.parametrize("fast", [True, False])
async def test_a_check_whose_attributes_are_cut_off_is_passed_over(fast: bool) -> None:
    here, there = Recorder(), Recorder()
    one, two = await connected(here, there, (fast, fast))
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    priority = bytes.fromhex("0024000100000000")
    check = bytes.fromhex("000100082112a442") + bytes(12) + priority
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(check, ("127.0.0.1", two._connection.local_candidates[0].port))
    for number in range(3):
        one.send_rtp(write_packet(96, True, number, 2, 3, b"good"))
    await eventually(lambda: len(there.rtp) == 3)
    assert faults == [], "it would be a traceback in the log for each datagram of a stranger"
    await asyncio.gather(one.close(), two.close())


@pytest.mark.parametrize("fast", [True, False])
async def test_what_strangers_send_before_the_handshake_takes_little_memory(fast: bool) -> None:
    here, there = Recorder(), Recorder()
    addressing = Addressing(addresses=("127.0.0.1",))
    one, two = Peer(addressing, here, fast=fast), Peer(addressing, there, fast=fast)
    offer, answer = await one.gather("actpass"), await two.gather("active")
    protocol = two._connection._protocols[0]
    for _ in range(2 * MOST_QUEUED):
        protocol.datagram_received(b"rubbish", ("127.0.0.1", 9))
    assert two._connection._queue.qsize() == MOST_QUEUED
    two.connect(section(offer))
    one.connect(section(answer))
    await eventually(lambda: here.connected and there.connected)
    await asyncio.gather(one.close(), two.close())


@dataclass
class Failing(Recorder):
    """A session that cannot take its connection."""

    def on_connected(self) -> None:
        raise RuntimeError("no thread to be had")


async def test_a_connection_that_fails_in_an_unexpected_way_ends_its_session() -> None:
    here, there = Recorder(), Failing()
    addressing = Addressing(addresses=("127.0.0.1",))
    one, two = Peer(addressing, here), Peer(addressing, there)
    offer, answer = await one.gather("actpass"), await two.gather("active")
    two.connect(section(offer))
    one.connect(section(answer))
    await eventually(lambda: there.reasons == ["the connection failed"])
    assert two.connected is False
    await asyncio.gather(one.close(), two.close())


async def test_an_ice_agent_that_fails_in_an_unexpected_way_ends_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Recorder()
    peer = Peer(Addressing(addresses=("127.0.0.1",)), handler)
    transport = await peer.gather("active")

    async def fail(_: object) -> None:
        raise AssertionError("inside the library")

    monkeypatch.setattr(peer._ice, "start", fail)
    peer.connect(section(transport))
    await eventually(lambda: handler.reasons == ["the connection failed"])
    await peer.close()


def test_short_srtp_is_what_pylibsrtp_does() -> None:
    stock, short = session(Policy.SSRC_ANY_OUTBOUND), ShortSession(session(Policy.SSRC_ANY_OUTBOUND))
    stock_reader, short_reader = session(Policy.SSRC_ANY_INBOUND), ShortSession(session(Policy.SSRC_ANY_INBOUND))
    for index in range(50):
        packet = write_packet(96, False, index, index, 9, bytes(index * 20))
        encrypted = short.protect(packet)
        assert encrypted == stock.protect(packet)
        assert short_reader.unprotect(encrypted) == stock_reader.unprotect(encrypted) == packet
    packets = [write_packet(96, False, 100 + index, index, 9, bytes(200)) for index in range(5)]
    encrypted_all = short.protect_burst(packets)
    assert encrypted_all == [stock.protect(packet) for packet in packets]
    assert short_reader.unprotect_burst(memoryview(b"".join(encrypted_all)), len(encrypted_all[0])) == packets
    report = bytes.fromhex("80c90001") + (5).to_bytes(4, "big")
    encrypted = short.protect_rtcp(report)
    assert encrypted == stock.protect_rtcp(report)
    assert short_reader.unprotect_rtcp(encrypted) == report


def test_short_srtp_refuses_what_pylibsrtp_refuses() -> None:
    reader = ShortSession(session(Policy.SSRC_ANY_INBOUND))
    with pytest.raises(pylibsrtp.Error):
        reader.unprotect(write_packet(96, False, 1, 1, 9, bytes(30)))
    with pytest.raises(ValueError, match="too long"):
        reader.unprotect(bytes(LARGEST + 1))
    with pytest.raises(ValueError, match="too long"):
        reader.unprotect_burst(memoryview(bytes(LARGEST + 1)), LARGEST + 1)
    with pytest.raises(ValueError, match="too long"):
        reader.protect_burst([bytes(LARGEST + 1)])


def test_the_installed_libraries_are_those_that_were_tried() -> None:
    assert fast_path_known()


def test_another_version_takes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "TRIED_VERSIONS", {"aiortc": ("0.9",)})
    assert fast_path_known() is False


def test_a_library_without_what_is_needed_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "SEAMS", ((Peer, "no_such_method"),))
    with pytest.raises(ConfigurationError, match="no_such_method"):
        fast_path_known()


async def test_sending_while_the_sockets_go_is_harmless() -> None:
    here, there = Recorder(), Recorder()
    one, two = await connected(here, there)
    packet = write_packet(96, True, 1, 2, 3, b"good")
    one.send_rtp(packet)
    await one._connection.close()  # as the end of consent does
    while not here.reasons:
        one.send_rtp(packet)
        await asyncio.sleep(0)
    assert here.reasons == ["the client went away"]
    await asyncio.gather(one.close(), two.close())
