"""The formats that can be read, identified by the first bytes of a file."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from pixtools.errors import UnsupportedType
from pixtools.imaging.codecs import HAS_HEIF

# Switch off Pillow's limit, because `inspect` checks the header against a lower limit before pixels are decoded.
Image.MAX_IMAGE_PIXELS = None

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
} | ({"HEIF": "image/heic"} if HAS_HEIF else {})
"""The media type of each format that can be read. The keys are Pillow's names of the formats."""

HEAD_BYTES = 64
"""Number of bytes that `sniff` needs from the start of a file."""

_SPELLING = {"WEBP": "WebP", "HEIF": "HEIC"}

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

_TESTS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("JPEG", lambda head: head.startswith(b"\xff\xd8\xff")),
    ("PNG", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n")),
    ("WEBP", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP"),
    ("AVIF", lambda head: not _AVIF_BRANDS.isdisjoint(_brands(head))),
    ("GIF", lambda head: head.startswith((b"GIF87a", b"GIF89a"))),
    ("TIFF", lambda head: head.startswith((b"II*\x00", b"MM\x00*"))),
    ("BMP", lambda head: head.startswith(b"BM")),
    ("HEIF", lambda head: not _HEIF_BRANDS.isdisjoint(_brands(head))),  # after AVIF, because both may have mif1
)
"""Pillow's name of each format, and a test of the first bytes of a file. The first match counts."""


def sniff(head: bytes) -> str:
    """Return Pillow's name of the format of a file whose first `HEAD_BYTES` bytes are `head`.

    Only these bytes decide the format, and the file name has no influence. Raises UnsupportedType for an unsupported
    format, such as SVG or PDF, and for HEIC if pillow-heif is not installed.
    """
    format_name = next((name for name, matches in _TESTS if matches(head)), None)
    if format_name is None:
        known = ", ".join(_SPELLING.get(name, name) for name in MEDIA_TYPES)
        raise UnsupportedType(f"The content of the file is not an image in a supported format. Send one of: {known}.")
    if format_name == "HEIF" and not HAS_HEIF:
        raise UnsupportedType(
            "This service cannot read HEIC pictures, because pillow-heif is not installed (pip install "
            "'pixtools[heic]'). Export the picture as JPEG and send the JPEG."
        )
    return format_name


def _brands(head: bytes) -> set[bytes]:
    """Return the brands of an ISO base media file (ISO/IEC 14496-12, 4.3). Other files have no brands."""
    if head[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
