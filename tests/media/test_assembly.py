"""The jitter buffer with made-up packets; loss patterns are data."""

import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.media.embedded.assembly import CAPACITY, KEYFRAME_PATIENCE, Packet, Picture, PictureAssembler
from sdstream.media.embedded.rtp import Part

START_SEQUENCE, START_TIME = 65_530, 2**32 - 9000  # both wrap within the first pictures


def picture_packets(index: int, first: int, count: int, *, key: bool = False, marker: bool = True) -> list[Packet]:
    """The packets of picture `index`; their data tell picture and part."""
    return [
        Packet(
            sequence=(START_SEQUENCE + first + part) & 0xFFFF,
            timestamp=(START_TIME + 3000 * index) & 0xFFFFFFFF,
            marker=marker and part == count - 1,
            data=b"%d.%d " % (index, part),
            part=Part.OPENING if key and part == 0 else Part.ORDINARY,
        )
        for part in range(count)
    ]


def film(pictures: int, packets: int = 3, *, key_every: int = 1000, marker: bool = True) -> list[Packet]:
    return [
        packet
        for index in range(pictures)
        for packet in picture_packets(index, index * packets, packets, key=index % key_every == 0, marker=marker)
    ]


def numbers(pictures: Iterable[Picture]) -> list[int]:
    return [int(picture.data.split(b".")[0]) for picture in pictures]


def test_a_picture_is_released_by_its_own_last_packet() -> None:
    assembler = PictureAssembler()
    released = [numbers(assembler.push(packet, 0.0)) for packet in film(3)]
    assert released == [[], [], [0], [], [], [1], [], [], [2]]


def test_without_markers_a_picture_is_released_by_the_next() -> None:
    assembler = PictureAssembler()
    released = [numbers(assembler.push(packet, 0.0)) for packet in film(3, 2, marker=False)]
    assert released == [[], [], [0], [], [1], []]


def test_time_stamps_do_not_wrap() -> None:
    assembler = PictureAssembler()
    stamps = [picture.timestamp for packet in film(6) for picture in assembler.push(packet, 0.0)]
    assert [later - earlier for earlier, later in itertools.pairwise(stamps)] == [3000] * 5


def test_data_are_joined_in_order_whatever_the_arrival() -> None:
    assembler = PictureAssembler()
    packets = film(1, 5)
    pictures = [picture for index in (0, 3, 1, 4, 2) for picture in assembler.push(packets[index], 0.0)]
    assert [picture.data for picture in pictures] == [b"0.0 0.1 0.2 0.3 0.4 "]


@given(st.lists(st.tuples(st.sampled_from("ahcccxxx"), st.integers(0, 40)), max_size=60), st.randoms())
def test_packets_in_their_order_come_out_the_same_by_the_short_and_the_long_way(
    jumps: list[tuple[str, int]], chance: random.Random
) -> None:
    packets = [packet for index in range(40) for packet in picture_packets(index, index * 3, 3, key=index % 5 == 0)]
    for kind, at in jumps:
        place = at * len(packets) // 41
        if kind == "a":
            packets.insert(place, packets[place])
        elif kind == "h":
            packets.insert(0, packets.pop(place))
        elif kind == "c":
            del packets[place]
        else:
            packets.insert(min(place + chance.randrange(1, 5), len(packets) - 1), packets.pop(place))
    short, long = PictureAssembler(), PictureAssembler(short=False)
    for number, packet in enumerate(packets):
        now = number / 90
        assert short.push(packet, now) == long.push(packet, now)
        assert short.tick(now) == long.tick(now)
        assert short.requests(now) == long.requests(now)
        assert (short.waiting, short.wants_keyframe) == (long.waiting, long.wants_keyframe)
    assert (short.lost, short.given_up, short.discarded) == (long.lost, long.given_up, long.discarded)


def test_all_complete_pictures_leave_together_when_the_gap_is_filled() -> None:
    assembler = PictureAssembler()
    packets = film(4)
    held = packets.pop(4)
    before = [number for packet in packets for number in numbers(assembler.push(packet, 0.0))]
    assert before == [0]
    assert numbers(assembler.push(held, 0.05)) == [1, 2, 3]


def test_twice_sent_and_late_packets_change_nothing() -> None:
    assembler = PictureAssembler()
    packets = film(3)
    pictures = [number for packet in packets for _ in range(2) for number in numbers(assembler.push(packet, 0.0))]
    assert pictures == [0, 1, 2]
    assert assembler.push(packets[0], 1.0) == []


def test_padding_packets_make_no_picture() -> None:
    assembler = PictureAssembler()
    padding = Packet((START_SEQUENCE + 3) & 0xFFFF, START_TIME, False, b"")
    first, second = picture_packets(0, 0, 3, key=True), picture_packets(1, 4, 3)
    released = [numbers(assembler.push(packet, 0.0)) for packet in [*first, padding, *second]]
    assert released == [[], [], [0], [], [], [], [1]]


def test_pictures_before_the_first_keyframe_are_thrown_away() -> None:
    assembler = PictureAssembler()
    packets = [*picture_packets(0, 0, 2), *picture_packets(1, 2, 2, key=True), *picture_packets(2, 4, 2)]
    assert assembler.wants_keyframe is False
    assert [number for packet in packets for number in numbers(assembler.push(packet, 0.0))] == [1, 2]
    assert assembler.discarded == 1


