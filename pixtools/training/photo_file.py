"""Reads photos as the service reads them: upright, in sRGB, and with any number of bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixtools.errors import PixToolsError
from pixtools.imaging.codec_errors import decoding
from pixtools.imaging.color import to_srgb
from pixtools.imaging.decoding import decode
from pixtools.imaging.orientation import upright_size
from pixtools.imaging.picture import Size

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB


def read(path: Path, scale: float = 1.0) -> Pixels:
    """Read a photo in 8 bits, turn it upright, and scale its sides by `scale`. Alpha is dropped.

    Raises ValueError with the file's name if the file is not a photo that the service can read.
    """
    try:
        image = to_srgb(decode(path.read_bytes()).first()).image.convert("RGB")
    except (PixToolsError, OSError) as error:
        raise _unreadable(path, error) from error
    if scale != 1.0:
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image)


def size(path: Path) -> Size:
    """Return the width and height of a photo after it is turned upright. No pixel is decoded.

    Raises ValueError with the file's name if the file has no readable header.
    """
    try:
        with decoding(), Image.open(path) as image:
            return upright_size(image)
    except (PixToolsError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read ({error}): remove it from its folder")
