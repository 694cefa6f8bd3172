"""RTP bytes: parity with aiortc's own code, and packets that are cut off."""

import itertools
import random

import pytest
from aiortc.codecs.h264 import H264Encoder, h264_depayload
from aiortc.codecs.vpx import Vp8Encoder, vp8_depayload
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from aiortc.rtp import HeaderExtensionsMap, RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from sdstream.media.embedded.negotiation import TRANSPORT_SEQUENCE
from sdstream.media.embedded.rtp import (
    MAX_PAYLOAD,
    Part,
    SequenceUnwrapper,
    pack_h264,
    pack_vp8,
    read_header,
    split_units,
    unpack_h264,
    unpack_vp8,
    write_packet,
)


def make_units(seed: int, sizes: list[int]) -> list[bytes]:
    """NAL units without a start code inside and without trailing zeros."""
    rng = random.Random(seed)
    kinds = (7, 8, 5, 1, 6)
    return [
        bytes((0x60 | kinds[index % 5],)) + bytes(rng.randrange(1, 256) for _ in range(size))
        for index, size in enumerate(sizes)
    ]


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=6), st.integers(0, 5))
def test_h264_survives_packing_and_unpacking(sizes: list[int], seed: int) -> None:
    units = make_units(seed, sizes)
    picture = b"".join(b"\0\0\0\1" + unit for unit in units)
    payloads = pack_h264(picture)
    assert max(map(len, payloads)) <= MAX_PAYLOAD
    assert split_units(b"".join(unpack_h264(payload)[0] for payload in payloads)) == units


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=6), st.integers(0, 5))
def test_h264_packets_mean_the_same_to_aiortc(sizes: list[int], seed: int) -> None:
    picture = b"".join(b"\0\0\1" + unit for unit in make_units(seed, sizes))
    ours = b"".join(h264_depayload(payload) for payload in pack_h264(picture))
    theirs = b"".join(unpack_h264(payload)[0] for payload in H264Encoder._packetize(iter(split_units(picture))))
    assert split_units(ours) == split_units(theirs) == split_units(picture)


@given(st.binary(min_size=1, max_size=5000), st.integers(0, 0x7FFF))
def test_vp8_survives_packing_and_both_unpackers(picture: bytes, picture_id: int) -> None:
    payloads = pack_vp8(picture, picture_id)
    assert max(map(len, payloads)) <= MAX_PAYLOAD
    assert b"".join(unpack_vp8(payload)[0] for payload in payloads) == picture
    assert b"".join(vp8_depayload(payload) for payload in payloads) == picture


@given(st.binary(min_size=1, max_size=3000), st.integers(0, 0x7FFF))
def test_vp8_of_aiortc_is_read(picture: bytes, picture_id: int) -> None:
    payloads = Vp8Encoder._packetize(picture, picture_id)
    assert b"".join(unpack_vp8(payload)[0] for payload in payloads) == picture


@pytest.mark.parametrize(
    ("units", "part"),
    [
        ([7, 8, 5], Part.OPENING),
        ([5], Part.KEYFRAME),
        ([1], Part.ORDINARY),
        ([6, 1], Part.ORDINARY),
        ([9, 7], Part.OPENING),
    ],
)
def test_h264_keyframes_are_known_by_their_units(units: list[int], part: Part) -> None:
    picture = b"".join(b"\0\0\0\1" + bytes((kind, 1, 2)) for kind in units)
    assert max(unpack_h264(payload)[1] for payload in pack_h264(picture)) is part


def test_a_fragmented_keyframe_is_known_by_its_first_fragment() -> None:
    payloads = pack_h264(b"\0\0\0\1\x65" + b"\7" * 5000)
    assert [unpack_h264(payload)[1] for payload in payloads] == [Part.KEYFRAME, *[Part.ORDINARY] * 4]


@given(st.binary(max_size=60))
def test_no_payload_does_worse_than_value_error(payload: bytes) -> None:
    for unpack in (unpack_h264, unpack_vp8):
        try:
            data, _ = unpack(payload)
        except ValueError:
            continue
        assert len(data) <= len(payload) * 5 + 4


@given(st.binary(max_size=80), st.one_of(st.none(), st.integers(1, 14)))
def test_no_packet_breaks_the_header_reader(packet: bytes, extension: int | None) -> None:
    header = read_header(packet, extension)
    assert header is None or 12 <= header.start <= header.end <= len(packet)


@given(
    payload_type=st.integers(0, 127),
    marker=st.booleans(),
    sequence=st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 0xFFFFFFFF),
    source=st.integers(0, 0xFFFFFFFF),
    payload=st.binary(max_size=50),
)
def test_headers_agree_with_aiortc(
    payload_type: int, marker: bool, sequence: int, timestamp: int, source: int, payload: bytes
) -> None:
    packet = write_packet(payload_type, marker, sequence, timestamp, source, payload)
    theirs = RtpPacket(payload_type, int(marker), sequence, timestamp, source, payload)
    assert packet == theirs.serialize()
    header = read_header(packet)
    assert header is not None
    assert (header.payload_type, header.marker, header.sequence, header.timestamp, header.source) == (
        payload_type,
        marker,
        sequence,
        timestamp,
        source,
    )
    assert packet[header.start : header.end] == payload


def test_extensions_padding_and_sources_are_passed_over() -> None:
    extensions = HeaderExtensionsMap()
    extensions.configure(
        RTCRtpParameters(
            headerExtensions=[
                RTCRtpHeaderExtensionParameters(id=4, uri=TRANSPORT_SEQUENCE),
                RTCRtpHeaderExtensionParameters(id=9, uri="urn:ietf:params:rtp-hdrext:sdes:mid"),
            ]
        )
    )
    packet = RtpPacket(96, 1, 5, 6, 7, b"picture")
    packet.csrc = [1, 2]
    packet.padding_size = 9
    packet.extensions.mid = "video"
    packet.extensions.transport_sequence_number = 0xBEEF
    data = packet.serialize(extensions)
    header = read_header(data, 4)
    assert header is not None
    assert data[header.start : header.end] == b"picture"
    assert header.transport_sequence == 0xBEEF


@given(st.integers(0, 0xFFFF), st.lists(st.integers(-3000, 3000), max_size=50))
def test_unwrapping_follows_the_nearest_way(first: int, steps: list[int]) -> None:
    unwrapper = SequenceUnwrapper(16)
    highest = position = unwrapper.unwrap(first)
    for step in steps:
        position = highest + step
        assert unwrapper.unwrap(position % 65536) == position
        highest = max(highest, position)


def test_start_codes_of_three_and_four_bytes_are_split_alike() -> None:
    units = [b"\x67\1\2", b"\x68\3", b"\x65\4\5\6"]
    for codes in itertools.product((b"\0\0\1", b"\0\0\0\1"), repeat=3):
        picture = b"".join(code + unit for code, unit in zip(codes, units, strict=True))
        assert split_units(picture) == units
