"""What codecs raise on bytes or pixels that they do not like, turned into errors of ours: the one place that does."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from pixtools.errors import CorruptImage, UnencodableImage
from pixtools.imaging.picture import Size

# What Pillow was seen to raise on bytes that are not what their header says.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    RuntimeError,
    ZeroDivisionError,
    AssertionError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


_SIDES = {"WEBP": 16_383, "JPEG": 65_500, "AVIF": 65_535}
"""The longest side that the format, or its encoder, can write."""


class Room:
    """What the pixels at hand need; told as soon as their number is known."""

    pixels = 0

    def is_missing(self) -> bool:
        """Say whether the process could not have the memory: codecs that cannot either call the bytes damaged."""
        try:
            bytes(_BYTES_OF_A_PIXEL * self.pixels)  # zeros come from the system as they are, and cost next to nothing
        except MemoryError:
            return True
        return False


_BYTES_OF_A_PIXEL = 16  # what decoders were seen to take at their peak, the picture included


@contextmanager
def decoding() -> Iterator[Room]:
    """Turn whatever a decoder raises on bad bytes into CorruptImage, or MemoryError where that is what it means."""
    room = Room()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and the like; only errors count here
            yield room
    except UnidentifiedImageError as error:
        # Its own message holds a memory address and nothing else.
        raise CorruptImage(
            "The header of the file is damaged, or of a variant of its format that is not supported (as some AVIF "
            "with transparency are). Open it in an editor and export it anew."
        ) from error
    except DECODER_ERRORS as error:
        if _says_out_of_memory(error) or room.is_missing():
            raise MemoryError(str(error)) from error
        raise CorruptImage(
            f"The file could not be decoded ({str(error) or type(error).__name__}). "
            "Check that it opens in a viewer and send it again.",
        ) from error


@contextmanager
def encoding(kind: str, size: Size) -> Iterator[None]:
    """Turn what an encoder raises into UnencodableImage, or MemoryError where that is what it means."""
    name = kind.partition("-")[0]
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        # Within its format's sides an encoder has no other reason: what it is given is valid.
        fits = max(size) <= _SIDES.get(name, max(size))
        if _says_out_of_memory(error) or (fits and not isinstance(error, ValueError)):
            raise MemoryError(str(error)) from error
        width, height = size
        raise UnencodableImage(
            f"{width} × {height} pixels cannot be written as {name} ({error}). Make the picture smaller first.",
        ) from error


# libwebp has numbers for it, libheif says which allocation, and begins in the same way where it refuses a size.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|insufficient memory|memory allocation|allocating|encoding ?error:? [12]\b", re.IGNORECASE
)


def _says_out_of_memory(error: Exception) -> bool:
    return _OUT_OF_MEMORY.search(str(error)) is not None and "Security limit" not in str(error)
