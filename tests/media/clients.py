"""Offers as Daydream's clients write them, with made-up credentials, and aiortc peers without HTTP between."""

import re
from typing import Any

import httpx

from sdstream.errors import RequestError
from sdstream.media.embedded.sound import SoundPacket
from sdstream.media.ports import MediaStream
from sdstream.settings import Settings
from tests.support.offers import Edit, without_candidates
from tests.support.peers import CardTrack, Peer, Publisher, Viewer

DIGEST = ":".join(f"{number:02X}" for number in range(32))

OBS_WHIP = f"""v=0
o=rtc 2431546789 0 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1
a=group:LS 0 1
a=msid-semantic:WMS *
a=ice-options:ice2,trickle
a=fingerprint:sha-256 {DIGEST}
m=audio 51472 UDP/TLS/RTP/SAVPF 111
c=IN IP4 192.0.2.10
a=mid:0
a=sendonly
a=ssrc:12345679 cname:kTm3
a=ssrc:12345679 msid:uXp obs-audio
a=msid:uXp obs-audio
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;maxaveragebitrate=96000;stereo=1;sprop-stereo=1;useinbandfec=1
a=setup:actpass
a=ice-ufrag:fB3x
a=ice-pwd:Qc7Bm0mLbGqnZsjKx1JhVw
a=candidate:1 1 UDP 2122317823 192.0.2.10 51472 typ host
a=end-of-candidates
m=video 51472 UDP/TLS/RTP/SAVPF 96
c=IN IP4 192.0.2.10
a=mid:1
a=sendonly
a=ssrc:12345678 cname:kTm3
a=ssrc:12345678 msid:uXp obs-video
a=msid:uXp obs-video
a=rtcp-mux
a=rtpmap:96 H264/90000
a=rtcp-fb:96 nack
a=rtcp-fb:96 nack pli
a=rtcp-fb:96 goog-remb
a=fmtp:96 profile-level-id=42e01f;packetization-mode=1;level-asymmetry-allowed=1
a=setup:actpass
a=ice-ufrag:fB3x
a=ice-pwd:Qc7Bm0mLbGqnZsjKx1JhVw
"""

OBS_WHEP = OBS_WHIP.replace("a=sendonly", "a=recvonly")

_BROWSER_HEAD = """v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE {mids}
a=extmap-allow-mixed
a=msid-semantic: WMS
"""
_BROWSER_SECTION = f"""m={{kind}} 9 UDP/TLS/RTP/SAVPF {{formats}}
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:w0Xp
a=ice-pwd:J4pZ0d5bQkTn6Yx1s8uGvR2e
a=ice-options:trickle
a=fingerprint:sha-256 {DIGEST}
a=setup:actpass
a=mid:{{mid}}
a=extmap:1 urn:ietf:params:rtp-hdrext:toffset
a=extmap:4 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:9 urn:ietf:params:rtp-hdrext:sdes:mid
a={{direction}}
a=rtcp-mux
a=rtcp-rsize
"""
_FEEDBACK = "goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"


def _video_codecs(*formats: tuple[int, str, str]) -> str:
    lines: list[str] = []
    for payload_type, name, parameters in formats:
        lines.append(f"a=rtpmap:{payload_type} {name}/90000")
        if name not in ("rtx", "red", "ulpfec"):
            lines += [f"a=rtcp-fb:{payload_type} {kind}" for kind in _FEEDBACK]
        if parameters:
            lines.append(f"a=fmtp:{payload_type} {parameters}")
    return "\n".join(lines) + "\n"


def _h264(profile: str, mode: int = 1) -> str:
    return f"level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}"


VP8_FIRST = (
    (96, "VP8", ""),
    (97, "rtx", "apt=96"),
    (98, "VP9", "profile-id=0"),
    (103, "H264", _h264("42001f")),
    (104, "rtx", "apt=103"),
    (107, "H264", _h264("42001f", 0)),
    (109, "H264", _h264("42e01f")),
    (114, "rtx", "apt=109"),
    (45, "AV1", "level-idx=5;profile=0;tier=0"),
    (112, "H264", _h264("64001f")),
    (116, "red", ""),
    (118, "ulpfec", ""),
)
H264_ONLY = tuple(entry for entry in VP8_FIRST if entry[1] == "H264")
VP8_ONLY = VP8_FIRST[:3]
OPUS = "a=rtpmap:111 opus/48000/2\na=rtcp-fb:111 transport-cc\na=fmtp:111 minptime=10;useinbandfec=1\n"


