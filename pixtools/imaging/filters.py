"""Filters over neighbourhoods; colours under alpha 0 take no part in them."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageFilter

from pixtools.imaging.picture import Picture


def blur(picture: Picture, radius: float) -> Picture:
    """Blur by a Gaussian of standard deviation `radius` pixels (by three box filters, as Pillow does)."""
    return _filtered(picture, lambda frame: frame.filter(ImageFilter.GaussianBlur(radius)))


def sharpen(picture: Picture, radius: float, amount: float, threshold: int) -> Picture:
    """Add `amount` times what a blur of `radius` takes away, where that is more than `threshold` of 255."""
    mask = ImageFilter.UnsharpMask(radius, round(amount * 100), threshold)
    return _filtered(picture, lambda frame: frame.filter(mask))


def _filtered(picture: Picture, change: Callable[[Image.Image], Image.Image]) -> Picture:
    if not picture.has_alpha:
        return picture.map(change)
    return picture.map(lambda frame: _on_premultiplied(frame, change))


def _on_premultiplied(frame: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Filter colours weighted by alpha, channel by channel: Pillow filters no premultiplied mode itself."""
    weighted = frame.convert("RGBA").convert("RGBa")
    bands = [change(band) for band in weighted.split()]
    return Image.merge("RGBa", bands).convert("RGBA").convert(frame.mode)
