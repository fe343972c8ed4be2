"""Turns codec exceptions into PixTools errors."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from pixtools.errors import CorruptImage, UnencodableImage
from pixtools.imaging.picture import Size

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
"""The exceptions that Pillow is known to raise for damaged files."""

_MAX_SIDE = {"WEBP": 16_383, "JPEG": 65_500, "AVIF": 65_535}
"""For each format: the longest side, in pixels, that the format or its encoder allows."""

_DECODER_BYTES_PER_PIXEL = 16  # a measured peak, including the picture; upper bounds are in memory_bounds.py


class MemoryProbe:
    """A test for exhausted memory. It is needed because some codecs report exhausted memory as corrupt data.

    The caller sets `pixels` as soon as it knows the number of pixels in the file.
    """

    pixels = 0

    def is_exhausted(self) -> bool:
        """Return True if the process cannot allocate the memory that decoding `pixels` needs."""
        try:
            bytes(_DECODER_BYTES_PER_PIXEL * self.pixels)  # fast: zeroed pages are provided only on first use
        except MemoryError:
            return True
        return False


@contextmanager
def decoding() -> Iterator[MemoryProbe]:
    """Turn exceptions of a decoder into CorruptImage, or into MemoryError if memory is exhausted.

    Pillow's warnings are ignored. Exceptions that are not in `DECODER_ERRORS` pass unchanged.
    """
    probe = MemoryProbe()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about small mistakes in files, such as invalid EXIF
            yield probe
    except UnidentifiedImageError as error:
        # Do not use Pillow's message, because it contains only the memory address of an object.
        raise CorruptImage(
            "The header of the file is damaged, or the file uses a variant of its format that is not supported (some "
            "AVIF files with transparency do). Open the file in an image editor and export it again."
        ) from error
    except DECODER_ERRORS as error:
        if _says_out_of_memory(error) or probe.is_exhausted():
            raise MemoryError(str(error)) from error
        raise CorruptImage(
            f"The file could not be decoded ({str(error) or type(error).__name__}). "
            "Check that it opens in a viewer and send it again.",
        ) from error


@contextmanager
def encoding(format_name: str, size: Size) -> Iterator[None]:
    """Turn exceptions of an encoder into UnencodableImage, or into MemoryError if memory is exhausted.

    `size` is the size of the picture to encode.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        # Encoders get valid pixels and options. If the size is allowed too, an OSError or RuntimeError can only mean
        # that memory is exhausted.
        fits = max(size) <= _MAX_SIDE.get(format_name, max(size))
        if _says_out_of_memory(error) or (fits and not isinstance(error, ValueError)):
            raise MemoryError(str(error)) from error
        width, height = size
        raise UnencodableImage(
            f"{width} × {height} pixels cannot be written as {format_name} ({error}). Make the picture smaller first.",
        ) from error


# If memory is exhausted, libwebp reports error 1 or 2, and libheif reports "Memory allocation error". libheif also
# reports "Memory allocation error" if it refuses a size, but then the message contains "Security limit" too.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|insufficient memory|memory allocation|allocating|encoding ?error:? [12]\b", re.IGNORECASE
)


def _says_out_of_memory(error: Exception) -> bool:
    return _OUT_OF_MEMORY.search(str(error)) is not None and "Security limit" not in str(error)