def browser_offer(
    video: tuple[tuple[int, str, str], ...] = VP8_FIRST, direction: str = "sendonly", *, audio: bool = True
) -> str:
    """What a browser's `createOffer` gives before any candidate is gathered."""
    text = _BROWSER_HEAD.format(mids="0 1" if audio else "0")
    formats = " ".join(str(entry[0]) for entry in video)
    text += _BROWSER_SECTION.format(kind="video", formats=formats, mid=0, direction=direction) + _video_codecs(*video)
    if audio:
        text += _BROWSER_SECTION.format(kind="audio", formats="111", mid=1, direction=direction) + OPUS
    return text


def with_bundle_only(text: str, *, bare: bool = False) -> str:
    """An offer as made with `max-bundle`, by Firefox or GStreamer: behind the first section all ports are 0.

    `bare` leaves out what those sections need not say of the transport (RFC 9143, 7.1.3).
    """
    first, *others = re.split(r"(?=^m=)", text, flags=re.MULTILINE)[1:]
    head = text[: text.index(first)]
    others = [re.sub(r"^m=(\w+) \d+ (.*)$", r"m=\1 0 \2\na=bundle-only", part, flags=re.MULTILINE) for part in others]
    if bare:
        others = [
            re.sub(r"^a=(ice-ufrag|ice-pwd|fingerprint|setup):.*\n", "", part, flags=re.MULTILINE) for part in others
        ]
    return head + first + "".join(others)


CLIENTS = {
    "obs": OBS_WHIP,
    "browser": browser_offer(H264_ONLY),
    "touchdesigner": browser_offer(audio=False),
    "unity": browser_offer((VP8_FIRST[6], VP8_FIRST[7], *VP8_FIRST[:3])),
    "extension": browser_offer(VP8_FIRST, audio=False),
    "browser without H.264": browser_offer(VP8_ONLY),
    "firefox": with_bundle_only(browser_offer()),
}
"""WHIP offers by client; TouchDesigner and the extension send video only."""


def make_settings(**values: Any) -> Settings:
    """Settings as they are without a file or variables, media on loopback."""
    return Settings.model_validate({"webrtc_addresses": ("127.0.0.1",), "video_encoder": "x264"} | values)


class _Direct(Peer):
    """Posts to a stream instead of to a URL."""

    stream: MediaStream
    watching: bool
    session_id = ""

    async def post(self) -> httpx.Response:
        offer = await self.prepare()
        try:
            answer = await (self.stream.watch(offer) if self.watching else self.stream.publish(offer))
        except RequestError as error:
            return httpx.Response(error.status, text=error.message)
        self.session_id = answer.session_id
        return httpx.Response(201, text=answer.sdp)


class DirectPublisher(_Direct, Publisher):
    """An aiortc camera on a stream."""

    watching = False

    def __init__(self, stream: MediaStream, *, edit: Edit = without_candidates, **options: Any) -> None:
        super().__init__("direct:", edit=edit, **options)
        self.stream = stream


class DirectViewer(_Direct, Viewer):
    """An aiortc viewer of a stream."""

    watching = True

    def __init__(self, stream: MediaStream, *, edit: Edit = without_candidates, **options: Any) -> None:
        super().__init__("direct:", edit=edit, **options)
        self.stream = stream


class KeptSound:
    """A sink of a relay that keeps what it is given."""

    def __init__(self) -> None:
        self.packets: list[SoundPacket] = []

    def deliver_sound(self, packet: SoundPacket) -> None:
        self.packets.append(packet)


__all__ = [
    "CLIENTS",
    "OBS_WHEP",
    "OBS_WHIP",
    "CardTrack",
    "DirectPublisher",
    "DirectViewer",
    "KeptSound",
    "browser_offer",
    "make_settings",
]
