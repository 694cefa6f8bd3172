"""What is decided of an offer before MediaMTX answers it: which codec it is led to, and which output it is for."""

import re

from sdstream.errors import InvalidSdp
from sdstream.media.embedded.negotiation import VideoCodec, best_codec, negotiate_watch
from sdstream.media.embedded.sdp import MediaSection, parse_offer

PUBLISHED = ("H264", "VP8", "VP9", "H265", "AV1")
"""What MediaMTX takes by WebRTC and libav decodes."""
_OF_FORMAT = re.compile(r"a=(?:rtpmap|fmtp|rtcp-fb):(\d+) .*")


def for_publishing(offer: str) -> str:
    """A publisher's offer as MediaMTX is to see it: where it has H.264, without the other video codecs.

    MediaMTX would take them in the offer's order, and browsers begin with VP8. Raises `InvalidSdp` for what is no offer
    of pictures; MediaMTX would take one of sound or data alone.
    """
    sections = parse_offer(offer).sections
    videos = [section for section in sections if section.kind == "video" and section.offered]
    if not videos:
        raise InvalidSdp("the SDP offer has no video")
    if not any(codec.name in PUBLISHED for section in videos for codec in section.codecs):
        raise InvalidSdp(f"the SDP offer has none of {', '.join(PUBLISHED)}")
    kept = [_kept(section) for section in sections]
    lines: list[str] = []
    index = -1
    for raw in offer.splitlines(keepends=True):
        line = raw.strip()
        index += line.startswith("m=")
        wanted = kept[index] if index >= 0 else ()
        if wanted and line.startswith("m="):
            raw = " ".join([*line.split()[:3], *wanted]) + raw[len(raw.rstrip()) :]
        elif wanted and (of := _OF_FORMAT.fullmatch(line)) is not None and of[1] not in wanted:
            continue
        lines.append(raw)
    return "".join(lines)


def codec_for(offer: str) -> VideoCodec:
    """The codec that a viewer is sent: H.264 where it takes that. Raises `InvalidSdp` when it takes none of ours."""
    return negotiate_watch(parse_offer(offer), (1, 2), "sdstream", "video").video.codec


def _kept(section: MediaSection) -> tuple[str, ...]:
    """The formats of H.264 and its retransmission; empty where the section is left as it is."""
    best = best_codec(section, "H264", sending=False) if section.kind == "video" else None
    if best is None:
        return ()
    wanted = str(best.payload_type)
    again = [codec for codec in section.codecs if codec.name == "RTX" and codec.parameters.get("apt") == wanted]
    return (wanted, *(str(codec.payload_type) for codec in again[:1]))


__all__ = ["codec_for", "for_publishing"]
