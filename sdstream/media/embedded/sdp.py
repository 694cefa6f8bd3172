"""WebRTC offers read into plain data, and answers written from it.

The reader is lenient where clients differ (white space, unknown lines, members out of order) and strict where a session
could not work: no ICE credentials, no fingerprint, no codec that is spoken here. It never raises anything but
`InvalidSdp`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sdstream.errors import InvalidSdp

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
Setup = Literal["active", "passive", "actpass"]
DIRECTIONS: tuple[Direction, ...] = ("sendrecv", "sendonly", "recvonly", "inactive")
MAX_OFFER_LENGTH = 200_000
"""Characters of the longest offer that is read; a browser's with every codec has about 8,000."""
MAX_LINES = 2000
"""Lines of the longest offer that is read, blank ones aside; each section reads all lines of the session again."""
MAX_LINE_LENGTH = 4000
MAX_SECTIONS = 64
VIDEO_CLOCK_RATE = 90_000

_MEDIA_LINE = re.compile(r"([a-z]+) ([0-9]{1,5})(?:/[0-9]+)? ([A-Z/]+) (\S+(?: \S+)*)")
_ICE_TOKEN = re.compile(r"[\x21-\x7e]{4,256}")
_DIGEST = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2})+")
_MID = re.compile(r"[\x21-\x7e]{1,64}")
_DIGESTS = {"sha-256", "sha-384", "sha-512"}


@dataclass(frozen=True, slots=True)
class Codec:
    """One `rtpmap` with its `fmtp` and `rtcp-fb`. `name` is upper case; parameter names are lower case."""

    payload_type: int
    name: str
    clock_rate: int
    channels: int = 1
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    feedback: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MediaSection:
    """One m-line of an offer with all that holds for it, the session's attributes included."""

    kind: str
    port: int
    profile: str
    formats: tuple[str, ...]
    mid: str | None
    direction: Direction
    codecs: tuple[Codec, ...]
    ice_username: str
    ice_password: str
    fingerprints: tuple[tuple[str, str], ...]
    setup: str
    candidates: tuple[str, ...]
    extensions: Mapping[str, int]
    bundle_only: bool = False
    """Whether it is offered on the transport of the bundle's first section alone, and so with port 0 (RFC 9143)."""

    @property
    def offered(self) -> bool:
        """Whether the section can be used at all: not rejected by its own sender."""
        return self.kind in ("audio", "video") and (self.port != 0 or self.bundle_only)


@dataclass(frozen=True, slots=True)
class Offer:
    """A whole offer. `bundle` lists the mids that share one transport, in order."""

    sections: tuple[MediaSection, ...]
    bundle: tuple[str, ...]
    ice_lite: bool


@dataclass(frozen=True, slots=True)
class Transport:
    """Our end of the connection as an answer states it. `candidates` are the values of `a=candidate` lines."""

    ice_username: str
    ice_password: str
    fingerprints: tuple[tuple[str, str], ...]
    setup: Setup
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AcceptedSection:
    """What is answered on one m-line: the codecs kept, our direction, and our stream when we send.

    `sources` are SSRCs: the media's, then its retransmissions'.
    """

    codecs: tuple[Codec, ...]
    direction: Direction
    extensions: Mapping[str, int] = field(default_factory=dict[str, int])
    sources: tuple[int, ...] = ()
    stream_name: str = ""
    track_name: str = ""


def parse_offer(text: str) -> Offer:
    """Read an SDP offer. Raises `InvalidSdp` with what is wrong."""
    session, sections = _group_lines(_split_lines(text, "offer"))
    if not session or session[0] != "v=0":
        raise InvalidSdp("the body is not SDP: it does not start with v=0")
    if not sections:
        raise InvalidSdp("the SDP offer has no media section")
    if len(sections) > MAX_SECTIONS:
        raise InvalidSdp(f"the SDP offer has more than {MAX_SECTIONS} media sections")
    bundle: tuple[str, ...] = ()
    for value in _values(session, "group"):
        semantic, _, mids = value.partition(" ")
        if semantic == "BUNDLE":
            bundle = tuple(mids.split())
    parsed = tuple(_parse_section(lines, session, bundle) for lines in sections)
    mids = [section.mid for section in parsed if section.mid is not None]
    if len(mids) != len(set(mids)):
        raise InvalidSdp("two media sections of the SDP offer have the same mid")
    return Offer(parsed, bundle, ice_lite="a=ice-lite" in session)


def parse_fragment(text: str) -> tuple[str, ...]:
    """The candidates of a trickle-ICE fragment (RFC 8840), as values of `a=candidate` lines.

    Raises `InvalidSdp` when the text is no such fragment.
    """
    lines = _split_lines(text, "fragment")
    if not lines or any(len(line) < 2 or line[1] != "=" for line in lines):
        raise InvalidSdp("the body is not an SDP fragment")
    if not any(line.startswith(("a=candidate:", "a=end-of-candidates", "a=ice-ufrag:", "m=")) for line in lines):
        raise InvalidSdp("the SDP fragment has neither candidates nor ICE credentials")
    return tuple(line.removeprefix("a=candidate:") for line in lines if line.startswith("a=candidate:"))


