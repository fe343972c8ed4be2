"""How much memory pictures and the work on them take at their peak: bounds, which `benchmarks/memory.py` measures."""

from __future__ import annotations

from dataclasses import dataclass

from pixtools.imaging.picture import Size

PIXEL_BYTES = 4
"""Of a pixel at most: Pillow keeps RGB and LA in four bytes, as it does RGBA."""

DEEP_BYTES = PIXEL_BYTES + 8
"""Of a pixel of a picture that has its 16 bits beside its frame."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a piece of work takes at most: for each pixel, for each that may be transparent, and in any case."""

    per_pixel: float
    alpha: float = 0.0
    constant: int = 0

    def of(self, pixels: int, *, alpha: bool) -> int:
        return round((self.per_pixel + (self.alpha if alpha else 0)) * pixels) + self.constant


@dataclass(frozen=True)
class _Decoder:
    """Bytes for each pixel that comes out, itself and its turning included; and for each that the file has, as long
    as it is read: the two differ where a JPEG is decoded at less than its size.
    """

    out: float
    file: float = 0.0


# Of the worst variant of each format, be it lossless, of 10 or 16 bits, with alpha or turned.
_DECODERS = {
    "image/jpeg": _Decoder(13, file=9),  # progressive: a coefficient of 16 bits for each of CMYK
    "image/png": _Decoder(20),  # grey of 16 bits with a transparent shade
    "image/webp": _Decoder(24),
    "image/avif": _Decoder(28),
    "image/heic": _Decoder(28),
    "image/gif": _Decoder(28),
    "image/tiff": _Decoder(40),  # floating point
    "image/bmp": _Decoder(10),
}
_DEEP_DECODER = _Decoder(40)  # RGB with a key, turned
_DEEP_TYPES = ("image/png", "image/tiff", None)
_ANY_DECODER = _Decoder(40, file=9)


def count(size: Size, frames: int = 1) -> int:
    """Return how many pixels a picture has in all its frames."""
    return size[0] * size[1] * frames


def can_be_deep(media_type: str | None, frames: int) -> bool:
    """Say whether a file of this type may give pixels of more than 8 bits."""
    return frames == 1 and media_type in _DEEP_TYPES


def of_decoding(media_type: str | None, size: Size, drafted: Size, frames: int, *, deep: bool = False) -> int:
    """Return what it takes to decode a file, the picture included; `drafted` is the size that comes out.

    `deep` where its 16 bits are asked for, be they there or not.
    """
    if deep and can_be_deep(media_type, frames):
        return round(_DEEP_DECODER.out * count(size))
    decoder = _DECODERS.get(media_type or "", _ANY_DECODER)
    reading = decoder.file * count(size, frames) + PIXEL_BYTES * count(drafted, frames)
    return round(max(reading, decoder.out * count(drafted, frames)))


def of_inspecting(size: Size) -> int:
    """Return what it takes to read what a file says of itself: WebP's decoder makes room for its frames."""
    return 3 * PIXEL_BYTES * count(size)


def of_sharing(size: Size, frames: int) -> int:
    """Return what it takes to put a picture where other processes can reach it: copies on its way there."""
    return 3 * PIXEL_BYTES * count(size, frames)


def of_encoding_deep(size: Size) -> int:
    """Return what it takes to make a PNG of 16 bits, of noise with alpha: its pieces, and the whole."""
    return 24 * count(size)


def of_mark(media_type: str | None, size: Size, frames: int) -> int:
    """Return what it takes to decode a file and to make a mark of its first frame, in sRGB with transparency."""
    making = PIXEL_BYTES * count(size, frames) + of_converting(size, 1)
    return max(of_decoding(media_type, size, size, frames), making)


def of_resampling(size: Size, scaled: Size, canvas: Size, frames: int, *, alpha: bool) -> int:
    """Return what it takes to bring a picture of `size` onto a canvas, the result included.

    A frame is resampled across first, then down; one with alpha is premultiplied before, and the result divided.
    """
    premultiplied = count(size) if alpha else 0
    across = min(scaled[0], canvas[0]) * size[1]
    return PIXEL_BYTES * (premultiplied + across + (2 + frames) * count(canvas))


def of_converting(size: Size, frames: int) -> int:
    """Return what it takes to bring a picture to sRGB, the result included."""
    return PIXEL_BYTES * (frames + 3) * count(size)
