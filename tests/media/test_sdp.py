"""Offers as clients make them, and the answers that each must get."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdstream.errors import InvalidSdp
from sdstream.media.embedded.negotiation import negotiate_publish, negotiate_watch
from sdstream.media.embedded.sdp import Offer, Transport, parse_fragment, parse_offer, write_answer
from tests.media.clients import (
    CLIENTS,
    H264_ONLY,
    OBS_WHEP,
    OBS_WHIP,
    VP8_FIRST,
    VP8_ONLY,
    browser_offer,
    with_bundle_only,
)

TRANSPORT = Transport(
    "abcd",
    "efghijklmnopqrstuvwxyz",
    (("sha-256", "AA:BB"),),
    "active",
    ("1 1 udp 5 127.0.0.1 4000 typ host", "2 1 udp 4 192.0.2.1 4001 typ host"),
)


def publish_answer(text: str) -> str:
    offer = parse_offer(text)
    return write_answer(offer, negotiate_publish(offer).accepted, TRANSPORT, 7)


def watch_answer(text: str) -> str:
    offer = parse_offer(text)
    return write_answer(offer, negotiate_watch(offer, (11, 12), "here", "there").accepted, TRANSPORT, 7)


def section(sdp: str, kind: str) -> list[str]:
    parts = re.split(r"(?=^m=)", sdp.replace("\r\n", "\n"), flags=re.MULTILINE)
    return next(part for part in parts if part.startswith(f"m={kind}")).splitlines()


def kinds(sdp: str) -> list[str]:
    return re.findall(r"^m=(\w+)", sdp, re.MULTILINE)


@pytest.mark.parametrize("client", CLIENTS)
def test_every_section_of_a_known_client_is_answered_in_order(client: str) -> None:
    assert kinds(publish_answer(CLIENTS[client])) == kinds(CLIENTS[client])


@pytest.mark.parametrize("client", CLIENTS)
def test_our_answer_can_be_read_as_sdp_again(client: str) -> None:
    answer = parse_offer(publish_answer(CLIENTS[client]))
    assert all(part.candidates == TRANSPORT.candidates for part in answer.sections)


@pytest.mark.parametrize(
    ("client", "payload_type"),
    [
        ("obs", 96),
        ("browser", 109),
        ("touchdesigner", 109),
        ("unity", 109),
        ("extension", 109),
        ("browser without H.264", 96),
        ("firefox", 109),
    ],
)
def test_h264_is_taken_whenever_offered_under_the_offered_number(client: str, payload_type: int) -> None:
    name = "VP8" if client == "browser without H.264" else "H264"
    video = section(publish_answer(CLIENTS[client]), "video")
    assert video[0].split()[3] == str(payload_type)
    assert f"a=rtpmap:{payload_type} {name}/90000" in video


def test_obs_gets_only_what_it_offered() -> None:
    for answer in (publish_answer(OBS_WHIP), watch_answer(OBS_WHEP)):
        assert section(answer, "video")[0] == "m=video 9 UDP/TLS/RTP/SAVPF 96"
        assert section(answer, "audio")[0] == "m=audio 9 UDP/TLS/RTP/SAVPF 111"


def test_retransmission_is_kept_with_its_codec() -> None:
    assert "a=fmtp:114 apt=109" in section(publish_answer(browser_offer()), "video")


def test_publish_answer_hints_the_bitrate_on_video_only() -> None:
    answer = publish_answer(browser_offer())
    hint = [line for line in section(answer, "video") if line.startswith("a=fmtp:109 ")]
    assert "x-google-start-bitrate=2000" in hint[0]
    assert "min-bitrate" not in answer, "a narrow line must be able to carry less"
    assert "packetization-mode=1" in hint[0]
    assert not any("x-google" in line for line in section(answer, "audio"))


def test_directions_are_the_mirror_of_the_offer() -> None:
    assert "a=recvonly" in section(publish_answer(browser_offer()), "video")
    assert "a=recvonly" in section(publish_answer(browser_offer()), "audio")
    assert "a=sendonly" in section(watch_answer(browser_offer(direction="recvonly")), "video")
    assert "a=inactive" in section(watch_answer(browser_offer(direction="recvonly")), "audio")


def test_watch_answer_names_its_stream_and_sources() -> None:
    video = section(watch_answer(browser_offer(direction="recvonly")), "video")
    assert "a=msid:here there" in video
    assert "a=ssrc-group:FID 11 12" in video


def test_arrival_reports_are_offered_only_with_their_extension() -> None:
    with_extension = publish_answer(browser_offer())
    without = publish_answer(re.sub(r"a=extmap:4 .*\n", "", browser_offer()))
    assert "a=rtcp-fb:109 transport-cc" in with_extension
    assert "transport-cc" not in without


def test_answer_ends_its_candidates() -> None:
    video = section(publish_answer(browser_offer()), "video")
    assert video[-1] == "a=end-of-candidates"


def test_fragments_of_mode_0_are_never_sent() -> None:
    only_mode_0 = tuple(entry for entry in VP8_FIRST if entry[0] in (107, 96))
    answer = watch_answer(browser_offer(only_mode_0, "recvonly"))
    assert section(answer, "video")[0].endswith(" 96")


def test_unbundled_audio_and_data_are_rejected_in_place() -> None:
    text = browser_offer().replace("a=group:BUNDLE 0 1", "a=group:BUNDLE 0")
    text += "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\na=mid:2\n"
    answer = publish_answer(text)
    assert section(answer, "audio")[0].startswith("m=audio 0 ")
    assert section(answer, "application")[0] == "m=application 0 UDP/DTLS/SCTP webrtc-datachannel"
    assert "a=group:BUNDLE 0\r\n" in answer


def test_only_the_first_video_is_used() -> None:
    text = browser_offer(H264_ONLY, audio=False).replace("a=group:BUNDLE 0", "a=group:BUNDLE 0 5")
    second = section(text, "video")
    text += "\n".join(second).replace("a=mid:0", "a=mid:5") + "\n"
    lines = [line for line in publish_answer(text).splitlines() if line.startswith("m=")]
    assert [line.split()[1] for line in lines] == ["9", "0"]


def test_transport_is_that_of_the_first_accepted_section_of_the_bundle() -> None:
    text = OBS_WHIP.replace("a=ice-ufrag:fB3x", "a=ice-ufrag:audio", 1)
    negotiation = negotiate_publish(parse_offer(text))
    assert negotiation.anchor.ice_username == "audio"


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("client", ["obs", "browser"])
def test_sections_that_are_bundle_only_are_accepted(client: str, bare: bool) -> None:
    answer = publish_answer(with_bundle_only(CLIENTS[client], bare=bare))
    assert section(answer, "video")[0].startswith("m=video 9 ")
    assert section(answer, "audio")[0].startswith("m=audio 9 ")
    assert "a=recvonly" in section(answer, "audio")


def test_bundle_only_without_a_bundle_is_rejected() -> None:
    text = with_bundle_only(browser_offer()).replace("a=group:BUNDLE 0 1", "a=group:BUNDLE 0")
    assert section(publish_answer(text), "audio")[0].startswith("m=audio 0 ")


def test_a_bundle_only_section_is_on_the_first_ones_transport_even_if_that_is_rejected() -> None:
    text = with_bundle_only(OBS_WHIP, bare=True).replace("opus/48000/2", "PCMU/8000")
    negotiation = negotiate_publish(parse_offer(text))
    assert list(negotiation.accepted) == [1]
    assert negotiation.anchor.ice_username == "fB3x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "v=0"),
        ("hello", "v=0"),
        ("{}", "v=0"),
        ("v=0\n", "no media section"),
        (browser_offer().replace("m=video 9", "m=video nine"), "media line"),
        (browser_offer().replace("a=mid:1", "a=mid:0"), "same mid"),
        (browser_offer(direction="recvonly"), "sends no video"),
        (browser_offer().replace("VP8", "XX").replace("H264", "YY"), "neither H264 nor VP8"),
        (browser_offer(VP8_ONLY).replace("m=video 9", "m=video 0"), "no video"),
        (re.sub("a=ice-pwd:.*\n", "", browser_offer()), "ice-ufrag"),
        (re.sub("a=fingerprint:.*\n", "", browser_offer()), "fingerprint"),
        (browser_offer().replace("sha-256", "md5"), "fingerprint"),
        (re.sub("a=setup:actpass", "a=setup:holdconn", browser_offer()), "setup"),
        (browser_offer().replace("rtpmap:96 VP8/90000", "rtpmap:96 VP8"), "rtpmap"),
        ("v=0\n" + "a=x:y\n" * 100_000, "longer"),
        ("v=0\n" + "a=x:y\n" * 2001, "more than 2000 lines"),
        ("v=0\na=x:" + "y" * 4000, "line of more than 4000"),
        ("v=0\n" + "m=audio 9 RTP/AVP 0\n" * 65, "media sections"),
        (browser_offer().replace("rtpmap:96 ", f"rtpmap:{'9' * 3900} "), "rtpmap"),
        (browser_offer().replace("rtpmap:96 ", "rtpmap:\u0669\u0666 "), "rtpmap"),
        (browser_offer().replace("VP8/90000", f"VP8/{'9' * 3900}"), "rtpmap"),
    ],
)
def test_bad_offers_say_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(InvalidSdp, match=words):
        negotiate_publish(parse_offer(text))


def test_watching_a_publishers_offer_is_refused() -> None:
    with pytest.raises(InvalidSdp, match="takes no video"):
        negotiate_watch(parse_offer(OBS_WHIP), (1, 2), "a", "b")


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_offers_are_answered_or_refused(data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from(sorted(CLIENTS.values()))).splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        kind = data.draw(st.sampled_from(["drop", "double", "cut", "noise", "swap"]))
        if kind == "drop" and len(lines) > 1:
            del lines[at]
        elif kind == "double":
            lines.insert(at, lines[at])
        elif kind == "cut":
            lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
        elif kind == "noise":
            lines[at] = lines[at][:2] + data.draw(st.text(max_size=30))
        else:
            other = data.draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
    text = "\r\n".join(lines)
    try:
        offer: Offer = parse_offer(text)
        answer = write_answer(offer, negotiate_publish(offer).accepted, TRANSPORT, 1)
    except InvalidSdp:
        return
    assert len(parse_offer(answer).sections) == len(offer.sections)


NUMBERS = ("9" * 3500, "9" * 4301, "9" * 5000, "\u0669" * 20, "\u00b2", "-1", "0", str(2**64))
"""What generators hardly find: Python converts no text of more than 4300 digits, and `isdigit` is true of a square."""


@pytest.mark.parametrize("client", ["obs", "browser"])
def test_strange_numbers_anywhere_are_answered_or_refused(client: str) -> None:
    text = CLIENTS[client]
    outcomes: dict[bool, int] = {True: 0, False: 0}
    for place in re.finditer("[0-9]+", text):
        for number in NUMBERS:
            try:
                answer = publish_answer(text[: place.start()] + number + text[place.end() :])
            except InvalidSdp:
                outcomes[False] += 1
            else:
                parse_offer(answer)
                outcomes[True] += 1
    assert min(outcomes.values()) > 100, outcomes


@given(st.text(max_size=400))
@example("v=0\na=rtpmap:" + "9" * 5000)
@settings(max_examples=200, deadline=None)
def test_noise_is_no_offer(text: str) -> None:
    with pytest.raises(InvalidSdp):
        negotiate_publish(parse_offer(text))
    try:
        parse_fragment(text)
    except InvalidSdp:
        return
    assert "a=" in text or "m=" in text


def test_fragment_gives_its_candidates() -> None:
    text = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n"
    text += "a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0\r\na=end-of-candidates\r\n"
    assert parse_fragment(text) == ("1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0",)


@pytest.mark.parametrize("text", ["", "no fragment", "x", "a=sendrecv", f"a=candidate:{'9' * 5000} 1 udp"])
def test_what_is_no_fragment_is_refused(text: str) -> None:
    with pytest.raises(InvalidSdp):
        parse_fragment(text)
