"""Pictures as pure functions: bytes to pixels, pixels to pixels, pixels to bytes.

Nothing here reads a file, a clock or a setting. Formats and orientation are decided here once: a `Picture` is
upright, 8 bit and L, LA, RGB or RGBA, whatever it came from.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError, features

from pixtools.errors import CorruptImage, ImageTooLarge, UnencodableImage, UnsupportedType

# Our own limit is checked against the header, before any pixel is decoded, and is lower than Pillow's.
Image.MAX_IMAGE_PIXELS = None

CODECS = "pillow-" + "-".join(
    [PIL.__version__, *(str(features.version(name)) for name in ("jpg", "zlib", "webp", "avif"))],
)
"""What encoded a file: part of every step key, so that a new codec is not answered from old artifacts."""

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
}
"""Pillow's name of each format that is read, and its media type."""

HEAD_BYTES = 64
"""How much of a file `sniff` wants to see."""

_EXIF_ORIENTATION = 0x0112
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"}

# What turns a picture upright, by its EXIF orientation (Exif 2.32, 4.6.5.A).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TRANSPOSED = frozenset({5, 6, 7, 8})

# What Pillow was seen to raise on bytes that are not what their header says.
_DECODER_ERRORS = (
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
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class Limits:
    pixels: int  # over all frames
    side: int
    frames: int


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before it is decoded; `width` and `height` are upright."""

    media_type: str
    width: int
    height: int
    frames: int


@dataclass(frozen=True)
class Picture:
    """Upright 8-bit pixels in mode L, LA, RGB or RGBA, and the ICC profile that they are in, if any."""

    image: Image.Image
    icc: bytes | None

    def to_array(self) -> NDArray[np.uint8]:
        """Return uint8 (H, W, C), C from 1 to 4: what travels between processes without a copy."""
        array = np.asarray(self.image)  # (H, W) or (H, W, C)
        return array[:, :, None] if array.ndim == 2 else array  # noqa: PLR2004

    @classmethod
    def from_array(cls, array: NDArray[np.uint8], icc: bytes | None) -> Picture:
        """Return the picture of uint8 (H, W, C) pixels."""
        return cls(Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array), icc)


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
        raise UnsupportedType("HEIC pictures are not supported. Export it as JPEG and send that.")
    known = ", ".join(name.replace("WEBP", "WebP") for name in MEDIA_TYPES)
    raise UnsupportedType(f"The file's first bytes are not those of a supported image. Send one of: {known}.")


def _brands(head: bytes) -> set[bytes]:
    """Return the brands of an ISO base media file; HEIC shares the container and the brand mif1 with AVIF."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}


def inspect(data: IO[bytes], limits: Limits) -> Header:
    """Read the header of a seekable binary file and hold it against `limits`; no pixel is decoded.

    Raises UnsupportedType, CorruptImage or ImageTooLarge.
    """
    data.seek(0)
    kind = sniff(data.read(HEAD_BYTES))
    data.seek(0)
    with decoding(), Image.open(data, formats=[kind]) as image:
        _check(image.size, 1, limits)
        # Counting walks the whole file, which is worth it only once the size of one frame is known to be fair.
        frames = _count_frames(image, limits.frames)
        _check(image.size, frames, limits)
        width, height = upright_size(image)
        return Header(MEDIA_TYPES[kind], width, height, frames)


def exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF tags in front of the pixels; getexif() would decode a PNG to look for more behind them."""
    return Image.Exif() if image.format == "PNG" and "exif" not in image.info else image.getexif()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height as they will be when the picture has been turned."""
    width, height = image.size
    return (height, width) if _orientation(image) in _TRANSPOSED else (width, height)


def _count_frames(image: Image.Image, most: int) -> int:
    """Return the number of frames; of a TIFF, which is slow to count, no more than one above `most`."""
    if image.format == "TIFF":
        try:
            image.seek(most)
        except EOFError:
            pass
        else:
            return most + 1
        finally:
            image.seek(0)
    return int(getattr(image, "n_frames", 1))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be applied, without decoding anything."""
    if image.format == "TIFF":
        return 1  # Pillow turns it as it loads, and its size is upright from the start
    orientation = exif(image).get(_EXIF_ORIENTATION, 1)
    return orientation if orientation in _TURNS else 1  # tags hold what people write into them


def decode(data: bytes) -> Picture:
    """Decode the first frame of an image file, turned upright.

    Raises UnsupportedType, or CorruptImage for anything that its decoder does not like, truncation included.
    """
    with decoding(), Image.open(io.BytesIO(data), formats=[sniff(data[:HEAD_BYTES])]) as image:
        image.load()
        icc = image.info.get("icc_profile")
        orientation = _orientation(image)
        picture = _normalise(image, icc)
    if orientation == 1:
        return picture  # without a copy: 188 ms at 24 megapixels
    return Picture(picture.image.transpose(_TURNS[orientation]), picture.icc)


def fit_inside(size: tuple[int, int], width: int | None, height: int | None) -> tuple[int, int]:
    """Return the largest size of the same shape that fits the box; never larger than `size` itself."""
    scale = min(1.0, *(limit / side for limit, side in zip((width, height), size, strict=True) if limit))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize(picture: Picture, size: tuple[int, int]) -> Picture:
    """Resample to `size` (width, height) by Lanczos; Pillow premultiplies alpha by itself."""
    if picture.image.size == size:
        return picture
    return Picture(picture.image.resize(size, Image.Resampling.LANCZOS), picture.icc)


def encode(picture: Picture, kind: str, **options: Any) -> bytes:
    """Encode a picture in Pillow's format `kind`.

    Nothing but the pixels and their colour profile is written: EXIF, GPS and XMP stay behind.
    Raises UnencodableImage when the format's own limits (WebP: 16,383 pixels a side) forbid it, and MemoryError.
    """
    out = io.BytesIO()
    try:
        picture.image.save(out, format=kind, icc_profile=picture.icc, **options)
    except (OSError, ValueError, RuntimeError) as error:
        _forward_out_of_memory(error)
        width, height = picture.image.size
        raise UnencodableImage(
            f"{width} × {height} pixels cannot be written as {kind} ({error}). Make the picture smaller first.",
        ) from error
    return out.getvalue()


def flatten(picture: Picture) -> Picture:
    """Compose transparency on white, for formats without alpha: convert() alone would show hidden colours."""
    image = picture.image
    if image.mode not in ("LA", "RGBA"):
        return picture
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image.convert("RGBA"))
    return Picture(ground.convert("RGB" if image.mode == "RGBA" else "L"), picture.icc)


def _check(size: tuple[int, int], frames: int, limits: Limits) -> None:
    width, height = size
    if max(size) > limits.side:
        raise ImageTooLarge(f"{width} × {height} pixels: a side may have at most {limits.side:,} pixels.")
    if frames > limits.frames:
        raise ImageTooLarge(f"{frames:,} frames: at most {limits.frames:,} are accepted.")
    if width * height * frames > limits.pixels:
        count = f"{width} × {height}" + (f" × {frames} frames" if frames > 1 else "")
        raise ImageTooLarge(f"{count} is more than {limits.pixels / 1e6:g} megapixels, the most accepted.")


def _normalise(image: Image.Image, icc: bytes | None) -> Picture:
    """Return the pixels as L, LA, RGB or RGBA, with the profile only where it still describes them."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        return _from_16_bit(image, transparent)
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")  # while `info` still holds the transparent colour
    image.info.clear()  # encoders write some of it unasked: comments, resolution, transparency of a palette
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return Picture(image, icc if _describes(icc, image.mode) else None)
    if image.mode in ("I", "F"):
        grey = np.asarray(image, dtype=np.float64)
        # "I" is how Pillow opens 16-bit grey of some files; "F" is a TIFF in 0..1 or in any unit: span it.
        top = 65535.0 if image.mode == "I" and grey.max() <= 65535 else max(float(grey.max()), 1.0)  # noqa: PLR2004
        return Picture(Image.fromarray((grey.clip(0, top) / top * 255).round().astype(np.uint8)), None)
    if image.mode == "CMYK":
        return Picture(_from_cmyk(image, icc), None)
    mode = "L" if image.mode == "1" else "RGB"
    return Picture(image.convert(mode), icc if _describes(icc, mode) else None)


def _from_16_bit(image: Image.Image, transparent: int | None) -> Picture:
    """Scale grey of 16 bits to 8: Pillow's own conversion clips it to white."""
    grey = np.asarray(image, dtype=np.uint32)  # (H, W)
    scaled = ((grey + 128) // 257).astype(np.uint8)
    if transparent is None:
        return Picture(Image.fromarray(scaled), None)
    alpha = np.where(grey == transparent, 0, 255).astype(np.uint8)
    return Picture(Image.fromarray(np.stack([scaled, alpha], axis=-1)), None)  # (H, W, 2): LA


def _from_cmyk(image: Image.Image, icc: bytes | None) -> Image.Image:
    if icc:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, OSError):
            pass  # a profile that is no profile: convert as if there were none
        else:
            if converted is not None:
                return converted
    return image.convert("RGB")


def _describes(icc: bytes | None, mode: str) -> bool:
    """Say whether the profile's colour space (bytes 16 to 20 of its header, ICC.1) is that of `mode`."""
    return icc is not None and icc[16:20] == (b"GRAY" if mode in ("L", "LA") else b"RGB ")


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
    except _DECODER_ERRORS as error:
        _forward_out_of_memory(error)
        raise CorruptImage(
            f"The file could not be decoded ({str(error) or type(error).__name__}). "
            "Check that it opens in a viewer and send it again.",
        ) from error


def _forward_out_of_memory(error: Exception) -> None:
    """Raise MemoryError if that is what a codec says in its own way."""
    if "out of memory" in str(error).lower():
        raise MemoryError(str(error)) from error
