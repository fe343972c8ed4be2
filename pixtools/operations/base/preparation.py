"""The functions that prepare a picture for an encoder.

Each encoder lists its preparation functions, in order, in `Encoder.preparation`. Each function takes a picture and the
parameters of the encoder, and returns a picture. If the parameters ask for no change, it returns the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from pixtools.imaging import metadata_blocks
from pixtools.imaging.color import to_srgb, without_grey_profile
from pixtools.imaging.picture import Picture
from pixtools.operations.base.encode_params import AnimatedParams, EncodeParams

E = TypeVar("E", bound=EncodeParams)


def prepare(picture: Picture, params: E, steps: Iterable[Callable[[Picture, E], Picture]]) -> Picture:
    """Call all preparation functions, in order, and return the prepared picture."""
    for step in steps:
        picture = step(picture, params)
    return picture


def first_frame(picture: Picture, params: EncodeParams) -> Picture:  # noqa: ARG001
    """Return the first frame as a still, for formats without animation."""
    return picture.first()


def first_frame_if_asked(picture: Picture, params: AnimatedParams) -> Picture:
    """Return the first frame as a still if `frames` is "first"."""
    return picture.first() if params.frames == "first" else picture


def resize(picture: Picture, params: EncodeParams) -> Picture:
    """Return the picture in the size that `resize` asks for."""
    return params.resize.apply(picture) if params.resize else picture


def convert_color(picture: Picture, params: EncodeParams) -> Picture:
    """Return the picture in sRGB, without a profile, if `color` is "srgb"."""
    return to_srgb(picture) if params.color == "srgb" else picture


def select_metadata(picture: Picture, params: EncodeParams) -> Picture:
    """Return the picture with the metadata blocks that `strip` keeps.

    This function runs after `resize`, because the EXIF of the result contains the new size.
    """
    selected = metadata_blocks.select_metadata(picture.metadata, params.strip, picture.size)
    return replace(picture, metadata=selected)


def drop_grey_profile(picture: Picture, params: EncodeParams) -> Picture:  # noqa: ARG001
    """Convert a grey picture to sRGB, without a profile. This is for formats that store grey as RGB.

    A grey profile does not describe RGB pixels, so browsers ignore it.
    """
    return without_grey_profile(picture)
