"""Pictures of few colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from pixtools.imaging.color import to_rgb
from pixtools.imaging.picture import Picture


def indexed(picture: Picture, colors: int) -> Picture:
    """Return the picture in at most `colors` colours, alpha among them: its frames are of mode P, with one palette.

    Grey goes by way of sRGB, since a palette has colours, which the profile of grey does not describe.
    """
    picture = to_rgb(picture)
    if not picture.is_animated:
        return picture.map(lambda frame: _reduced(frame, colors))
    # As one sheet, so that the frames share a palette: an animated PNG has but one.
    width, height = picture.size
    sheet = Image.new(picture.mode, (width, height * len(picture.frames)))
    for at, frame in enumerate(picture.frames):
        sheet.paste(frame, (0, at * height))
    sheet = _reduced(sheet, colors)
    tops = range(0, sheet.height, height)
    return replace(picture, deep=None, frames=tuple(sheet.crop((0, top, width, top + height)) for top in tops))


def _reduced(frame: Image.Image, colors: int) -> Image.Image:
    if frame.getcolors(colors):
        return _exact(frame)
    if frame.mode == "RGBA":
        # The one method of Pillow's own that sees alpha; it has no dithering.
        return frame.quantize(colors, Image.Quantize.FASTOCTREE)
    found = frame.quantize(colors, Image.Quantize.MEDIANCUT)
    return frame.quantize(palette=found, dither=Image.Dither.FLOYDSTEINBERG)  # without it, skies show bands


def _exact(frame: Image.Image) -> Image.Image:
    """Return a frame of at most 256 colours with a palette of all of them, which quantize() only comes near."""
    pixels = np.asarray(frame.convert("RGBA")).view(np.uint32)[..., 0]  # (H, W)
    values, places = np.unique(pixels, return_inverse=True)
    found = Image.fromarray(places.reshape(pixels.shape).astype(np.uint8))
    colors = values.view(np.uint8).reshape(-1, 4)[:, : len(frame.mode)]
    found.putpalette(colors.tobytes(), frame.mode)
    return found
