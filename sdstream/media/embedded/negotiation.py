"""Which m-lines and codecs of an offer are used: pure decisions, no connection.

H.264 is taken whenever it is offered, in whatever place of the list, because every other output of the server carries
it; VP8 is for browsers built without H.264. One video section is used, the first that fits.
"""

from dataclasses import dataclass, replace
from typing import Literal

from sdstream.errors import InvalidSdp
from sdstream.media.embedded.sdp import (
    VIDEO_CLOCK_RATE,
    AcceptedSection,
    Codec,
    MediaSection,
    Offer,
    check_transport,
)

VideoCodec = Literal["H264", "VP8"]
VIDEO_CODECS: tuple[VideoCodec, ...] = ("H264", "VP8")
START_BITRATE_HINT = {"x-google-start-bitrate": "2000"}
"""Kilobits a second. Without it Chromium starts at 300 and shrinks the picture before its estimate has grown. A least
bitrate is not named: Chromium would send it over a line that carries less, too, and nearly nothing would arrive whole.
"""
TRANSPORT_SEQUENCE = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
_FEEDBACK = ("nack", "nack pli", "ccm fir")


@dataclass(frozen=True, slots=True)
class VideoChoice:
    """The video of a session. `packetization` is H.264's mode."""

    codec: VideoCodec
    payload_type: int
    retransmission_type: int | None
    feedback: tuple[str, ...]

    @property
    def loss_reports(self) -> bool:
        """Whether lost packets may be asked for again (NACK)."""
        return "nack" in self.feedback


@dataclass(frozen=True, slots=True)
class Negotiation:
    """The outcome: `accepted` by section index, `anchor` the section whose ICE and DTLS lines hold for all."""

    video: VideoChoice
    accepted: dict[int, AcceptedSection]
    anchor: MediaSection
    transport_sequence_id: int | None = None
    sound_type: int | None = None
    """The payload type of Opus, when sound flows in the direction of the session."""


def negotiate_publish(offer: Offer) -> Negotiation:
    """How a WHIP offer is answered: its video received, and its audio too.

    Raises `InvalidSdp` when there is no video that can be received.
    """
    index, choice, codecs = _choose_video(offer, ("sendonly", "sendrecv"), sending=False)
    section = offer.sections[index]
    hinted = replace(codecs[0], parameters=dict(codecs[0].parameters) | START_BITRATE_HINT)
    extensions: dict[str, int] = {}
    sequence_id = section.extensions.get(TRANSPORT_SEQUENCE)
    if sequence_id is not None and sequence_id < 15 and "transport-cc" in codecs[0].feedback:
        extensions[TRANSPORT_SEQUENCE] = sequence_id
    else:
        sequence_id = None
        hinted = replace(hinted, feedback=tuple(kind for kind in hinted.feedback if kind != "transport-cc"))
    accepted = {index: AcceptedSection((hinted, *codecs[1:]), "recvonly", extensions)}
    sound_type: int | None = None
    for other, audio in _companions(offer, index):
        sends = sound_type is None and offer.sections[other].direction in ("sendonly", "sendrecv")
        accepted[other] = AcceptedSection((audio,), "recvonly" if sends else "inactive")
        if sends:
            sound_type = audio.payload_type
    return Negotiation(choice, accepted, _anchor(offer, accepted), sequence_id, sound_type)


def negotiate_watch(
    offer: Offer, sources: tuple[int, int], stream_name: str, track_name: str, sound_source: int | None = None
) -> Negotiation:
    """How a WHEP offer is answered: video sent from `sources` (media and retransmission SSRC), sound from its own.

    The first audio section that can be used carries it, whether there is sound already or not: a viewer may come before
    the microphone. Both tracks are of one stream, so that players keep them together.
    Raises `InvalidSdp` when the offer takes no video that can be sent.
    """
    index, choice, codecs = _choose_video(offer, ("recvonly", "sendrecv"), sending=True)
    used = sources if choice.retransmission_type is not None else sources[:1]
    kept = tuple(
        replace(codec, feedback=tuple(kind for kind in codec.feedback if kind in _FEEDBACK)) for codec in codecs
    )
    accepted = {index: AcceptedSection(kept, "sendonly", sources=used, stream_name=stream_name, track_name=track_name)}
    sound_type: int | None = None
    for other, audio in _companions(offer, index):
        takes = offer.sections[other].direction in ("recvonly", "sendrecv")
        if sound_source is None or sound_type is not None or not takes:
            accepted[other] = AcceptedSection((audio,), "inactive")
            continue
        sound_type = audio.payload_type
        accepted[other] = AcceptedSection(
            (audio,), "sendonly", sources=(sound_source,), stream_name=stream_name, track_name=f"{stream_name}-audio"
        )
    return Negotiation(choice, accepted, _anchor(offer, accepted), sound_type=sound_type)


