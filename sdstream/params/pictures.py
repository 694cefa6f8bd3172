"""What kind of picture some bytes are, and whether they are all of it: by their frame alone, nothing is decoded."""

import re
from collections.abc import Callable

_SIGNATURES = {
    "png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "gif": re.compile(rb"GIF8[79]a"),
    "webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "bmp": re.compile(rb"BM"),
    "avif": re.compile(rb"....ftyp(avif|avis|heic|mif1)", re.DOTALL),
}
KINDS = tuple(_SIGNATURES)
MOST_BOXES = 64
"""Of an AVIF file, at its top: a few."""
MOST_SCANS = 256
"""Of a JPEG that is read: progressive ones have about ten. Each is a pass over the whole picture and may take fifty
bytes, so ten megabytes of them keep a decoder busy for half an hour."""


def kind_of_picture(content: bytes) -> str | None:
    """One of `KINDS`, by the first bytes; None for no picture."""
    return next((kind for kind, signature in _SIGNATURES.items() if signature.match(content)), None)


def is_cut_off(kind: str, content: bytes) -> bool:
    """Whether a picture of this kind ends before it should. False is no proof: a GIF says nothing of its length."""
    return _CUT_OFF[kind](content) if kind in _CUT_OFF else False


def has_endless_scans(content: bytes) -> bool:
    """Whether it is a JPEG of more than `MOST_SCANS` scans, those of small pictures inside counted too."""
    # Two bytes that stand for nothing else in what is compressed.
    return kind_of_picture(content) == "jpeg" and content.count(b"\xff\xda") > MOST_SCANS


def _has_no_end(content: bytes) -> bool:
    return b"IEND" not in content


def _ends_in_a_scan(content: bytes) -> bool:
    # A small picture inside, with an end of its own, comes before the last scan.
    return content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda") or b"\xff\xda" not in content


def _lacks_bytes_of_webp(content: bytes) -> bool:
    return 8 + int.from_bytes(content[4:8], "little") > len(content)


def _lacks_bytes_of_bmp(content: bytes) -> bool:
    return int.from_bytes(content[2:6], "little") > len(content)


def _lacks_bytes_of_avif(content: bytes) -> bool:
    at = 0
    for _ in range(MOST_BOXES):
        if at == len(content):
            return False
        size = int.from_bytes(content[at : at + 4])
        if size == 1:
            size = int.from_bytes(content[at + 8 : at + 16])
        if size == 0:  # to the end, wherever that is
            return False
        at += max(size, 8)
        if at > len(content):
            return True
    return False


_CUT_OFF: dict[str, Callable[[bytes], bool]] = {
    "png": _has_no_end,
    "jpeg": _ends_in_a_scan,
    "webp": _lacks_bytes_of_webp,
    "bmp": _lacks_bytes_of_bmp,
    "avif": _lacks_bytes_of_avif,
}

__all__ = ["KINDS", "MOST_SCANS", "has_endless_scans", "is_cut_off", "kind_of_picture"]
