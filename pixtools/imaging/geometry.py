"""Resizes, pads, crops, rotates and mirrors pictures, and computes the resulting sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from pixtools.imaging.color import shade, with_alpha, with_room_for
from pixtools.imaging.picture import Picture, Size

_TRANSPOSE = Image.Transpose
_RIGHT_ANGLES = {90.0: _TRANSPOSE.ROTATE_270, 180.0: _TRANSPOSE.ROTATE_180, 270.0: _TRANSPOSE.ROTATE_90}

# If a side has at least six source pixels for each target pixel, Pillow first averages source pixels until at least
# three are left for each target pixel. Averaging and Lanczos together take a third of the time of Lanczos alone. The
# result has a SSIMULACRA2 score of 96 of 100, compared with the result of Lanczos alone.
_REDUCING_GAP = 3.0

Fit = Literal[
    "inside",  # keep the aspect ratio; one side may become shorter than the box
    "contain",  # keep the aspect ratio, and fill the rest of the box with a background
    "cover",  # keep the aspect ratio, and cut off whatever exceeds the box
    "fill",  # stretch to the box
]
"""How a picture is fitted into a box with another aspect ratio."""


@dataclass(frozen=True)
class Placement:
    """How to resize a picture: resample the whole picture to `scaled`, then cut or pad it to `canvas`."""

    scaled: Size
    canvas: Size


def place(size: Size, width: int | None, height: int | None, fit: Fit, *, upscale: bool) -> Placement:
    """Compute how a picture of `size` fits a box of `width` × `height`.

    Without `upscale`, the picture is not enlarged. If `fit` is `inside`, one of `width` and `height` may be None, which
    means no limit.
    """
    ratios = [limit / side for limit, side in zip((width, height), size, strict=True) if limit]
    max_scale = math.inf if upscale else 1.0
    box = (width or size[0], height or size[1])
    match fit:
        case "fill" | "cover":
            # If the picture is too small for the box, the canvas is the largest area with the box's aspect ratio.
            canvas = _scaled(box, min(1.0, max_scale / max(ratios)))
            scaled = canvas if fit == "fill" else _scaled(size, min(max_scale, max(ratios)))
            return Placement(scaled, (min(canvas[0], scaled[0]), min(canvas[1], scaled[1])))
        case "contain":
            return Placement(_scaled(size, min(max_scale, *ratios)), box)
        case "inside":
            scaled = _scaled(size, min(max_scale, *ratios))
            return Placement(scaled, scaled)


def _scaled(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def put(picture: Picture, placement: Placement, background: str | None) -> Picture:
    """Resample the picture with the Lanczos filter, then cut or pad it equally on both sides.

    `background` is the colour of the padding, `#rrggbb`. None makes the padding transparent. Colours of transparent
    pixels have no effect, because Pillow multiplies colours by alpha before it resamples them.
    `memory_bounds.of_resampling` returns the memory that this function may take.
    """
    scaled, canvas = placement.scaled, placement.canvas
    if picture.reduced_from is not None:
        picture = replace(picture, reduced_from=None)  # the result has the same size as without the reduction
    if canvas[0] < scaled[0] or canvas[1] < scaled[1]:
        # Resample only the area that is kept, to save time. The edges of this area may lie between source pixels.
        width, height = (side * kept / whole for side, kept, whole in zip(picture.size, canvas, scaled, strict=True))
        left, top = (picture.size[0] - width) / 2, (picture.size[1] - height) / 2
        box = (left, top, left + width, top + height)
        return picture.map(lambda frame: _resampled(frame, canvas, box))
    if picture.size != scaled:
        picture = picture.map(lambda frame: _resampled(frame, scaled))
    return picture if canvas == scaled else pad(picture, canvas, background)


def _resampled(frame: Image.Image, size: Size, box: tuple[float, float, float, float] | None = None) -> Image.Image:
    return frame.resize(size, Image.Resampling.LANCZOS, box, _REDUCING_GAP)


def pad(picture: Picture, canvas: Size, background: str | None) -> Picture:
    """Put the picture in the middle of a larger canvas. If `background` is None, the padding is transparent."""
    picture = with_alpha(picture) if background is None else with_room_for(background, picture)
    background = background and shade(background, picture)
    corner = ((canvas[0] - picture.size[0]) // 2, (canvas[1] - picture.size[1]) // 2)

    def padded(frame: Image.Image) -> Image.Image:
        ground = Image.new(frame.mode, canvas, background or 0)
        ground.paste(frame, corner)
        return ground

    return picture.map(padded)


def crop(picture: Picture, left: int, top: int, size: Size) -> Picture:
    """Cut out the area of `size` whose upper left corner is (left, top), in pixels."""
    box = (left, top, left + size[0], top + size[1])
    return picture.map(lambda frame: frame.crop(box))


def rotated_size(size: Size, degrees: float) -> Size:
    """Return the size of the upright box that encloses a picture of `size` rotated by `degrees`."""
    width, height = size
    if degrees % 180 == 0:
        return size
    if degrees % 90 == 0:
        return height, width
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    return math.ceil(width * cosine + height * sine), math.ceil(width * sine + height * cosine)


def rotate(picture: Picture, degrees: float, background: str | None) -> Picture:
    """Rotate clockwise. The result encloses the whole picture.

    Multiples of 90° move pixels without changing their values. For other angles, the pixels are resampled (bicubic,
    with colours multiplied by alpha), and the corners are filled with `background`. None makes the corners transparent.
    """
    if degrees % 360 == 0:
        return picture
    if (right_angle := _RIGHT_ANGLES.get(degrees % 360)) is not None:
        return picture.map(lambda frame: frame.transpose(right_angle))
    picture = with_alpha(picture) if background is None else with_room_for(background, picture)
    background = background and shade(background, picture)
    size = rotated_size(picture.size, degrees)

    def rotated(frame: Image.Image) -> Image.Image:
        # Pad before the rotation and cut afterwards. Do not use Pillow's option `expand`, because it rounds the size in
        # another way than `rotated_size`.
        larger = (max(size[0], frame.width), max(size[1], frame.height))
        ground = pad(Picture.still(frame), larger, background).image
        whole = ground.rotate(-degrees, Image.Resampling.BICUBIC, fillcolor=background or 0)
        left, top = (whole.width - size[0]) // 2, (whole.height - size[1]) // 2
        return whole.crop((left, top, left + size[0], top + size[1]))

    return picture.map(rotated)


def flip(picture: Picture, *, vertical: bool) -> Picture:
    """Mirror the picture: swap left and right, or top and bottom if `vertical` is set."""
    mirror = _TRANSPOSE.FLIP_TOP_BOTTOM if vertical else _TRANSPOSE.FLIP_LEFT_RIGHT
    return picture.map(lambda frame: frame.transpose(mirror))
