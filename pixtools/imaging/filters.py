"""Filters that mix neighbouring pixels. Colours of transparent pixels have no effect on the result."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageFilter

from pixtools.imaging.picture import Picture


def blur(picture: Picture, radius: float) -> Picture:
    """Blur with a Gaussian filter. Its standard deviation is `radius` pixels.

    Pillow approximates the Gaussian filter with three box filters.
    """
    return _filtered(picture, lambda frame: frame.filter(ImageFilter.GaussianBlur(radius)))


def sharpen(picture: Picture, radius: float, amount: float, threshold: int) -> Picture:
    """Sharpen with an unsharp mask.

    The picture is compared with a blurred copy (standard deviation `radius` pixels). Where the difference is greater
    than `threshold`, 0 to 255, `amount` times the difference is added to the picture.
    """
    mask = ImageFilter.UnsharpMask(radius, round(amount * 100), threshold)
    return _filtered(picture, lambda frame: frame.filter(mask))


def _filtered(picture: Picture, change: Callable[[Image.Image], Image.Image]) -> Picture:
    if not picture.has_alpha:
        return picture.map(change)
    return picture.map(lambda frame: _filtered_premultiplied(frame, change))


def _filtered_premultiplied(frame: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Multiply the colours by alpha, filter them, and divide them by alpha again.

    Pillow's filters do not accept mode RGBa (colours multiplied by alpha), so each channel is filtered separately.
    """
    premultiplied = frame.convert("RGBA").convert("RGBa")
    bands = [change(band) for band in premultiplied.split()]
    return Image.merge("RGBa", bands).convert("RGBA").convert(frame.mode)
