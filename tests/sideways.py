"""Makes a photo whose pixels are stored sideways, and tests whether a result is upright."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def sideways_photo(width: int, height: int, seed: int = 0) -> bytes:
    """Return a JPEG of `width` × `height` pixels when it is upright.

    The upright picture is red at the top left and blue at the bottom right.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    red, blue = 255 * (1 - (x / width + y / height) / 2), 255 * (x / width + y / height) / 2
    pixels = np.stack([red, 60 + 40 * np.sin(x / 37 + y / 53), blue], axis=-1) + rng.normal(0, 3, (height, width, 1))
    upright = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers rotate the picture clockwise by 90°
    exif[0x010F], exif[0x0110] = "PixTools", "Test Camera"
    exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 30.0, 0.0), 3: "E", 4: (8.0, 15.0, 0.0)})
    out = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(out, "JPEG", quality=90, exif=exif)
    return out.getvalue()


def is_upright(image: Image.Image) -> bool:
    """Return whether the pixels are upright and the file has no orientation tag."""
    small = np.asarray(image.convert("RGB").resize((16, 16)), dtype=int)
    (red, _, blue), (red_end, _, blue_end) = small[0, 0], small[-1, -1]
    return red > blue + 100 and blue_end > red_end + 100 and 0x0112 not in image.getexif()
