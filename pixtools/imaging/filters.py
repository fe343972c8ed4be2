"""Filters that mix neighbouring pixels. Colours of transparent pixels have no effect on the result."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageFilter

from pixtools.imaging.picture import Picture


def blur(picture: Picture, radius: float) -> Picture:
    """Blur by a Gaussian with a standard deviation of `radius` pixels.

    Pillow approximates the Gaussian by three box filters.
    """
    return _filtered(picture, lambda frame: frame.filter(ImageFilter.GaussianBlur(radius)))


def sharpen(picture: Picture, radius: float, amount: float, threshold: int) -> Picture:
    """Sharpen by an unsharp mask.

    Adds `amount` times the difference between the picture and its blur (standard deviation `radius` pixels), wherever
    the difference is greater than `threshold`, 0 to 255.
    """
    mask = ImageFilter.UnsharpMask(radius, round(amount * 100), threshold)
    return _filtered(picture, lambda frame: frame.filter(mask))


def _filtered(picture: Picture, change: Callable[[Image.Image], Image.Image]) -> Picture:
    if not picture.has_alpha:
        return picture.map(change)
    return picture.map(lambda frame: _filtered_premultiplied(frame, change))


def _filtered_premultiplied(frame: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Filter colours that are premultiplied by alpha.

    Pillow's filters do not take RGBa, so each channel is filtered alone.
    """
    premultiplied = frame.convert("RGBA").convert("RGBa")
    bands = [change(band) for band in premultiplied.split()]
    return Image.merge("RGBa", bands).convert("RGBA").convert(frame.mode)
