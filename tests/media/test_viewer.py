"""A viewer's session between the encoder's thread and the event loop: every picture once, in order."""

import itertools
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from sdstream.clock import SystemClock
from sdstream.frames import PictureSize
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.encoding import EncodedPicture
from sdstream.media.embedded.negotiation import VideoChoice
from sdstream.media.embedded.presentation import Presentation
from sdstream.media.embedded.rtp import RtpHeader, read_header
from sdstream.media.embedded.sound import SoundPacket
from sdstream.media.embedded.viewer import ViewerSession

SLOWER = Presentation().jumped(0.4, next_at=10.0)
"""What was captured from second 10 on is presented 0.4 s later."""


class FakePeer:
    """Stands for a viewer's connection and keeps the payloads that it is given, with the way they took."""

    connected = True
    backlog = 0

    def __init__(self) -> None:
        self.sends_here = True
        self.sent: list[tuple[str, bytes]] = []
        self.sequences: list[int] = []
        self.timestamps: list[int] = []
        self.sound: list[RtpHeader] = []

    def send_rtp(self, packet: bytes) -> None:
        header = read_header(packet)
        assert header is not None
        self.sound.append(header)

    def send_rtp_burst(self, packets: Sequence[bytes]) -> None:
        self._keep("loop", packets)

    def send_rtp_burst_here(self, packets: Sequence[bytes]) -> None:
        self._keep("here", packets)

    def _keep(self, way: str, packets: Sequence[bytes]) -> None:
        self.sent += [(way, packet[12:]) for packet in packets]
        self.sequences += [int.from_bytes(packet[2:4], "big") for packet in packets]
        self.timestamps += [int.from_bytes(packet[4:8], "big") for packet in packets]


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> tuple[ViewerSession, FakePeer]:
    session = ViewerSession(
        "viewer",
        VideoChoice("H264", 96, None, ()),
        (1, 2, 3),
        "name",
        Addressing(addresses=("127.0.0.1",)),
        StreamCounters(),
        SystemClock(),
        on_connected=lambda session: None,
        on_closed=lambda session, reason: None,
        on_keyframe_request=lambda session: None,
        fast=True,
        sound_type=111,
        presented=lambda: SLOWER,
    )
    peer = FakePeer()
    monkeypatch.setattr(session, "peer", peer)
    return session, peer


def picture(number: int) -> EncodedPicture:
    payload = bytes((number,))
    return EncodedPicture((payload, payload), 3000 * number, number == 0, 2, payload * 2, PictureSize(64, 64))


async def test_no_picture_overtakes_one_that_was_left_to_the_loop(scene: tuple[ViewerSession, FakePeer]) -> None:
    session, peer = scene
    assert session.deliver_here(picture(0))
    peer.sends_here = False
    assert not session.deliver_here(picture(1))
    peer.sends_here = True
    assert not session.deliver_here(picture(2)), "picture 1 waits for the loop"
    session.deliver(picture(1))
    assert not session.deliver_here(picture(3)), "picture 2 waits for the loop"
    session.deliver(picture(2))
    session.deliver(picture(3))
    assert session.deliver_here(picture(4))
    ways = {number: way for way, (number, *_) in peer.sent}
    assert [payload[0] for _, payload in peer.sent] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert ways == {0: "here", 1: "loop", 2: "loop", 3: "loop", 4: "here"}
    first = peer.sequences[0]
    assert peer.sequences == [(first + index) & 0xFFFF for index in range(10)]


async def test_sound_joins_on_where_some_is_left_out(scene: tuple[ViewerSession, FakePeer]) -> None:
    session, peer = scene
    for number in range(8):
        skipped = 3 <= number < 6
        session.deliver_sound(SoundPacket(number, 960 * number, number / 50, number == 0, b"sound", skipped))
    first = peer.sound[0].sequence
    assert [header.sequence - first for header in peer.sound] == [0, 1, 2, 3, 4]
    assert [header.marker for header in peer.sound] == [True, False, False, True, False]


@pytest.mark.parametrize("skipped", [0, 2])
async def test_a_viewers_sound_begins_in_the_lower_half_of_the_numbers_however_old_the_stream_is(
    scene: tuple[ViewerSession, FakePeer], skipped: int
) -> None:
    """A wrap among the first packets, of which a player may miss some, would leave it unable to decrypt any (RFC 3711,
    3.3.1)."""
    session, peer = scene
    for number in range(4):
        session.deliver_sound(SoundPacket((1 << 15) + number, 0, 0.0, False, b"sound", number < skipped))
    numbers = [header.sequence for header in peer.sound]
    assert numbers[0] < 1 << 15
    assert numbers == [numbers[0] + index for index in range(4 - skipped)]


async def test_both_clocks_of_a_viewer_are_moved_at_the_same_captured_moment(
    scene: tuple[ViewerSession, FakePeer],
) -> None:
    session, peer = scene
    for number in range(4):
        at = 9.96 + number / 50
        session.deliver_sound(SoundPacket(number, 960 * number, at, False, b"sound"))
        session.deliver(replace(picture(number), timestamp=1800 * number, captured_at=at, is_live=True))
    sound = [header.timestamp for header in peer.sound]
    pictures = peer.timestamps[::2]
    assert [(after - before) & 0xFFFFFFFF for before, after in itertools.pairwise(sound)] == [960, 960 + 19_200, 960]
    moved = [(after - before) & 0xFFFFFFFF for before, after in itertools.pairwise(pictures)]
    assert moved == [1800, 1800 + 36_000, 1800]
