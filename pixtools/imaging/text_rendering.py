"""Draws lines of text in the font FiraGO: Latin, Greek, Cyrillic, Georgian, Arabic, Hebrew, Devanagari and Thai."""

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
"""How the lines of a text are aligned with each other."""

_OUTLINE = 0.06  # width of the outline, divided by the font size
_METRICS_SIZE = 1000  # font size at which the line height is measured
_GLYPH_SIZE = 32  # font size at which glyphs are tested
_MAX_LINES = 10  # limited because measuring each line takes time
_LIGHT = 140  # luma from 0 to 255; lighter text gets a black outline, darker text a white outline
_RIGHT_TO_LEFT = ("R", "AL")
_SCRIPTS = "Latin, Greek, Cyrillic, Georgian, Arabic, Hebrew, Devanagari and Thai"
# Results are cached, because a text is checked when its job is accepted, and again whenever the job is claimed.
_CACHED_TEXTS = 256


@lru_cache(maxsize=_CACHED_TEXTS)
def line_size(text: str, height: float, max_size: Size) -> float:
    """Return the font size at which a line is `height` pixels high. If `text` would exceed `max_size`, return less.

    A result below 1 means that the text does not fit at any visible size.
    """
    size = height / _line_height()
    while size >= 1:
        text_width, text_height = _extent(text, size)
        if text_width <= max_size[0] and text_height <= max_size[1]:
            break
        # Hinting rounds the width of letters, so the text may still be too large. Reduce the size by at least two
        # percent each time.
        size *= min(max_size[0] / text_width, max_size[1] / text_height, 0.98)
    return size


def line_height(size: float) -> float:
    """Return the height of a line in pixels at a font size."""
    return size * _line_height()


def render_text(text: str, size: float, color: str, align: Align) -> Image.Image:
    """Draw a text that `unwritable` accepts. Returns RGBA, cut to the visible pixels.

    `size` is the font size in pixels and `color` is `#rrggbb`. A thin black or white outline makes the text readable
    on any background.
    """
    lines = _placed(text, size, align)
    left, top, right, bottom = _box(lines, size)
    text_color = ImageColor.getrgb(color)[:3]
    outline_color = (0, 0, 0) if ImageColor.getcolor(color, "L") > _LIGHT else (255, 255, 255)  # type: ignore[operator]

    def drawn(fill: tuple[int, ...], stroke: float) -> Image.Image:
        # Draw the coverage first and use it as alpha. Letters that are drawn on transparent black would get darker
        # edges.
        coverage = Image.new("L", (right - left, bottom - top))
        canvas, font = ImageDraw.Draw(coverage), _font(size)
        for x, y, line in lines:
            canvas.text((x - left, y - top), line, 255, font, stroke_width=stroke)
        layer = Image.new("RGBA", coverage.size, fill)
        layer.putalpha(coverage)
        return layer

    result = drawn(outline_color, size * _OUTLINE)
    result.alpha_composite(drawn(text_color, 0))
    return result.crop(result.getbbox())


@lru_cache(maxsize=_CACHED_TEXTS)
def unwritable(text: str) -> str | None:
    """Return why a text cannot be drawn, and what the user can do. Return None if the text can be drawn.

    The answer has no subject, because messages put the name of the parameter before it. An example is "has more than 10
    lines; leave some out".
    """
    for char in text:
        if char != "\n" and unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"):
            return f"contains the control character {_named(char)}; leave it out"
    if text.count("\n") >= _MAX_LINES:
        return f"has more than {_MAX_LINES} lines; leave some out"
    if (missing := _missing_glyph(text)) is not None:
        return f"contains {_named(missing)}, which the font lacks; the font has {_SCRIPTS}"
    if not _is_visible(text):
        return "shows nothing; write some letters"
    if not features.check("raqm") and any(map(_needs_shaping, text)):
        # Without FriBiDi, Pillow draws letters unconnected and in the wrong order.
        return "needs the library FriBiDi, which the service lacks; install libfribidi0 on its nodes"
    return None


def _missing_glyph(text: str) -> str | None:
    """Return the first character that the font lacks."""
    return next((char for char in dict.fromkeys(text) if not char.isspace() and not _has_glyph(char)), None)


@lru_cache(maxsize=4096)
def _has_glyph(char: str) -> bool:
    """Return whether the font has a glyph for a character. Characters without a glyph all look the same."""
    font = _font(_GLYPH_SIZE, ImageFont.Layout.BASIC)
    return bytes(font.getmask(char)) != bytes(font.getmask("\uffff"))  # U+FFFF is not a character, so it has no glyph


def _is_visible(text: str) -> bool:
    font = _font(_GLYPH_SIZE)
    return any(font.getmask(line).getbbox() for line in text.split("\n"))


def _needs_shaping(char: str) -> bool:
    return unicodedata.bidirectional(char) in _RIGHT_TO_LEFT or unicodedata.category(char) in ("Mn", "Mc")


def _named(char: str) -> str:
    """Return the code point and the name of a character. If it is printable, it stands first, in quotation marks."""
    quoted = f"{char!r}" if char.isprintable() else ""
    return f"{quoted} (U+{ord(char):04X} {unicodedata.name(char, '')}".strip() + ")"


def _extent(text: str, size: float) -> Size:
    """Return the width and the height of a text in pixels, including its outline."""
    left, top, right, bottom = _box(_placed(text, size, "left"), size)
    return right - left, bottom - top


def _placed(text: str, size: float, align: Align) -> list[tuple[float, float, str]]:
    """Return the x, the y and the content of each line.

    Pillow's own division into lines is not used, because its line distance depends on the width of the outline.
    """
    font, lines = _font(size), text.split("\n")
    widths = [font.getlength(line) for line in lines]
    share = {"left": 0.0, "center": 0.5, "right": 1.0}[align]
    return [
        ((max(widths) - width) * share, number * line_height(size), line)
        for number, (width, line) in enumerate(zip(widths, lines, strict=True))
    ]


def _box(lines: list[tuple[float, float, str]], size: float) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom edges of the area that the lines cover, including their outlines."""
    canvas, font = ImageDraw.Draw(Image.new("L", (1, 1))), _font(size)
    boxes = [canvas.textbbox((x, y), line, font, stroke_width=size * _OUTLINE) for x, y, line in lines]
    left, top, right, bottom = zip(*boxes, strict=True)
    # Add one pixel on each side, because Pillow draws outlines of fractional width wider than it reports.
    return math.floor(min(left)) - 1, math.floor(min(top)) - 1, math.ceil(max(right)) + 1, math.ceil(max(bottom)) + 1


@cache
def _line_height() -> float:
    """Return the height of a line divided by the font size."""
    return sum(_font(_METRICS_SIZE).getmetrics()) / _METRICS_SIZE


def _font(size: float, layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont:
    # Create a new object for each use, because two threads must not use one FreeType face.
    return ImageFont.truetype(io.BytesIO(_font_file()), size, layout_engine=layout)


@cache
def _font_file() -> bytes:
    data: bytes = pymupdf_fonts.myfont("figo")
    return data