def _choose_video(
    offer: Offer, directions: tuple[str, ...], *, sending: bool
) -> tuple[int, VideoChoice, tuple[Codec, ...]]:
    videos = [
        (index, section) for index, section in enumerate(offer.sections) if section.kind == "video" and section.offered
    ]
    if not videos:
        raise InvalidSdp("the SDP offer has no video")
    fitting = [(index, section) for index, section in videos if section.direction in directions]
    if not fitting:
        asked = "takes no video (recvonly)" if sending else "sends no video (sendonly)"
        raise InvalidSdp(f"the SDP offer {asked}")
    for name in VIDEO_CODECS:
        for index, section in fitting:
            codec = best_codec(section, name, sending=sending)
            if codec is not None:
                return index, *_with_retransmission(section, codec, name)
    names = sorted({codec.name for _, section in fitting for codec in section.codecs})
    raise InvalidSdp(f"the SDP offer has neither H264 nor VP8, only {', '.join(names)[:200] or 'no codec'}")


def best_codec(section: MediaSection, name: VideoCodec, *, sending: bool) -> Codec | None:
    """The form of this codec in the section that is used, by us `sending` or receiving; None without one."""
    rates = [codec for codec in section.codecs if codec.name == name and codec.clock_rate == VIDEO_CLOCK_RATE]
    if name == "H264":
        # Mode 0 has no fragments, so pictures of ours do not fit into it; as a receiver we read either.
        rates = [codec for codec in rates if not sending or codec.parameters.get("packetization-mode", "1") == "1"]
        rates.sort(key=_h264_rank)
    return rates[0] if rates else None


def _h264_rank(codec: Codec) -> tuple[bool, int]:
    """Low is good: fragments allowed, then the plainest profile, which every decoder has."""
    profile = codec.parameters.get("profile-level-id", "42e01f").lower()
    plainness = ("42e0", "42c0", "4200").index(profile[:4]) if profile[:4] in ("42e0", "42c0", "4200") else 3
    return codec.parameters.get("packetization-mode") != "1", plainness


def _with_retransmission(
    section: MediaSection, codec: Codec, name: VideoCodec
) -> tuple[VideoChoice, tuple[Codec, ...]]:
    kept = tuple(kind for kind in dict.fromkeys(codec.feedback) if kind in (*_FEEDBACK, "transport-cc"))
    media = replace(codec, feedback=kept)
    repair = next(
        (
            other
            for other in section.codecs
            if other.name == "RTX" and other.parameters.get("apt") == str(codec.payload_type) and "nack" in kept
        ),
        None,
    )
    choice = VideoChoice(name, codec.payload_type, repair.payload_type if repair else None, kept)
    return choice, (media,) if repair is None else (media, replace(repair, feedback=()))


def _companions(offer: Offer, video: int) -> list[tuple[int, Codec]]:
    """Audio sections that ride on the video's transport, each with the codec that is answered."""
    section = offer.sections[video]
    if section.mid is None or section.mid not in offer.bundle:
        return []
    found: list[tuple[int, Codec]] = []
    for index, other in enumerate(offer.sections):
        if other.kind == "audio" and other.offered and other.mid in offer.bundle:
            codec = next((codec for codec in other.codecs if codec.name == "OPUS"), None)
            if codec is not None:
                found.append((index, replace(codec, feedback=())))
    return found


def _anchor(offer: Offer, accepted: dict[int, AcceptedSection]) -> MediaSection:
    """The section whose transport is used: the first accepted one of the bundle (RFC 9143), else the only one.

    A section that is bundle-only need not say anything of a transport: then it is that of the bundle's first, even if
    nothing else of that one is accepted.
    """
    named = {section.mid: section for section in offer.sections}
    bundled = [named[mid] for mid in offer.bundle if mid in named]
    used = [offer.sections[index] for index in sorted(accepted)]
    section = next((section for section in bundled if section in used), used[0])
    if section.bundle_only and not section.ice_username:
        section = next((other for other in bundled if other.ice_username), section)
    check_transport(section)
    return section


__all__ = [
    "TRANSPORT_SEQUENCE",
    "Negotiation",
    "VideoChoice",
    "VideoCodec",
    "best_codec",
    "negotiate_publish",
    "negotiate_watch",
]