def write_answer(offer: Offer, accepted: Mapping[int, AcceptedSection], transport: Transport, session: int) -> str:
    """The answer to `offer`: every m-line in order, those not in `accepted` (by index) rejected with port 0.

    `session` is the numeric session id of the origin line.
    """
    answered = {offer.sections[index].mid for index in accepted}
    bundled = [mid for mid in offer.bundle if mid in answered]
    lines = ["v=0", f"o=- {session} 1 IN IP4 0.0.0.0", "s=-", "t=0 0"]
    if bundled:
        lines.append(f"a=group:BUNDLE {' '.join(bundled)}")
    lines.append("a=msid-semantic: WMS *")
    for index, section in enumerate(offer.sections):
        answer = accepted.get(index)
        if answer is None:
            lines += _rejected_lines(section)
        else:
            lines += _accepted_lines(section, answer, transport)
    return "\r\n".join(lines) + "\r\n"


def _split_lines(text: str, name: str) -> list[str]:
    """The lines that are not blank, without the white space around them, within the limits on their number and size."""
    if len(text) > MAX_OFFER_LENGTH:
        raise InvalidSdp(f"the SDP {name} is longer than {MAX_OFFER_LENGTH} characters")
    lines = [line for raw in text.splitlines() if (line := raw.strip())]
    if len(lines) > MAX_LINES:
        raise InvalidSdp(f"the SDP {name} has more than {MAX_LINES} lines")
    if any(len(line) > MAX_LINE_LENGTH for line in lines):
        raise InvalidSdp(f"the SDP {name} has a line of more than {MAX_LINE_LENGTH} characters")
    return lines


def _number(text: str, digits: int) -> int | None:
    """A number of at most `digits` ASCII digits, else None.

    The length comes first: `int` raises for thousands of digits, and it also reads the digits of other scripts.
    """
    return int(text) if len(text) <= digits and text.isascii() and text.isdigit() else None


