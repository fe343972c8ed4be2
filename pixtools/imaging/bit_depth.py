"""Decodes and scales pixel values that do not have 8 bits.

Pillow alone would clip some of these values, and would not scale the transparent colour of a PNG.
"""

from __future__ import annotations

import io
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, TiffImageFile

_SIGNED = 2  # this value of the tag SampleFormat means signed integers (TIFF 6.0, section 19)


def load(image: Image.Image) -> Image.Image:
    """Decode the pixels of an opened image. Apply or scale the transparent colour of a PNG (tRNS) if needed.

    For a grey PNG of 2 or 4 bits, the transparent value in `info` is scaled to 8 bits. An RGB PNG of 16 bits with a
    transparent colour becomes RGBA. Every other image is returned as Pillow decodes it.
    """
    transparent = image.info.get("transparency")
    if isinstance(image, PngImageFile) and transparent is not None and image.tile:
        match image.tile[0].args:
            case "L;2" | "L;4" as raw_mode:
                white = (1 << int(raw_mode[2])) - 1
                image.info["transparency"] = (transparent & white) * 255 // white
            case "RGB;16B":
                return _with_alpha(image, transparent)
    image.load()
    return image


def _with_alpha(image: PngImageFile, transparent: tuple[int, int, int]) -> Image.Image:
    """Return an RGB PNG of 16 bits as 8-bit RGBA.

    A pixel is transparent if all 16 bits of each channel equal the transparent colour. Pillow decodes either the upper
    or the lower byte of each value, so the picture is decoded twice.
    """
    assert image.fp is not None  # noqa: S101 (Pillow closes the file only after loading)
    position = image.fp.tell()
    image.fp.seek(0)
    lower = PngImageFile(image.fp)
    lower.tile = [lower.tile[0]._replace(args="RGB;16L")]
    lower.load()
    image.fp.seek(position)
    alpha = _differs(lower, [value & 0xFF for value in transparent])
    del lower  # two decoded pictures at once would exceed the bound in memory_bounds
    image.load()
    alpha = ImageChops.lighter(alpha, _differs(image, [value >> 8 for value in transparent]))
    del image.info["transparency"]  # otherwise convert() would compare only the upper bytes
    rgba = image.convert("RGBA")
    rgba.putalpha(alpha)
    return rgba


def _differs(image: Image.Image, color: list[int]) -> Image.Image:
    """Return a mask of mode L: 255 where a pixel differs from `color`, 0 where it is equal."""
    tables = ([0 if value == channel else 255 for value in range(256)] for channel in color)
    return reduce(ImageChops.lighter, map(Image.Image.point, image.split(), tables))


def from_16_bit(image: Image.Image, transparent: int | None) -> Image.Image:
    """Scale grey values of up to 16 bits (mode `I;16`) to 8 bits. Pillow's own conversion clips values over 255.

    Returns an image of mode L. If `transparent` is not None, returns mode LA, and a pixel gets alpha 0 if it has the
    value `transparent` in the file.
    """
    grey, white = _grey(image)
    scaled = ((grey * 255 + white // 2) // white).astype(np.uint8)
    if transparent is None:
        return Image.fromarray(scaled)
    alpha = np.where(grey == transparent, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([scaled, alpha], axis=-1))  # (H, W, 2): LA


def _grey(image: Image.Image) -> tuple[NDArray[np.uint32], int]:
    """Return the grey values (H, W) of an image with up to 16 bits, and the value of white. Black has the value 0."""
    grey, white = np.asarray(image, dtype=np.uint32), (1 << _tag(image, BITSPERSAMPLE, 16)) - 1
    if _tag(image, PHOTOMETRIC_INTERPRETATION, 1) == 0:
        grey = np.uint32(white) - grey  # 0 is white in this file; Pillow inverts only 8-bit samples
    return grey, white


def read_16_bit(data: bytes, format_name: str) -> NDArray[np.uint16] | None:
    """Decode a still with more than 8 bits to 16-bit values. The orientation is not applied.

    Returns uint16 (H, W, C), with C from 1 to 4, if the file is a PNG or a grey TIFF with more than 8 bits. Returns
    None for all other files. The transparent colour of a PNG (tRNS) becomes an alpha channel. Raises one of
    `DECODER_ERRORS` if the file is damaged.
    """
    if format_name not in ("PNG", "TIFF"):
        return None
    with Image.open(io.BytesIO(data), formats=[format_name]) as image:
        if isinstance(image, PngImageFile) and image.is_animated:
            return None  # the pixels in IDAT may be a default image outside the animation
        if image.mode.startswith("I;16"):
            grey, white = _grey(image)
            pixels = ((grey * 65535 + white // 2) // white).astype(np.uint16)[..., None]
        elif isinstance(image, PngImageFile) and image.tile:
            raw_mode = image.tile[0].args
            if raw_mode not in ("LA;16B", "RGB;16B", "RGBA;16B"):
                return None
            pixels = _png_pixels(data, raw_mode)
        else:
            return None
        transparent = image.info.get("transparency")
    if transparent is None:
        return pixels
    alpha = np.where((pixels == np.asarray(transparent)).all(axis=2, keepdims=True), 0, 65535).astype(np.uint16)
    return np.concatenate([pixels, alpha], axis=2)


def _png_pixels(data: bytes, raw_mode: str) -> NDArray[np.uint16]:
    """Return the pixels (H, W, C) of a 16-bit PNG.

    For RGB and RGBA, Pillow decodes either the upper or the lower byte of each value, so the picture is decoded twice.
    """
    if raw_mode == "LA;16B":  # a pixel has four bytes, so Pillow can decode all of them at once, as RGBA
        return _decoded(data, "RGBA").view(">u2").astype(np.uint16)
    pixels = _decoded(data, raw_mode).astype(np.uint16)
    pixels <<= 8
    pixels |= _decoded(data, raw_mode.replace("16B", "16L"))
    return pixels


def _decoded(data: bytes, raw_mode: str) -> NDArray[np.uint8]:
    image = PngImageFile(io.BytesIO(data))
    image.tile = [image.tile[0]._replace(args=raw_mode)]
    image.load()
    return np.asarray(image)


def from_32_bit(image: Image.Image) -> Image.Image:
    """Scale the grey values of a TIFF that Pillow opens with 32 bits (modes `I` and `F`) to 8 bits. Returns mode L.

    The value of white is the greatest value in the picture, but at least 32,767 for signed integers of 16 bits, 65,535
    for other integers, and 1.0 for floating point. NaN and negative values become 0. If 0 means white in the file, the
    scaled values are inverted at the end.
    """
    values = np.asarray(image)  # (H, W)
    least_white = 1.0
    if image.mode == "I":
        signed, bits = _tag(image, SAMPLEFORMAT, 1) == _SIGNED, _tag(image, BITSPERSAMPLE, 32)
        values = values if signed else values.view(np.uint32)
        least_white = 32767.0 if signed and bits == 16 else 65535.0  # noqa: PLR2004
    grey = values.astype(np.float64)
    white = max(least_white, float(np.max(grey, where=np.isfinite(grey), initial=0)))
    grey = np.nan_to_num(grey, copy=False, nan=0, posinf=white, neginf=0).clip(0, white) / white
    if _tag(image, PHOTOMETRIC_INTERPRETATION, 1) == 0:
        grey = 1 - grey
    return Image.fromarray((grey * 255).round().astype(np.uint8))


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the first value of a TIFF tag. Return `default` if the tag is missing or the file is not a TIFF."""
    value = image.tag_v2.get(tag, default) if isinstance(image, TiffImageFile) else default
    return int(value[0] if isinstance(value, tuple) else value)
