"""Marks on pictures: where they go, and how they mix with what is there."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from pixtools.imaging.color import from_srgb, is_neutral, to_rgb, to_srgb, with_alpha
from pixtools.imaging.picture import Picture, Size

Position = Literal[
    "top-left", "top", "top-right",
    "left", "center", "right",
    "bottom-left", "bottom", "bottom-right",
    "tile",  # over the whole picture
]  # fmt: skip


def stamp(picture: Picture, mark: Image.Image, position: Position, margin: int, opacity: float) -> Picture:
    """Compose an RGBA mark in sRGB on every frame, `margin` pixels from the edges; what is opaque stays so.

    A mark with colours turns a grey picture into an RGB one.
    """
    mark = mark.copy()
    mark.putalpha(mark.getchannel("A").point([round(value * opacity) for value in range(256)]))
    if not is_neutral(mark):
        picture = to_rgb(picture)
    mark = from_srgb(mark, picture.icc)
    corners = [_corner(picture.size, mark.size, position, margin)]
    if position == "tile":
        mark = _band(mark, picture.size[0])
        corners = [(0, top) for top in range(0, picture.size[1], mark.height)]
    return picture.map(lambda frame: _stamped(frame, mark, corners))


def within(size: Size, margin: int) -> Size:
    """Return the size of what lies within the margins."""
    return max(1, size[0] - 2 * margin), max(1, size[1] - 2 * margin)


def as_mark(picture: Picture, width: int, most: Size) -> Image.Image:
    """Return the first frame of a picture as RGBA in sRGB, `width` pixels wide, or less to stay within `most`."""
    image = with_alpha(to_rgb(to_srgb(picture.first()))).image
    scale = min(width / image.width, most[0] / image.width, most[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _corner(size: Size, mark: Size, position: Position, margin: int) -> tuple[int, int]:
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


def _band(mark: Image.Image, width: int) -> Image.Image:
    """Return two rows of marks, the second one shifted by half, to be laid below each other."""
    gap = max(mark.size) // 2
    across, down = mark.width + gap, mark.height + gap
    band = Image.new("RGBA", (width, 2 * down))
    for row in (0, 1):
        for left in range(gap // 2 - row * (across // 2), width, across):
            band.paste(mark, (left, gap // 2 + row * down))
    return band


def _stamped(frame: Image.Image, mark: Image.Image, corners: list[tuple[int, int]]) -> Image.Image:
    made = frame.copy()
    for left, top in corners:
        box = (left, top, min(left + mark.width, frame.width), min(top + mark.height, frame.height))
        ground = frame.crop(box).convert("RGBA")
        ground.alpha_composite(mark.crop((0, 0, *ground.size)))
        made.paste(ground.convert(frame.mode), box)
    return made
