"""Placards: calm pictures of words for the time in which there is nothing better to show."""

import functools

import numpy
import numpy.typing
from PIL import Image, ImageDraw, ImageFont

from sdstream.frames import I420Frame, PictureSize, Plane, split_planes
from sdstream.media.ports import Placard

BACKGROUND = (15, 18, 24)
TITLE = (236, 239, 244)
DETAIL = (158, 167, 181)
MARK = (104, 114, 130)
RAIL = (40, 46, 57)
FILL = (106, 169, 255)
MOST_LINES = 4
WORD_MARK = "sdstream"
_LUMA = numpy.array((65.481, 128.553, 24.966)) / 255  # BT.601, limited range
_BLUE = numpy.array((-37.797, -74.203, 112.0)) / 255
_RED = numpy.array((112.0, -93.786, -18.214)) / 255


def draw_placard(placard: Placard, size: PictureSize) -> I420Frame:
    """The placard as I420 of `size`, BT.601 limited; drawn once for equal words, percent rounded to whole ones.

    The planes are read-only and shared between callers.
    """
    percent = None if placard.percent is None else round(min(100.0, max(0.0, placard.percent)))
    packed = _packed(placard.title, placard.detail, percent, size)
    y, u, v = split_planes(packed, size)
    return I420Frame(y, u, v)


@functools.lru_cache(maxsize=16)
def _packed(title: str, detail: str, percent: int | None, size: PictureSize) -> Plane:
    packed = _to_i420(numpy.asarray(paint(title, detail, percent, size), numpy.uint8), size)
    packed.flags.writeable = False
    return packed


def paint(title: str, detail: str, percent: int | None, size: PictureSize) -> Image.Image:
    """The placard as an RGB image of `size`."""
    width, height = size.width, size.height
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    unit = min(width, height) / 100
    room = round(width - 16 * unit)
    title_font, title_lines = _fit(title, room, start=8.5 * unit, least=5 * unit)
    detail_font, detail_lines = _fit(detail, room, start=4.4 * unit, least=3.2 * unit) if detail else (None, [])
    gap, bar = 4 * unit, 1.6 * unit
    title_step = title_font.size * 1.22
    detail_step = detail_font.size * 1.38 if detail_font is not None else 0.0
    total = title_step * len(title_lines)
    if detail_lines:
        total += gap * 0.7 + detail_step * len(detail_lines)
    if percent is not None:
        total += gap * 1.7 + bar
    top = (height - total) / 2 - 2 * unit
    for line in title_lines:
        draw.text((width / 2, top), line, TITLE, title_font, anchor="ma")
        top += title_step
    top += gap * 0.7
    if detail_font is not None:
        for line in detail_lines:
            draw.text((width / 2, top), line, DETAIL, detail_font, anchor="ma")
            top += detail_step
    if percent is not None:
        top += gap
        _bar(draw, width, top, unit, bar, percent)
    mark_font = ImageFont.load_default(max(9.0, 3.4 * unit))
    draw.text((width / 2, height - 5.5 * unit), WORD_MARK, MARK, mark_font, anchor="ms")
    return image


def _bar(draw: ImageDraw.ImageDraw, width: int, top: float, unit: float, thickness: float, percent: int) -> None:
    left, right = width / 2 - 30 * unit, width / 2 + 30 * unit
    radius = thickness / 2
    draw.rounded_rectangle((left, top, right, top + thickness), radius, RAIL)
    if percent > 0:
        end = max(left + thickness, left + (right - left) * percent / 100)
        draw.rounded_rectangle((left, top, end, top + thickness), radius, FILL)


def _fit(text: str, room: int, start: float, least: float) -> tuple[ImageFont.FreeTypeFont, list[str]]:
    """The largest font between `start` and `least` pixels that needs one line, or two with a smaller one, else four."""
    size = start
    while True:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)
        lines = _wrap(text, font, room)
        if len(lines) == 1 or size <= least or (len(lines) == 2 and size < start * 0.8):
            break
        size = max(least, size * 0.9)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], _shorten(" ".join(lines[MOST_LINES - 1 :]), font, room)]
    return font, lines


def _wrap(text: str, font: ImageFont.FreeTypeFont, room: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            for piece in _pieces(word, font, room):
                longer = f"{line} {piece}".strip()
                if line and font.getlength(longer) > room:
                    lines.append(line)
                    line = piece
                else:
                    line = longer
        lines.append(line)
    return lines


def _pieces(word: str, font: ImageFont.FreeTypeFont, room: int) -> list[str]:
    """The word, cut where it is wider than a line."""
    pieces: list[str] = []
    while word and font.getlength(word) > room:
        keep = max(1, int(len(word) * room / font.getlength(word)) - 1)
        pieces.append(word[:keep])
        word = word[keep:]
    return [*pieces, word] if word else pieces


def _shorten(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _to_i420(picture: numpy.typing.NDArray[numpy.uint8], size: PictureSize) -> Plane:
    """uint8 [height, width, 3] RGB to packed I420, BT.601 limited; chroma is the mean of each four pixels."""
    packed = numpy.empty(size.byte_count, numpy.uint8)
    y, u, v = split_planes(packed, size)
    colours = picture.astype(numpy.float32)
    y[...] = numpy.rint(colours @ _LUMA + 16)
    quarter = colours.reshape(size.height // 2, 2, size.width // 2, 2, 3).mean((1, 3))
    u[...] = numpy.rint(quarter @ _BLUE + 128)
    v[...] = numpy.rint(quarter @ _RED + 128)
    return packed


__all__ = ["draw_placard", "paint"]
