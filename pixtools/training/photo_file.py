"""Reads photos for the training with the decoder of the service: upright, in sRGB, with 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixtools.errors import PixToolsError
from pixtools.imaging import orientation
from pixtools.imaging.codec_errors import decoding
from pixtools.imaging.color import to_srgb
from pixtools.imaging.decoding import decode
from pixtools.imaging.picture import Size

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB


def read_photo(path: Path, scale: float = 1.0) -> Pixels:
    """Read a photo, turn it upright, and scale its sides by `scale`. Alpha is dropped.

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


def upright_size(path: Path) -> Size:
    """Return the width and height of a photo after it is turned upright. No pixel is decoded.

    Raises ValueError with the file's name if the file has no readable header.
    """
    try:
        with path.open("rb") as file, decoding(), Image.open(file) as image:
            return orientation.upright_size(image)
    except (PixToolsError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: PixToolsError | OSError) -> ValueError:
    reason = error.title() if isinstance(error, PixToolsError) else error
    return ValueError(f"{path} cannot be read ({reason}): remove it from its folder")
