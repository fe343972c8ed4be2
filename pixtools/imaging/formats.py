"""The formats that are read, told apart by their first bytes."""

from __future__ import annotations

from PIL import Image

from pixtools.errors import UnsupportedType
from pixtools.imaging.codecs import HAS_HEIF

# Our own limit is checked against the header, before any pixel is decoded, and is lower than Pillow's.
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
"""Pillow's name of each format that is read, and its media type."""

_SPELLING = {"WEBP": "WebP", "HEIF": "HEIC"}

HEAD_BYTES = 64
"""How much of a file `sniff` wants to see."""

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def sniff(head: bytes) -> str:  # noqa: PLR0911 (one line for each format)
    """Return Pillow's name of the format that the first bytes of a file announce.

    Magic bytes alone decide, never a file name. Raises UnsupportedType for all else, SVG and PDF among it.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp" and {b"avif", b"avis"} & _brands(head):
        return "AVIF"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\x00", b"MM\x00*")):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    if head[4:8] == b"ftyp" and _HEIF_BRANDS & _brands(head):
        if HAS_HEIF:
            return "HEIF"
        raise UnsupportedType(
            "HEIC pictures are read where pillow-heif is installed (pip install 'pixtools[heic]'), which it is not "
            "here. Export it as JPEG and send that."
        )
    known = ", ".join(_SPELLING.get(name, name) for name in MEDIA_TYPES)
    raise UnsupportedType(f"The file's first bytes are not those of a supported image. Send one of: {known}.")


def _brands(head: bytes) -> set[bytes]:
    """Return the brands of an ISO base media file; HEIC shares the container and the brand mif1 with AVIF."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
