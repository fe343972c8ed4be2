"""Numbers of other depths than 8 bits, scaled: Pillow clips some of them, and leaves the key of a PNG as it stands."""

from __future__ import annotations

import io
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, TiffImageFile

_SIGNED = 2  # SampleFormat, TIFF 6.0, section 19


def load(image: Image.Image) -> Image.Image:
    """Load an image; the key of a PNG (tRNS: the colour that is clear) then is one of its pixels' own numbers."""
    key = image.info.get("transparency")
    if isinstance(image, PngImageFile) and key is not None and image.tile:
        match image.tile[0].args:
            case "L;2" | "L;4" as raw:
                top = (1 << int(raw[2])) - 1
                image.info["transparency"] = (key & top) * 255 // top
            case "RGB;16B":
                return _keyed(image, key)
    image.load()
    return image


def _keyed(image: PngImageFile, key: tuple[int, int, int]) -> Image.Image:
    """Return 16-bit RGB as RGBA of 8: the key has all 16, of which Pillow decodes the upper ones, or else the lower."""
    assert image.fp is not None  # noqa: S101 (it is not loaded yet)
    at = image.fp.tell()
    image.fp.seek(0)
    lower = PngImageFile(image.fp)
    lower.tile = [lower.tile[0]._replace(args="RGB;16L")]
    lower.load()
    image.fp.seek(at)
    alpha = _other_than(lower, [number & 0xFF for number in key])
    del lower  # or the two would take more than memory is counted for
    image.load()
    alpha = ImageChops.lighter(alpha, _other_than(image, [number >> 8 for number in key]))
    del image.info["transparency"]  # or convert() would heed it
    found = image.convert("RGBA")
    found.putalpha(alpha)
    return found


def _other_than(image: Image.Image, color: list[int]) -> Image.Image:
    """Return 255 where a pixel is of another colour, else 0."""
    tables = ([0 if value == number else 255 for value in range(256)] for number in color)
    return reduce(ImageChops.lighter, map(Image.Image.point, image.split(), tables))


def from_16_bit(image: Image.Image, transparent: int | None) -> Image.Image:
    """Scale grey of up to 16 bits, which Pillow opens as `I;16`, to 8: its own conversion clips it to white."""
    grey, top = _grey(image)
    scaled = ((grey * 255 + top // 2) // top).astype(np.uint8)
    if transparent is None:
        return Image.fromarray(scaled)
    alpha = np.where(grey == transparent, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([scaled, alpha], axis=-1))  # (H, W, 2): LA


def _grey(image: Image.Image) -> tuple[NDArray[np.uint32], int]:
    """Return the numbers of grey of up to 16 bits, (H, W), and that of white."""
    grey, top = np.asarray(image, dtype=np.uint32), (1 << _tag(image, BITSPERSAMPLE, 16)) - 1
    if _tag(image, PHOTOMETRIC_INTERPRETATION, 1) == 0:
        grey = np.uint32(top) - grey  # 0 is white, which Pillow heeds only for 8 bits
    return grey, top


def deep(data: bytes, kind: str) -> NDArray[np.uint16] | None:
    """Return the numbers of a file with more than 8 bits, scaled to 16: uint16 (H, W, C), not turned.

    Those of PNG, and of grey TIFF; None for all others. The key of a PNG (tRNS) becomes alpha.
    """
    if kind not in ("PNG", "TIFF"):
        return None
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        if isinstance(image, PngImageFile) and image.is_animated:
            return None  # what comes first may be none of its frames
        if image.mode.startswith("I;16"):
            grey, top = _grey(image)
            found = ((grey * 65535 + top // 2) // top).astype(np.uint16)[..., None]
        elif isinstance(image, PngImageFile) and image.tile:
            raw = image.tile[0].args
            if raw not in ("LA;16B", "RGB;16B", "RGBA;16B"):
                return None
            found = _halves(data, raw)
        else:
            return None
        key = image.info.get("transparency")
    if key is None:
        return found
    alpha = np.where((found == np.asarray(key)).all(axis=2, keepdims=True), 0, 65535).astype(np.uint16)
    return np.concatenate([found, alpha], axis=2)


def _halves(data: bytes, raw: str) -> NDArray[np.uint16]:
    """Return (H, W, C) of a PNG of 16 bits, of which Pillow decodes the upper bytes or the lower ones."""
    if raw == "LA;16B":  # four bytes that Pillow takes for RGBA
        return _decoded(data, "RGBA").view(">u2").astype(np.uint16)
    found = _decoded(data, raw).astype(np.uint16)
    found <<= 8
    found |= _decoded(data, raw.replace("16B", "16L"))
    return found


def _decoded(data: bytes, raw: str) -> NDArray[np.uint8]:
    image = PngImageFile(io.BytesIO(data))
    image.tile = [image.tile[0]._replace(args=raw)]
    image.load()
    return np.asarray(image)


def from_32_bit(image: Image.Image) -> Image.Image:
    """Scale grey of a TIFF, `I` or `F`, to 8 bits: white is the greatest number, and no less than 16 bits' or 1.0."""
    numbers = np.asarray(image)  # (H, W)
    white = 1.0
    if image.mode == "I":
        signed, bits = _tag(image, SAMPLEFORMAT, 1) == _SIGNED, _tag(image, BITSPERSAMPLE, 32)
        numbers = numbers if signed else numbers.view(np.uint32)
        white = 32767.0 if signed and bits == 16 else 65535.0  # noqa: PLR2004
    grey = numbers.astype(np.float64)
    top = max(white, float(np.max(grey, where=np.isfinite(grey), initial=0)))
    grey = np.nan_to_num(grey, copy=False, nan=0, posinf=top, neginf=0).clip(0, top) / top
    if _tag(image, PHOTOMETRIC_INTERPRETATION, 1) == 0:
        grey = 1 - grey
    return Image.fromarray((grey * 255).round().astype(np.uint8))


def _tag(image: Image.Image, tag: int, usual: int) -> int:
    found = image.tag_v2.get(tag, usual) if isinstance(image, TiffImageFile) else usual
    return int(found[0] if isinstance(found, tuple) else found)
