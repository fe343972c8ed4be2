"""Reduces pictures to a palette of few colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from pixtools.imaging.color import to_rgb
from pixtools.imaging.picture import Picture


def indexed(picture: Picture, colors: int) -> Picture:
    """Return the picture with frames of mode P. All frames share one palette of at most `colors` colours.

    `colors` may be up to 256. Colours that differ only in alpha are different colours. A grey picture is converted to
    RGB first, because a grey profile does not describe the colours of a palette.
    """
    picture = to_rgb(picture)
    if not picture.is_animated:
        return picture.map(lambda frame: _reduced(frame, colors))
    # An animated PNG has only one palette, so all frames are reduced together, as one tall image.
    width, height = picture.size
    sheet = Image.new(picture.mode, (width, height * len(picture.frames)))
    for number, frame in enumerate(picture.frames):
        sheet.paste(frame, (0, number * height))
    sheet = _reduced(sheet, colors)
    tops = range(0, sheet.height, height)
    return replace(picture, pixels_16=None, frames=tuple(sheet.crop((0, top, width, top + height)) for top in tops))


def _reduced(frame: Image.Image, colors: int) -> Image.Image:
    if frame.getcolors(colors):
        return _exact(frame)
    if frame.mode == "RGBA":
        # FASTOCTREE is Pillow's only built-in method that respects alpha. It cannot dither.
        return frame.quantize(colors, Image.Quantize.FASTOCTREE)
    palette = frame.quantize(colors, Image.Quantize.MEDIANCUT)
    return frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)  # without dithering, skies show bands


def _exact(frame: Image.Image) -> Image.Image:
    """Return a frame of at most 256 colours with a palette of exactly these colours.

    Pillow's quantize() would change some of the colours.
    """
    pixels = np.asarray(frame.convert("RGBA")).view(np.uint32)[..., 0]  # (H, W)
    values, indexes = np.unique(pixels, return_inverse=True)
    result = Image.fromarray(indexes.reshape(pixels.shape).astype(np.uint8))
    colors = values.view(np.uint8).reshape(-1, 4)[:, : len(frame.mode)]
    result.putpalette(colors.tobytes(), frame.mode)
    return result
