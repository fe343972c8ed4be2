"""Lines of text as pictures, in FiraGO: Latin, Greek, Cyrillic, Georgian, Arabic, Hebrew, Devanagari and Thai."""

from __future__ import annotations

import io
import math
import unicodedata
from functools import cache, lru_cache
from typing import Literal

import pymupdf_fonts
from PIL import Image, ImageColor, ImageDraw, ImageFont, features

from pixtools.imaging.picture import Size

Align = Literal["left", "center", "right"]

_OUTLINE = 0.06  # of the font's size
_REFERENCE = 1000  # a size to take the font's proportions at
_SAMPLE = 32  # a size to look at single letters at
_MOST_LINES = 10  # each takes time to measure
_LIGHT = 140  # of 255: brighter letters get a dark outline
_RIGHT_TO_LEFT = ("R", "AL")
_SCRIPTS = "Latin, Greek, Cyrillic, Georgian, Arabic, Hebrew, Devanagari and Thai"
_REMEMBERED = 256  # texts: a plan is checked where it is accepted and wherever it is claimed


@lru_cache(maxsize=_REMEMBERED)
def line_size(text: str, height: float, most: Size) -> float:
    """Return the size of the font whose lines are `height` pixels high; a smaller one where text goes beyond `most`.

    Below 1, where nothing can be seen, it is no longer looked for.
    """
    size = height / _line_height()
    while size >= 1:
        width, depth = _extent(text, size)
        if width <= most[0] and depth <= most[1]:
            break
        size *= min(most[0] / width, most[1] / depth, 0.98)  # hinting rounds: one step may not be enough
    return size


def line_height(size: float) -> float:
    """Return how many pixels high a line in a font of `size` is."""
    return size * _line_height()


def letters(text: str, size: float, color: str, align: Align) -> Image.Image:
    """Return RGBA: the text in `color` within a thin outline that tells it from any ground, cut to its ink."""
    lines = _placed(text, size, align)
    left, top, right, bottom = _box(lines, size)
    ink = ImageColor.getrgb(color)[:3]
    edge = (0, 0, 0) if ImageColor.getcolor(color, "L") > _LIGHT else (255, 255, 255)  # type: ignore[operator]

    def drawn(fill: tuple[int, ...], stroke: float) -> Image.Image:
        # Coverage by itself, then colour: drawn on transparent pixels, edges would mix with the black below them.
        cover = Image.new("L", (right - left, bottom - top))
        canvas, font = ImageDraw.Draw(cover), _font(size)
        for x, y, line in lines:
            canvas.text((x - left, y - top), line, 255, font, stroke_width=stroke)
        layer = Image.new("RGBA", cover.size, fill)
        layer.putalpha(cover)
        return layer

    whole = drawn(edge, size * _OUTLINE)
    whole.alpha_composite(drawn(ink, 0))
    return whole.crop(whole.getbbox())


@lru_cache(maxsize=_REMEMBERED)
def unwritable(text: str) -> str | None:
    """Say what keeps a text from being written, with the remedy; None where nothing does."""
    for char in text:
        if char != "\n" and unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"):
            return f"has the control character {_named(char)}; leave it out"
    if text.count("\n") >= _MOST_LINES:
        return f"has more than {_MOST_LINES} lines; leave some out"
    if (lacking := _lacking(text)) is not None:
        return f"has {_named(lacking)}, which the font lacks; it has {_SCRIPTS}"
    if not _shows(text):
        return "shows nothing; write some letters"
    if not features.check("raqm") and any(map(_needs_shaping, text)):
        # Without it Pillow would set letters apart and backwards.
        return "needs FriBiDi to be set right; install it (libfribidi0) where the service runs"
    return None


def _lacking(text: str) -> str | None:
    """Return the first character that the font lacks."""
    return next((char for char in dict.fromkeys(text) if not char.isspace() and not _has(char)), None)


@lru_cache(maxsize=4096)
def _has(char: str) -> bool:
    """Whether the font has more for a character than its sign for what it lacks."""
    font = _font(_SAMPLE, ImageFont.Layout.BASIC)
    return bytes(font.getmask(char)) != bytes(font.getmask("\uffff"))  # no character, and never one


def _shows(text: str) -> bool:
    """Whether there is any ink."""
    font = _font(_SAMPLE)
    return any(font.getmask(line).getbbox() for line in text.split("\n"))


def _needs_shaping(char: str) -> bool:
    return unicodedata.bidirectional(char) in _RIGHT_TO_LEFT or unicodedata.category(char) in ("Mn", "Mc")


def _named(char: str) -> str:
    shown = f"{char!r}" if char.isprintable() else ""
    return f"{shown} (U+{ord(char):04X} {unicodedata.name(char, '')}".strip() + ")"


def _extent(text: str, size: float) -> Size:
    left, top, right, bottom = _box(_placed(text, size, "left"), size)
    return right - left, bottom - top


def _placed(text: str, size: float, align: Align) -> list[tuple[float, float, str]]:
    """Return x, y and content of each line: where Pillow puts them depends on their outline."""
    font, lines = _font(size), text.split("\n")
    widths = [font.getlength(line) for line in lines]
    share = {"left": 0.0, "center": 0.5, "right": 1.0}[align]
    return [
        ((max(widths) - width) * share, number * line_height(size), line)
        for number, (width, line) in enumerate(zip(widths, lines, strict=True))
    ]


def _box(lines: list[tuple[float, float, str]], size: float) -> tuple[int, int, int, int]:
    """Return what the ink of lines covers, outline included, about the point from which they are placed."""
    canvas, font = ImageDraw.Draw(Image.new("L", (1, 1))), _font(size)
    boxes = [canvas.textbbox((x, y), line, font, stroke_width=size * _OUTLINE) for x, y, line in lines]
    left, top, right, bottom = zip(*boxes, strict=True)
    # One pixel more: of broken strokes Pillow says less than it draws.
    return math.floor(min(left)) - 1, math.floor(min(top)) - 1, math.ceil(max(right)) + 1, math.ceil(max(bottom)) + 1


@cache
def _line_height() -> float:
    """Return the height of a line over the size of the font."""
    return sum(_font(_REFERENCE).getmetrics()) / _REFERENCE


def _font(size: float, layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont:
    # One for each use: FreeType's faces are not for two threads.
    return ImageFont.truetype(io.BytesIO(_file()), size, layout_engine=layout)


@cache
def _file() -> bytes:
    found: bytes = pymupdf_fonts.myfont("figo")
    return found
