"""Pictures that take a decoder next to for ever."""

import struct


def jpeg_of_scans(scans: int, side: int = 64) -> bytes:
    """A grey JPEG that is whole, progressive, and of `scans` scans, each of some fifty bytes and a pass over it all."""

    def segment(marker: int, content: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content

    blocks = (-(-side // 8)) ** 2
    one_code = bytes([1] + [0] * 15)
    head = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64))
    head += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    head += segment(0xC4, b"\0" + one_code + b"\0") + segment(0xC4, b"\x10" + one_code + b"\xe0")
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8))
    # A code of one bit, and 14 bits that say for how many blocks more there is nothing.
    bits = "001111111111111" * -(-blocks // 16384)
    bits += "1" * (-len(bits) % 8)
    further = segment(0xDA, b"\1\1\0\1\x3f\0") + int(bits, 2).to_bytes(len(bits) // 8, "big").replace(
        b"\xff", b"\xff\0"
    )
    return head + first + further * (scans - 1) + b"\xff\xd9"


__all__ = ["jpeg_of_scans"]