def _group_lines(lines: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    session: list[str] = []
    sections: list[list[str]] = []
    for line in lines:
        if line.startswith("m="):
            sections.append([line])
        else:
            (sections[-1] if sections else session).append(line)
    return session, sections


def _values(lines: Iterable[str], name: str) -> list[str]:
    prefix = f"a={name}:"
    return [line[len(prefix) :].strip() for line in lines if line.startswith(prefix)]


def _parse_section(lines: list[str], session: list[str], bundle: tuple[str, ...]) -> MediaSection:
    match = _MEDIA_LINE.fullmatch(lines[0][2:])
    if match is None:
        raise InvalidSdp(f"cannot read the media line {lines[0][:80]!r}")
    kind, port, profile, formats = match.groups()
    mids = _values(lines, "mid")
    if mids and not _MID.fullmatch(mids[0]):
        raise InvalidSdp("a mid of the SDP offer has characters that no mid has")
    direction: Direction = "sendrecv"
    for attributes in (session, lines):  # a section's own word is the last
        for name in DIRECTIONS:
            if f"a={name}" in attributes:
                direction = name
    return MediaSection(
        kind=kind,
        port=int(port),
        profile=profile,
        formats=tuple(formats.split()),
        mid=mids[0] if mids else None,
        direction=direction,
        codecs=_parse_codecs(lines, formats.split()),
        ice_username=_first(lines, session, "ice-ufrag"),
        ice_password=_first(lines, session, "ice-pwd"),
        fingerprints=_parse_fingerprints(_values(lines, "fingerprint") or _values(session, "fingerprint")),
        setup=_first(lines, session, "setup") or "actpass",
        candidates=tuple(_values(lines, "candidate") or _values(session, "candidate")),
        extensions=_parse_extensions(_values(lines, "extmap")),
        bundle_only="a=bundle-only" in lines and bool(mids) and mids[0] in bundle,
    )


def _first(lines: list[str], session: list[str], name: str) -> str:
    found = _values(lines, name) or _values(session, name)
    return found[0] if found else ""


def _parse_codecs(lines: list[str], formats: list[str]) -> tuple[Codec, ...]:
    parameters: dict[str, dict[str, str]] = {}
    for value in _values(lines, "fmtp"):
        payload_type, _, pairs = value.partition(" ")
        for pair in pairs.split(";"):
            name, _, content = pair.strip().partition("=")
            if name:
                parameters.setdefault(payload_type, {})[name.strip().lower()] = content.strip()
    feedback: dict[str, list[str]] = {}
    for value in _values(lines, "rtcp-fb"):
        payload_type, _, kind = value.partition(" ")
        feedback.setdefault(payload_type, []).append(kind.strip())
    codecs: dict[str, Codec] = {}
    for value in _values(lines, "rtpmap"):
        payload_type, _, encoding = value.partition(" ")
        name, _, rate = encoding.strip().partition("/")
        rate, _, channels = rate.partition("/")
        number, clock_rate = _number(payload_type, 3), _number(rate, 9)
        if number is None or number > 127 or clock_rate is None or not name:
            raise InvalidSdp(f"cannot read a=rtpmap:{value[:80]}")
        codecs[payload_type] = Codec(
            payload_type=number,
            name=name.upper(),
            clock_rate=clock_rate,
            channels=_number(channels, 3) or 1,
            parameters=parameters.get(payload_type, {}),
            feedback=tuple(feedback.get(payload_type, []) + feedback.get("*", [])),
        )
    return tuple(codecs[item] for item in dict.fromkeys(formats) if item in codecs)


def _parse_fingerprints(values: list[str]) -> tuple[tuple[str, str], ...]:
    fingerprints: list[tuple[str, str]] = []
    for value in values:
        algorithm, _, digest = value.partition(" ")
        if not _DIGEST.fullmatch(digest.strip()):
            raise InvalidSdp("a DTLS fingerprint of the SDP offer is not hexadecimal")
        fingerprints.append((algorithm.lower(), digest.strip().upper()))
    return tuple(fingerprints)


def _parse_extensions(values: list[str]) -> dict[str, int]:
    extensions: dict[str, int] = {}
    for value in values:
        name, _, rest = value.partition(" ")
        number = _number(name.partition("/")[0], 3)
        if number is not None and 1 <= number <= 255 and rest:
            extensions[rest.split()[0]] = number
    return extensions


def check_transport(section: MediaSection) -> None:
    """Raise `InvalidSdp` when a connection cannot be made from the section's ICE and DTLS lines."""
    if not _ICE_TOKEN.fullmatch(section.ice_username) or not _ICE_TOKEN.fullmatch(section.ice_password):
        raise InvalidSdp("the SDP offer has no usable a=ice-ufrag and a=ice-pwd")
    if not any(algorithm in _DIGESTS for algorithm, _ in section.fingerprints):
        raise InvalidSdp("the SDP offer has no DTLS fingerprint (a=fingerprint:sha-256 ...)")
    if section.setup not in ("actpass", "active", "passive"):
        raise InvalidSdp(f"a=setup:{section.setup[:20]} cannot be answered")


def _rejected_lines(section: MediaSection) -> list[str]:
    lines = [f"m={section.kind} 0 {section.profile} {' '.join(section.formats)}", "c=IN IP4 0.0.0.0"]
    if section.mid is not None:
        lines.append(f"a=mid:{section.mid}")
    return [*lines, "a=inactive"]


def _accepted_lines(section: MediaSection, answer: AcceptedSection, transport: Transport) -> list[str]:
    formats = " ".join(str(codec.payload_type) for codec in answer.codecs)
    lines = [f"m={section.kind} 9 {section.profile} {formats}", "c=IN IP4 0.0.0.0", "a=rtcp:9 IN IP4 0.0.0.0"]
    if section.mid is not None:
        lines.append(f"a=mid:{section.mid}")
    lines.append(f"a={answer.direction}")
    lines += [f"a=extmap:{number} {uri}" for uri, number in answer.extensions.items()]
    lines += ["a=rtcp-mux", "a=rtcp-rsize"]
    for codec in answer.codecs:
        channels = f"/{codec.channels}" if codec.channels > 1 else ""
        lines.append(f"a=rtpmap:{codec.payload_type} {_spelling(codec.name)}/{codec.clock_rate}{channels}")
        lines += [f"a=rtcp-fb:{codec.payload_type} {kind}" for kind in codec.feedback]
        if codec.parameters:
            pairs = ";".join(f"{name}={value}" if value else name for name, value in codec.parameters.items())
            lines.append(f"a=fmtp:{codec.payload_type} {pairs}")
    if answer.direction in ("sendonly", "sendrecv") and answer.sources:
        lines.append(f"a=msid:{answer.stream_name} {answer.track_name}")
        if len(answer.sources) > 1:
            lines.append(f"a=ssrc-group:FID {' '.join(map(str, answer.sources))}")
        for source in answer.sources:
            lines.append(f"a=ssrc:{source} cname:{answer.stream_name}")
            lines.append(f"a=ssrc:{source} msid:{answer.stream_name} {answer.track_name}")
    lines.append(f"a=ice-ufrag:{transport.ice_username}")
    lines.append(f"a=ice-pwd:{transport.ice_password}")
    lines += [f"a=fingerprint:{algorithm} {digest}" for algorithm, digest in transport.fingerprints]
    lines.append(f"a=setup:{transport.setup}")
    lines += [f"a=candidate:{candidate}" for candidate in transport.candidates]
    lines.append("a=end-of-candidates")
    return lines


def told_addresses(answer: str) -> tuple[str, ...]:
    """The addresses without ports in the candidates of an answer, in its order."""
    lines = [line.split() for line in answer.splitlines() if line.startswith("a=candidate:")]
    return tuple(dict.fromkeys(parts[4] for parts in lines if len(parts) > 4))


def _spelling(name: str) -> str:
    return {"OPUS": "opus", "RTX": "rtx"}.get(name, name)


__all__ = [
    "VIDEO_CLOCK_RATE",
    "AcceptedSection",
    "Codec",
    "Direction",
    "MediaSection",
    "Offer",
    "Setup",
    "Transport",
    "check_transport",
    "parse_fragment",
    "parse_offer",
    "told_addresses",
    "write_answer",
]
