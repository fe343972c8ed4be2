"""What codecs raise on bytes or pixels that they do not like, turned into errors of ours: the one place that does."""

from __future__ import annotations

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


@contextmanager
def decoding() -> Iterator[None]:
    """Turn whatever a decoder raises on bad bytes into CorruptImage: the one place that does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and the like; only errors count here
            yield
    except UnidentifiedImageError as error:
        # Its own message holds a memory address and nothing else.
        raise CorruptImage(
            "The header of the file is damaged, or of a variant of its format that is not supported (as some AVIF "
            "with transparency are). Open it in an editor and export it anew."
        ) from error
    except DECODER_ERRORS as error:
        _forward_out_of_memory(error)
        raise CorruptImage(
            f"The file could not be decoded ({str(error) or type(error).__name__}). "
            "Check that it opens in a viewer and send it again.",
        ) from error


@contextmanager
def encoding(kind: str, size: Size) -> Iterator[None]:
    """Turn what an encoder raises into UnencodableImage, or MemoryError where that is what it means."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        _forward_out_of_memory(error)
        width, height = size
        raise UnencodableImage(
            f"{width} × {height} pixels cannot be written as {kind} ({error}). Make the picture smaller first.",
        ) from error


def _forward_out_of_memory(error: Exception) -> None:
    """Raise MemoryError if that is what a codec says in its own way."""
    if "out of memory" in str(error).lower():
        raise MemoryError(str(error)) from error