def test_a_first_keyframe_without_its_parameter_sets_is_taken_for_torn() -> None:
    """The packets before the connection was up are gone; a slice of a keyframe alone cannot be decoded."""
    assembler = PictureAssembler()
    torn = [Packet(10, 0, False, b"0.1 ", Part.KEYFRAME), Packet(11, 0, True, b"0.2 ", Part.KEYFRAME)]
    whole = [Packet(12, 3000, False, b"1.0 ", Part.OPENING), Packet(13, 3000, True, b"1.1 ", Part.KEYFRAME)]
    assert [number for packet in torn + whole for number in numbers(assembler.push(packet, 0.0))] == [1]


def test_a_sender_without_keyframes_is_shown_after_a_while() -> None:
    assembler = PictureAssembler()
    shown = [
        number
        for index in range(100)
        for packet in picture_packets(index, index, 1)
        for number in numbers(assembler.push(packet, index / 30))
    ]
    assert shown == list(range(round(KEYFRAME_PATIENCE * 30), 100))


def lossy(packets: list[Packet], lost: set[int]) -> list[Packet]:
    return [packet for index, packet in enumerate(packets) if index not in lost]


def test_missing_packets_are_asked_for_at_once_and_again_by_the_clock() -> None:
    assembler = PictureAssembler()
    assembler.round_trip = 0.05
    for packet in lossy(film(3), {4, 5}):
        assembler.push(packet, 1.0)
    missing = [(START_SEQUENCE + 4) & 0xFFFF, (START_SEQUENCE + 5) & 0xFFFF]
    assert assembler.requests(1.0) == missing
    assert assembler.requests(1.04) == []
    assert assembler.requests(1.07) == missing
    assert assembler.lost == 2


def test_round_trip_is_learnt_from_repairs() -> None:
    assembler = PictureAssembler()
    packets = film(200)
    for index, packet in enumerate(packets):
        if index % 5 == 4:
            continue
        assembler.push(packet, index * 0.1)
        if assembler.requests(index * 0.1):
            assembler.push(packets[index - 1], index * 0.1 + 0.02)
    assert 0.019 < assembler.round_trip < 0.03


@pytest.mark.parametrize(
    ("lost", "shown"),
    [
        ({4}, [0, 4, 5]),
        ({3}, [0, 4, 5]),
        ({5}, [0, 4, 5]),
        ({4, 7}, [0, 4, 5]),
        ({4, 10}, [0, 4, 5]),
        ({3, 4, 5}, [0, 4, 5]),
        (set(range(4, 11)), [0, 4, 5]),
        ({12}, [0, 1, 2, 3]),
        ({13}, [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_after_a_lost_gap_all_is_dropped_up_to_a_whole_keyframe(lost: set[int], shown: list[int]) -> None:
    """Picture 4 (packets 12 to 14) is the only keyframe after the first."""
    assembler = PictureAssembler()
    pictures: list[int] = []
    for index, packet in enumerate(film(6, key_every=4)):
        if index in lost:
            continue
        now = index * 0.001
        pictures += numbers(assembler.push(packet, now))
    pictures += numbers(assembler.tick(10.0))
    assert pictures == shown
    assert assembler.given_up == len(lost)
    assert assembler.waiting is False
    assert assembler.wants_keyframe is (shown[-1] != 5)


def test_a_gap_is_kept_open_for_two_round_trips_and_no_longer() -> None:
    assembler = PictureAssembler()
    assembler.round_trip = 0.1
    for packet in lossy(film(3, key_every=2), {4}):
        assembler.push(packet, 1.0)
    assert assembler.tick(1.24) == []
    assert assembler.given_up == 0
    assert numbers(assembler.tick(1.26)) == [2]


def test_a_leap_of_numbers_starts_anew() -> None:
    assembler = PictureAssembler()
    for packet in film(2):
        assembler.push(packet, 0.0)
    leap = CAPACITY + 100
    packets = [*picture_packets(9, leap, 2, key=True), *picture_packets(10, leap + 2, 2)]
    assert [number for packet in packets for number in numbers(assembler.push(packet, 0.1))] == [9, 10]
    assert assembler.waiting is False


@given(st.integers(0, 10_000), st.floats(0, 0.3), st.integers(0, 8))
def test_whatever_is_lost_or_shuffled_pictures_are_whole_and_in_order(seed: int, share: float, reach: int) -> None:
    rng = random.Random(seed)
    packets = [packet for packet in film(40, key_every=10) if rng.random() >= share]
    order = sorted(range(len(packets)), key=lambda index: index + rng.uniform(0, reach))
    assembler = PictureAssembler()
    pictures: list[Picture] = []
    for step, index in enumerate(order):
        now = step * 0.01
        pictures += assembler.push(packets[index], now)
        pictures += assembler.tick(now)
        assert len(assembler.requests(now)) <= 256
    pictures += assembler.tick(1e6)
    shown = numbers(pictures)
    assert shown == sorted(set(shown))
    whole = {b"%d.0 %d.1 %d.2 " % (number, number, number) for number in range(40)}
    torn = [picture for picture in pictures if picture.data not in whole]
    # Only the first picture of all can lack its beginning, and a film's last its end: nobody can know of those.
    assert all(numbers([picture]) in ([shown[0]], [shown[-1]]) for picture in torn)
