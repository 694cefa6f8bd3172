"""Offers edited into the shapes that Daydream's clients really send (contract section 5.4)."""

import contextlib
import copy
from collections.abc import Callable, Iterator

from aiortc.codecs import CODECS

Edit = Callable[[str], str]


def unchanged(sdp: str) -> str:
    return sdp


def without_candidates(sdp: str) -> str:
    """What browsers, TouchDesigner and Unity post: the offer before any candidate was gathered."""
    return _lines(line for line in sdp.splitlines() if not line.startswith(("a=candidate:", "a=end-of-candidates")))


def like_obs(sdp: str) -> str:
    """libdatachannel's layout: transport facts at session level, the `ice2` option; candidates kept."""
    lines = sdp.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("m="))
    shared = ("a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:sha-256", "a=setup:")
    session = [next(line for line in lines[first:] if line.startswith(fact)) for fact in shared]
    moved = ("a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:", "a=setup:")
    media = [line for line in lines[first:] if not line.startswith(moved)]
    return _lines([*lines[:first], *session, "a=ice-options:ice2", *media])


@contextlib.contextmanager
def obs_payload_types() -> Iterator[None]:
    """Within it aiortc knows H.264 as payload type 96 and Opus as 111, and nothing else: an OBS."""
    before = {kind: list(CODECS[kind]) for kind in ("video", "audio")}
    h264 = copy.copy(
        next(
            codec
            for codec in before["video"]
            if codec.mimeType == "video/H264" and codec.parameters.get("profile-level-id") == "42e01f"
        )
    )
    h264.payloadType = 96
    opus = copy.copy(next(codec for codec in before["audio"] if codec.mimeType == "audio/opus"))
    opus.payloadType = 111
    CODECS["video"][:] = [h264]
    CODECS["audio"][:] = [opus]
    try:
        yield
    finally:
        for kind, codecs in before.items():
            CODECS[kind][:] = codecs


def media_lines(sdp: str) -> list[str]:
    """The m-lines of a session description."""
    return [line for line in sdp.splitlines() if line.startswith("m=")]


def payload_types(sdp: str, kind: str) -> list[int]:
    """Payload types of the first m-line of `kind`."""
    line = next(line for line in media_lines(sdp) if line.startswith(f"m={kind}"))
    return [int(payload) for payload in line.split()[3:]]


def _lines(lines: Iterator[str] | list[str]) -> str:
    return "\r\n".join(lines) + "\r\n"
