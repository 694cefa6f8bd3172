"""What MediaMTX is shown of a publisher's offer, and which output a viewer's offer is led to."""

import pytest

from sdstream.errors import InvalidSdp
from sdstream.media.embedded.sdp import parse_offer
from sdstream.media.mediamtx.offers import codec_for, for_publishing
from tests.media.clients import CLIENTS, H264_ONLY, OBS_WHEP, OBS_WHIP, VP8_FIRST, VP8_ONLY, browser_offer

H265_ONLY = ((96, "H265", ""),)


@pytest.mark.parametrize("client", CLIENTS)
def test_mediamtx_is_shown_h264_alone_wherever_it_is_offered(client: str) -> None:
    offered = parse_offer(CLIENTS[client])
    shown = parse_offer(for_publishing(CLIENTS[client]))
    assert [section.mid for section in shown.sections] == [section.mid for section in offered.sections]
    for before, after in zip(offered.sections, shown.sections, strict=True):
        names = {codec.name for codec in after.codecs}
        if before.kind == "video" and "H264" in {codec.name for codec in before.codecs}:
            assert names <= {"H264", "RTX"}
            assert after.codecs[0].name == "H264"
            assert set(after.formats) == {str(codec.payload_type) for codec in after.codecs}
        else:
            assert (after.codecs, after.formats) == (before.codecs, before.formats)


def test_the_plainest_h264_with_fragments_is_chosen_and_its_retransmission_kept() -> None:
    shown = for_publishing(browser_offer(VP8_FIRST))
    assert "m=video 9 UDP/TLS/RTP/SAVPF 109 114\n" in shown
    assert "VP8" not in shown
    assert "a=fmtp:114 apt=109" in shown


def test_nothing_but_the_video_codecs_is_changed() -> None:
    assert for_publishing(OBS_WHIP) == OBS_WHIP
    windows = browser_offer(VP8_FIRST, audio=False).replace("\n", "\r\n")
    assert for_publishing(windows).count("\r\n") == for_publishing(windows).count("\n")


@pytest.mark.parametrize("video", [VP8_ONLY, H265_ONLY])
def test_what_mediamtx_takes_beside_h264_is_left_as_it_is(video: tuple[tuple[int, str, str], ...]) -> None:
    assert for_publishing(browser_offer(video)) == browser_offer(video)


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        ("hello", "does not start with v=0"),
        (OBS_WHIP.partition("m=video")[0], "has no video"),
        (browser_offer(H264_ONLY, audio=False).replace("m=video", "m=application"), "has no video"),
        (browser_offer(((96, "theora", ""),)), "has none of H264"),
    ],
)
def test_offers_that_bring_no_picture_are_refused(offer: str, said: str) -> None:
    # MediaMTX takes sound and data alone, and its publisher would hold the place of one with pictures.
    with pytest.raises(InvalidSdp, match=said):
        for_publishing(offer)


@pytest.mark.parametrize(
    ("offer", "codec"),
    [
        (OBS_WHEP, "H264"),
        (browser_offer(VP8_FIRST, "recvonly"), "H264"),
        (browser_offer(VP8_ONLY, "recvonly"), "VP8"),
    ],
)
def test_a_viewer_gets_h264_and_vp8_where_it_takes_nothing_else(offer: str, codec: str) -> None:
    assert codec_for(offer) == codec


@pytest.mark.parametrize("offer", ["hello", browser_offer(H265_ONLY, "recvonly"), OBS_WHIP])
def test_a_viewer_that_takes_none_of_ours_is_refused(offer: str) -> None:
    with pytest.raises(InvalidSdp):
        codec_for(offer)
