"""Upper bounds of the peak memory of pictures and operations. `benchmarks/memory.py` checks the bounds."""

from __future__ import annotations

from dataclasses import dataclass

from pixtools.imaging.picture import Size

PIXEL_BYTES = 4
"""The most bytes that an 8-bit pixel takes. Pillow stores RGB and LA in four bytes, like RGBA."""

HIGH_BIT_DEPTH_BYTES = PIXEL_BYTES + 8
"""The most bytes that a pixel takes if the picture has 16-bit values in addition to its 8-bit frame."""


@dataclass(frozen=True)
class Memory:
    """The most bytes that an operation takes.

    `per_pixel` is for each pixel. `alpha` is added to it if the picture has alpha. `constant` does not depend on the
    size of the picture.
    """

    per_pixel: float
    alpha: float = 0.0
    constant: int = 0

    def of(self, pixels: int, *, alpha: bool) -> int:
        """Return the bytes for a number of pixels."""
        return round((self.per_pixel + (self.alpha if alpha else 0)) * pixels) + self.constant


@dataclass(frozen=True)
class _Decoder:
    """The most bytes that a decoder takes.

    `out` is the number of bytes for each pixel of the result. These bytes include the result, and the copy that is made
    to turn the result upright. `file` is the number of bytes for each pixel of the full size, while the file is read.
    The result is smaller than the full size if a JPEG is decoded at a reduced size.
    """

    out: float
    file: float = 0.0


# The numbers are for the variant of each format that takes the most memory. Depending on the format, this file is
# lossless, has 10 or 16 bits, has alpha, or must be turned upright.
_DECODERS = {
    "image/jpeg": _Decoder(13, file=9),  # progressive: a 16-bit coefficient for each value of CMYK
    "image/png": _Decoder(20),  # 16-bit grey with a transparent value
    "image/webp": _Decoder(24),
    "image/avif": _Decoder(28),
    "image/heic": _Decoder(28),
    "image/gif": _Decoder(28),
    "image/tiff": _Decoder(40),  # floating point
    "image/bmp": _Decoder(10),
}
_HIGH_BIT_DEPTH_DECODER = _Decoder(40)  # RGB that has a transparent colour and is turned upright
_HIGH_BIT_DEPTH_TYPES = ("image/png", "image/tiff", None)
_ANY_DECODER = _Decoder(40, file=9)


def count(size: Size, frames: int = 1) -> int:
    """Return the number of pixels in all frames."""
    return size[0] * size[1] * frames


def may_have_high_bit_depth(media_type: str | None, frames: int) -> bool:
    """Return whether a file of this type may have pixels with more than 8 bits. None means an unknown type."""
    return frames == 1 and media_type in _HIGH_BIT_DEPTH_TYPES


def of_decoding(media_type: str | None, size: Size, reduced: Size, frames: int, *, high_bit_depth: bool = False) -> int:
    """Return the bytes that it takes to decode a file of `size` to a picture of size `reduced`, including the picture.

    `high_bit_depth` means that 16-bit values are requested. The bound is valid whether the file has 16-bit values or
    not.
    """
    if high_bit_depth and may_have_high_bit_depth(media_type, frames):
        return round(_HIGH_BIT_DEPTH_DECODER.out * count(size))
    decoder = _DECODERS.get(media_type or "", _ANY_DECODER)
    reading = decoder.file * count(size, frames) + PIXEL_BYTES * count(reduced, frames)
    return round(max(reading, decoder.out * count(reduced, frames)))


def of_inspecting(size: Size) -> int:
    """Return the bytes that it takes to read a header. Even then, Pillow's WebP decoder allocates memory for frames."""
    return 3 * PIXEL_BYTES * count(size)


def of_sharing(size: Size, frames: int) -> int:
    """Return the bytes of the copies that are made to share a picture with other processes."""
    return 3 * PIXEL_BYTES * count(size, frames)


def of_encoding_16_bit(size: Size) -> int:
    """Return the bytes that it takes to encode a 16-bit PNG, including the chunks and the file.

    The number is for the worst case, which is noise with alpha.
    """
    return 24 * count(size)


def of_mark(media_type: str | None, size: Size, frames: int) -> int:
    """Return the bytes that it takes to decode a file and to make a watermark from its first frame.

    The watermark is in sRGB and has alpha.
    """
    making = PIXEL_BYTES * count(size, frames) + of_converting(size, 1)
    return max(of_decoding(media_type, size, size, frames), making)


def of_resampling(size: Size, scaled: Size, canvas: Size, frames: int, *, alpha: bool) -> int:
    """Return the bytes that it takes to resize a picture of `size`, including the result.

    `scaled` and `canvas` are those of `geometry.Placement`. Pillow resamples a frame first horizontally, then
    vertically. If the frame has alpha, Pillow multiplies its colours by alpha first, and divides them by alpha at the
    end.
    """
    premultiplied = count(size) if alpha else 0
    horizontal = min(scaled[0], canvas[0]) * size[1]
    return PIXEL_BYTES * (premultiplied + horizontal + (2 + frames) * count(canvas))


def of_converting(size: Size, frames: int) -> int:
    """Return the bytes that it takes to convert a picture to sRGB, including the result."""
    return PIXEL_BYTES * (frames + 3) * count(size)
