"""Draws watermarks: computes where a mark lies, and mixes its pixels with the pixels of the picture."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from pixtools.imaging.color import from_srgb, is_neutral, to_rgb, to_srgb, with_alpha
from pixtools.imaging.picture import Picture, Size

Position = Literal[
    "top-left", "top", "top-right",
    "left", "center", "right",
    "bottom-left", "bottom", "bottom-right",
    "tile",  # repeated over the whole picture
]  # fmt: skip
"""Where on the picture a mark is drawn."""


def stamp(picture: Picture, mark: Image.Image, position: Position, margin: int, opacity: float) -> Picture:
    """Draw a mark on every frame. Opaque pixels stay opaque.

    `mark` is RGBA in sRGB, and is converted to the colour space of the picture. If the mark is not grey, a grey picture
    becomes RGB. `margin` is the distance from the edges in pixels. The position `tile` ignores `margin`. The mark's
    alpha is multiplied by `opacity`, 0 to 1.
    """
    mark = mark.copy()
    mark.putalpha(mark.getchannel("A").point([round(value * opacity) for value in range(256)]))
    if not is_neutral(mark):
        picture = to_rgb(picture)
    mark = from_srgb(mark, picture.icc)
    corners = [_corner(picture.size, mark.size, position, margin)]
    if position == "tile":
        mark = _tile_rows(mark, picture.size[0])
        corners = [(0, top) for top in range(0, picture.size[1], mark.height)]
    return picture.map(lambda frame: _stamped(frame, mark, corners))


def within(size: Size, margin: int) -> Size:
    """Return the size of the area inside the margins, in pixels. Each side has at least one pixel."""
    return max(1, size[0] - 2 * margin), max(1, size[1] - 2 * margin)


def as_mark(picture: Picture, width: int, max_size: Size) -> Image.Image:
    """Return the first frame as a mark, RGBA in sRGB.

    The mark is `width` pixels wide, or narrower if it would exceed `max_size`.
    """
    image = with_alpha(to_rgb(to_srgb(picture.first()))).image
    scale = min(width / image.width, max_size[0] / image.width, max_size[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _corner(size: Size, mark: Size, position: Position, margin: int) -> tuple[int, int]:
    """Return the upper left corner of a mark on a picture of `size`."""
    left, top = (size[0] - mark[0]) // 2, (size[1] - mark[1]) // 2
    if "left" in position:
        left = margin
    if "right" in position:
        left = size[0] - mark[0] - margin
    if "top" in position:
        top = margin
    if "bottom" in position:
        top = size[1] - mark[1] - margin
    return left, top


def _tile_rows(mark: Image.Image, width: int) -> Image.Image:
    """Return two rows of marks, to be repeated downwards.

    The second row is shifted by half the distance from one mark to the next.
    """
    gap = max(mark.size) // 2
    step_x, step_y = mark.width + gap, mark.height + gap
    rows = Image.new("RGBA", (width, 2 * step_y))
    for row in (0, 1):
        for left in range(gap // 2 - row * (step_x // 2), width, step_x):
            rows.paste(mark, (left, gap // 2 + row * step_y))
    return rows


def _stamped(frame: Image.Image, mark: Image.Image, corners: list[tuple[int, int]]) -> Image.Image:
    result = frame.copy()
    for left, top in corners:
        box = (left, top, min(left + mark.width, frame.width), min(top + mark.height, frame.height))
        area = frame.crop(box).convert("RGBA")
        area.alpha_composite(mark.crop((0, 0, *area.size)))
        result.paste(area.convert(frame.mode), box)
    return result
